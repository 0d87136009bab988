"""EcoFormer: learned codes find neighbours, and stand in for softmax at a quarter of the energy."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.backbones.ecoformer import EcoFormer, EcoFormerConfig, swap_attention
from smalti.backbones.ecoformer_blocks import EcoFormerAttention, Hashing, PyramidBlock, SharedAttention
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, cluttered, exponent, learn, mean, of_features, right
from smalti.evaluation.profiling.clock import race
from smalti.nn.kernel_hash import Sign
from smalti.registry import replace

SIZES = EcoFormerConfig(
    dims=(32, 64, 64),
    heads=(1, 2, 2),
    ratios=(4, 4, 4),
    depths=(1, 2, 1),
    reductions=(4, 2, 1),
    classes=10,
    attention="shared",
    drop_path=0.0,
)
TOKENS = (256, 512, 1024, 2048, 4096)
NEAR = 10
SOFTMAX, LEARNED, RANDOM, NONE = "softmax", "learned codes", "random codes", "no attention"


class RandomSigns(nn.Module):
    """Codes of as many bits by the side of random planes a feature lies on; nothing is learned."""

    planes: Tensor

    def __init__(self, heads: int, dim: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("planes", torch.randn(heads, dim, bits))

    def fit(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "_"]:
        """Nothing."""
        return x.new_zeros(0)

    def forward(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n k"]:
        """Codes of ±1."""
        return cast(Tensor, Sign.apply(x @ self.planes))


class Nothing(nn.Module):
    """What is left when attention adds nothing."""

    def forward(self, x: Float[Tensor, "b n c"], size: tuple[int, int]) -> Float[Tensor, "b n c"]:
        """Zeros."""
        return torch.zeros_like(x)


def attentions(model: EcoFormer) -> list[EcoFormerAttention]:
    """Those on codes, the finest first."""
    return [module for module in model.modules() if isinstance(module, EcoFormerAttention)]


def swapped_for(model: EcoFormer, name: str) -> EcoFormer:
    """The model with a contender in the place of softmax in all stages but the last."""
    if name in (SOFTMAX, NONE):
        swapped = swap_attention(model, "shared")
        for block in [module for module in swapped.modules() if isinstance(module, PyramidBlock)]:
            if name == NONE and isinstance(block.attn, SharedAttention):
                block.attn = Nothing()
        return swapped
    swapped = swap_attention(model, "ecoformer")
    if name == RANDOM:
        for attn in attentions(swapped):
            attn.hash = cast(
                Any, RandomSigns(attn.heads, attn.to_v.out_features // attn.heads, SIZES.hashing.bits)
            )
    return swapped


@torch.no_grad()
def found_near(features: Float[Tensor, "b h n d"], codes: Float[Tensor, "b h n k"]) -> float:
    """Share of every token's nearest others by features that are among its nearest by codes.

    Where codes are as far, one token is as good as the next: ties are cut by chance.
    """
    itself = torch.eye(features.shape[2], dtype=torch.bool)
    likeness = codes @ codes.mT + 0.5 * torch.rand(features.shape[2], features.shape[2])
    wanted, got = (
        products.masked_fill(itself, -torch.inf).topk(NEAR, -1).indices
        for products in (features @ features.mT, likeness)
    )
    return (wanted[..., None] == got[..., None, :]).any(-1).float().mean().item()


def neighbours(model: EcoFormer, count: int) -> float:
    """`found_near` of the first attention, on test pictures that its hash has not seen."""
    seen: list[Tensor] = []
    attn = attentions(model)[0]
    with torch.no_grad(), attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        model(cluttered("test", torch.arange(count))[0])
    with torch.no_grad():
        return found_near(attn.features(seen[0]), attn.codes(seen[0]))


def seconds(repeats: int) -> dict[str, dict[int, float]]:
    """Processor seconds of a layer of 64 channels on ever more tokens, linear and softmax by turns."""
    layers = {LEARNED: EcoFormerAttention(64, 2, Hashing()).eval(), SOFTMAX: SharedAttention(64, 2).eval()}
    found: dict[str, dict[int, float]] = {name: {} for name in layers}
    for tokens in TOKENS:
        x = torch.randn(1, tokens, 64)
        calls = {name: lambda layer=layer, x=x: layer(x, (1, x.shape[1])) for name, layer in layers.items()}
        with torch.no_grad():
            for call in calls.values():
                call()
            for name, time in race(calls, 1, repeats, 5.0).items():
                found[name][tokens] = time.seconds
    return found


@claim("ecoformer", minutes=4)
def ecoformer(lab: Lab) -> Finding:
    """Trained with softmax, fine-tuned on codes that are learned or random; cost counted and timed."""
    rows: list[dict[str, Any]] = []
    steps, tuning, count = lab.some(300, 2), lab.some(80, 1), lab.some(1000, 20)
    for seed in lab.seeds:
        torch.manual_seed(seed)
        model = EcoFormer(replace(SIZES, {"hashing": Hashing(iterations=lab.some(100, 2))}))
        learn(model, of_features(model), cluttered, steps, seed)
        for name in (SOFTMAX, LEARNED, RANDOM, NONE):
            torch.manual_seed(seed)
            tuned = swapped_for(model, name)
            learn(tuned, of_features(tuned), cluttered, tuning, seed + 1000, 5e-4)
            row = {"codes": name, "seed": seed, "accuracy": right(of_features(tuned), cluttered, count)}
            if name in (LEARNED, RANDOM):
                row["near"] = neighbours(tuned, lab.some(50, 2))
            rows.append(row)
    taken = seconds(lab.some(7, 1))
    rows += [
        {"layer": name, "tokens": tokens, "seconds": round(time, 6)}
        for name, times in taken.items()
        for tokens, time in times.items()
    ]
    growth = {name: exponent(TOKENS[-3:], list(times.values())[-3:]) for name, times in taken.items()}
    with torch.device("meta"):
        pyramids = {LEARNED: EcoFormer(), SOFTMAX: EcoFormer(EcoFormerConfig(attention="softmax"))}
    energy = {name: pyramid.energy((1, 3, 1, 224, 224)).joules for name, pyramid in pyramids.items()}
    saved = 1 - energy[LEARNED] / energy[SOFTMAX]
    rows.append({"saved": saved, **energy})
    accuracy = {name: mean(rows, "accuracy", codes=name) for name in (SOFTMAX, LEARNED, RANDOM, NONE)}
    near = {name: mean(rows, "near", codes=name) for name in (LEARNED, RANDOM)}

    def draw(axes: Any) -> None:
        for name, times in taken.items():
            axes.loglog(TOKENS, [1000 * time for time in times.values()], "o-", label=name)
        axes.set(xlabel="tokens", ylabel="milliseconds of a layer, one thread")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "learned codes find more of the ten nearest tokens than random codes of as many bits": (
                near[LEARNED] > near[RANDOM]
            ),
            "after fine-tuning, learned codes are at least 1 point better than random codes": (
                accuracy[LEARNED] - POINT >= accuracy[RANDOM]
            ),
            "learned codes come within 1 point of softmax": accuracy[LEARNED] >= accuracy[SOFTMAX] - POINT,
            "PVTv2-B0 at 224 pixels takes at least 70 % less energy than with softmax": saved >= 0.7,
            "time grows linearly with the tokens (power below 1.2), softmax's beyond (above 1.5)": (
                growth[LEARNED] < 1.2 and growth[SOFTMAX] > 1.5
            ),
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        + f"; of the ten nearest {near[LEARNED]:.3f} by learned, {near[RANDOM]:.3f} by random codes; "
        f"energy of B0 {1000 * energy[LEARNED]:.2f} against {1000 * energy[SOFTMAX]:.2f} mJ; "
        f"power of tokens from 1,024 to 4,096 {growth[LEARNED]:.2f} against {growth[SOFTMAX]:.2f}",
        rows=rows,
        data="Fashion-MNIST on clutter, 48 pixels; PVTv2 of three stages, trained here",
        notes=f"The paper fine-tunes ImageNet models for 30 epochs; here {steps} steps with softmax, then "
        f"{tuning} of fine-tuning for every contender, softmax included, {Hashing().bits} bits in two "
        "stages of three. How little is lost without any attention tells how little this task asks of it. "
        "Energy is by the paper's model, 3.7 pJ a multiplication and 0.9 pJ an addition.",
        draw=draw,
    )
