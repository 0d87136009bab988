"""LARP: a prior that is trained along gives tokens an order in which the next is easier to foretell."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.moving import paint, palette, straight
from smalti.claims.rebuilding import Batch, mean, train
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.larp import LARP, LARPConfig
from smalti.tokenizers.larp_prior import LARPPrior, LARPPriorConfig
from smalti.training.losses.adversarial import AdversarialOptions
from smalti.training.objectives.larp import LARPObjective, LARPOptions

FRAMES, SIDE, TOKENS, CODES = 8, 32, 16, 64
STEPS, CLIPS, LESSONS = 1000, 1024, 300  # of tokenizers; tokenized, and steps, for the models of tokens
WITH, WITHOUT = "with a prior", "without"
PRIOR = LARPPriorConfig(8, TOKENS, 64, 2, 2, 0.0)


def squares(count: int, seed: int) -> Float[Tensor, "b 3 t s s"]:
    """Clips of one coloured square that moves in a straight line over black."""
    generator = torch.Generator().manual_seed(seed)
    colour = palette()[torch.randint(6, (count,), generator=generator)]
    start = 8 + 16 * torch.rand(count, 2, generator=generator)
    pace = torch.randint(-1, 2, (count, 2), generator=generator).float() * 1.5
    radius = 7 + 3 * torch.rand(count, generator=generator)
    black = torch.zeros(count, 3, FRAMES, SIDE, SIDE)
    kind = torch.ones(count, dtype=torch.long)
    return paint(black, kind, colour, straight(start, pace, FRAMES), radius)


def tokenizer() -> LARP:
    """16 tokens of 64 codes for a clip, two blocks on either side."""
    codes = VectorQuantizerConfig(
        CODES, 8, normalize=True, decay=0.9, init="kmeans", restart_below=0.1, temperature=0.03
    )
    return LARP(LARPConfig(TOKENS, FRAMES, SIDE, (4, 8, 8), 64, 4, 2, 2, quantizer=codes))


def objective(weight: float, steps: int) -> Any:
    """LARP's, without a discriminator and a network of perception."""

    def make(model: LARP) -> LARPObjective:
        return LARPObjective(
            model,
            LARPOptions(
                pixel="l2",
                pixel_weight=10.0,
                perceptual=0.0,
                adversarial=AdversarialOptions(0.0),
                prior_weight=weight,
                prior=PRIOR,
                prior_rate=1.0,
                ramp=max(1, 3 * steps // 10),
            ),
        )

    return make


def foretold(model: LARP, learnt: Int[Tensor, "m k"], other: Int[Tensor, "n k"], steps: int) -> float:
    """Bits a token that a fresh small model needs for other clips, after it was trained on tokens."""
    torch.manual_seed(0)
    reader, codebook = LARPPrior(PRIOR), model.codebook()
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3)
    for step in range(steps):
        chosen = torch.randint(len(learnt), (64,), generator=torch.Generator().manual_seed(step))
        ids = learnt[chosen]
        loss = reader(F.embedding(ids, codebook), ids, codebook, 0.0, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return reader.eval()(F.embedding(other, codebook), other, codebook, 0.0, 1).item() / math.log(2)


@claim("larp", minutes=4.0)
def larp(lab: Lab) -> Finding:
    """Twins, one of which is trained with its prior; then fresh models of their tokens."""
    steps, count = lab.some(STEPS, 2), lab.some(CLIPS, 32)
    shown, others = squares(count, 1), squares(count // 4, 2)
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for method, weight in ((WITH, 0.06), (WITHOUT, 0.0)):
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> Batch:
                return {"clips": squares(16, 1_000_003 * (seed + 1) + step)}

            model = train(tokenizer(), batch, steps, rate=1e-3, objective=objective(weight, steps))
            tokens = [model.encode(clips) for clips in (shown, others)]
            rebuilt = model.decode(tokens[1])
            ids = [found.ids[..., 0] for found in tokens]
            shuffled = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed))
            lessons = lab.some(LESSONS, 2)
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "L1": (rebuilt - others).abs().mean().item(),
                    "blank": others.abs().mean().item(),
                    "codes": len(ids[1].unique()),
                    "bits": foretold(model, *ids, lessons),
                    "shuffled": foretold(model, *(found[:, shuffled] for found in ids), lessons),
                }
            )

    def of(method: str, field: str) -> float:
        return mean(rows, field, method=method)

    def draw(axes: Any) -> None:
        places = torch.arange(2).float()
        for shift, method in ((-0.2, WITH), (0.2, WITHOUT)):
            values = [of(method, "bits"), of(method, "shuffled")]
            axes.bar(places + shift, values, 0.4, label=method)
        axes.set_xticks(places.tolist(), ["learned order", "shuffled"])
        axes.set_ylabel("bits a token")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "tokens trained with a prior take fewer bits of a fresh model": of(WITH, "bits")
            < of(WITHOUT, "bits"),
            "and clips err at most a fifth more": of(WITH, "L1") <= 1.2 * of(WITHOUT, "L1"),
            "with a prior, tokens are easier to foretell in their order than shuffled": of(WITH, "bits")
            < of(WITH, "shuffled"),
        },
        figure="; ".join(
            f"{method}: {of(method, 'bits'):.2f} bits a token, {of(method, 'shuffled'):.2f} shuffled, L1 "
            f"{of(method, 'L1'):.4f}, {of(method, 'codes'):.0f} codes in use"
            for method in (WITH, WITHOUT)
        )
        + f"; L1 of black clips {of(WITH, 'blank'):.4f}",
        rows=rows,
        data=f"rendered clips of a square that moves over black: {FRAMES} frames, {SIDE}×{SIDE} pixels",
        notes="The paper measures FVD of clips that a large model of tokens generates; here the entropy "
        f"that a model of two blocks leaves in other clips' tokens. {STEPS} steps of L2 and codebook, "
        "no discriminator; the prior learns as fast as the tokenizer, officially 50 times as fast. "
        "Codes follow the running means of latents: the paper's learn by gradient, and here one code was all "
        "that was used after 300 steps.",
        draw=draw,
    )
