"""AToken: pictures, clips and voxels as places in one space of four axes, for seeing and for rebuilding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, MediaError
from smalti.nn.packed_sets import PackedSets, packed
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.quantizers.base import Quantized
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.grouped import GroupedConfig
from smalti.quantizers.variational import VariationalConfig
from smalti.registry import Official, Paper, replace, system
from smalti.tokenizers.atoken_transformer import DECODER, ENCODER, SetPooling, SetTransformer
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.extent import fit, grid_tokens
from smalti.tokenizers.grids import GridTokenizer
from smalti.tokens import Tokens

MARGIN = -1e-3  # official FSQ reaches a little beyond its outermost levels
LOGIT_SCALE, LOGIT_BIAS = 4.8438, -15.5625  # of SigLIP 2, with which the pooled vectors were aligned


@dataclass(frozen=True)
class ATokenConfig:
    """Attributes:
    patch: frames, rows and columns.
    latent: channels of a token.
    levels: of every channel of a code; none: tokens are continuous.
    codes: of a token, each of its share of the channels.
    dim, depth, heads, hidden: of encoder and decoder.
    chunk: latent frames that see each other; longer clips are cut.
    table: side of the learned table of places.
    kl: weight of the divergence, in training.
    project_bias: whether the layer that gives mean and log variance has one.
    """

    patch: tuple[int, int, int] = (4, 16, 16)
    latent: int = 48
    levels: tuple[int, ...] = ()
    codes: int = 8
    dim: int = 1152
    depth: int = 27
    heads: int = 16
    hidden: int = 4304
    chunk: int = 4
    table: int = 16
    kl: float = 1e-8
    project_bias: bool = True

    @property
    def channels(self) -> int:
        """Numbers of a patch, and of a voxel's features with zeros behind them."""
        return 3 * prod(self.patch)


class Seen(NamedTuple):
    """What the encoder gives.

    Attributes:
        features: of every token, for dense tasks and language models.
        pooled: of every set, of length 1, in the space of SigLIP 2's texts.
        posterior: mean and log variance of every token's latent.
    """

    features: PackedSets
    pooled: Float[Tensor, "sets d"]
    posterior: PackedSets


class ATokenOutput(NamedTuple):
    """What a forward pass gives: patches as they came back, the latents, and what was seen."""

    patches: PackedSets
    quantized: Quantized
    seen: Seen


@system(
    "atoken",
    room="tokenizers",
    paper=Paper("AToken: A Unified Tokenizer for Vision", 2025, "https://arxiv.org/abs/2509.14476"),
    official=Official("apple/ml-atoken", "Apple sample code licence"),
    presets={
        "atoken-soc": ATokenConfig(),
        "atoken-sod": ATokenConfig(levels=(4,) * 6),
        "atoken-soc-s1": ATokenConfig(latent=32),
    },
    tags=("image", "video", "3d", "continuous", "discrete", "semantic"),
)
class AToken(GridTokenizer):
    """One tokenizer for pictures, clips and 3D, for rebuilding and for meaning (Lu et al., 2025, 2509.14476).

    ```
    patches 4×16×16, or voxels' features ─► sets [n 3072] at (t, x, y, z) ─► 27 blocks ─┬─► features, pooled
                                                   linear: mean, log variance [n 48] ◄──┘
    patches ◄── linear ◄── 27 blocks ◄── latents [n 48] ◄── a draw, or the mean, or 8 ids of 4,096 each
    ```
    Pixels go in as [-1, 1]. A picture is a frame with three grey ones behind it. Every set attends to itself
    alone, so sets of any sizes run in one batch (`packing`, `see`, `rebuild`); clips are cut into chunks of
    16 frames that do not see each other. The doors `encode` and `decode` are for pixels; voxels go through
    `voxels` and `see`, and `atoken_gaussians` shapes what comes back. Trained with L1, 10 LPIPS, 1,000
    Gram (`nn.gram_loss`) and a CLIP perceptual loss on pictures, L1 on clips and voxels, and the alignment of
    `pooled` with texts; no discriminator.

    Differs from the official code: latents are the mean outside training; sizes that are no multiple of a
    patch are continued in mirror image and in time, not cut (lists of items are cut, as official); keys of
    the chunk before are not kept, as in the released configuration. Log variances are clamped.

    Raises:
        ConfigError: levels and codes that do not make up the latent, or heads that cannot be turned.
    """

    def __init__(self, config: ATokenConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: ATokenConfig = replace(config or ATokenConfig(), changes)
        config = self.config
        if config.levels and len(config.levels) * config.codes != config.latent:
            raise ConfigError(
                f"{config.codes} codes of {len(config.levels)} channels do not make {config.latent} channels"
            )
        self.compression = config.patch
        sizes = (config.dim, config.depth, config.heads, config.hidden)
        self.encoder = SetTransformer(config.channels, *sizes, ENCODER, config.table)
        self.pooling = SetPooling(config.dim, config.heads, config.hidden)
        self.project = nn.Linear(config.dim, 2 * config.latent, config.project_bias)
        kind = GroupedConfig(FSQConfig(config.levels, MARGIN), config.codes) if config.levels else None
        self.quantizer = (kind or VariationalConfig(config.latent, config.kl)).build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        self.decoder = SetTransformer(config.latent, *sizes, DECODER, config.table)
        self.leave = nn.Linear(config.dim, config.channels, bias=False)

    def patches(self, clip: Float[Tensor, "3 t h w"]) -> tuple[Float[Tensor, "n p"], Int[Tensor, "n 4"]]:
        """The set of a picture or clip in [0, 1]: cut in the middle and at the end to whole patches.

        Raises:
            MediaError: smaller than a patch.
        """
        p, q, r = self.config.patch
        frames = max(clip.shape[1] // p * p, p)
        h, w = clip.shape[2] // q * q, clip.shape[3] // r * r
        if not h or not w:
            raise MediaError(f"a picture of {tuple(clip.shape[2:])} is smaller than a patch of {(q, r)}")
        top, left = (clip.shape[2] - h) // 2, (clip.shape[3] - w) // 2
        clip = 2 * clip[:, :frames, top : top + h, left : left + w] - 1
        clip = F.pad(clip, (0, 0, 0, 0, 0, frames - clip.shape[1]))
        features = rearrange(clip, "c (t p) (h q) (w r) -> (t h w) (p q r c)", p=p, q=q, r=r)
        return features, _grid_places(frames // p, h // q, w // r, clip.device)

    def voxels(
        self, features: Float[Tensor, "n f"], places: Int[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n p"], Int[Tensor, "n 4"]]:
        """The set of a surface's voxels, with features in [0, 1] gathered from views; t is 1 for all.

        Raises:
            ConfigError: more channels than a patch has numbers.
        """
        missing = self.config.channels - features.shape[1]
        if missing < 0:
            raise ConfigError(f"a voxel has {features.shape[1]} channels, at most {self.config.channels} fit")
        return F.pad(2 * features - 1, (0, missing)), F.pad(places, (1, 0), value=1)

    def packing(self, clips: Sequence[Float[Tensor, "3 _t _h _w"]]) -> PackedSets:
        """Pictures and clips of any sizes as one batch."""
        return packed([self.patches(clip) for clip in clips])

    def _by_chunk(self, network: SetTransformer, batch: PackedSets) -> Float[Tensor, "n d"]:
        """A network's answer, chunks of long clips being sets of their own whose time begins anew."""
        number, time = batch.places[:, 0], batch.places[:, 1]
        chunk = time // self.config.chunk
        if not chunk.any():
            return network(batch)
        key = number * (int(chunk.max()) + 1) + chunk
        order = key.argsort(stable=True)
        apart = key[order].unique_consecutive(return_inverse=True)[1]
        places = batch.places[order].clone()
        places[:, 0], places[:, 1] = apart, time[order] % self.config.chunk
        return network(PackedSets(batch.features[order], places))[order.argsort()]

    def see(self, batch: PackedSets) -> Seen:
        """Features, meanings and posteriors of sets."""
        features = self._by_chunk(self.encoder, batch)
        pooled = F.normalize(self.pooling(features, batch.counts), dim=-1)
        return Seen(batch.holding(features), pooled, batch.holding(self.project(features)))

    def quantize(self, posterior: Float[Tensor, "n two_d"]) -> Quantized:
        """Latents of posteriors: rounded means, or draws in training and means otherwise."""
        if self.config.levels:
            posterior = posterior[:, : self.config.latent]
        return self.quantizer(posterior)

    def rebuild(self, latents: PackedSets) -> PackedSets:
        """Patches, or voxels' features, in [-1, 1] but for errors."""
        return latents.holding(self.leave(self._by_chunk(self.decoder, latents)))

    def clips(self, batch: PackedSets, frames: Sequence[int] | None = None) -> list[Float[Tensor, "3 t h w"]]:
        """Sets of patches as clips in [0, 1], in any order of tokens; the first `frames` of each if given."""
        p, q, r = self.config.patch
        found = []
        for number, (features, places) in enumerate(batch.sets()):
            t, h, w = (int(axis.max()) + 1 for axis in places[:, :3].unbind(1))
            whole = features.new_zeros(t, h, w, features.shape[1])
            whole[tuple(places[:, :3].unbind(1))] = features
            clip = rearrange(whole, "t h w (p q r c) -> c (t p) (h q) (w r)", p=p, q=q, r=r)
            found.append(clip[:, : None if frames is None else frames[number]] / 2 + 0.5)
        return found

    def forward(self, batch: PackedSets) -> ATokenOutput:
        """Sets there and back, with gradients."""
        seen = self.see(batch)
        quantized = self.quantize(seen.posterior.features)
        return ATokenOutput(self.rebuild(batch.holding(quantized.values)), quantized, seen)

    def round_trip(
        self, pixels: Float[Tensor, "b 3 f y x"]
    ) -> tuple[Float[Tensor, "b 3 f y x"], ATokenOutput]:
        """Pictures or clips of any size there and back, with gradients, and all that was found on the way."""
        period, rows, columns = self.config.patch
        padded, source = fit(pixels, (period if pixels.shape[2] > 1 else 1, rows, columns))
        passed = self(self.packing(list(padded)))
        clips = torch.stack(self.clips(passed.patches, [source.frames] * len(pixels)))
        return clips[..., : source.height, : source.width], passed

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size."""
        rebuilt, (_, quantized, _) = self.round_trip(pixels)
        return Reconstruction(rebuilt, quantized.loss, {k: v.mean() for k, v in quantized.stats.items()})

    @staticmethod
    def text_logits(
        pooled: Float[Tensor, "sets d"], texts: Float[Tensor, "texts d"]
    ) -> Float[Tensor, "sets texts"]:
        """How well sets fit texts that SigLIP 2's tower has embedded, before the sigmoid."""
        cosine = F.normalize(pooled, dim=-1) @ F.normalize(texts, dim=-1).mT
        return cosine * torch.tensor(LOGIT_SCALE).exp() + LOGIT_BIAS

    def encode_grid(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tensor:
        """Ids [b t' h' w' q], or means [b t' h' w' c]."""
        p, q, r = self.config.patch
        t, h, w = (size // part for size, part in zip(pixels.shape[2:], self.config.patch, strict=True))
        patches = rearrange(2 * pixels - 1, "b c (t p) (h q) (w r) -> b (t h w) (p q r c)", p=p, q=q, r=r)
        places = _grid_places(t, h, w, pixels.device)
        batch = packed([(features, places) for features in patches])
        posterior = self.project(self._by_chunk(self.encoder, batch))
        mean = posterior[:, : self.config.latent]
        codes = self.quantize(posterior).ids if self.config.levels else mean.float()
        return codes.view(len(pixels), t, h, w, -1)

    def decode_grid(self, codes: Tensor) -> Float[Tensor, "b 3 t h w"]:
        """Pixels of ids, or of latents."""
        b, t, h, w, _ = codes.shape
        flat = codes.flatten(0, 3)
        values = self.quantizer.lookup(flat) if self.config.levels else flat
        places = _grid_places(t, h, w, codes.device)
        batch = packed([(some, places) for some in values.view(b, t * h * w, -1)])
        return torch.stack(self.clips(self.rebuild(batch)))

    def _encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tokens:
        if pixels.shape[2] > 1:
            return super()._encode(pixels)
        period, rows, columns = self.config.patch
        picture, source = fit(pixels, (1, rows, columns))
        grey = torch.full_like(picture, 0.5).expand(-1, -1, period - 1, -1, -1)
        source = dataclasses.replace(source, pad=(period - 1, *source.pad[1:]))
        return grid_tokens(self.encode_grid(torch.cat([picture, grey], 2)), source, self.compression)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int = 16,
        patch: tuple[int, int, int] = (4, 16, 16),
        levels: tuple[int, ...] = (),
        codes: int = 8,
    ) -> AToken:
        """The tokenizer of an official checkpoint; sizes that it tells are read from it.

        Args:
            state: names and tensors.
            heads: of the attention.
            patch: frames, rows and columns.
            levels: of the discrete one's channels: six times 4.
            codes: of a token.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        ours = renamed(state, RULES)
        dim = told(ours, "encoder.enter.weight").shape[0]
        model = cls(
            ATokenConfig(
                patch=patch,
                latent=len(told(ours, "project.weight")) // 2,
                levels=levels,
                codes=codes,
                dim=dim,
                depth=len(numbered(ours, r"encoder\.blocks\.(\d+)\.")),
                heads=heads,
                hidden=told(ours, "encoder.blocks.0.mlp.0.weight").shape[0],
                table=int(len(told(ours, "encoder.table")) ** 0.5),
                project_bias="project.bias" in ours,
            )
        )
        load_strictly(model, ours)
        return model


def _grid_places(t: int, h: int, w: int, device: torch.device) -> Int[Tensor, "n 4"]:
    """t, row, column and 0 of every patch of a clip."""
    axes = (torch.arange(size, device=device) for size in (t, h, w, 1))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 3)


RULES = (
    (r"^proj\.", "project."),
    (r"^encoder\.head\.", "pooling."),
    (r"^encoder\.post_layernorm", "encoder.norm"),
    (r"^decoder\.out_norm", "decoder.norm"),
    (r"^decoder\.out_layer", "leave"),
    (r"\.input_layer\.", ".enter."),
    (r"\.pos_embedder\.position_embedding\.weight", ".table"),
    (r"^pooling\.attention\.to_out", "pooling.proj"),
    (r"^pooling\.attention\.to_(q|kv)\.", r"pooling.\1."),
    (r"^pooling\.layernorm", "pooling.norm"),
    (r"\.attn\.to_out", ".attn.proj"),
    (r"\.attn\.to_qkv", ".attn.qkv"),
    (r"\.([qk])_rms_norm\.", r".\1_norm."),
    (r"\.mlp\.mlp\.", ".mlp."),
)
