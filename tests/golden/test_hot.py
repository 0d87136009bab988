"""HoT against its official MixSTE, clustering and recovering attention."""

from __future__ import annotations

import torch

from smalti.backbones.hot import HoT
from smalti.nn.peaks import density_peaks
from smalti.reducers.hot import HoTConfig, select
from tests.golden.cases import Case, golden


def model_of(case: Case) -> HoT:
    about = case.config
    return HoT.from_official(case.weights, heads=about["num_heads"], layer=about["layer_index"]).eval()


@golden("hot")
@torch.no_grad()
def test_poses_and_the_tokens_that_are_clustered(case: Case) -> None:
    """The kept frames are given: without noise, frames nearest to each other tie and the last bit chooses."""
    model = model_of(case)
    kept = case.outputs["center_ids"].sort(-1).values
    case.check("cluster_input", model.start(case.inputs["pose2d"]).mean(2))
    case.check("pose3d", model(case.inputs["pose2d"], kept).poses)


@golden("hot")
def test_kept_frames(case: Case) -> None:
    about, tokens = case.config, case.outputs["cluster_input"]
    centres, group = density_peaks(tokens, about["token_num"], about["k"])
    case.check("center_ids", centres)
    case.check("assign", group)
    kept = select(tokens, about["token_num"], HoTConfig(neighbours=about["k"], noise=0.0))
    assert torch.equal(kept, case.outputs["center_ids"].sort(-1).values)


@golden("hot")
def test_sizes_are_read_off_the_checkpoint(case: Case) -> None:
    config, about = model_of(case).config, case.config
    assert (config.tokens, config.layer, config.target) == (
        about["token_num"],
        about["layer_index"],
        "sequence",
    )
    names = ("frames", "n_joints", "channel", "depth", "mlp_hidden")
    host = config.host
    assert (host.frames, host.joints, host.dim, host.depth, host.hidden) == tuple(about[n] for n in names)


@golden("hot")
def test_clusters_of_plain_tokens(case: Case) -> None:
    about = case.config["dpc_standalone"]
    centres, group = density_peaks(case.inputs["dpc.x"], about["cluster_num"], about["k"])
    case.check("dpc.center_ids", centres)
    case.check("dpc.assign", group)


@golden("hot")
@torch.no_grad()
def test_cross_attention(case: Case) -> None:
    recovery = model_of(case).recovery
    assert recovery is not None
    case.check("cross_attention", recovery.attention(case.inputs["ca.q"], case.inputs["ca.kv"]))
