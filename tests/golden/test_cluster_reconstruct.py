"""Cluster-reconstruct against the official clustering, reconstruction and windowed SAM encoder."""

import torch

from smalti.backbones.cluster_reconstruct import HourglassConfig, HourglassEncoder
from smalti.nn.clustering import nearest
from smalti.nn.superpixels import Layout, neighbour_weights, soft_k_means
from smalti.reducers import Context
from smalti.reducers.cluster_reconstruct import ClusterReconstruct, ClusterReconstructConfig
from tests.golden.cases import Case, golden

NAMES = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "out_chans": "channels",
    "qkv_bias": "qkv_bias",
    "use_abs_pos": "absolute",
    "use_rel_pos": "relative",
    "window_size": "window",
    "global_attn_indexes": "global_blocks",
    "hourglass_clustering_location": "location",
    "hourglass_num_cluster": "clusters",
    "hourglass_cluster_iters": "iterations",
    "hourglass_temperture": "temperature",
    "hourglass_cluster_window_size": "locality",
    "hourglass_reconstruction_k": "neighbours",
}


@golden("cluster-reconstruct")
def test_clustering_and_reconstruction(case: Case):
    ops, maps = case.config["ops"], case.inputs["ops.x"]
    tokens = maps.flatten(2).mT
    rows, columns = ops["target_hw"]
    shares = soft_k_means(
        tokens,
        Layout(*maps.shape[2:], (columns,) * rows),
        radius=ops["window_size"] // 2,
        temperature=ops["tau"],
        iterations=ops["n_iters"],
    )
    centres = shares @ tokens
    case.check("ops.centers", centres)
    case.check("ops.hard_labels", nearest(tokens, centres))
    weights = neighbour_weights(tokens, centres, temperature=ops["tau"], neighbours=ops["k"], norm="l2")
    case.check("ops.reconstructed", weights @ case.inputs["ops.refined"])


@golden("cluster-reconstruct")
def test_the_reducer(case: Case):
    ops, maps = case.config["ops"], case.inputs["ops.x"]
    tokens, refined = maps.flatten(2).mT, case.inputs["ops.refined"]
    options = dict(
        temperature=ops["tau"],
        relative=False,
        iterations=ops["n_iters"],
        locality=ops["window_size"],
        neighbours=ops["k"],
        norm="l2",
    )
    context = Context(grid=(1, *maps.shape[2:]))
    reducer = ClusterReconstruct(ClusterReconstructConfig(**options))
    found = reducer.reduce(tokens, context, refined.shape[1])
    case.check("ops.centers", found.apply(tokens))
    case.check("ops.reconstructed", found.restore(refined))
    naive = ClusterReconstruct(ClusterReconstructConfig(**options, unpool="nearest"))
    case.check("ops.naive_unpool", naive.reduce(tokens, context, refined.shape[1]).restore(refined))


@golden("cluster-reconstruct")
def test_the_windowed_encoder(case: Case):
    given = {NAMES[name]: value for name, value in case.config["encoder"].items()}
    given["global_blocks"] = tuple(given["global_blocks"])
    module = HourglassEncoder.from_official(case.weights, **given, eps=1e-5)
    assert isinstance(module.config, HourglassConfig)
    with torch.no_grad():
        case.check("encoder.neck", module(case.inputs["encoder.image"]))
