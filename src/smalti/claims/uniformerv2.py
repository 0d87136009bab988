"""UniFormerV2: relations over time tell directions of motion, which frames by themselves cannot."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.uniformerv2 import UniFormerV2
from smalti.backbones.uniformerv2_presets import UniFormerV2Config
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.clips_of_worlds import Batch, batches, clips, descend
from smalti.media.worlds import DIRECTIONS, World
from smalti.nn.flops import count_flops
from smalti.registry import replace

SIDE, FRAMES, STEPS, BATCH = 24, 6, 350, 32
WORLD = World(SIDE, SIDE, FRAMES, (1, 1), ("moves",), ("circle", "square"), backgrounds=("plain",))
SMALL = UniFormerV2Config(
    width=48, depth=3, heads=2, patch=6, resolution=SIDE, read_layers=(1, 2), reader_heads=2,
    reader_dropout=0.0, head_dropout=0.0, classes=len(DIRECTIONS),
)  # fmt: skip
BOTH, LOCAL, GLOBAL, FRAMEWISE = (
    "local and global relations",
    "local relations",
    "global relations",
    "mean of frames",
)
MODELS = {  # local relations, and whether a query reads the layers
    BOTH: (2, True),
    LOCAL: (2, False),
    GLOBAL: (0, True),
    FRAMEWISE: (0, False),
}


def tell(model: UniFormerV2, pixels: Float[Tensor, "b 3 t h w"], reads: bool) -> Float[Tensor, "b k"]:
    """Logits of directions, by the fused query or by the mean of the frames' class tokens alone."""
    found = model.forward(pixels)
    return model.logits(found.pooled if reads else found.tokens[:, : pixels.shape[2]].mean(1))


def train(name: str, shown: Batch, wanted: Int[Tensor, "b"], steps: int, seed: int) -> UniFormerV2:
    """AdamW, the same clips for every model of a seed."""
    torch.manual_seed(seed)
    local, reads = MODELS[name]
    model = UniFormerV2(replace(SMALL, {"local": local})).train()

    def loss(chosen: list[int]) -> Tensor:
        return F.cross_entropy(tell(model, shown.pixels[chosen], reads), wanted[chosen])

    steps_of = batches(len(wanted), BATCH, steps, seed)
    parameters = [p for n, p in model.named_parameters() if reads or not n.startswith("reader.")]
    descend(parameters, [lambda c=c: loss(c) for c in steps_of], 3e-3, 0.05)
    return model.eval()


@torch.no_grad()
def accuracy(model: UniFormerV2, name: str, shown: Batch, wanted: Int[Tensor, "b"]) -> float:
    """Share of clips whose direction is told."""
    parts = zip(shown.pixels.split(50), wanted.split(50), strict=True)
    return sum(int((tell(model, x, MODELS[name][1]).argmax(-1) == y).sum()) for x, y in parts) / len(wanted)


@torch.no_grad()
def shaken(config: UniFormerV2Config, shown: Batch, places: bool) -> float:
    """How far pooled features move when frames are shuffled, as a share of their size, weights being random.

    Args:
        config: of the model.
        shown: clips.
        places: reading knows places in space and time, by its convolution.
    """
    torch.manual_seed(0)
    model = UniFormerV2(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    if not places:
        for block in model.reader.blocks:
            for parameter in block.get_submodule("position").parameters():
                parameter.zero_()
    pixels = shown.pixels[:4]
    before = model.forward(pixels).pooled
    after = model.forward(pixels[:, :, [3, 0, 5, 1, 4, 2]]).pooled
    return ((after - before).norm() / before.norm()).item()


@torch.no_grad()
def reading_cost(frames: int) -> int:
    """Multiply-adds of reading two layers of so many frames."""
    side = SIDE // SMALL.patch
    layers = [torch.zeros(1, frames, 1 + side**2, SMALL.width)] * 2
    return count_flops(UniFormerV2(SMALL).eval().reader, layers, (side, side))


@claim("uniformerv2", minutes=3.0)
def uniformerv2(lab: Lab) -> Finding:
    """Directions of moving shapes, told by networks that differ in what relates frames to each other."""
    shown, tested = clips(WORLD, "train", lab.some(2000, 40)), clips(WORLD, "test", lab.some(400, 50))
    wanted, truth = (
        batch.labels(lambda scene: scene.direction, tuple(DIRECTIONS)) for batch in (shown, tested)
    )
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for name in MODELS:
            model = train(name, shown, wanted, lab.some(STEPS, 2), seed)
            rows.append({"model": name, "seed": seed, "accuracy": accuracy(model, name, tested, truth)})
    moved = {
        "neither": shaken(SMALL, tested, places=False),
        "local": shaken(replace(SMALL, {"local": 2}), tested, places=False),
        "places": shaken(SMALL, tested, places=True),
    }
    costs = [reading_cost(frames) for frames in (8, 16, 32)]
    growth = (costs[2] - costs[1]) / (costs[1] - costs[0])
    rows += [
        {"order of frames known by": name, "change when shuffled": value} for name, value in moved.items()
    ]
    rows.append({"multiply-adds of global relations at 8, 16 and 32 frames": costs})

    def mean(name: str) -> float:
        found = [row["accuracy"] for row in rows if row.get("model") == name]
        return sum(found) / len(found)

    found = {name: mean(name) for name in MODELS}

    def draw(axes: Any) -> None:
        axes.barh(list(found), list(found.values()))
        axes.axvline(1 / len(DIRECTIONS), color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set(xlabel="accuracy; the line is chance", xlim=(0, 1))

    return Finding(
        statements={
            "with local relations at least 90 % of directions are told": min(found[BOTH], found[LOCAL])
            >= 0.9,
            "the mean of frames stays within 10 points of chance": found[FRAMEWISE] <= 0.35,
            "local and global relations are at least as accurate as either alone": found[BOTH]
            >= max(found[LOCAL], found[GLOBAL]),
            "order of frames matters with local relations or with places in reading, not without both": (
                moved["neither"] < 1e-4 < min(moved["local"], moved["places"])
            ),
            "the cost of reading grows in proportion to the frames": abs(growth - 2) < 0.02,
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        + "; shuffled frames move features by "
        + ", ".join(f"{value:.2g} ({name})" for name, value in moved.items())
        + f"; the step from 16 to 32 frames costs {growth:.3f} times that from 8 to 16",
        rows=rows,
        data=f"rendered worlds of one shape that moves left, right, up or down, {SIDE} pixels, {FRAMES} "
        f"frames; {len(tested.scenes)} test clips",
        notes=f"The paper starts from CLIP; here 3 blocks of 48 channels learn from nothing, {STEPS} steps.",
        draw=draw,
    )
