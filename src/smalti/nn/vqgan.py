"""The convolutional encoders and decoders of VQGAN (Esser et al., 2021) and of MaskGIT's VQGAN (2022).

```
pictures [b 3 h w] ─► conv_in ─► levels: residual blocks (attention at the last), ÷ 2 ─► mid ─► maps
latents [b z h' w'] ─► conv_in ─► mid ─► levels from coarse to fine: residual blocks, × 2 ─► norm ─► pictures
```
Sizes fall by 2 to the power of the levels less one. The two families differ in small things: MaskGIT's has no
attention, means of 2×2 pixels where the other has convolutions of stride 2, no biases inside its residual
blocks, and a shortcut that starts from the branch (see `ResidualConv`). Names of parameters as in LlamaGen's
and MaskGIT's ports to PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


def group_norm(channels: int, groups: int = GROUPS) -> nn.GroupNorm:
    """The norm of all these networks."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


def conv3(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    """3×3, of the same size."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class ResidualConv(nn.Module):
    """Two convolutions behind norms and SiLU, and a shortcut.

    Args:
        channels: that come in.
        out: channels that go out.
        groups: of the norms.
        maskgit: no biases, and where channels change the 1×1 shortcut is taken of the branch and not of the
            input, so that nothing goes around the branch: what MaskGIT's weights were trained with.
    """

    def __init__(self, channels: int, out: int, groups: int = GROUPS, maskgit: bool = False) -> None:
        super().__init__()
        self.maskgit = maskgit
        self.norm1 = group_norm(channels, groups)
        self.conv1 = conv3(channels, out, not maskgit)
        self.norm2 = group_norm(out, groups)
        self.conv2 = conv3(out, out, not maskgit)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(out if maskgit else channels, out, 1, bias=not maskgit)
        self.changes = channels != out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The branch, and what goes around it."""
        branch = self.conv1(F.silu(self.norm1(x)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        if self.changes:
            x = self.nin_shortcut(branch if self.maskgit else x)
        return x + branch


class MapAttention(nn.Module):
    """Every place of a map attends to all of them, with one head."""

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Added to what was there."""
        normed = self.norm(x)
        q, k, v = (rearrange(part(normed), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(read, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class HalvingConv(nn.Module):
    """A convolution of stride 2 behind a row and a column of zeros at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _h _w"]:
        """Half the size."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class DoublingConv(nn.Module):
    """Every place four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _h _w"]:
        """Twice the size."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class AttentiveLevel(nn.Module):
    """Residual blocks, each with attention behind it where asked, and a change of size at the end."""

    def __init__(
        self, channels: int, out: int, blocks: int, attention: bool, groups: int, resample: str | None
    ) -> None:
        super().__init__()
        self.res = nn.ModuleList(
            ResidualConv(channels if number == 0 else out, out, groups) for number in range(blocks)
        )
        self.attn = nn.ModuleList(MapAttention(out, groups) for _ in range(blocks if attention else 0))
        self.resample = resample
        if resample is not None:
            self.add_module(resample, HalvingConv(out) if resample == "downsample" else DoublingConv(out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        """Through the level."""
        for number, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        return x if self.resample is None else self.get_submodule(self.resample)(x)


def _attentive_middle(channels: int, groups: int) -> nn.ModuleList:
    residual = (ResidualConv(channels, channels, groups) for _ in range(2))
    return nn.ModuleList([next(residual), MapAttention(channels, groups), next(residual)])


class VQGANTrunk(nn.Module):
    """The encoder of VQGAN up to its middle: pictures → maps of `channels · multiples[-1]` channels.

    Args:
        channels: of the first convolution.
        multiples: of these channels at every level.
        blocks: residual blocks of a level.
        groups: of the norms.
    """

    def __init__(self, channels: int, multiples: Sequence[int], blocks: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.conv_in = conv3(3, channels)
        widths, last = [channels * m for m in (1, *multiples)], len(multiples) - 1
        self.conv_blocks = nn.ModuleList(
            AttentiveLevel(
                widths[level], widths[level + 1], blocks, level == last, groups,
                None if level == last else "downsample",
            )
            for level in range(len(multiples))
        )  # fmt: skip
        self.mid = _attentive_middle(widths[-1], groups)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c _h _w"]:
        """Maps."""
        x = self.conv_in(pictures)
        for part in (*self.conv_blocks, *self.mid):
            x = part(x)
        return x


class VQGANDecoder(nn.Module):
    """The decoder of VQGAN: latents → pictures. Arguments as `VQGANTrunk`; `latent` channels come in."""

    def __init__(
        self, latent: int, channels: int, multiples: Sequence[int], blocks: int, groups: int = GROUPS
    ) -> None:
        super().__init__()
        widths = [channels * m for m in (multiples[-1], *reversed(multiples))]
        last = len(multiples) - 1
        self.conv_in = conv3(latent, widths[0])
        self.mid = _attentive_middle(widths[0], groups)
        self.conv_blocks = nn.ModuleList(
            AttentiveLevel(
                widths[step], widths[step + 1], blocks + 1, step == 0, groups,
                None if step == last else "upsample",
            )
            for step in range(len(multiples))
        )  # fmt: skip
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = conv3(widths[-1], 3)

    def forward(self, latents: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 _h _w"]:
        """Pictures, in the range of those in training."""
        x = self.conv_in(latents)
        for part in (*self.mid, *self.conv_blocks):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class PlainLevel(nn.Module):
    """Residual blocks of MaskGIT's VQGAN, then means of 2×2, or a doubling with a convolution, or neither."""

    def __init__(
        self, channels: int, out: int, blocks: int, halve: bool = False, double: bool = False
    ) -> None:
        super().__init__()
        self.halve, self.double = halve, double  # pyright: ignore[reportAttributeAccessIssue]
        self.block = nn.ModuleList(
            ResidualConv(channels if number == 0 else out, out, maskgit=True) for number in range(blocks)
        )
        if double:
            self.upsample_conv = conv3(out, out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        """Through the level."""
        for block in self.block:
            x = block(x)
        if self.halve:
            x = F.avg_pool2d(x, 2)
        if self.double:
            x = self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class MaskGITEncoder(nn.Module):
    """The encoder of MaskGIT's VQGAN: pictures in [0, 1] → latents. Arguments as `VQGANDecoder`."""

    def __init__(self, latent: int, channels: int, multiples: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths, last = [channels * m for m in (1, *multiples)], len(multiples) - 1
        self.conv_in = conv3(3, channels, bias=False)
        self.down = nn.ModuleList(
            PlainLevel(widths[level], widths[level + 1], blocks, halve=level != last)
            for level in range(len(multiples))
        )
        self.mid = nn.ModuleList(ResidualConv(widths[-1], widths[-1], maskgit=True) for _ in range(blocks))
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent, 1)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b z _h _w"]:
        """Latents."""
        x = self.conv_in(pictures)
        for part in (*self.down, *self.mid):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class MaskGITDecoder(nn.Module):
    """The decoder of MaskGIT's VQGAN: latents → pictures. Levels are numbered from fine to coarse."""

    def __init__(self, latent: int, channels: int, multiples: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = [channels * m for m in (*multiples, multiples[-1])]
        self.conv_in = conv3(latent, widths[-1])
        self.mid = nn.ModuleList(ResidualConv(widths[-1], widths[-1], maskgit=True) for _ in range(blocks))
        self.up = nn.ModuleList(
            PlainLevel(widths[level + 1], widths[level], blocks, double=level != 0)
            for level in range(len(multiples))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv3(widths[0], 3)

    def forward(self, latents: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 _h _w"]:
        """Pictures, in [0, 1] but for errors."""
        x = self.conv_in(latents)
        for part in (*self.mid, *reversed(self.up)):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))
