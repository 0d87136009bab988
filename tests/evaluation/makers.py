"""Pictures, clips and a tokenizer that the tests make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from smalti.evaluation.token_coder import TokenFormat
from smalti.tokenizers.base import Tokenizer
from smalti.tokens import Source, Tokens


def scene(height: int = 96, width: int = 128, frames: int = 1, seed: int = 0) -> Tensor:
    """Smooth colours, an edge and some grain, moving sideways; pixels [1 3 t h w] of eight bits."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.rand(1, 3, height // 16 + 2, width // 8 + 2, generator=generator)
    canvas = F.interpolate(canvas, (height, width + 2 * frames), mode="bicubic")
    canvas[..., height // 3 : height // 2, width // 4 :] *= 0.4
    canvas += 0.03 * torch.randn(height, canvas.shape[-1], generator=generator)
    canvas = canvas.clamp(0, 1).mul(255).round() / 255
    return torch.stack([canvas[..., 2 * t : 2 * t + width] for t in range(frames)], dim=2)


def save_picture(pixels: Tensor, path: Path) -> Path:
    Image.fromarray(pixels[0, :, 0].permute(1, 2, 0).mul(255).round().byte().numpy()).save(path)
    return path


class Blocks(Tokenizer):
    """The mean colour of every 8 × 8 block: in 16 steps a channel, or in 256."""

    compression = (1, 8, 8)
    codebook_sizes = (16, 16, 16, 16, 16, 16)
    stages = (3, 6)

    def __init__(self) -> None:
        super().__init__()
        self.white = nn.Parameter(torch.tensor(255.0))

    def _encode(self, pixels: Tensor) -> Tokens:
        _, _, frames, height, width = pixels.shape
        colours = F.adaptive_avg_pool3d(pixels, (frames, -(-height // 8), -(-width // 8)))
        steps = colours.mul(self.white).round().long()
        ids = torch.cat([steps // 16, steps % 16], 1).flatten(2).transpose(1, 2)
        return Tokens(ids=ids, grid=tuple(colours.shape[2:]), source=Source(height, width, frames))

    def _decode(self, tokens: Tokens) -> Tensor:
        coarse, fine = tokens.ids[..., :3] * 16, tokens.ids[..., 3:]
        steps = coarse + fine if fine.shape[-1] else coarse + 8
        colours = (steps / self.white).transpose(1, 2).unflatten(2, tokens.grid).clamp(0, 1)
        source = tokens.source
        size = (source.frames, source.height, source.width)
        return F.interpolate(colours, size, mode="trilinear").clamp(0, 1)


def write(tokens: Tokens, path: Path, tokenizer: Tokenizer) -> None:
    source = tokens.source
    size = np.array([source.height, source.width, source.frames])
    with path.open("wb") as file:
        np.savez(file, ids=tokens.ids.byte().numpy(), grid=np.array(tokens.grid), size=size)


def read(path: Path) -> Tokens:
    with np.load(path) as content:
        grid, size = (tuple(map(int, content[name])) for name in ("grid", "size"))
        return Tokens(ids=torch.from_numpy(content["ids"]).long(), grid=grid, source=Source(*size))


ARCHIVES = TokenFormat(write, read)
