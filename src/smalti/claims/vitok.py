"""ViTok: the count of a code's numbers rules the error; depth helps the decoder more than the encoder."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, material, mean, measure, sampled, train
from smalti.tokenizers.vitok import ViTok, ViTokConfig

CUT, WIDTH, STEPS = 32, 80, 300
NUMBERS = (64, 256, 1024)  # E, of a cut of 32 × 32 pixels
PATCHES = (4, 8)
SHARED = {(patch, E): E * patch**2 // CUT**2 for patch in PATCHES for E in NUMBERS}  # channels
DEPTHS = ((2, 2), (1, 4), (4, 1))
SPLIT = (8, 256)  # of the runs that differ in depth


def tokenizer(patch: int, channels: int, depths: tuple[int, int]) -> ViTok:
    """Transformers of a few blocks."""
    return ViTok(
        ViTokConfig(WIDTH, *depths, 4, 1, patch, channels, rotary="2d_axial", rotary_base=100.0, kl=1e-4)
    )


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's, ties sharing their mean rank."""

    def ranks(values: list[float]) -> torch.Tensor:
        row = torch.tensor(values, dtype=torch.float64)
        return (row[:, None] > row).sum(1) + (row[:, None] == row).sum(1) / 2

    return torch.corrcoef(torch.stack([ranks(x), ranks(y)]).double())[0, 1].item()


@claim("vitok", minutes=6.0)
def vitok(lab: Lab) -> Finding:
    """Small autoencoders on a grid of patch sizes and channels, and with four blocks on either side."""
    crops, others = material(lab, "pictures", 512)
    runs = [(patch, E, DEPTHS[0]) for patch, E in SHARED] + [(*SPLIT, depths) for depths in DEPTHS[1:]]
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for patch, E, depths in runs:
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> dict[str, torch.Tensor]:
                return {"pictures": sampled(crops, 16, CUT, seed, step)}

            model = tokenizer(patch, SHARED[patch, E], depths)
            train(model, batch, lab.some(STEPS, 2), pixel_weight=4.0)  # L2 as in [-1, 1]
            found = measure(model, others[..., 16 : 16 + CUT, 16 : 16 + CUT])
            rows.append({"patch": patch, "E": E, "depths": depths, "seed": seed, **found})

    def error(patch: int, E: int, depths: tuple[int, int] = DEPTHS[0]) -> float:
        return mean(rows, "error", patch=patch, E=E, depths=depths)

    law = {(patch, E): error(patch, E) for patch, E in SHARED}
    order = rank_correlation([float(E) for _, E in law], [-found for found in law.values()])
    apart = [abs(math.log(law[4, E] / law[8, E])) for E in NUMBERS]
    steps = [
        abs(math.log(law[one, E] / law[other, more]))
        for E, more in pairwise(NUMBERS)
        for one in PATCHES
        for other in PATCHES
    ]
    decoder, encoder = error(*SPLIT, DEPTHS[1]), error(*SPLIT, DEPTHS[2])

    def draw(axes: Any) -> None:
        for patch in PATCHES:
            axes.loglog(NUMBERS, [law[patch, E] for E in NUMBERS], "o-", label=f"patches of {patch}")
        axes.loglog([SPLIT[1]], [decoder], "^", label="encoder 1, decoder 4 blocks")
        axes.loglog([SPLIT[1]], [encoder], "v", label="encoder 4, decoder 1")
        axes.set(xlabel="numbers in the code of 32×32 pixels", ylabel="squared error")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "more numbers, less error, whatever the patch": all(
                law[patch, 64] > law[patch, 256] > law[patch, 1024] for patch in PATCHES
            ),
            "rank correlation of numbers and quality is above 0.9": order > 0.9,
            "codes of as many numbers differ less than any two of different counts": max(apart) < min(steps),
            "a deep decoder leaves less error than a deep encoder": decoder < encoder,
        },
        figure="squared error with 64 / 256 / 1024 numbers: "
        + ", ".join(
            f"patches of {patch} " + " / ".join(f"{law[patch, E]:.4f}" for E in NUMBERS) for patch in PATCHES
        )
        + f"; encoder 1 and decoder 4 blocks {decoder:.4f}, 4 and 1 {encoder:.4f}"
        f"; rank correlation {order:.3f}",
        rows=rows,
        data=DATA["pictures"] + "; cuts of 32×32 of them",
        notes=f"The paper's smallest model has 768 channels and 100,000 steps; here {WIDTH} channels, "
        f"{STEPS} steps, L2 and the divergence alone. One number for every 4×4 "
        "pixels leaves colours to be pieced together by attention, and 64 numbers for 8×8 fill most of the "
        "80 channels: at both ends so small and briefly trained a model, not its code, may set the error.",
        draw=draw,
    )
