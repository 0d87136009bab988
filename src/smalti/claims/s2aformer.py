"""S2AFormer: attention on few keys of few channels keeps the accuracy and drops the cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from smalti.backbones.base import Backbone
from smalti.backbones.ecoformer import EcoFormer, EcoFormerConfig
from smalti.backbones.ecoformer_blocks import ReducedAttention, SoftmaxAttention
from smalti.backbones.s2aformer import HybridPerceptionBlock, S2AFormer, S2AFormerConfig
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, bars, clean, learn, mean, of_features, right
from smalti.evaluation.profiling.clock import race
from smalti.nn.flops import attention_flops, count_flops
from smalti.nn.strip_attention import StripSelfAttention
from smalti.registry import replace

SIDE = 64
SIZES = S2AFormerConfig((16, 32, 64, 64), (1, 1, 2, 1), (1, 2, 4, 4), drop_path=0.0, classes=10)
PYRAMID = EcoFormerConfig(
    (16, 32, 48, 64), (1, 2, 4, 4), (8, 8, 4, 4), (1, 1, 2, 1), attention="sra", classes=10, drop_path=0.0
)
STRIP, REDUCED, PVT, BARE, POOLED = (
    "strip attention",
    "spatial reduction alone",
    "PVTv2 (SRA)",
    "without local interaction",
    "keys by mean pooling",
)
GRID, DIM, RATIO = (56, 56), 64, 8  # of the paper's first stage at 224 pixels
clothes = clean(SIDE)


def blocks(model: S2AFormer) -> Iterator[tuple[int, HybridPerceptionBlock]]:
    """Every block and its stage."""
    for number, stage in enumerate(model.stages):
        for block in cast(nn.Sequential, stage):
            yield number, cast(HybridPerceptionBlock, block)


def contender(name: str) -> Backbone:
    """A pyramid of four stages."""
    if name == PVT:
        return EcoFormer(PYRAMID)
    changes = {BARE: {"local": False}, POOLED: {"reduce": "avg"}}.get(name, {})
    model = S2AFormer(replace(SIZES, changes))
    if name == REDUCED:
        for stage, block in blocks(model):
            attn = ReducedAttention(SIZES.dims[stage], SIZES.heads[stage], SIZES.reductions[stage])
            block.attn = cast(Any, attn)
    return model


def layers() -> dict[str, nn.Module]:
    """Attention of the paper's first stage."""
    return {
        STRIP: StripSelfAttention(DIM, 1, RATIO),
        REDUCED: ReducedAttention(DIM, 1, RATIO),
        "softmax": SoftmaxAttention(DIM, 1),
    }


def seconds(repeats: int) -> dict[str, float]:
    """Processor seconds of each of the layers, by turns."""
    x = torch.randn(1, GRID[0] * GRID[1], DIM)
    with torch.no_grad():
        calls = {name: lambda layer=layer: layer.eval()(x, GRID) for name, layer in layers().items()}
        for call in calls.values():
            call()
        return {name: time.seconds for name, time in race(calls, 1, repeats, 5.0).items()}


def products_share() -> float:
    """Multiply-adds of queries by keys and weights by values, of those of full attention."""
    tokens, keys = GRID[0] * GRID[1], GRID[0] * GRID[1] // RATIO**2
    full = attention_flops(tokens, DIM) - 4 * tokens * DIM * DIM
    return tokens * keys * (1 + DIM) / full


@claim("s2aformer", minutes=4)
def s2aformer(lab: Lab) -> Finding:
    """Equal stages, data and steps: without its parts, and beside PVTv2 of as many parameters."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(250, 2), lab.some(1000, 20)
    example = torch.zeros(1, 3, 1, SIDE, SIDE)
    names = (STRIP, REDUCED, PVT, BARE, POOLED)
    for seed in lab.seeds:
        for name in names:
            torch.manual_seed(seed)
            model = contender(name)
            learn(model, of_features(model), clothes, steps, seed)
            row = {"accuracy": right(of_features(model), clothes, count), "parameters": model.params()}
            rows.append({"model": name, "seed": seed, **row, "multiply-adds": model.flops(example.shape)})
    times, share = seconds(lab.some(15, 1)), products_share()
    x = torch.zeros(1, GRID[0] * GRID[1], DIM, device="meta")
    with torch.device("meta"):
        whole = {name: count_flops(layer, x, GRID) / 1e6 for name, layer in layers().items()}
    rows += [{"layer": name, "seconds": times[name], "M multiply-adds": whole[name]} for name in whole]
    accuracy = {name: mean(rows, "accuracy", model=name) for name in names}
    cost = {name: mean(rows, "multiply-adds", model=name) / 1e6 for name in names}
    parameters = {name: int(mean(rows, "parameters", model=name)) for name in names}

    def draw(axes: Any) -> None:
        bars(axes, {f"{name}\n{cost[name]:.2f} M": value for name, value in accuracy.items()}, "accuracy")

    return Finding(
        statements={
            "at 56 × 56 tokens the products of attention are less than 1 % of full attention's": share < 0.01,
            "there it takes less time than full attention and than spatial reduction alone": (
                times[STRIP] < min(times["softmax"], times[REDUCED])
            ),
            "in the same net it comes within 1 point of spatial reduction alone, for less": (
                accuracy[STRIP] >= accuracy[REDUCED] - POINT and cost[STRIP] < cost[REDUCED]
            ),
            "it comes within 1 point of PVTv2 of as many parameters (to 5 %)": (
                accuracy[STRIP] >= accuracy[PVT] - POINT
                and abs(parameters[STRIP] / parameters[PVT] - 1) < 0.05
            ),
            "it takes fewer multiply-adds than that PVTv2": cost[STRIP] < cost[PVT],
            "without local interaction it is at least 1 point worse": accuracy[BARE]
            <= accuracy[STRIP] - POINT,
            "keys by convolution are at least as good as by mean pooling": accuracy[STRIP]
            >= accuracy[POOLED],
        },
        figure="accuracy "
        + ", ".join(
            f"{name} {value:.3f} ({cost[name]:.2f} M, {parameters[name] / 1000:.0f} k parameters)"
            for name, value in accuracy.items()
        )
        + f"; products {100 * share:.2f} % of full attention's; a layer at 56 × 56 "
        + ", ".join(f"{name} {1000 * time:.1f} ms ({whole[name]:.0f} M)" for name, time in times.items()),
        rows=rows,
        data="Fashion-MNIST, enlarged to 64 pixels; every model trained from nothing",
        notes="The paper's tables could not be had: what is tested is the direction of its claims, on a "
        f"reconstruction, after {steps} steps of tiny nets of five blocks, where differences of a point are "
        "noise. Layers are timed on one thread, without gradients.",
        draw=draw,
    )
