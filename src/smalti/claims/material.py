"""What several claims are measured on: clothes on clutter, and a small vision transformer trained on them.

```
Fashion-MNIST [n 1 28 28] ─► on a canvas of noise and scraps [n 3 48 48] ─► label, mask of the thing
                                  └──► ViT (64 wide, 8 blocks, 64 patches), trained here once a seed
```
"""

from __future__ import annotations

import os
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import missing_extra
from smalti.training.corpora.fashion import fashion
from smalti.training.corpora.fetch import cache_home

SIDE, PATCH, JITTER = 48, 6, 4
STEPS, BATCH = 1200, 32


def clothes(
    split: str, index: Int[Tensor, "n"], seed: int = 0
) -> tuple[Float[Tensor, "n 3 48 48"], Int[Tensor, "n"], Bool[Tensor, "n 64"]]:
    """Pictures with the clothes near the middle of clutter, their labels, and the patches that hold them.

    Clutter is dim colour noise and scraps of other clothes, so that most patches say nothing of the label.
    """
    whole, labels = fashion("train" if split == "train" else "test")
    things = whole[index]
    generator = torch.Generator().manual_seed(seed * 7919 + int(index[0]))
    count = len(index)
    canvas = 0.25 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    corner = (SIDE - 28 - JITTER) // 2
    where = (corner + torch.randint(0, JITTER + 1, (count, 2), generator=generator)).tolist()
    scraps = whole[torch.randint(len(whole), (count, 3), generator=generator), :, 8:16, 8:16]
    places = torch.randint(0, SIDE - 8 + 1, (count, 3, 2), generator=generator).tolist()
    tint = 0.5 + 0.5 * torch.rand(count, 3, 1, 1, generator=generator)
    mask = torch.zeros(count, 1, SIDE, SIDE)
    for i in range(count):
        for scrap, (top, left) in zip(scraps[i], places[i], strict=True):
            canvas[i, :, top : top + 8, left : left + 8] = 0.6 * scrap
        top, left = where[i]
        thing = things[i]
        part = canvas[i, :, top : top + 28, left : left + 28]
        canvas[i, :, top : top + 28, left : left + 28] = torch.where(thing > 0.05, thing * tint[i], part)
        mask[i, :, top : top + 28, left : left + 28] = (thing > 0.05).float()
    covered = F.avg_pool2d(mask, PATCH).flatten(1) > 0.25
    return canvas - 0.5, labels[index], covered


def small_vit(**changes: Any) -> nn.Module:
    """timm's VisionTransformer at 48 pixels: 64 wide, 8 blocks, 2 heads, a class token and 64 patches.

    Raises:
        UnsupportedError: timm is not installed.
    """
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise missing_extra("timm", "hosts") from error
    options = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 64, "depth": 8, "num_heads": 2}
    return VisionTransformer(**{**options, "num_classes": 10, **changes})


def trained_vit(seed: int, steps: int = STEPS) -> nn.Module:
    """A `small_vit` that tells the clothes apart, trained now or in an earlier run of this seed and steps."""
    model = small_vit()
    path = cache_home() / "claims" / f"small-vit-{seed}-{steps}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        model = fit(small_vit(), steps, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".part-{os.getpid()}")
        save_file(model.state_dict(), part)
        part.replace(path)
    model.load_state_dict(load_file(path))
    return model.eval()


def fit(model: nn.Module, steps: int, seed: int, rate: float = 1e-3) -> nn.Module:
    """Train a classifier of the clothes by AdamW with a short warm-up and cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * cosine
        index = torch.randint(60_000, (BATCH,), generator=generator)
        pictures, labels, _ = clothes("train", index, seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(pictures).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, count: int = 2000, batch: int = 100) -> float:
    """Share of the first `count` test pictures that a model names rightly."""
    right = 0
    for start in range(0, count, batch):
        pictures, labels, _ = clothes("test", torch.arange(start, start + batch))
        right += int((model(pictures).argmax(-1) == labels).sum())
    return right / count
