"""SwinBERT: video tokens attend by a mask that grows sparse, and captions are written no worse for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.backbones.swinbert import SwinBERT, SwinBERTConfig
from smalti.backbones.swinbert_captions import Writing, write
from smalti.backbones.swinbert_training import CaptionMasking, CaptionObjective
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.clips_of_worlds import Batch, batches, clips, descend
from smalti.media.worlds import VOCABULARY, World
from smalti.nn.bert_encoder import BertConfig
from smalti.nn.video_swin import VideoSwinConfig

SIDE, FRAMES, STEPS, BATCH = 32, 8, 400, 16
COLOURS, KINDS = ("red", "green", "blue", "yellow", "cyan", "white"), ("circle", "square", "triangle")
WORLD = World(SIDE, SIDE, FRAMES, (1, 1), ("rests", "moves"), KINDS, COLOURS, ("plain", "noise"))
PAD, CLS, SEP, MASK = (VOCABULARY.number(word) for word in ("[pad]", "[cls]", "[sep]", "[mask]"))
MASKING = CaptionMasking(mask=MASK, pad=PAD)
SMALL = SwinBERTConfig(
    VideoSwinConfig(32, (1, 1), (2, 4), (2, 4, 4), drop_path=0.0),
    BertConfig(len(VOCABULARY), 64, 2, 4, 128, 16, dropout=0.0),
    features=64,
    masked_tokens=FRAMES // 2 * (SIDE // 8) ** 2,
)
SPARSE, LEARNED, DENSE = "λ = 0.5", "λ = 0", "full attention"
WEIGHTS = {SPARSE: 0.5, LEARNED: 0.0, DENSE: None}


def train(weight: float | None, shown: Batch, steps: int, seed: int) -> tuple[SwinBERT, list[float]]:
    """A captioner, and the mean of its mask's entries during training.

    Args:
        weight: of sparsity, λ; none for a model without a mask.
        shown: clips with captions.
        steps: of training.
        seed: of the weights and of what is masked.
    """
    torch.manual_seed(seed)
    model = SwinBERT(
        SMALL if weight is not None else SwinBERTConfig(SMALL.video, SMALL.text, SMALL.features, 0)
    )
    objective = CaptionObjective(MASKING, weight or 0.0)
    generator = torch.Generator().manual_seed(seed)
    mean: list[float] = []

    def loss(chosen: list[int]) -> Tensor:
        total, parts = objective.loss(model.train(), shown.pixels[chosen], shown.ids[chosen], generator)
        mean.append(parts["sparsity"].item() if "sparsity" in parts else 1.0)
        return total

    steps_of = batches(len(shown.scenes), BATCH, steps, seed)
    descend(list(model.parameters()), [lambda c=c: loss(c) for c in steps_of], 2e-3)
    return model.eval(), mean


@torch.no_grad()
def judge(model: SwinBERT, shown: Batch) -> dict[str, float]:
    """Loss of masked words, and shares of captions and of their words that are written as they are."""
    generator = torch.Generator().manual_seed(5)
    objective = CaptionObjective(MASKING, 0.0)
    how = Writing(length=shown.ids.shape[1], begin=CLS, end=SEP, mask=MASK, pad=PAD)
    losses, right, words = [], [], []
    for start in range(0, len(shown.scenes), 50):
        part = shown.part(range(start, min(start + 50, len(shown.scenes))))
        losses.append(objective.loss(model, part.pixels, part.ids, generator)[1]["words"].item())
        said = write(model, part.pixels, how).ids
        pairs = [(VOCABULARY.decode(a), VOCABULARY.decode(b)) for a, b in zip(said, part.ids, strict=True)]
        right += [one == other for one, other in pairs]
        words += [alike(*pair) for pair in pairs]
    return {
        "loss": sum(losses) / len(losses),
        "captions": sum(right) / len(right),
        "words": sum(words) / len(words),
    }


def alike(said: str, true: str) -> float:
    """Share of the longer text's places that hold the same word in both."""
    first, second = said.split(), true.split()
    return sum(a == b for a, b in zip(first, second, strict=False)) / max(len(first), len(second), 1)


@torch.no_grad()
def spread(model: SwinBERT, pixels: Float[Tensor, "b 3 t h w"], value: float) -> tuple[float, float]:
    """With all entries alike: the sparsity loss, and how far the others move when one token changes.

    Args:
        model: with a mask, which is changed.
        pixels: clips.
        value: of all entries before the sigmoid.
    """
    assert model.mask is not None
    model.mask.weight.fill_(value)
    tokens = model.watch(model.normalise(pixels))
    changed = tokens.clone()
    changed[:, 0] += 1
    bias = model.attention_bias(tokens.shape[1])
    moved = model.encoder(changed, bias) - model.encoder(tokens, bias)
    return model.mask.loss().item(), moved[:, 1:].abs().max().item()


@claim("swinbert", minutes=4.0)
def swinbert(lab: Lab) -> Finding:
    """Captions of new clips, by models that differ in the attention among video tokens."""
    shown, tested = clips(WORLD, "train", lab.some(1500, 20)), clips(WORLD, "test", lab.some(200, 10))
    rows: list[dict[str, Any]] = []
    course: dict[str, Sequence[float]] = {}
    for seed in lab.seeds:
        for name, weight in WEIGHTS.items():
            model, course[name] = train(weight, shown, lab.some(STEPS, 2), seed)
            density = 1.0 if model.mask is None else model.mask.density()
            found = judge(model, tested)
            entries = {"first": course[name][0], "last": course[name][-1], "density": density}
            rows.append({"model": name, "seed": seed, **entries, **found})
    fresh = SwinBERT(SMALL).eval()
    alone, together = (spread(fresh, tested.pixels[:4], value) for value in (-20.0, 20.0))
    rows += [{"entries": value, "loss": a, "spread": b} for value, (a, b) in ((-20, alone), (20, together))]

    def mean(field: str, name: str) -> float:
        found = [row[field] for row in rows if row.get("model") == name]
        return sum(found) / len(found)

    def draw(axes: Any) -> None:
        for name in (SPARSE, LEARNED):
            axes.plot(course[name], label=f"{name}, loss of words {mean('loss', name):.2f}")
        axes.set(xlabel="step", ylabel="mean entry of the mask")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "with λ above 0 the mean entry of the mask falls in training": mean("last", SPARSE)
            < mean("first", SPARSE) - 0.01,
            "it ends below that of a mask without the loss": mean("last", SPARSE) < mean("last", LEARNED),
            "masked words of new clips are guessed no worse (5 %) than without the loss": mean("loss", SPARSE)
            <= 1.05 * mean("loss", LEARNED),
            "captions have at least as many right words as with full attention (within 1 point)": (
                mean("words", SPARSE) >= mean("words", DENSE) - 0.01
            ),
            "shut, the mask keeps every video token to itself; open, tokens reach each other": (
                alone[1] < 1e-5 < together[1] and alone[0] < 1e-3 and together[0] > 0.9
            ),
        },
        figure="; ".join(
            f"{name}: mean entry {mean('first', name):.3f} → {mean('last', name):.3f}, density "
            f"{mean('density', name):.2f}, loss of words {mean('loss', name):.3f}, words right "
            f"{mean('words', name):.3f}, captions right {mean('captions', name):.3f}"
            for name in WEIGHTS
        ),
        rows=rows,
        data=f"rendered worlds of one shape that moves or rests, {SIDE} pixels, {FRAMES} frames; captions "
        f"of a template; {len(tested.scenes)} test clips",
        notes="The paper's Video Swin knows Kinetics and learns from real captions for 15 epochs; here all "
        f"is learned from nothing in {STEPS} steps of {BATCH} clips.",
        draw=draw,
    )
