"""What claims of tokenizers share: real crops to train on for a short while, and measures on others.

```
corpus ─► crops, once (uint8, in the cache) ─► sampled(step) ─► autoencoder objective ─► trained tokenizer
                             └──► those of validation, from other sources ─► PSNR, error, codes in use
```
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smalti.claims.base import Lab
from smalti.claims.moving import clutter
from smalti.quantizers.base import codebook_stats
from smalti.tokenizers.base import Tokenizer
from smalti.training.corpora.fetch import cache_home
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions
from smalti.training.objectives.base import Objective
from smalti.training.sources.crops import CropConfig, Crops

Kind = Literal["pictures", "clips"]
Split = Literal["train", "val"]
Pool = UInt8[Tensor, "n 3 t h w"]
Batch = dict[str, Float[Tensor, "b 3 t h w"]]
Trained = TypeVar("Trained", bound=Tokenizer)

SIDE, FRAMES = 64, 9
COUNTS = {
    ("pictures", "train"): 4096,
    ("pictures", "val"): 512,
    ("clips", "train"): 768,
    ("clips", "val"): 128,
}
SOURCES = {
    "pictures": CropConfig(pictures=32, clips=0, crop=SIDE, sides=(96,)),
    "clips": CropConfig(pictures=0, clips=32, crop=SIDE, frames=FRAMES, clip_side=96, most=40),
}
DATA = {
    "pictures": "crops of photographs whose shorter side is 96 pixels; those measured are of other sources",
    "clips": "crops, 9 frames long, of clips whose shorter side is 96 pixels; other sources are measured",
}


def real(kind: Kind, split: Split) -> Pool:
    """Crops of the assembled corpus, 64 pixels a side, made in an earlier run or now.

    Clips have 9 frames. Training and validation share no source.
    """
    path = cache_home() / "claims" / f"{kind}-{split}-{SIDE}.safetensors"
    if not path.exists():
        crops, count = Crops(SOURCES[kind], split=split), COUNTS[kind, split]
        batches = [crops.batch(step)[kind] for step in range(-(-count // 32))]
        pool = (torch.cat(batches)[:count] * 255).round().byte()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".part-{os.getpid()}")
        save_file({"pixels": pool}, part)
        part.replace(path)
    return load_file(path)["pixels"]


def material(lab: Lab, kind: Kind, measured: int) -> tuple[Pool, Pool]:
    """Crops to train on, and so many to measure on; colour noise for a quick run."""
    if not lab.quick:
        return real(kind, "train"), real(kind, "val")[:measured]
    noise = (clutter(8, 0)[..., :SIDE, :SIDE] * 255).byte()
    pool = noise[:, :, None].expand(-1, -1, FRAMES if kind == "clips" else 1, -1, -1)
    return pool[:4], pool[4:]


def sampled(
    pool: Pool, count: int, side: int, seed: int, step: int, frames: int | None = None
) -> Float[Tensor, "b 3 f s s"]:
    """Random cuts of random crops: a batch depends on the seed and the step alone."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    frames = pool.shape[2] if frames is None else frames
    chosen = torch.randint(len(pool), (count,), generator=generator)
    first = int(torch.randint(pool.shape[2] - frames + 1, (1,), generator=generator))
    top, left = torch.randint(pool.shape[-1] - side + 1, (2,), generator=generator).tolist()
    cut = pool[chosen, :, first : first + frames, top : top + side, left : left + side]
    return cut.float() / 255


def train(
    tokenizer: Trained,
    batch: Callable[[int], Batch],
    steps: int,
    *,
    rate: float = 2e-3,
    bf16: bool = False,
    objective: Callable[[Trained], Objective] | None = None,
    **options: Any,
) -> Trained:
    """Train by the autoencoder objective: L2 and what the bottleneck asks, unless options say otherwise.

    AdamW, a warm-up of a twentieth of the steps, then half a cosine to zero.

    Args:
        tokenizer: any with `reconstruct`.
        batch: step → pictures, clips or both.
        steps: of the optimizer.
        rate: the highest of learning.
        bf16: half precision of the networks' products.
        objective: makes another one.
        options: of `AutoencoderOptions`, where there is no other objective.
    """
    if objective is None:
        loss_of: Objective = AutoencoderObjective(tokenizer, AutoencoderOptions(**{"pixel": "l2", **options}))
    else:
        loss_of = objective(tokenizer)
    optimizer = torch.optim.AdamW(loss_of.parameter_groups(), rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, steps // 20)
    loss_of.train()
    for step in range(steps):
        passed = max(0, step - warm) / max(1, steps - warm)
        for group in optimizer.param_groups:
            fallen = (1 + math.cos(math.pi * passed)) / 2
            group["lr"] = rate * group["factor"] * min(1.0, (step + 1) / warm) * fallen
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(batch(step)).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(loss_of.parameters(), 1.0)
        optimizer.step()
    return tokenizer.eval()


def psnr(pixels: Float[Tensor, "b 3 t h w"], rebuilt: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b"]:
    """Of every clip, in dB."""
    return -10 * (pixels - rebuilt).square().flatten(1).mean(1).clamp(min=1e-10).log10()


def measure(tokenizer: Tokenizer, pool: Pool, at_once: int = 32) -> dict[str, float]:
    """Mean PSNR and square error of crops, and of discrete tokens the codes in use and their perplexity."""
    error: list[Tensor] = []
    ids: list[Int[Tensor, "b n q"]] = []
    quality: list[Tensor] = []
    for some in pool.split(at_once):
        pixels = some.float() / 255
        tokens = tokenizer.encode(pixels)
        rebuilt = tokenizer.decode(tokens)
        error.append((pixels - rebuilt).square().flatten(1).mean(1))
        quality.append(psnr(pixels, rebuilt))
        if tokens.ids is not None:
            ids.append(tokens.ids)
    found = {"psnr": torch.cat(quality).mean().item(), "error": torch.cat(error).mean().item()}
    if ids:
        stats = codebook_stats(torch.cat(ids).flatten(0, 1), tokenizer.codebook_sizes)
        found |= {name: value.mean().item() for name, value in stats.items()}
    return found


def mean(rows: list[dict[str, Any]], field: str, **wanted: Any) -> float:
    """Of a field, over the rows whose other fields are as wanted."""
    found = [row[field] for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return sum(found) / len(found)
