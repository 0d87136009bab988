"""PoNet: pooling of three granularities classifies long sequences like attention, at linear cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.ponet import PoNet
from smalti.backbones.ponet_mixing import Places, PoNetBlock, PoNetMixer
from smalti.backbones.ponet_sizes import PoNetConfig, PoNetWords
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, exponent, learn, mean, right
from smalti.evaluation.profiling.clock import race
from smalti.nn.transformer import Attention
from smalti.tokens import Tokens
from smalti.training.corpora.fashion import fashion

SIDE, LEVELS, DIM, HEADS = 14, 32, 48, 2
ROWS = SIDE + 1  # pieces that are told to make segments of one row each
LONGER = (1024, 2048, 4096, 8192)
PONET, SOFTMAX, FOURIER, AVERAGE = "PoNet", "softmax attention", "Fourier (FNet)", "mean of all"


def rows_of_pixels(split: str, index: Int[Tensor, "n"]) -> tuple[Int[Tensor, "n 196"], Int[Tensor, "n"]]:
    """Clothes of 14 pixels a side, read row by row as words for shades of grey."""
    pictures, labels = fashion("train" if split == "train" else "test")
    small = F.avg_pool2d(pictures[index], 28 // SIDE)
    return (small * LEVELS).long().clamp(max=LEVELS - 1).flatten(1), labels[index]


class PartialMixer(PoNetMixer):
    """PoNet's mixer without one of its poolings."""

    def __init__(self, dim: int, heads: int, without: str) -> None:
        super().__init__(dim, heads)
        self.without = without

    def _whole(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return torch.zeros_like(q[:, :1]) if self.without == "global" else super()._whole(q, k, mask)

    def _segments(self, x: Tensor, places: Places) -> Tensor:
        return torch.zeros_like(x) if self.without == "segments" else super()._segments(x, places)

    def _neighbours(self, x: Tensor, places: Places) -> Tensor:
        return torch.zeros_like(x) if self.without == "neighbours" else super()._neighbours(x, places)


class SoftmaxMixer(Attention):
    """Every token asks all."""

    def forward(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Attend."""
        return super().forward(x)


class FourierMixer(nn.Module):
    """The real part of the transform over tokens and channels (Lee-Thorp et al., FNet, 2021)."""

    def forward(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """Transform."""
        return torch.fft.fft2(x).real


class MeanMixer(nn.Module):
    """Every token is told the mean of all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        """Average."""
        return self.proj(self.value(x).mean(1, keepdim=True)).expand_as(x)


PARTS = ("global", "segments", "neighbours")
MIXERS: dict[str, Callable[[int], nn.Module]] = {
    PONET: lambda dim: PoNetMixer(dim, HEADS),
    SOFTMAX: lambda dim: SoftmaxMixer(dim, HEADS),
    FOURIER: lambda dim: FourierMixer(),
    AVERAGE: MeanMixer,
} | {f"without {part}": lambda dim, part=part: PartialMixer(dim, HEADS, part) for part in PARTS}


def reader(name: str) -> PoNet:
    """Two blocks as on the Long Range Arena, which mix tokens in a way."""
    words = PoNetWords(LEVELS, SIDE * SIDE, types=0, separators=(), pieces=ROWS)
    model = PoNet(
        PoNetConfig(
            DIM,
            2,
            HEADS,
            2 * DIM,
            pre_norm=True,
            pooling="mean",
            head="classify",
            classes=10,
            eps=1e-5,
            dropout=0.0,
            words=words,
        )
    )
    for block in model.blocks:
        block.mixer = MIXERS[name](DIM)
    return model


def seconds(repeats: int) -> dict[str, list[float]]:
    """Processor seconds of a block's training step on ever more tokens, the mixers by turns."""
    blocks = {name: PoNetBlock(64, HEADS, 128, pre_norm=True) for name in (PONET, SOFTMAX, FOURIER)}
    for name, block in blocks.items():
        block.mixer = MIXERS[name](64)
    found: dict[str, list[float]] = {name: [] for name in blocks}
    for tokens in LONGER:
        x = torch.randn(1, tokens, 64)
        calls = {
            name: lambda block=block, x=x: block(x, Places(pieces=64)).sum().backward()
            for name, block in blocks.items()
        }
        for call in calls.values():
            call()
        for name, time in race(calls, 1, repeats, 5.0).items():
            found[name].append(time.seconds)
    return found


@claim("ponet", minutes=4)
def ponet(lab: Lab) -> Finding:
    """The same two blocks with other mixers, and with PoNet's short of a part; time of a training step."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(300, 2), lab.some(1000, 20)
    for seed in lab.seeds:
        for name in MIXERS:
            torch.manual_seed(seed)
            model = reader(name)

            def naming(ids: Tensor, model: PoNet = model) -> Tensor:
                return model.classify(model(Tokens(ids=ids[..., None])))

            learn(model, naming, rows_of_pixels, steps, seed)
            rows.append({"mixer": name, "seed": seed, "accuracy": right(naming, rows_of_pixels, count)})
    taken = seconds(lab.some(5, 1))
    rows += [
        {"layer": name, "tokens": tokens, "seconds": round(time, 5)}
        for name, times in taken.items()
        for tokens, time in zip(LONGER, times, strict=True)
    ]
    powers = {name: exponent(LONGER, times) for name, times in taken.items()}
    faster = taken[SOFTMAX][LONGER.index(4096)] / taken[PONET][LONGER.index(4096)]
    slower = taken[PONET][LONGER.index(4096)] / taken[FOURIER][LONGER.index(4096)]
    accuracy = {name: mean(rows, "accuracy", mixer=name) for name in MIXERS}

    def draw(axes: Any) -> None:
        for name, times in taken.items():
            axes.loglog(LONGER, times, "o-", label=f"{name}, accuracy {accuracy[name]:.3f}")
        axes.set(xlabel="tokens", ylabel="seconds of a block's training step, one thread")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "on rows of pixels PoNet is at least as accurate as softmax attention": (
                accuracy[PONET] >= accuracy[SOFTMAX]
            ),
            "it is at least 1 point better than Fourier mixing and than the mean of all": (
                accuracy[PONET] - POINT >= max(accuracy[FOURIER], accuracy[AVERAGE])
            ),
            "without any of its three poolings it is at least 1 point worse": all(
                accuracy[f"without {part}"] <= accuracy[PONET] - POINT for part in PARTS
            ),
            "its time grows linearly with the tokens (power below 1.2), softmax's beyond (above 1.5)": (
                powers[PONET] < 1.2 and powers[SOFTMAX] > 1.5
            ),
            "with 4,096 tokens it trains at least 5 times as fast as softmax": faster >= 5,
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        + "; power of tokens "
        + ", ".join(f"{name} {power:.2f}" for name, power in powers.items())
        + f"; with 4,096 tokens {faster:.1f} times as fast as softmax, {slower:.2f} of Fourier's time",
        rows=rows,
        data="Fashion-MNIST, 14 pixels a side in 32 shades, read as 196 words; blocks trained from nothing",
        notes="The paper's task of this kind is the Long Range Arena's Image, 1,024 pixels of CIFAR-10, on "
        f"which PoNet has 46.9 %, a Transformer 42.4 %; here two blocks of {DIM} channels for {steps} steps, "
        "the same rate for all. Segments are rows. Times are of one block of 64 channels with its gradients "
        "on one thread; the paper finds 9 times at 4,096 tokens on a GPU.",
        draw=draw,
    )
