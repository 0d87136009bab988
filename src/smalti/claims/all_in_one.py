"""All in One: tokens that roll between neighbouring frames tell directions, at the cost of single frames."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from smalti.backbones.all_in_one import AllInOne, AllInOneConfig
from smalti.backbones.all_in_one_training import answer_loss
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.clips_of_worlds import Batch, batches, clips, descend
from smalti.media.worlds import DIRECTIONS, VOCABULARY, World
from smalti.registry import replace

SIDE, FRAMES, STEPS, BATCH = 24, 4, 800, 32
WORLD = World(SIDE, SIDE, FRAMES, (1, 1), ("moves",), ("circle", "square"), backgrounds=("plain",))
SMALL = AllInOneConfig(
    dim=48, depth=4, heads=2, patch=6, size=SIDE, frames=FRAMES, vocabulary=len(VOCABULARY),
    text_length=12, drop_path=0.0, dropout=0.0, answers=len(DIRECTIONS),
)  # fmt: skip
ROLLED, STILL = "rolled tokens", "mean of frames"


def asked(shown: Batch) -> Int[Tensor, "b l"]:
    """The question of every clip: "where does the red circle move ?"."""
    things = [scene.things[0] for scene in shown.scenes]
    return VOCABULARY.encode([f"where does the {thing.colour} {thing.kind} move ?" for thing in things])


def network(way: str) -> AllInOne:
    """A small model that tells frames apart by rolling, or not at all; neither has a table of times."""
    model = AllInOne(replace(SMALL, {} if way == ROLLED else {"rolled": ()}))
    torch.nn.init.zeros_(model.pictures.times).requires_grad_(False)
    return model


def train(way: str, shown: Batch, steps: int, seed: int) -> AllInOne:
    """AdamW on the answers, the same clips and questions for both ways of a seed."""
    torch.manual_seed(seed)
    model = network(way).train()
    ids, answers = asked(shown), shown.labels(lambda scene: scene.direction, tuple(DIRECTIONS))

    def loss(chosen: list[int]) -> Tensor:
        return answer_loss(model, shown.pixels[chosen], ids[chosen], None, answers[chosen])

    steps_of = batches(len(ids), BATCH, steps, seed)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    descend(learning, [lambda c=c: loss(c) for c in steps_of], 3e-3, 0.05)
    return model.eval()


@torch.no_grad()
def accuracy(model: AllInOne, shown: Batch) -> float:
    """Share of questions that are answered rightly."""
    assert model.answer is not None
    found = model.answer(model.encode(shown.pixels, asked(shown)).pooled).argmax(-1)
    return (found == shown.labels(lambda scene: scene.direction, tuple(DIRECTIONS))).float().mean().item()


@torch.no_grad()
def reach(way: str, shown: Batch) -> list[bool]:
    """Which frames, with one block, a change of the first frame changes before the mean over frames."""
    torch.manual_seed(0)
    model = AllInOne(replace(SMALL, {"depth": 1} | ({} if way == ROLLED else {"rolled": ()}))).eval()
    seen: list[Tensor] = []
    hook = model.norm.register_forward_hook(lambda module, given, out: seen.append(out))
    changed = shown.pixels[:1].clone()
    changed[:, :, 0] = 1 - changed[:, :, 0]
    for pixels in (shown.pixels[:1], changed):
        model.encode(pixels, asked(shown)[:1])
    hook.remove()
    return [bool(moved) for moved in (seen[0] != seen[1]).flatten(1).any(1)]


@claim("all-in-one", minutes=3.0)
def all_in_one(lab: Lab) -> Finding:
    """Directions of moving shapes are asked of a model with rolling and of one without."""
    shown, tested = clips(WORLD, "train", lab.some(2000, 40)), clips(WORLD, "test", lab.some(400, 20))
    rows: list[dict[str, Any]] = []
    ways = (ROLLED, STILL)
    for seed in lab.seeds:
        for way in ways:
            model = train(way, shown, lab.some(STEPS, 2), seed)
            rows.append({"way": way, "seed": seed, "accuracy": accuracy(model, tested)})
    reached = {way: reach(way, tested) for way in (ROLLED, STILL)}
    rows += [{"way": way, "frames that hear of the first": frames} for way, frames in reached.items()]
    costs = {
        (way, frames): network(way).eval().joint_flops((1, 3, frames, SIDE, SIDE), 9)
        for way in (ROLLED, STILL)
        for frames in (3, 6, 12)
    }
    rows += [{"way": way, "frames": frames, "multiply-adds": cost} for (way, frames), cost in costs.items()]
    growth = (costs[ROLLED, 12] - costs[ROLLED, 6]) / (costs[ROLLED, 6] - costs[ROLLED, 3])

    def mean(way: str) -> float:
        found = [row["accuracy"] for row in rows if row["way"] == way and "accuracy" in row]
        return sum(found) / len(found)

    found = {way: mean(way) for way in ways}
    neighbours = [True, True, *[False] * (FRAMES - 3), True]

    def draw(axes: Any) -> None:
        axes.barh(list(found), list(found.values()))
        axes.axvline(1 / len(DIRECTIONS), color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set(xlabel="questions answered rightly; the line is chance", xlim=(0, 1))

    return Finding(
        statements={
            "with rolled tokens at least 30 points more directions are told than by the mean of frames": (
                found[ROLLED] >= found[STILL] + 0.3
            ),
            "the mean of frames stays within 10 points of chance": found[STILL] <= 0.35,
            "one block with rolling tells a frame of its two neighbours, without it of none": (
                reached[ROLLED] == neighbours and sum(reached[STILL]) == 1
            ),
            "rolling costs no multiply-adds, and the cost is linear in frames": (
                all(costs[ROLLED, frames] == costs[STILL, frames] for frames in (3, 6, 12))
                and abs(growth - 2) < 0.02
            ),
        },
        figure="answers right: "
        + ", ".join(f"{way} {value:.3f}" for way, value in found.items())
        + f"; {costs[ROLLED, 6]:,} multiply-adds for 6 frames, rolled or not; 6 more frames cost "
        f"{growth:.3f} times 3 more",
        rows=rows,
        data=f"rendered worlds of one shape that moves left, right, up or down, {SIDE} pixels, {FRAMES} "
        f"frames; {len(tested.scenes)} test clips, each with its question",
        notes=f"The paper is pretrained on WebVid and HowTo100M; here 4 blocks of {SMALL.dim} channels learn "
        f"from nothing in {STEPS} steps of {BATCH}. Both models go without the table of times, which tells "
        "frames apart too.",
        draw=draw,
    )
