"""T2T-ViT: tokens of overlapping patches that were mixed beat tokens of hard patches."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from smalti.backbones.t2t_vit import T2TViT, T2TViTConfig
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, PlainViT, bars, clean, exponent, learn, mean, right
from smalti.nn.flops import count_flops
from smalti.nn.random_features import linear_attention, orthogonal_features, positive_features
from smalti.registry import create

SIDE, DIM, HEADS, DEPTH, DEEPER, RATIO = 64, 64, 2, 3, 11, 4.0
PERFORMER, TRANSFORMER, HARD, DEEP = (
    "T2T, performer",
    "T2T, transformer",
    "hard patches",
    "hard patches, deeper",
)
FEATURES, LENGTH = (32, 128, 512, 2048), 0.1
clothes = clean(SIDE)


def contender(name: str) -> T2TViT | PlainViT:
    """Sixteen tokens of 64 pixels' pictures, and three blocks (the deeper one has more)."""
    if name in (HARD, DEEP):
        return PlainViT(SIDE, 16, DIM, DEEPER if name == DEEP else DEPTH, HEADS)
    return T2TViT(
        T2TViTConfig(
            DIM,
            DEPTH,
            HEADS,
            RATIO,
            mixing="performer" if name == PERFORMER else "transformer",
            token_dim=32,
            dropout=0.0,
            size=SIDE,
            classes=10,
            drop_path=0.0,
        )
    )


@torch.no_grad()
def distances_to_exact(draws: int) -> dict[int, float]:
    """Relative error of mixing by ever more random features, of queries and keys that are short."""
    q, k, v = torch.randn(3, 1, 64, 32).mul(torch.tensor([LENGTH, LENGTH, 1.0])[:, None, None, None])
    exact = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    found = {}
    for features in FEATURES:
        squares = torch.zeros(())
        for _ in range(draws):
            w = orthogonal_features(features, 32)
            mixed = linear_attention(positive_features(q, w), positive_features(k, w), v)
            squares += (mixed - exact).square().mean() / draws
        found[features] = (squares / exact.square().mean()).sqrt().item()
    return found


def reached(soft: bool) -> int:
    """Most tokens that see a pixel: after the first soft split, or of hard patches."""
    size, stride, padding = (7, 4, 2) if soft else (16, 16, 0)
    ones = torch.ones(1, size * size, (SIDE // stride) ** 2)
    return int(F.fold(ones, (SIDE, SIDE), size, stride=stride, padding=padding).max())


@claim("t2t-vit", minutes=3)
def t2t_vit(lab: Lab) -> Finding:
    """Equal blocks, width and steps on tokens of either kind; and hard patches with blocks for the price."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(350, 2), lab.some(1000, 20)
    example = torch.zeros(1, 3, 1, SIDE, SIDE)
    names = (PERFORMER, TRANSFORMER, HARD, DEEP)
    for seed in lab.seeds:
        for name in names:
            torch.manual_seed(seed)
            model = contender(name)
            learn(model, model.classify, clothes, steps, seed)
            found = right(model.classify, clothes, count)
            cost = count_flops(model.classify, example)
            rows.append({"tokens": name, "seed": seed, "accuracy": found, "multiply-adds": cost})
    torch.manual_seed(0)
    errors = distances_to_exact(lab.some(50, 2))
    rows += [{"features": features, "error": error} for features, error in errors.items()]
    power = exponent(FEATURES, list(errors.values()))
    with torch.device("meta"):
        official = {
            name: create("t2t-vit", name).flops((1, 3, 1, 224, 224)) / 1e9
            for name in ("t2t_vit_14", "t2t_vit_t_14")
        }
    rows.append({name: round(cost, 2) for name, cost in official.items()})
    accuracy = {name: mean(rows, "accuracy", tokens=name) for name in names}
    cost = {name: mean(rows, "multiply-adds", tokens=name) / 1e6 for name in names}

    def draw(axes: Any) -> None:
        bars(axes, {f"{name}\n{cost[name]:.1f} M": value for name, value in accuracy.items()}, "accuracy")

    return Finding(
        statements={
            "at equal blocks, width and steps, T2T is at least 3 points better than hard patches": (
                accuracy[PERFORMER] >= accuracy[HARD] + 3 * POINT
            ),
            "it is at least 1 point better than hard patches with blocks for the same cost, or more": (
                accuracy[PERFORMER] - POINT >= accuracy[DEEP] and cost[DEEP] >= cost[PERFORMER]
            ),
            "mixing by performer comes within 2 points of exact attention, for less": (
                accuracy[PERFORMER] >= accuracy[TRANSFORMER] - 2 * POINT
                and cost[PERFORMER] < cost[TRANSFORMER]
            ),
            "the performer's error falls about as the root of the random features (power −0.6 to −0.4)": (
                -0.6 <= power <= -0.4
            ),
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f} ({cost[name]:.1f} M)" for name, value in accuracy.items())
        + f"; power of random features {power:.2f}; a pixel is seen by up to {reached(True)} tokens of the "
        f"first soft split, by {reached(False)} hard patch; at 224 pixels T2T-ViT-14 "
        f"{official['t2t_vit_14']:.2f} G, T2T-ViT_t-14 {official['t2t_vit_t_14']:.2f} G",
        rows=rows,
        data="Fashion-MNIST, enlarged to 64 pixels, 16 tokens; every model trained from nothing",
        notes=f"The paper trains on ImageNet for 310 epochs; here {DEPTH} blocks of {DIM} channels (deeper: "
        f"{DEEPER}) for {steps} steps, without dropout, 32 channels between the splits.",
        draw=draw,
    )
