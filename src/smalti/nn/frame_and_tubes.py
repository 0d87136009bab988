"""A video's first frame in patches and the others in tubes, each with layers of their own.

```
frame 0   [b 3 1 h·p w·p] ──► patches ─► norm? ─► linear ─► norm ─┐
frames 1… [b 3 k·f h·p w·p] ► tubes ───► norm? ─► linear ─► norm ─┴─► x [b 1+k h w d] ──► linear ──► frames
```
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.nn.causal_conv import State

Grid = Float[Tensor, "b t h w d"]


class Embedding(nn.Module):
    """The pixels of a patch become a token.

    Args:
        numbers: of a patch.
        dim: channels.
        pixel_norm: a norm over the pixels first, which takes off a patch's brightness and contrast.
    """

    def __init__(self, numbers: int, dim: int, pixel_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(numbers) if pixel_norm else nn.Identity()
        self.linear = nn.Linear(numbers, dim)
        self.out = nn.LayerNorm(dim)

    def forward(self, patches: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch d"]:
        """Tokens."""
        return self.out(self.linear(self.norm(patches)))


class VideoPatches(nn.Module):
    """Patches of the first frame and tubes of the others, each with an embedding of its own.

    Args:
        dim: channels.
        patch: side, in pixels.
        tube: frames.
        pixel_norm: of both embeddings.
    """

    def __init__(self, dim: int, patch: int, tube: int, pixel_norm: bool) -> None:
        super().__init__()
        self.patch, self.tube = patch, tube
        self.first = Embedding(3 * patch**2, dim, pixel_norm)
        self.rest = Embedding(3 * tube * patch**2, dim, pixel_norm)

    def forward(self, pixels: Float[Tensor, "b 3 f y x"], state: State | None = None) -> Grid:
        """Tokens of the next frames, 1 + k · tube at first and then k · tube."""
        pixels = pixels.to(self.first.linear.weight.dtype)
        tokens = []
        if state is None or self not in state:
            tokens.append(self.first(self._cut(pixels[:, :, :1], 1)))
            pixels = pixels[:, :, 1:]
        if state is not None:
            state[self] = True
        if pixels.shape[2]:
            tokens.append(self.rest(self._cut(pixels, self.tube)))
        return torch.cat(tokens, 1)

    def _cut(self, pixels: Tensor, frames: int) -> Tensor:
        pattern = "b c (t f) (h p) (w q) -> b t h w (c f p q)"
        return rearrange(pixels, pattern, f=frames, p=self.patch, q=self.patch)


class VideoPixels(nn.Module):
    """Tokens become the pixels of the first frame's patches and of tubes; undoes `VideoPatches`."""

    def __init__(self, dim: int, patch: int, tube: int) -> None:
        super().__init__()
        self.patch, self.tube = patch, tube
        self.first = nn.Linear(dim, 3 * patch**2)
        self.rest = nn.Linear(dim, 3 * tube * patch**2)

    def forward(self, x: Grid, state: State | None = None) -> Float[Tensor, "b 3 f y x"]:
        """The next frames."""
        frames = []
        if state is None or self not in state:
            frames.append(self._laid(self.first(x[:, :1]), 1))
            x = x[:, 1:]
        if state is not None:
            state[self] = True
        if x.shape[1]:
            frames.append(self._laid(self.rest(x), self.tube))
        return torch.cat(frames, 2)

    def _laid(self, numbers: Tensor, frames: int) -> Tensor:
        pattern = "b t h w (c f p q) -> b c (t f) (h p) (w q)"
        return rearrange(numbers, pattern, f=frames, p=self.patch, q=self.patch)
