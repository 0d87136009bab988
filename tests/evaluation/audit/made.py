"""A tiny model and pictures to audit it on."""

import torch

from smalti.evaluation.audit.material import Material
from tests.reducers.hosts.families import build, vit


def tiny(**changes):
    return build(lambda: vit(**{"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2, **changes}))


def pictures(count=6, side=32) -> Material:
    """Blocks of colour; those of class 1 are dark."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (count, 3, side // 8, side // 8), generator=generator)
    blocks[1::2] //= 4
    pixels = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8)
    return Material("blocks", pixels, torch.arange(count) % 2, ("bright", "dark"))
