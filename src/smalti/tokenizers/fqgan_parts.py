"""The heads of FQGAN: from the trunk's maps to each codebook, and from codes to a teacher's feature.

```
maps [b c h w] ─► + positions ─► norm ─► blocks ─► norm ─► GroupNorm, SiLU, 3×3 ─► 1×1 ─► latents [b d h w]
codes [b d h w] ─► MLP ─► class in front, + positions ─► norm ─► blocks ─► norm ─► the class [b teacher]
```
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.clip_blocks import positions_of_grid
from smalti.nn.transformer import Block
from smalti.nn.vqgan import conv3, group_norm

EPS = 1e-5


class FactorHead(nn.Module):
    """Latents of one codebook.

    Args:
        width: channels of the maps.
        side: of the grid that positions are learned on; other grids have them resampled (bicubic).
        depth, heads: of the transformer.
        latent: channels between it and the last product.
        out: channels of a latent.
        groups: of the norm.
    """

    def __init__(
        self, width: int, side: int, depth: int, heads: int, latent: int, out: int, groups: int
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(side * side, width) * width**-0.5)
        self.ln_pre, self.ln_post = (nn.LayerNorm(width, EPS) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, heads, eps=EPS) for _ in range(depth))
        self.norm_out = group_norm(width, groups)
        self.conv_out = conv3(width, latent)
        self.project = nn.Conv2d(latent, out, 1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Latents in place of the maps."""
        height, width = maps.shape[2:]
        x = rearrange(maps, "b c h w -> b (h w) c") + positions_of_grid(self.positions, (height, width))
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        x = rearrange(self.ln_post(x), "b (h w) c -> b c h w", h=height)
        return self.project(self.conv_out(F.silu(self.norm_out(x))))


class TeacherHead(nn.Module):
    """What codes say of a whole picture, to be compared with what a teacher says of it.

    Args:
        channels: of a code.
        width: of the teacher's feature.
        side: of the grid that positions are learned on.
        depth, heads: of the transformer.
    """

    def __init__(self, channels: int, width: int, side: int, depth: int, heads: int) -> None:
        super().__init__()
        self.upscale = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        self.class_embedding = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(side * side + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = (nn.LayerNorm(width, EPS) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, heads, eps=EPS) for _ in range(depth))

    def forward(self, codes: Float[Tensor, "b h w d"]) -> Float[Tensor, "b teacher"]:
        """The class token."""
        first, table = self.positions[:1], self.positions[1:]
        places = positions_of_grid(table, (codes.shape[1], codes.shape[2]))
        x = self.upscale(codes.flatten(1, 2)) + places
        x = torch.cat([(self.class_embedding + first).expand(len(x), -1, -1), x], 1)
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0])


def teacher_loss(predicted: Float[Tensor, "b d"], feature: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """InfoNCE of cosines over the batch, without a temperature: every picture must find its own feature."""
    cosines = F.normalize(predicted, dim=-1) @ F.normalize(feature, dim=-1).mT
    return F.cross_entropy(cosines, torch.arange(len(cosines), device=cosines.device))
