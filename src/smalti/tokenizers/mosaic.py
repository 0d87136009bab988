"""`mosaic`: the tokenizer people get by default, for pictures and clips of any size and length.

```
            frame 0      [3 h w] ──► picture path ─┐
pixels ─┬─►                                        ├─► z [96 h/8 w/8] ──► ResidualFSQ ──► ids [n q]
        └─► frames 4i-3 … 4i [12 h w] ─► clip path ┘        five stages, any first k decode

path = linear transform (principal components of 8×8 blocks, × cosine transform over 4 frames)
     + network at 1/8 of the size that corrects it; both learn

ids ──► ẑ_i, ẑ_{i-1} ──► network at 1/8 ──► at 1/4 ──► at 1/2 ──► + linear synthesis ──► 1 or 4 frames
```

Frame 0 is a token grid of its own, so a picture is a clip of one frame. Later grids hold four frames and
depend on these alone; decoding looks back one grid, except at the first of every `chunk` grids, so a chunk of
a token file decodes by itself. All networks are convolutions of bounded reach without normalisation over
space, so tiles with exact halos give what the whole frame gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codec.context import ContextCoder, array_shapes
from smalti.nn.conv import ResidualBlock, unit_norm, zero_init
from smalti.nn.patches import (
    cosine_basis,
    depth_to_space,
    fold_time,
    space_to_depth,
    unfold_time,
)
from smalti.quantizers.residual_fsq import ResidualFSQ, ResidualFSQConfig
from smalti.registry import system
from smalti.tokenizers.base import Stream, Tokenizer
from smalti.tokens import Tokens

FRAMES = 4
GAIN = 0.1  # of the networks' corrections, so that first steps of training are small


@dataclass(frozen=True)
class MosaicConfig:
    """Attributes:
    patch: pixels a side that one token stands for.
    width: channels of the networks.
    encoder_blocks, decoder_blocks: residual blocks at the tokens' resolution.
    fine: channels of the decoder at a quarter and a half of the size, for each frame.
    quantizer: stages of the quantizer.
    chunk: token grids after which decoding stops looking back.
    tile: pixels a side above which frames are worked on in tiles.
    context: width of the context model's networks.
    """

    patch: int = 8
    width: int = 160
    encoder_blocks: int = 2
    decoder_blocks: int = 5
    fine: tuple[int, int] = (64, 32)
    quantizer: ResidualFSQConfig = field(default_factory=ResidualFSQConfig)
    chunk: int = 16
    tile: int = 768
    context: int = 64


class Path(nn.Module):
    """Analysis and synthesis of a group of 1 or 4 frames: linear transform plus network.

    Args:
        frames: frames of the group.
        config: sizes.
    """

    def __init__(self, frames: int, config: MosaicConfig) -> None:
        super().__init__()
        self.frames, self.patch = frames, config.patch
        dim = config.quantizer.opened[-1]
        pixels = 3 * frames * config.patch**2
        stages = len(config.quantizer.opened)
        quarter, half = (f if frames == 1 else f * 3 // 2 for f in config.fine)
        self.mean = nn.Parameter(torch.full((pixels,), 0.5))
        self.analysis = nn.Parameter(torch.empty(dim, pixels))
        self.synthesis = nn.Parameter(torch.empty(pixels, dim))
        nn.init.orthogonal_(self.analysis)
        self.synthesis.data = self.analysis.data.T.clone()
        self.enter = nn.Conv2d(pixels, config.width, 3, padding=1)
        self.correct = zero_init(nn.Conv2d(config.width, dim, 3, padding=1))
        looks_back = frames > 1
        self.open = nn.Conv2d(dim * (1 + looks_back), config.width, 3, padding=1)
        self.up = config.patch // 4
        self.to_quarter = nn.Conv2d(config.width, quarter * self.up**2, 1)
        self.at_quarter = ResidualBlock(quarter, stages)
        self.to_half = nn.Conv2d(quarter, half * 4, 1)
        self.from_linear = nn.Conv2d(12 * frames, half, 3, padding=1)
        self.at_half = ResidualBlock(half, stages)
        self.to_pixels = zero_init(nn.Conv2d(half, 12 * frames, 3, padding=1))

    def analyse(self, group: Float[Tensor, "b 3 t h w"], trunk: nn.ModuleList) -> Float[Tensor, "b d hp wp"]:
        """Latents of a group of frames whose size is a multiple of the patch."""
        patches = space_to_depth(fold_time(group), self.patch)
        with torch.autocast(patches.device.type, enabled=False):
            linear = F.conv2d(patches - self.mean[:, None, None], self.analysis[:, :, None, None])
        hidden = self.enter(patches - 0.5)
        for block in trunk:
            hidden = block(hidden)
        return linear + GAIN * self.correct(unit_norm(hidden)).float()

    def synthesise(
        self,
        latents: Float[Tensor, "b d h w"],
        past: Float[Tensor, "b p h w"],
        stage: Int[Tensor, "b"],
        trunk: nn.ModuleList,
    ) -> Float[Tensor, "b 3 t hp wp"]:
        """Frames, not yet clamped, of the latents after a stage (counted from 0)."""
        with torch.autocast(latents.device.type, enabled=False):
            linear = F.conv2d(latents, self.synthesis[:, :, None, None]) + self.mean[:, None, None]
        linear = depth_to_space(linear, self.patch)
        hidden = self.open(torch.cat([latents, past], 1))
        for block in trunk:
            hidden = block(hidden, stage)
        hidden = depth_to_space(self.to_quarter(unit_norm(hidden)), self.up)
        hidden = depth_to_space(self.to_half(self.at_quarter(hidden, stage)), 2)
        hidden = self.at_half(hidden + self.from_linear(space_to_depth(linear - 0.5, 2)), stage)
        pixels = linear + GAIN * depth_to_space(self.to_pixels(unit_norm(hidden)), 2).float()
        return unfold_time(pixels, self.frames)


@system(
    "mosaic",
    room="tokenizers",
    presets={
        "default": MosaicConfig(),
        "s16": MosaicConfig(
            patch=16,
            width=192,
            quantizer=ResidualFSQConfig(step=2.0, opened=(12, 24, 64, 128, 192)),
        ),
    },
    tags=("image", "video", "discrete", "causal", "progressive"),
    status="experimental",
    weights=("default",),
)
class Mosaic(Tokenizer):
    """Pictures and clips of any size and length as a grid of progressive codes, 4×8×8 pixels a token.

    ids [1 n q]: n = (1 + ⌈(t-1)/4⌉) · ⌈h/8⌉ · ⌈w/8⌉ tokens, q codes; `stages[k]` codes give quality k + 1.
    Padding repeats the border in space and the last frame in time, and is cropped when decoding.
    Designed here; residual quantization, nested dropout and a context model (see `codec`) are its parts.

    Raises:
        MediaError: pixels that are not RGB in [0, 1].
        FormatError: ids outside their codebooks, or tokens without a grid.
    """

    causal = True
    chunk: int  # pyright: ignore[reportIncompatibleVariableOverride]
    still: Tensor

    def __init__(self, config: MosaicConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MosaicConfig()
        self.compression = (FRAMES, config.patch, config.patch)
        self.chunk = config.chunk  # pyright: ignore[reportIncompatibleVariableOverride]
        self.quantizer = ResidualFSQ(config.quantizer)
        self.codebook_sizes = self.quantizer.codebook_sizes
        self.picture = Path(1, config)
        self.clip = Path(FRAMES, config)
        self.encoder = nn.ModuleList(ResidualBlock(config.width) for _ in range(config.encoder_blocks))
        stages = self.quantizer.depth
        self.decoder = nn.ModuleList(
            ResidualBlock(config.width, stages) for _ in range(config.decoder_blocks)
        )
        self.register_buffer("still", torch.full((self.quantizer.dim,), -1, dtype=torch.int64))
        self.context = nn.Module()
        for name, (shape, dtype) in array_shapes(self.quantizer, config.context).items():
            self.context.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self._coder: ContextCoder | None = None
        self.register_load_state_dict_post_hook(Mosaic._forget_coder)

    @property
    def stages(self) -> tuple[int, ...]:
        """Codes a token at every quality."""
        return self.quantizer.stages

    def set_context(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over a trained context model."""
        for name, array in arrays.items():
            self.context.get_buffer(name).copy_(torch.from_numpy(array))
        self._coder = None

    def entropy_coder(self) -> ContextCoder | None:
        """The context model that codes these tokens, or none before it is trained."""
        if not self.context.get_buffer("tails").any():
            return None
        if self._coder is None:
            arrays = {name: buffer.cpu().numpy() for name, buffer in self.context.named_buffers()}
            self._coder = ContextCoder(self.quantizer, arrays)
        return self._coder

    @staticmethod
    def _forget_coder(module: Mosaic, _keys: object) -> None:
        """What `load_state_dict` calls at its end: the coder was built from the buffers before."""
        module._coder = None

    def half_precision(self) -> Mosaic:
        """Round the weights to float16, as they are shipped; computing stays in float32."""
        for parameter in self.parameters():
            parameter.data = parameter.data.half().float()
        return self

    @torch.no_grad()
    def fit_linear(self, pictures: Float[Tensor, "p 3 1 h w"], groups: Float[Tensor, "g 3 t h w"]) -> None:
        """Start both linear paths from the principal components of real pictures and clips (t = 4)."""
        dim = self.quantizer.dim
        patches = self._patches(pictures).squeeze(1)
        mean = patches.mean(0)
        _, basis = torch.linalg.eigh(torch.cov((patches - mean).T.double()))
        basis = basis.flip(1).T.float()
        self._set_linear(self.picture, mean, basis[:dim])

        cosines = cosine_basis(FRAMES)
        centred = self._patches(groups) - mean
        power = torch.einsum("ft, ntp, kp -> nfk", cosines, centred, basis).square().mean(0)
        best = power.flatten().argsort(descending=True)[:dim]
        frequency, component = best // len(basis), best % len(basis)
        rows = torch.einsum("kt, kp -> ktp", cosines[frequency], basis[component])
        self._set_linear(self.clip, mean.repeat(FRAMES), rows.flatten(1))
        self.still.copy_(torch.where((frequency == 0) & (component < dim), component, -1))

    def _patches(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "n t p"]:
        maps = space_to_depth(rearrange(frames, "b c t h w -> (b t) c h w"), self.config.patch)
        return rearrange(maps, "(b t) p h w -> (b h w) t p", b=len(frames))

    @staticmethod
    def _set_linear(path: Path, mean: Tensor, rows: Tensor) -> None:
        path.mean.copy_(mean)
        path.analysis.copy_(rows)
        path.synthesis.copy_(rows.T)

    def past_of_picture(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """A picture's latents as those of four equal frames: what the first clip grid looks back on."""
        known = self.still >= 0
        return torch.where(known[:, None, None], latents[:, self.still.clamp(min=0)] * FRAMES**0.5, 0.0)

    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        encoder, _ = self.stream()
        parts = [encoder.push(pixels), encoder.flush()]
        return Tokens.cat([part for part in parts if part is not None])

    def _decode(self, tokens: Tokens) -> Float[Tensor, "b 3 t h w"]:
        return self.stream().decoder.push(tokens)

    def stream(self) -> Stream:
        """An encoder and a decoder that take chunks and give what one whole pass gives."""
        from smalti.tokenizers.mosaic_stream import MosaicDecoder, MosaicEncoder  # which names this class

        return Stream(MosaicEncoder(self), MosaicDecoder(self))
