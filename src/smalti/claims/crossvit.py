"""CrossViT: two sizes of patches that tell each other beat either size, and beat the two side by side."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.crossvit import CrossViT, CrossViTConfig, MultiScaleBlock
from smalti.backbones.crossvit_fusion import CrossAttentionFusion
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, PlainViT, bars, exponent, learn, mean, right
from smalti.nn.flops import attention_flops, count_flops
from smalti.registry import create
from smalti.training.corpora.fashion import fashion

SIDE, FINE, COARSE, HEADS = 48, 6, 12, 2
SHAPES = (0, 1, 3, 8, 9)  # t-shirt, trouser, dress, bag, boot
PERIODS, TURNS = (3.0, 5.0), 2  # pixels of a texture's wave; along rows or columns
KINDS = TURNS * len(PERIODS)
CLASSES = len(SHAPES) * KINDS
CROSS, APART, ALONE_FINE, ALONE_COARSE = "CrossViT", "without exchange", "fine alone", "coarse alone"
LONGER = (196, 392, 784)


def textured(split: str, index: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n 3 1 48 48"], Int[Tensor, "n"]]:
    """Clothes of five shapes with fine stripes of four kinds, of any phase; a class is both together."""
    pictures, labels = fashion("train" if split == "train" else "test")
    places = torch.isin(labels, torch.tensor(SHAPES)).nonzero()[:, 0]
    chosen = places[index % len(places)]
    shape = torch.searchsorted(torch.tensor(SHAPES), labels[chosen])
    generator = torch.Generator().manual_seed(int(index[0]))
    kind = torch.randint(KINDS, (len(index),), generator=generator)
    phase = torch.rand(len(index), generator=generator)
    things = F.interpolate(pictures[chosen], (SIDE, SIDE), mode="bilinear", align_corners=False)
    along = torch.arange(SIDE) / torch.tensor(PERIODS)[kind // TURNS, None] + phase[:, None]
    wave = 0.5 + 0.5 * torch.sin(2 * torch.pi * along)
    upright = (kind % TURNS == 1)[:, None, None]
    stripes = torch.where(upright, wave[:, :, None], wave[:, None, :])
    noise = 0.1 * torch.rand(len(index), 1, SIDE, SIDE, generator=generator)
    seen = things * stripes[:, None] + noise
    return seen.clamp(0, 1)[:, :, None].expand(-1, 3, -1, -1, -1), shape * KINDS + kind


class Apart(MultiScaleBlock):
    """Blocks of every branch by itself; class tokens stay where they are."""

    def forward(self, branches: Any) -> list[Tensor]:
        """Sequences of all branches."""
        return [block(x) for block, x in zip(self.blocks, branches, strict=True)]


def contender(name: str) -> CrossViT | PlainViT:
    """Two branches, or a ViT on one size of patches of about as many multiply-adds."""
    if name == ALONE_FINE:
        return PlainViT(SIDE, FINE, 48, 4, HEADS, CLASSES)
    if name == ALONE_COARSE:
        return PlainViT(SIDE, COARSE, 72, 8, HEADS, CLASSES)
    config = CrossViTConfig(
        dims=(32, 64),
        depths=((1, 2, 0),) * 3,
        heads=(HEADS, HEADS),
        patches=(FINE, COARSE),
        sizes=(SIDE, SIDE),
        drop_path=0.0,
        classes=CLASSES,
    )
    model = CrossViT(config)
    if name == APART:
        model.blocks = nn.ModuleList(Apart(config, depth, [0.0] * max(depth)) for depth in config.depths)
    return model


def growth() -> tuple[float, float]:
    """Powers of the patches by which an exchange's cost grows, and attention's among all of both branches."""
    with torch.device("meta"):
        exchange = CrossAttentionFusion((192, 384), (6, 6))
        costs = [
            count_flops(exchange, [torch.zeros(1, 1 + 2 * n, 192), torch.zeros(1, 1 + n, 384)])
            for n in LONGER
        ]
    return exponent(LONGER, costs), exponent(LONGER, [attention_flops(2 + 3 * n, 384) for n in LONGER])


def exchange_share() -> float:
    """Of the multiply-adds of CrossViT-S at 240 pixels, those of the exchange of class tokens."""
    with torch.device("meta"):
        model = create("crossvit", "crossvit_small_224")
        whole = model.flops((1, 3, 1, 240, 240))
        exchange = CrossAttentionFusion((192, 384), (6, 6))
        once = count_flops(exchange, [torch.zeros(1, 401, 192), torch.zeros(1, 197, 384)])
    return len(model.config.depths) * once / whole


@claim("crossvit", minutes=4)
def crossvit(lab: Lab) -> Finding:
    """Equal data, steps and rate: both branches with and without exchange, and single ones for the price."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(450, 2), lab.some(2000, 20)
    example = torch.zeros(1, 3, 1, SIDE, SIDE)
    names = (CROSS, APART, ALONE_FINE, ALONE_COARSE)
    for seed in lab.seeds:
        for name in names:
            torch.manual_seed(seed)
            model = contender(name)
            learn(model, model.classify, textured, steps, seed)
            found = right(model.classify, textured, count)
            cost = count_flops(model.classify, example)
            rows.append({"model": name, "seed": seed, "accuracy": found, "multiply-adds": cost})
    accuracy = {name: mean(rows, "accuracy", model=name) for name in names}
    cost = {name: mean(rows, "multiply-adds", model=name) / 1e6 for name in names}
    powers, share = growth(), exchange_share()
    rows.append({"power of patches": powers[0], "attention among all": powers[1], "share": share})

    def draw(axes: Any) -> None:
        bars(axes, {f"{name}\n{cost[name]:.1f} M": value for name, value in accuracy.items()}, "accuracy")

    return Finding(
        statements={
            "two branches with exchange beat one size of patches by 1 point at equal cost (to 2 %)": (
                accuracy[CROSS] - POINT >= max(accuracy[ALONE_FINE], accuracy[ALONE_COARSE])
                and min(cost[ALONE_FINE], cost[ALONE_COARSE]) >= 0.98 * cost[CROSS]
            ),
            "they beat the same two branches without exchange by 1 point": (
                accuracy[CROSS] - POINT >= accuracy[APART]
            ),
            "the exchange grows by the number of patches (power below 1.05), attention among all faster": (
                powers[0] < 1.05 < powers[1]
            ),
            "the exchange is less than 5 % of CrossViT-S": share < 0.05,
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f} ({cost[name]:.1f} M)" for name, value in accuracy.items())
        + f"; power of patches {powers[0]:.2f} against {powers[1]:.2f}; the exchange is {100 * share:.1f} % "
        "of CrossViT-S",
        rows=rows,
        data="Fashion-MNIST of five shapes with four kinds of fine stripes, 48 pixels: 20 classes",
        notes=f"The paper trains on ImageNet for 300 epochs; here patches of {FINE} and {COARSE} pixels, "
        f"three exchanges, {steps} steps. Shape and stripes can each be told by one branch, so that "
        "branches without exchange, whose logits are averaged, can in principle name the class.",
        draw=draw,
    )
