"""TiTok: codes without places; more of them leave less error, and few say more than as many on a grid."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, material, mean, measure, sampled, train
from smalti.nn.latent_queries import TowerConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.base import Tokenizer
from smalti.tokenizers.one_dimensional import OneDimensionalTokenizer
from smalti.tokenizers.phenaki import Phenaki, PhenakiConfig
from smalti.tokenizers.titok import TiTok, TiTokConfig

Made = TypeVar("Made", bound=OneDimensionalTokenizer)
SIDE, STEPS = 32, 800
LENGTHS, GRID = (1, 4, 16), "2×2 grid"
CODES = VectorQuantizerConfig(1024, 12, normalize=True, decay=0.9, init="kmeans", restart_below=0.1)
TOWER = TowerConfig(64, 2, 4)


def narrow(model: Made) -> Made:
    """Let products start with a deviation of 1/√width: the official 0.02 starves towers this narrow."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=TOWER.width**-0.5)
    return model


def tokenizer(method: int | str) -> Tokenizer:
    """A TiTok of so many tokens, or a transformer with one token for every quarter of the picture."""
    if method == GRID:
        return Phenaki(PhenakiConfig(64, SIDE // 2, 1, 2, 0, 4, 16, CODES))
    return narrow(TiTok(TiTokConfig(int(method), TOWER, TOWER, CODES, None, SIDE, 8)))


@claim("titok", minutes=5.0)
def titok(lab: Lab) -> Finding:
    """Small tokenizers of one stage with 1, 4 and 16 tokens, and one with a 2 × 2 grid."""
    crops, others = material(lab, "pictures", 512)
    others = others[..., 16 : 16 + SIDE, 16 : 16 + SIDE]
    pixels = others.float() / 255
    flat = (pixels - (crops.float() / 255).mean((0, 2, 3, 4), keepdim=True)).square().mean().item()
    rows: list[dict[str, Any]] = [{"method": "mean colour", "error": flat}]
    for seed in lab.seeds:
        for method in (*LENGTHS, GRID):
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> Batch:
                return {"pictures": sampled(crops, 16, SIDE, seed, step)}

            model = train(tokenizer(method), batch, lab.some(STEPS, 2), rate=1e-3, pixel_weight=10.0)
            rows.append({"method": method, "seed": seed, **measure(model, others)})

    error = {method: mean(rows, "error", method=method) for method in (*LENGTHS, GRID)}

    def draw(axes: Any) -> None:
        axes.semilogx(LENGTHS, [error[length] for length in LENGTHS], "o-", label="tokens without places")
        axes.plot([4], [error[GRID]], "s", label=GRID)
        axes.axhline(flat, linestyle=":", label="mean colour")
        axes.set(xlabel="tokens of 32×32 pixels", ylabel="squared error", xticks=LENGTHS)
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "one token leaves less error than the mean colour": error[1] < flat,
            "error falls from 1 to 4 to 16 tokens": error[1] > error[4] > error[16],
            "4 tokens without places leave less error than a 2×2 grid of tokens": error[4] < error[GRID],
        },
        figure=f"squared error: mean colour {flat:.4f}; 1, 4 and 16 tokens "
        + ", ".join(f"{error[length]:.4f}" for length in LENGTHS)
        + f"; {GRID} {error[GRID]:.4f}",
        rows=rows,
        data=DATA["pictures"] + "; cuts of 32×32 of them",
        notes="The paper compares 32 tokens with the 256 of a VQGAN at 256 pixels, after a million steps in "
        f"two stages; here one stage, 64 channels, 2 blocks on either side, {STEPS} steps of L2. All have "
        "1,024 codes of length 1 that follow the running means of latents: in first trials FSQ, and a "
        "codebook that learns by gradient, as the paper's, kept to a few codes for hundreds of steps, and "
        "weights of the official deviation, which is for wider towers, learned little but mean colours. "
        "The grid's tokenizer is C-ViViT's layers along space with one patch a token.",
        draw=draw,
    )
