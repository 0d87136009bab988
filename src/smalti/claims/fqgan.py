"""FQGAN: two small codebooks say more than one large one of as many bits, and more of them is in use."""

from __future__ import annotations

from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, Pool, material, mean, measure, sampled, train
from smalti.quantizers.grouped import GroupedConfig, disentanglement
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.fqgan import FQGAN, FQGANConfig

SIDE, STEPS = 32, 200
ONE, TWO, LARGE, MIXED = "1 × 4096", "2 × 64", "2 × 4096", "2 × 64, not kept apart"
RUNS = {ONE: (1, 4096, 0.0), TWO: (2, 64, 0.1), LARGE: (2, 4096, 0.1), MIXED: (2, 64, 0.0)}


def tokenizer(method: str) -> FQGAN:
    """Networks of equal kind; every codebook has its head and 8 channels."""
    groups, codes, apart = RUNS[method]
    codebook = VectorQuantizerConfig(
        codes, 8, learn="gradient", normalize=True, entropy=0.03, entropy_epsilon=1e-5
    )
    return FQGAN(
        FQGANConfig(
            GroupedConfig(codebook, groups, apart),
            (1, 1, 2, 2),
            16,
            blocks=1,
            latent=32,
            groups=4,
            head_depth=1,
            head_heads=4,
            teachers=(),
            size=SIDE,
        )
    )


def overlap(model: FQGAN, pool: Pool) -> float:
    """Mean squared cosine of the two codes of a token."""
    ids = model.encode(pool.float() / 255).ids
    return disentanglement(list(model.quantizer.lookup(ids).flatten(0, 1).chunk(2, -1))).item()


@claim("fqgan", minutes=6.0)
def fqgan(lab: Lab) -> Finding:
    """Small VQGANs without a discriminator that differ in their codebooks."""
    crops, others = material(lab, "pictures", 512)
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for method in RUNS:
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> Batch:
                return {"pictures": sampled(crops, 16, SIDE, seed, step)}

            model = train(tokenizer(method), batch, lab.some(STEPS, 2), pixel_weight=10.0)
            found = measure(model, others)
            if method != ONE:
                found["overlap"] = overlap(model, others[:64])
            rows.append({"method": method, "seed": seed, **found})

    def of(method: str, field: str = "error") -> float:
        return mean(rows, field, method=method)

    def draw(axes: Any) -> None:
        for method in RUNS:
            axes.plot(of(method, "usage"), of(method), "o", label=method)
        axes.set(xlabel="share of codes in use", ylabel="squared error")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "two codebooks of 64 are used more than one of 4,096": of(TWO, "usage") > of(ONE, "usage"),
            "and leave less error with as many bits": of(TWO) < of(ONE),
            "two of 4,096 leave less error than one": of(LARGE) < of(ONE),
            "kept apart, codes of a token have a squared cosine below 0.02, and a larger one if not": (
                of(TWO, "overlap") < min(0.02, of(MIXED, "overlap"))
            ),
            "keeping them apart costs at most 5 % of error": of(TWO) <= 1.05 * of(MIXED),
        },
        figure="squared error / codes in use: "
        + ", ".join(f"{method} {of(method):.4f} / {of(method, 'usage'):.1%}" for method in RUNS)
        + f"; squared cosine {of(TWO, 'overlap'):.3f}, not kept apart {of(MIXED, 'overlap'):.3f}",
        rows=rows,
        data=DATA["pictures"],
        notes="The paper trains codebooks of 16,384 with a discriminator and teachers for 40 epochs of "
        f"ImageNet; here 8×8 pixels a token, 16 to 32 channels, {STEPS} steps of L2 and the codes' losses.",
        draw=draw,
    )
