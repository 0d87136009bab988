"""LookupViT: a few tokens that look into all of them do nearly what all do, for less."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.backbones.lookupvit import Grid, LookupViT, LookupViTConfig
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, bars, cluttered, exponent, learn, mean, right
from smalti.nn.flops import block_flops, count_flops
from smalti.nn.transformer import Block
from smalti.registry import create

SIDE, PATCH, DIM, HEADS, DEPTH = 48, 6, 48, 3, 4
WHOLE: Grid = (1, 8, 8)
GRIDS: dict[str, Grid] = {"2×2": (1, 2, 2), "3×3": (1, 3, 3), "5×5": (1, 5, 5)}
ALL, FEW, MANY = "ViT, all 64 tokens", "ViT, 3×3 resized tokens", "any of the grids"
LONGER = (196, 400, 784)  # tokens of a block whose growth is counted


def lookup_vit(grid: Grid) -> LookupViT:
    """Four blocks."""
    return LookupViT(
        LookupViTConfig(
            dim=DIM,
            depth=DEPTH,
            heads=HEADS,
            grid=grid,
            size=SIDE,
            patch=PATCH,
            infuse_last=False,
            classes=10,
        )
    )


class ResizedViT(nn.Module):
    """A ViT on the compressed tokens as LookupViT begins with them; of the whole grid, an ordinary ViT."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.body = lookup_vit(grid)
        self.body.blocks = nn.ModuleList(Block(DIM, HEADS, 4.0, eps=1e-6) for _ in range(DEPTH))

    def classify(self, pictures: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        x = self.body.embed(self.body.normalise(pictures)).compressed
        for block in self.body.blocks:
            x = block(x)
        return self.body.head(self.body.norm(x).mean(1))


class AnyGrid:
    """Trains one model on a grid that changes with every step."""

    def __init__(self, model: LookupViT, seed: int) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)

    def __call__(self, pictures: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b k"]:
        """Logits from the grid that came up."""
        number = int(torch.randint(len(GRIDS), (), generator=self.generator))
        return self.model.classify(pictures, list(GRIDS.values())[number])


def official_costs() -> dict[str, float]:
    """Multiply-adds of the paper's sizes at 224 pixels as shares of ViT-B/16's."""
    patches = 196 * 768 * 768
    whole = patches + 12 * block_flops(197, 768)
    names = {"b16-3x3": "3×3", "b16-5x5": "5×5", "b16-7x7": "7×7", "b16-10x10": "10×10"}
    with torch.device("meta"):
        return {
            grid: create("lookupvit", name).flops((1, 3, 1, 224, 224)) / whole for name, grid in names.items()
        }


def growth() -> tuple[float, float]:
    """Powers of the tokens by which the cost of a block grows: with 5×5 compressed tokens, and of a ViT."""
    with torch.device("meta"):
        block = create("lookupvit", "b16-5x5").blocks[0]
        few = torch.zeros(1, 25, 768)
        costs = [count_flops(block, few, torch.zeros(1, tokens, 768)) for tokens in LONGER]
    own = count_of_few(block, few)
    return (
        exponent(LONGER, [cost - own for cost in costs]),
        exponent(LONGER, [block_flops(tokens, 768) for tokens in LONGER]),
    )


def count_of_few(block: Any, few: Tensor) -> int:
    """What a block costs however many tokens are looked into."""
    one, two = (
        count_flops(block, few, torch.zeros(1, tokens, few.shape[2], device="meta")) for tokens in (1, 2)
    )
    return 2 * one - two


@claim("lookupvit", minutes=4)
def lookupvit(lab: Lab) -> Finding:
    """Models of the same blocks, width and steps: with and without looking, and one for all grids."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(400, 2), lab.some(1000, 20)
    for seed in lab.seeds:

        def told(name: str, model: Any, naming: Any, seed: int = seed, grid: str = "") -> None:
            cost = count_flops(naming, torch.zeros(1, 3, 1, SIDE, SIDE))
            found = right(naming, cluttered, count)
            rows.append({"model": name, "grid": grid, "seed": seed, "accuracy": found, "cost": cost})

        for name, grid in ((ALL, WHOLE), (FEW, GRIDS["3×3"])):
            torch.manual_seed(seed)
            model = ResizedViT(grid)
            learn(model, model.classify, cluttered, steps, seed)
            told(name, model, model.classify)
        for name in ("3×3", "5×5"):
            torch.manual_seed(seed)
            alone = lookup_vit(GRIDS[name])
            learn(alone, alone.classify, cluttered, steps, seed)
            told("one grid", alone, alone.classify, grid=name)
        torch.manual_seed(seed)
        shared = lookup_vit(GRIDS["3×3"])
        learn(shared, AnyGrid(shared, seed), cluttered, steps, seed)
        for name, grid in GRIDS.items():
            told(MANY, shared, partial(shared.classify, grid=grid), grid=name)

    accuracy = {name: mean(rows, "accuracy", model=name) for name in (ALL, FEW)}
    alone = {name: mean(rows, "accuracy", model="one grid", grid=name) for name in ("3×3", "5×5")}
    many = {name: mean(rows, "accuracy", model=MANY, grid=name) for name in GRIDS}
    whole = mean(rows, "cost", model=ALL)
    cost = {name: mean(rows, "cost", model="one grid", grid=name) / whole for name in alone}
    official, powers = official_costs(), growth()
    rows += [{"grid": name, "share of ViT-B/16": round(share, 3)} for name, share in official.items()]
    rows.append({"power of tokens": powers[0], "of a ViT": powers[1]})

    def draw(axes: Any) -> None:
        shown = accuracy | {f"LookupViT, {name}": value for name, value in alone.items()}
        bars(axes, shown | {f"one for all grids, {name}": value for name, value in many.items()}, "accuracy")

    return Finding(
        statements={
            "3×3 tokens that look are at least 3 points better than 3×3 resized tokens alone": alone["3×3"]
            >= accuracy[FEW] + 3 * POINT,
            "5×5 tokens that look come within 2 points of a ViT on all tokens, at lower cost": (
                alone["5×5"] >= accuracy[ALL] - 2 * POINT and cost["5×5"] < 1
            ),
            "one model trained on all grids is at least 1 point better with 5×5 tokens than with 2×2": (
                many["5×5"] - POINT >= many["2×2"]
            ),
            "it comes within 1 point of models trained on one grid": all(
                many[name] >= alone[name] - POINT for name in alone
            ),
            "5×5 at the paper's size costs half of ViT-B/16": official["5×5"] <= 0.5,
            "what depends on the picture's tokens grows by their number, a ViT's block faster": (
                abs(powers[0] - 1) < 0.01 < powers[1] - 1
            ),
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        + ", "
        + ", ".join(f"LookupViT {name} {value:.3f} (cost {cost[name]:.2f})" for name, value in alone.items())
        + ", one for all "
        + ", ".join(f"{name} {value:.3f}" for name, value in many.items())
        + "; cost at the paper's size "
        + ", ".join(f"{name} {share:.2f}" for name, share in official.items()),
        rows=rows,
        data="Fashion-MNIST on clutter, 48 pixels, 64 patches; every model trained from nothing",
        notes=f"The paper trains ViT-B/16 on ImageNet for 300 epochs; here {DEPTH} blocks of {DIM} channels "
        f"for {steps} steps, which end long before these models have learned all they can: what more "
        "compressed tokens are worth may show only later, and one model for all grids has each of them for a "
        "third of its steps. All models pool by the mean.",
        draw=draw,
    )
