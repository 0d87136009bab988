"""FQGAN: two or three codebooks side by side, kept apart from each other, some taught to say what is seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.clip_blocks import CLIP_BLOCKS, side_of_square
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.vqgan import GROUPS, VQGANDecoder, VQGANTrunk
from smalti.quantizers.base import Quantized
from smalti.quantizers.grouped import GroupedConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.registry import Official, Paper, system
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.extent import fit
from smalti.tokenizers.fqgan_parts import FactorHead, TeacherHead
from smalti.tokenizers.grids import GridTokenizer

AT_ONCE = 16  # frames in memory
CODEBOOK = VectorQuantizerConfig(
    16384, 8, learn="gradient", normalize=True, entropy=0.03, entropy_epsilon=1e-5
)
DUAL, TRIPLE = GroupedConfig(CODEBOOK, 2, 0.1), GroupedConfig(CODEBOOK, 3, 0.1)
F16, F8 = (1, 1, 2, 2, 4), (1, 2, 2, 4)
BRANCHES = {2: ("vis", "sem"), 3: ("vis", "sem_mid", "sem_high")}
HEADS = {"vis": "visual_head", "sem": "semantic_head", "sem_mid": "semantic_head_mid",
         "sem_high": "semantic_head_high"}  # fmt: skip
TEACHERS = {2: ("feat_pred_head",), 3: ("mid_sem_feat_pred", "high_sem_feat_pred")}


@dataclass(frozen=True)
class FQGANConfig:
    """Attributes:
    quantizer: one group for every codebook; the first is for what pictures look like, the others for what
        they show.
    multiples: of `channels` at every level; each level but the last halves the size.
    channels: of the first convolution.
    blocks: residual blocks of a level; the decoder has one more.
    latent: channels between networks and codes.
    groups: of the norms.
    head_depth, head_heads: of the transformer before every codebook.
    teachers: channels of the features that the codebooks behind the first are taught; none without teachers.
    teacher_depth: of the transformers that predict them.
    size: pixels a side that positions are learned on.
    """

    quantizer: GroupedConfig = DUAL
    multiples: tuple[int, ...] = F16
    channels: int = 128
    blocks: int = 2
    latent: int = 256
    groups: int = GROUPS
    head_depth: int = 6
    head_heads: int = 8
    teachers: tuple[int, ...] = (1024,)
    teacher_depth: int = 3
    size: int = 256

    def __post_init__(self) -> None:
        if len(self.teachers) not in (0, self.quantizer.groups - 1):
            raise ConfigError(
                f"{len(self.teachers)} teachers for {self.quantizer.groups} codebooks: "
                "give every one but the first a teacher, or none"
            )
        if self.size % 2 ** (len(self.multiples) - 1):
            raise ConfigError(f"{len(self.multiples)} levels do not halve {self.size} pixels evenly")


class FQGANOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
        pixels: in [-1, 1], not clamped.
        quantized: values [b h w g·d], ids [b h w g]; the loss holds disentanglement.
        features: a prediction for every teacher.
    """

    pixels: Float[Tensor, "b 3 _h _w"]
    quantized: Quantized
    features: tuple[Tensor, ...]


@system(
    "fqgan",
    room="tokenizers",
    paper=Paper("Factorized Visual Tokenization and Generation", 2024, "https://arxiv.org/abs/2411.16681"),
    official=Official("showlab/FQGAN", "CC-BY-NC-4.0"),
    presets={
        "fqgan_dual_ds16": FQGANConfig(),
        "fqgan_triple_ds16": FQGANConfig(TRIPLE, teachers=(384, 768)),
        "fqgan_dual_ds8": FQGANConfig(multiples=F8),
        "fqgan_triple_ds8": FQGANConfig(TRIPLE, F8, teachers=(384, 768)),
    },
    tags=("image", "discrete", "grid", "factorized"),
)
class FQGAN(GridTokenizer):
    """Factorized codebooks of a VQGAN (FQGAN: Bai et al., 2024, arXiv 2411.16681).

    ```
    frames in [-1, 1] ─► VQGAN's encoder [b 512 h/16 w/16] ─┬─► head ─► VQ 16384 × 8: what it looks like
                                                            └─► head ─► VQ 16384 × 8: what it shows
    codes side by side [b 16 h/16 w/16] ─► 1×1 ─► VQGAN's decoder ─► frames     │
                                                                    teacher's feature ◄─ head
    ```
    ids [b n g], the codebook of looks first. Any size; positions are resampled, frames are looked at alone.
    Official training: L2 + LPIPS + 0.5 · adaptive hinge GAN from step 20k, the quantizers' losses (code 1,
    commitment 0.25, entropy 0.03), 0.1 · squared cosine of every two codebooks' codes, 0.5 · InfoNCE to each
    teacher (`teacher_loss`; dual CLIP ViT-L/14, triple DINOv2-S and CLIP ViT-B/16); Adam 2e-4, betas 0.9 and
    0.95, decay 0.05, 40 epochs of 256-pixel pictures.

    Raises:
        ConfigError: teachers that do not fit the codebooks; a size that levels do not halve.
        MediaError: pixels that are not RGB in [0, 1].
        FormatError: ids outside their codebooks, or tokens without a grid.
    """

    def __init__(self, config: FQGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FQGANConfig()
        self.quantizer = config.quantizer.build()
        self.codebook_sizes = self.quantizer.codebook_sizes
        factor = 2 ** (len(config.multiples) - 1)
        self.compression = (1, factor, factor)
        groups, side = config.quantizer.groups, config.size // factor
        sizes = (config.channels, config.multiples, config.blocks, config.groups)
        self.encoder = VQGANTrunk(*sizes)
        self.heads = nn.ModuleList(
            FactorHead(
                config.channels * config.multiples[-1], side, config.head_depth, config.head_heads,
                config.latent, self.quantizer.channels // groups, config.groups,
            )
            for _ in range(groups)
        )  # fmt: skip
        self.post_quant_conv = nn.Conv2d(self.quantizer.dim, config.latent, 1)
        self.decoder = VQGANDecoder(config.latent, *sizes)
        self.teachers = nn.ModuleList(
            TeacherHead(self.quantizer.dim // groups, width, side, config.teacher_depth, 8)
            for width in config.teachers
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks' weights; quantizers stay in float32."""
        return self.post_quant_conv.weight.dtype

    def quantize(self, frames: Float[Tensor, "b 3 h w"]) -> Quantized:
        """Codes of frames in [-1, 1], with gradients: values [b h' w' g·d], ids [b h' w' g]."""
        maps = self.encoder(frames.to(self.dtype))
        latents = torch.cat([head(maps) for head in self.heads], 1)
        return self.quantizer(rearrange(latents, "b c h w -> b h w c"))

    def render(self, values: Float[Tensor, "b h w c"]) -> Float[Tensor, "b 3 _h _w"]:
        """Frames in [-1, 1], not clamped, of codes side by side."""
        codes = rearrange(values.to(self.dtype), "b h w c -> b c h w")
        return self.decoder(self.post_quant_conv(codes))

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> FQGANOutput:
        """Frames in [-1, 1] to codes and back, with gradients, for training."""
        found = self.quantize(frames)
        parts = found.values.to(self.dtype).chunk(self.config.quantizer.groups, -1)
        features = tuple(head(part) for head, part in zip(self.teachers, parts[1:], strict=False))
        return FQGANOutput(self.render(found.values), found, features)

    def reconstruct(self, pixels: Float[Tensor, "b 3 f y x"]) -> Reconstruction:
        """Both ways with gradients, in [0, 1] and of any size; teachers are not asked."""
        padded, _ = fit(pixels, self.compression)
        found = self.quantize(rearrange(2 * padded - 1, "b c f y x -> (b f) c y x"))
        frames = rearrange(self.render(found.values), "(b f) c y x -> b c f y x", b=len(pixels))
        cropped = frames[..., : pixels.shape[3], : pixels.shape[4]]
        parts = {name: each.mean() for name, each in found.stats.items()}
        return Reconstruction((cropped + 1) / 2, found.loss, parts)

    def encode_grid(self, pixels: Float[Tensor, "b 3 t h w"]) -> Tensor:
        """Ids [b t h' w' g] of pixels in [0, 1]."""
        frames = rearrange(pixels, "b c t h w -> (b t) c h w") * 2 - 1
        ids = torch.cat([self.quantize(some).ids for some in frames.split(AT_ONCE)])
        return ids.unflatten(0, (pixels.shape[0], pixels.shape[2]))

    def decode_grid(self, codes: Tensor) -> Float[Tensor, "b 3 t h w"]:
        """Pixels of ids."""
        frames = [self.render(self.quantizer.lookup(some)) for some in codes.flatten(0, 1).split(AT_ONCE)]
        pixels = torch.cat(frames).unflatten(0, codes.shape[:2])
        return rearrange(pixels, "b t c h w -> b c t h w") / 2 + 0.5

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, head_heads: int = 8, groups: int = GROUPS
    ) -> FQGAN:
        """The tokenizer of an official checkpoint, dual or triple; its sizes are read from it.

        Args:
            state: names and tensors.
            head_heads: of the transformers before the codebooks, which a checkpoint does not tell.
            groups: of the norms, which it does not tell either.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        count = 2 if "quantize_sem.embedding.weight" in state else 3
        model = cls(_told_config(state, count, head_heads=head_heads, groups=groups))
        ours = renamed(state, _names(count))
        ours = {name: tensor for name, tensor in ours.items() if not name.endswith(".codebook_used")}
        own = {f"quantizer.{name}": tensor for name, tensor in model.quantizer.named_buffers()}
        load_strictly(model, own | ours)
        return model


def _names(count: int) -> tuple[tuple[str, str], ...]:
    """Official names → ours, for a count of codebooks."""
    rules = []
    for number, branch in enumerate(BRANCHES[count]):
        rules += [
            (rf"^encoder\.{HEADS[branch]}\.0\.", f"heads.{number}."),
            (rf"^encoder\.(norm|conv)_out_{branch}\.", rf"heads.{number}.\1_out."),
            (rf"^quant_conv_{branch}\.", f"heads.{number}.project."),
            (rf"^quantize_{branch}\.embedding\.weight$", f"quantizer.parts.{number}.codebook"),
        ]
    rules += [(rf"^{name}\.", f"teachers.{number}.") for number, name in enumerate(TEACHERS[count])]
    return (*rules, (r"\bpositional_embedding$", "positions"), *CLIP_BLOCKS)


def _told_config(state: Mapping[str, Tensor], count: int, **untold: Any) -> FQGANConfig:
    codes, dim = told(state, "quantize_vis.embedding.weight").shape
    channels = len(told(state, "encoder.conv_in.weight"))
    levels = numbered(state, r"encoder\.conv_blocks\.(\d+)\.")
    widths = [len(told(state, f"encoder.conv_blocks.{n}.res.0.conv2.weight")) for n in levels]
    side = side_of_square(len(told(state, "encoder.visual_head.0.positional_embedding")))
    tables = [state.get(f"{name}.class_embedding") for name in TEACHERS[count]]
    depths = numbered(state, rf"{re.escape(TEACHERS[count][0])}\.transformer\.(\d+)\.")
    codebook = VectorQuantizerConfig(
        codes, dim, learn="gradient", normalize=True, entropy=0.03, entropy_epsilon=1e-5
    )
    return FQGANConfig(
        quantizer=GroupedConfig(codebook, count, 0.1),
        multiples=tuple(width // channels for width in widths),
        channels=channels,
        blocks=len(numbered(state, r"encoder\.conv_blocks\.0\.res\.(\d+)\.")),
        latent=len(told(state, "encoder.conv_out_vis.weight")),
        head_depth=len(numbered(state, r"encoder\.visual_head\.0\.transformer\.(\d+)\.")),
        teachers=tuple(table.shape[1] for table in tables if table is not None),
        teacher_depth=len(depths) or 3,
        size=side * 2 ** (len(levels) - 1),
        **untold,
    )
