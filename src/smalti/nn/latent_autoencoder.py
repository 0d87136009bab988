"""The variational autoencoder of latent diffusion: pictures ⇄ maps of an eighth of the size.

```
pictures [b 3 h w] in [−1, 1] ─► conv ─► levels: residual blocks, ÷ 2 ─► middle ─► norm ─► mean, log σ²
latents [b c h/8 w/8] ─► conv ─► middle ─► levels from coarse to fine, × 2 ─► norm ─► pictures
```
Attention stands in the middle alone (Rombach et al., 2022, arXiv 2112.10752; sizes of Stable Diffusion XL).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.strict_loading import renamed
from smalti.nn.vqgan import DoublingConv, HalvingConv, MapAttention, ResidualConv, conv3, group_norm


@dataclass(frozen=True)
class LatentAutoencoderConfig:
    """Attributes:
    channels: of a latent.
    widths: channels of every level, from fine to coarse; each but the last halves the size.
    blocks: residual blocks of an encoder's level; a decoder's has one more.
    groups: of the norms.
    scale: that latents are multiplied with, so that their variance is near 1.
    """

    channels: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    scale: float = 1.0

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(self.widths) - 1)


class Level(nn.Module):
    """Residual blocks, then a change of size if there is one."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int, resize: type | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualConv(channels if number == 0 else out, out, groups) for number in range(blocks)
        )
        self.resize = resize(out) if resize is not None else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        """Through the level."""
        for block in self.blocks:
            x = block(x)
        return x if self.resize is None else self.resize(x)


class Half(nn.Module):
    """The encoder or the decoder: levels, and the middle behind or before them."""

    def __init__(self, enter: int, leave: int, config: LatentAutoencoderConfig, decodes: bool) -> None:
        super().__init__()
        widths = config.widths[::-1] if decodes else config.widths
        blocks, groups, last = config.blocks + decodes, config.groups, len(widths) - 1
        resize = DoublingConv if decodes else HalvingConv
        coarse = config.widths[-1]
        self.decodes = decodes
        self.enter = conv3(enter, widths[0])
        self.levels = nn.ModuleList(
            Level(widths[max(at - 1, 0)], width, blocks, groups, None if at == last else resize)
            for at, width in enumerate(widths)
        )
        self.middle = nn.Sequential(
            ResidualConv(coarse, coarse, groups),
            MapAttention(coarse, groups),
            ResidualConv(coarse, coarse, groups),
        )
        self.norm = group_norm(widths[-1], groups)
        self.leave = conv3(widths[-1], leave)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        """The whole half."""
        x = self.enter(x)
        for part in [self.middle, *self.levels] if self.decodes else [*self.levels, self.middle]:
            x = part(x)
        return self.leave(F.silu(self.norm(x)))


class LatentAutoencoder(nn.Module):
    """Pictures in [−1, 1] to scaled latents and back; the mean of the posterior is taken, not a draw."""

    def __init__(self, config: LatentAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.encoder = Half(3, 2 * channels, config, decodes=False)
        self.decoder = Half(channels, 3, config, decodes=True)
        self.after_encoder = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.before_decoder = nn.Conv2d(channels, channels, 1)

    def posterior(self, pictures: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and log variance [b c h/f w/f], not scaled."""
        mean, log_variance = self.after_encoder(self.encoder(pictures)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c _h _w"]:
        """Scaled latents."""
        return self.posterior(pictures)[0] * self.config.scale

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 _h _w"]:
        """Pictures."""
        return self.decoder(self.before_decoder(latents / self.config.scale))


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of an `AutoencoderKL` of diffusers; its attention's linear maps become 1×1 convolutions."""
    ours = renamed(state, RULES)
    return {
        name: tensor[..., None, None] if ".middle.1." in name and tensor.ndim == 2 else tensor
        for name, tensor in ours.items()
    }


RULES = (
    ("^quant_conv", "after_encoder"),
    ("^post_quant_conv", "before_decoder"),
    ("conv_norm_out", "norm"),
    (r"coder\.conv_in", "coder.enter"),
    (r"coder\.conv_out", "coder.leave"),
    (r"(down|up)_blocks\.(\d+)\.resnets", r"levels.\2.blocks"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"levels.\2.resize"),
    ("conv_shortcut", "nin_shortcut"),
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"middle\.1\.group_norm", "middle.1.norm"),
    (r"middle\.1\.to_([qkv])\.", r"middle.1.\1."),
    (r"middle\.1\.to_out\.0", "middle.1.proj_out"),
)
