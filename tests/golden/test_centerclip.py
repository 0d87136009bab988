"""CenterCLIP against its official clustering: distances, start, medoids, graphs, tokens."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from smalti.nn.medoids import k_medoids, kkz_start, negative_distances
from smalti.nn.spectral import neighbourhood
from smalti.reducers import Context
from smalti.reducers.centerclip import CenterCLIP, CenterCLIPConfig, cluster_tokens, segment_graph
from tests.golden.cases import Case, golden


def config_of(case: Case, **changes) -> CenterCLIPConfig:
    about = case.config
    return CenterCLIPConfig(
        **{
            "segments": about["segments"],
            "metric": about["distance"],
            "power": about["norm_p"],
            "normalise": about["pre_norm"],
            "iterations": about["iter_limit"],
            "threshold": about["threshold"],
            "chunk": about["split_size"],
            "sigma": about["sigma"],
            "graph": {"HeatKernel": "heat", "KNN": "knn"}[about["graph"]],
            "neighbours": about["knn_k"],
            **changes,
        }
    )


def frames_of(case: Case) -> tuple[Tensor, Tensor]:
    """Class tokens [b t d] and patch tokens [b t l d] of the sequence-first input."""
    x = rearrange(case.inputs["x"], "l (b t) d -> b t l d", b=case.config["batch"])
    return x[:, :, 0], x[:, :, 1:]


def sequence(case: Case, classes: Tensor, tokens: Tensor) -> Tensor:
    """Back to the official layout, the class token of every segment being the mean of its frames'."""
    mean = rearrange(classes, "b (s t) d -> b s t d", s=case.config["segments"]).mean(2, keepdim=True)
    return rearrange(torch.cat([mean, tokens], 2), "b s k d -> k (b s) d")


def check_tokens(case: Case, output: str, **changes) -> None:
    classes, x = frames_of(case)
    found = cluster_tokens(x, case.config["segments"], case.config["K"], config_of(case, **changes))
    case.check(output, sequence(case, classes, found.tokens))


@golden("centerclip")
def test_tokens_of_medoids_means_and_baselines(case: Case) -> None:
    check_tokens(case, "kmedoids")
    check_tokens(case, "kmedoids_mean", aggregation="mean")
    check_tokens(case, "pooling", algorithm="pooling")
    check_tokens(case, "sparse_sampling", algorithm="sparse")


@golden("centerclip")
def test_ids_and_assignments(case: Case) -> None:
    about, x = case.config, case.inputs["segments"]
    cosine = about["distance"] == "cosine"
    distance = negative_distances(x, cosine=cosine, power=about["norm_p"], shared=True)
    case.check("kkz_ids", kkz_start(x, distance, about["K"]))
    found = cluster_tokens(frames_of(case)[1], about["segments"], about["K"], config_of(case))
    case.check("medoid_ids", rearrange(found.ids, "b s k -> (s b) k"))
    case.check("assign", rearrange(found.assign, "b s n -> (s b) n"))


@golden("centerclip")
def test_the_reducer_keeps_the_official_medoids(case: Case) -> None:
    about = case.config
    x = rearrange(frames_of(case)[1], "b t l d -> b (t l) d")
    side = int(about["tokens_per_frame"] ** 0.5)
    context = Context(grid=(about["frames"], side, side))
    reduction = CenterCLIP(config_of(case)).eval().reduce(x, context, about["segments"] * about["K"])
    expected = rearrange(case.outputs["kmedoids"][1:], "k (b s) d -> b (s k) d", s=about["segments"])
    torch.testing.assert_close(reduction.apply(x), expected)


@golden("centerclip")
def test_the_window_of_space_and_time(case: Case) -> None:
    about = case.config
    side = int(about["tokens_per_frame"] ** 0.5)
    duration = about["frames"] // about["segments"]
    case.check("spatial_temporal_mask", neighbourhood((duration, side, side), 3, 3))


def normalised_cut(graph: Tensor, group: Tensor, count: int) -> Tensor:
    """Sum over clusters of the weight that leaves them, by their volume."""
    member = torch.nn.functional.one_hot(group, count).float()
    inside = torch.einsum("bnk,bnm,bmk->bk", member, graph, member)
    volume = torch.einsum("bnk,bn->bk", member, graph.sum(-1))
    return (1 - inside / volume).sum(-1)


@golden("centerclip")
def test_spectral_clustering(case: Case) -> None:
    """Graphs agree; where the spectrum leaves ids open, our cut is as good as the official one."""
    about, x = case.config, frames_of(case)[1]
    config = config_of(case, algorithm="spectral")
    side = int(about["tokens_per_frame"] ** 0.5)
    grid = (about["frames"] // about["segments"], side, side)
    graph = segment_graph(case.inputs["segments"], grid, config)
    case.check("spectral_W", graph)
    found = cluster_tokens(x, about["segments"], about["K"], config)
    ids = rearrange(found.ids, "b s k -> (s b) k")
    group = rearrange(found.assign, "b s n -> (s b) n")
    if not torch.equal(ids, case.outputs["spectral_ids"]):
        ours = normalised_cut(graph, group, about["K"])
        official = normalised_cut(graph, case.outputs["spectral_assign"], about["K"])
        assert (ours.mean() - official.mean()).abs() < 0.1 * official.mean()
        return
    case.check("spectral_assign", group)


@golden("centerclip")
def test_small_chunks_do_not_change_converged_medoids(case: Case) -> None:
    x, about = case.inputs["segments"], case.config
    options = {"cosine": about["distance"] == "cosine", "power": about["norm_p"]}
    alone, _ = k_medoids(x, about["K"], **options)
    assert alone.shape == case.outputs["medoid_ids"].shape
    assert (alone.diff(dim=-1) > 0).all()
