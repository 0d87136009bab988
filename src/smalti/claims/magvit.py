"""MAGVIT-v2: codes without lookup stay in use as the codebook grows, and the pictures gain by it."""

from __future__ import annotations

from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, material, mean, measure, sampled, train
from smalti.quantizers.lfq import LFQ, LFQConfig
from smalti.quantizers.vq import VectorQuantizer
from smalti.tokenizers.magvit import Magvit, MagvitConfig

BITS, STEPS = (6, 10, 14), 250
LOOKUP_FREE, PLAIN, CODEBOOK, PUSHED = "LFQ", "LFQ, no entropy loss", "VQ", "VQ with entropy loss"
RUNS = [(LOOKUP_FREE, bits) for bits in BITS] + [(CODEBOOK, bits) for bits in BITS]
RUNS += [(PLAIN, 10), (PUSHED, 10)]


def tokenizer(method: str, bits: int) -> Magvit:
    """The same two networks, with signs or with a learnt codebook of as many channels between."""
    options = {"entropy": 0.1 if method in (LOOKUP_FREE, PUSHED) else 0.0}
    model = Magvit(
        MagvitConfig(16, (1, 2, 2), (False, False), blocks=1, groups=4, quantizer=LFQConfig(bits, **options))
    )
    if method in (CODEBOOK, PUSHED):
        model.quantizer = VectorQuantizer(codebook_size=2**bits, dim=bits, learn="gradient", **options)
    assert isinstance(model.quantizer, LFQ | VectorQuantizer)
    return model


@claim("magvit", minutes=8.0)
def magvit(lab: Lab) -> Finding:
    """Small picture tokenizers that differ in their quantizer alone, at three sizes of the codebook."""
    crops, others = material(lab, "pictures", 256)
    steps = lab.some(STEPS, 2)
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for method, bits in RUNS:
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> dict[str, torch.Tensor]:
                return {"pictures": sampled(crops, 16, 32, seed, step)}

            model = train(tokenizer(method, bits), batch, steps, pixel_weight=20.0)
            rows.append({"method": method, "bits": bits, "seed": seed, **measure(model, others)})

    def of(method: str, bits: int, field: str = "usage") -> float:
        return mean(rows, field, method=method, bits=bits)

    def gain(method: str) -> float:
        return of(method, 14, "psnr") - of(method, 10, "psnr")

    def draw(axes: Any) -> None:
        for method, style in ((LOOKUP_FREE, "o-"), (CODEBOOK, "s-")):
            axes.plot(BITS, [of(method, bits) for bits in BITS], style, label=f"{method}, codes in use")
        for method in (PLAIN, PUSHED):
            axes.plot([10], [of(method, 10)], "x", label=f"{method}, codes in use")
        other = axes.twinx()
        for method, style in ((LOOKUP_FREE, "o:"), (CODEBOOK, "s:")):
            other.plot(BITS, [of(method, bits, "psnr") for bits in BITS], style)
        other.set_ylabel("PSNR, dB (dotted)")
        axes.set(xlabel="bits a token", ylabel="share of codes in use", xticks=BITS)
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "LFQ uses more than 90 % of 2^10 codes": of(LOOKUP_FREE, 10) > 0.9,
            "without its entropy loss it uses at least 10 points fewer": of(PLAIN, 10)
            <= of(LOOKUP_FREE, 10) - 0.1,
            "a learnt codebook is used less than LFQ's at every size": all(
                of(CODEBOOK, bits) < of(LOOKUP_FREE, bits) for bits in BITS
            ),
            "LFQ's pictures gain with every size of the codebook": of(LOOKUP_FREE, 6, "psnr")
            < of(LOOKUP_FREE, 10, "psnr")
            < of(LOOKUP_FREE, 14, "psnr"),
            "from 2^10 to 2^14 codes they gain more than a learnt codebook's": gain(LOOKUP_FREE)
            > gain(CODEBOOK),
            "with 2^14 codes LFQ's pictures are better than a learnt codebook's": of(LOOKUP_FREE, 14, "psnr")
            > of(CODEBOOK, 14, "psnr"),
        },
        figure="codes in use / PSNR: "
        + ", ".join(
            f"{method} 2^{bits} {of(method, bits):.1%} / {of(method, bits, 'psnr'):.2f} dB"
            for method, bits in RUNS
        ),
        rows=rows,
        data=DATA["pictures"],
        notes="The paper's models are of 256 pixels and trained with adversarial and perceptual losses for "
        f"hundreds of epochs; here 4×4 pixels a token, 16 to 32 channels, {STEPS} steps of L2, no "
        "discriminator. The learnt codebook has as many channels as LFQ has bits, and is compared with and "
        "without LFQ's entropy loss. In so few steps that loss costs pictures more than its codes give them: "
        "without it few codes are used, and they err less.",
        draw=draw,
    )
