"""VIOLET: guessing masked visual tokens, from the frames around them, helps texts find their videos."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.backbones.violet import VIOLET, VIOLETConfig
from smalti.backbones.violet_masking import Masking, blockwise, hide
from smalti.backbones.violet_training import (
    PretrainingObjective,
    candidates,
    cell_codes,
    code_targets,
    guess_loss,
    match,
    pair_scores,
)
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.clips_of_worlds import Batch, batches, clips, descend
from smalti.media.worlds import VOCABULARY, World
from smalti.nn.bert_encoder import BertConfig
from smalti.nn.video_swin import VideoSwinConfig
from smalti.quantizers.fsq import FSQ

SIDE, FRAMES, CELL, STEPS, BATCH = 32, 4, 8, 500, 16
GRID = SIDE // CELL
COLOURS, KINDS = ("red", "green", "blue", "yellow", "cyan", "white"), ("circle", "square", "triangle")
WORLD = World(SIDE, SIDE, FRAMES, (1, 1), ("rests", "moves"), KINDS, COLOURS, ("plain", "noise"))
PAD, CLS, SEP, MASK = (VOCABULARY.number(word) for word in ("[pad]", "[cls]", "[sep]", "[mask]"))
LEVELS = (5, 5, 5)
SMALL = VIOLETConfig(
    VideoSwinConfig(32, (1, 1), (2, 4), (4, 4, 4), (2, 4, 4), time_stride=1, drop_path=0.0),
    BertConfig(len(VOCABULARY), 64, 2, 4, 128, 16, dropout=0.0),
    places=GRID, frames=FRAMES, codes=5**3, dropout=0.0,
)  # fmt: skip
OBJECTIVE = PretrainingObjective(Masking(mask=MASK, special=(PAD, CLS, SEP)))
FULL, MATCHING = "words, visual tokens and matching", "matching alone"


def codes(pixels: Float[Tensor, "b 3 t h w"]) -> Int[Tensor, "b t rows columns"]:
    """Visual tokens: the mean colour of every cell, rounded by FSQ to five levels a channel."""
    quantizer = FSQ(levels=LEVELS)

    def encode(pictures: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n h w"]:
        flat = pictures.permute(0, 2, 3, 1).reshape(-1, 3)
        return quantizer.quantize(3 * flat - 1.5).ids.view(pictures[:, 0].shape)

    return cell_codes(encode, pixels, CELL, 1)


def train(name: str, shown: Batch, steps: int, seed: int) -> VIOLET:
    """AdamW on all three losses, or on matching alone, which then sees everything."""
    torch.manual_seed(seed)
    model, generator = VIOLET(SMALL).train(), torch.Generator().manual_seed(seed)
    targets = codes(shown.pixels)

    def loss(chosen: list[int]) -> Tensor:
        pixels, ids = shown.pixels[chosen], shown.ids[chosen]
        if name == FULL:
            return OBJECTIVE.loss(model, pixels, ids, ids != PAD, targets[chosen], generator)[0]
        video, text = model.watch(model.normalise(pixels)).tokens, model.words(ids)
        fits = match(model, video, text, ids != PAD, candidates(len(ids), 4, generator))
        return guess_loss(fits, torch.zeros_like(fits[:, 0], dtype=torch.long))

    steps_of = batches(len(shown.scenes), BATCH, steps, seed)
    descend(list(model.parameters()), [lambda c=c: loss(c) for c in steps_of], 2e-3)
    return model.eval()


@torch.no_grad()
def guessed(model: VIOLET, shown: Batch, cells: Tensor) -> Float[Tensor, "n codes"]:
    """Logits of hidden cells, one after another."""
    assert model.masked_codes is not None
    video = model.watch(model.normalise(hide(shown.pixels, cells, (CELL, CELL)))).tokens
    out = model.combine(video, model.words(shown.ids), shown.ids != PAD)[:, : video.shape[1]]
    return model.masked_codes(out[code_targets(codes(shown.pixels), cells) >= 0])


def right(model: VIOLET, shown: Batch, cells: Tensor, asked: Tensor) -> float:
    """Share of the cells asked for, all of them hidden, whose visual token is guessed."""
    found = guessed(model, shown, cells).argmax(-1)
    return (found == codes(shown.pixels)[cells])[asked[cells]].float().mean().item()


def recall(model: VIOLET, shown: Batch) -> float:
    """Share of texts, all different, that find their own clip first."""
    texts: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(shown.ids.tolist()):
        texts.setdefault(tuple(row), number)
    chosen = shown.part(list(texts.values()))
    with torch.no_grad():
        scores = pair_scores(model, chosen.pixels, chosen.ids, chosen.ids != PAD)
    return (scores.argmax(0) == torch.arange(len(texts))).float().mean().item()


def hidden_things(shown: Batch) -> tuple[Tensor, Tensor]:
    """Cells of the second frame with another visual token than the clip's commonest; those of all frames."""
    found = codes(shown.pixels)
    common = found.flatten(1).mode(1).values[:, None, None, None]
    second = torch.zeros_like(found, dtype=torch.bool)
    second[:, 1] = found[:, 1] != common[:, 0]
    return second, second.any(1, keepdim=True).expand_as(second)


@claim("violet", minutes=4.0)
def violet(lab: Lab) -> Finding:
    """Clips of moving shapes and their captions: visual tokens are guessed, and clips found by texts."""
    shown, tested = clips(WORLD, "train", lab.some(1500, 20)), clips(WORLD, "test", lab.some(200, 12))
    generator = torch.Generator().manual_seed(3)
    grid = (FRAMES, GRID, GRID)
    blocks = torch.stack([blockwise(grid, generator) for _ in tested.scenes])
    second, everywhere = hidden_things(tested)
    commonest = codes(shown.pixels).flatten().mode().values
    unigram = (codes(tested.pixels)[blocks] == commonest).float().mean().item()
    rows: list[dict[str, Any]] = [{"measure": "commonest visual token", "right": unigram}]
    for seed in lab.seeds:
        for name in (FULL, MATCHING):
            model = train(name, shown, lab.some(STEPS, 2), seed)
            rows.append({"model": name, "seed": seed, "R@1": recall(model, tested)})
            if name == FULL:
                rows[-1] |= {
                    "blocks": right(model, tested, blocks, blocks),
                    "one frame": right(model, tested, second, second),
                    "all frames": right(model, tested, everywhere, second),
                }
    torch.manual_seed(0)
    fresh, one = VIOLET(SMALL).eval(), tested.part([0, 1])
    other = torch.where(hide(torch.ones_like(one.pixels), blocks[:2], (CELL, CELL)) > 0, one.pixels, 0.5)
    before = guessed(fresh, one, blocks[:2])
    leak = (guessed(fresh, Batch(one.scenes, other, one.ids), blocks[:2]) - before).abs().max().item()
    rows.append({"measure": "change of logits when only hidden pixels change", "most": leak})

    def mean(field: str, name: str = FULL) -> float:
        found = [row[field] for row in rows if row.get("model") == name]
        return sum(found) / len(found)

    def draw(axes: Any) -> None:
        bars = {
            "commonest token": unigram,
            "guessed, blocks": mean("blocks"),
            "the thing, hidden in one frame": mean("one frame"),
            "the thing, hidden in all frames": mean("all frames"),
            "R@1, all losses": mean("R@1"),
            "R@1, matching alone": mean("R@1", MATCHING),
        }
        axes.barh(list(bars), list(bars.values()))
        axes.invert_yaxis()
        axes.set(xlabel="share", xlim=(0, 1))

    return Finding(
        statements={
            "masked visual tokens of new clips are guessed 20 points better than by the commonest": (
                mean("blocks") >= unigram + 0.2
            ),
            "a thing hidden in one frame is guessed better than one hidden in all frames": mean("one frame")
            > mean("all frames"),
            "texts find their clip more often than after as many steps of matching alone": mean("R@1")
            > mean("R@1", MATCHING),
            "nothing leaks from hidden pixels": leak == 0,
        },
        figure=f"masked visual tokens guessed {mean('blocks'):.3f}, commonest {unigram:.3f}; the thing "
        f"hidden in one frame {mean('one frame'):.3f}, in all {mean('all frames'):.3f}; R@1 with all losses "
        f"{mean('R@1'):.3f}, with matching alone {mean('R@1', MATCHING):.3f}",
        rows=rows,
        data=f"rendered worlds of one shape that moves or rests, {SIDE} pixels, {FRAMES} frames; captions "
        f"of a template; {len(tested.scenes)} test clips, one a caption to be found",
        notes="Visual tokens are mean colours of cells rounded by FSQ to 125 codes, instead of DALL-E's "
        f"8192. All is learned from nothing in {STEPS} steps of {BATCH}; matching alone sees nothing masked.",
        draw=draw,
    )
