"""UniFormerV2: an image ViT armed with relations over time and a query that reads its layers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.backbones.picture_frames import check_source, resample_positions
from smalti.backbones.uniformerv2_blocks import EPS, ClassHead, LocalUniBlock, VideoTokenReader
from smalti.backbones.uniformerv2_keys import OF_THE_PICTURE, clip_pictures, reduction, renamed
from smalti.backbones.uniformerv2_presets import UniFormerV2Config, official_presets
from smalti.errors import ConfigError
from smalti.nn.patches import reflect_to_multiple
from smalti.nn.strict_loading import load_strictly, told
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


class Step(NamedTuple):
    """After a block: tokens [b t 1+h·w d], class tokens first, and what the query read so far [b 1 d]."""

    tokens: Tensor
    query: Tensor
    grid: tuple[int, int]


@system(
    "uniformerv2",
    room="backbones",
    paper=Paper(
        "UniFormerV2: Spatiotemporal Learning by Arming Image ViTs with Video UniFormer",
        2023,
        "https://arxiv.org/abs/2211.09552",
    ),
    official=Official("OpenGVLab/UniFormerV2", "Apache-2.0"),
    presets=official_presets(),
    tags=("video", "clip", "cross-attention", "convolution", "classification"),
)
class UniFormerV2(Backbone):
    """UniFormerV2 (Li et al., 2023): CLIP's ViT on every frame, local relations over time, a reading query.

    ```
    clip ─► patches ─► + class, positions ─► norm ─► block ─► … ─► block ─► … ─► block ─┐ class tokens
                                                     (local)       │             │      │
                                          query ───────────────► read ─► … ──► read ─► mix ─► head ─► logits
    ```
    Features: `tokens` of the last block, the class tokens of all frames first; `grid` of the patches;
    `pooled` what the head sees. Any number of frames (half as many slices with `temporal_downsample`) and
    any size: frames are continued in mirror image to whole patches, positions are resampled. Pixels in [0, 1]
    are shifted by 0.45 and divided by 0.225, as officially, although the weights begin as CLIP's.
    For scenes (Kinetics) without local relations, for motion (Something-Something) with both. Official
    training: AdamW, decay 0.05, cosine with 5 epochs of warm-up; Kinetics 55 epochs at 1e-5 for 256 clips
    of 8 frames, Something-Something 22 epochs at 4e-5 for 128 clips of 16 or 32.
    Deviations: the reading query asks without keys and values, which gives the same numbers for fewer
    products; dropped paths leave out frames of a clip, where the official code leaves out a place in all
    frames of a batch, by the layout of its tokens.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: tokens instead of pixels.
    """

    mean = (0.45, 0.45, 0.45)
    deviation = (0.225, 0.225, 0.225)

    def __init__(self, config: UniFormerV2Config | None = None) -> None:
        super().__init__()
        config = self.config = config or UniFormerV2Config()
        frames, stride = (3, 2) if config.temporal_downsample else (1, 1)
        self.patches = nn.Conv3d(
            3,
            config.width,
            (frames, config.patch, config.patch),
            (stride, config.patch, config.patch),
            (frames // 2, 0, 0),
            bias=False,
        )
        scale, self.side = config.width**-0.5, config.resolution // config.patch
        self.class_token = nn.Parameter(scale * torch.randn(config.width))
        self.position = nn.Parameter(scale * torch.randn(1 + self.side**2, config.width))
        self.norm_before = nn.LayerNorm(config.width, EPS)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            LocalUniBlock(config.width, config.heads, config.local, config.local_reduction, rate)
            for rate in rates
        )
        self.reader = VideoTokenReader(
            config.width,
            config.reader_heads,
            len(config.read_layers),
            config.reader_mlp_ratio,
            config.reader_dropout,
            config.reader_drop_path,
            balanced=not config.frozen,
        )
        self.head = (
            ClassHead(config.width, config.classes, config.head_dropout) if config.classes else nn.Identity()
        )
        if config.frozen:
            self.requires_grad_(False)
            for part in (self.reader, self.head):
                part.requires_grad_(True)

    def embed(self, clip: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens [b t 1+h·w d] of a normalised clip before the first block, and the grid of a frame."""
        maps = self.patches(reflect_to_multiple(clip, self.config.patch))
        grid = (maps.shape[-2], maps.shape[-1])
        x = rearrange(maps, "b d t h w -> b t (h w) d")
        places = resample_positions(self.position[None, 1:], (self.side, self.side), grid)
        first = (self.class_token + self.position[0]).expand(*x.shape[:2], 1, -1)
        return self.norm_before(torch.cat([first, x + places], 2)), grid

    def steps(self, clip: Float[Tensor, "b 3 t h w"]) -> Iterator[Step]:
        """What a normalised clip has become after every block."""
        x, grid = self.embed(clip)
        query = self.reader.query.repeat(len(x), 1, 1)
        readers = dict(zip(self.config.read_layers, self.reader.blocks, strict=True))
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in readers:
                query = readers[number](query, x, grid)
            yield Step(x, query, grid)

    def encode(self, clip: Float[Tensor, "b 3 t h w"]) -> Features:
        """Features of a normalised clip."""
        last = deque(self.steps(clip), maxlen=1)[0]
        x, slices = last.tokens, last.tokens.shape[1]
        tokens = torch.cat([x[:, :, 0], x[:, :, 1:].flatten(1, 2)], 1)
        return Features(tokens, self.reader.fuse(last.query, x), (), slices, (slices, *last.grid))

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1]."""
        if isinstance(source, Tokens):
            raise ConfigError("UniFormerV2 works on pixels [b 3 t h w], not on tokens")
        check_source(source)
        return self.encode(self.normalise(source))

    def logits(self, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """What the head says of pooled features."""
        return self.head(pooled)

    def classify(self, source: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.logits(self.forward(source).pooled)

    def load_clip(
        self, state: Mapping[str, Tensor], inflation: Literal["centre", "average"] = "centre"
    ) -> None:
        """Take the weights of a CLIP's picture tower, from which training begins.

        Args:
            state: of a whole CLIP, or of its picture tower alone; what has no place here is passed over.
            inflation: patches of a picture become the middle frame of those of a clip, or a third of all.

        Raises:
            ConfigError: a weight is missing or of another size.
        """
        frames = self.patches.kernel_size[0]
        found = clip_pictures(state, frames, self.side, centred=inflation == "centre")
        own = {n: tensor for n, tensor in self.state_dict().items() if not OF_THE_PICTURE.match(n)}
        load_strictly(self, own | found)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        reader_heads: int | None = None,
        read_layers: tuple[int, ...] | None = None,
        labels: Sequence[int] | None = None,
        **config: Any,
    ) -> UniFormerV2:
        """The model of an official checkpoint, whose sizes are read from it.

        Args:
            state: names and tensors; prefixes `module.` and `backbone.` are taken off.
            heads: of the blocks, which a checkpoint does not tell; channels over 64 when not given.
            reader_heads: of the reading; likewise.
            read_layers: as many of the last blocks as the reader has when not given.
            labels: classes to keep of the head, in this order: K400's among those of K710.
            config: other fields of the configuration, such as rates of dropout.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = {name.removeprefix("backbone."): tensor for name, tensor in unwrapped(state).items()}
        told(state, "conv1.weight")
        found = renamed(state)
        if labels is not None:
            for name in ("head.linear.weight", "head.linear.bias"):
                found[name] = told(found, name)[list(labels)]
        model = cls(replace(told_config(found, heads, reader_heads, read_layers), config))
        load_strictly(model, found)
        return model


def told_config(
    found: Mapping[str, Tensor],
    heads: int | None,
    reader_heads: int | None,
    read_layers: tuple[int, ...] | None,
) -> UniFormerV2Config:
    """What renamed weights tell."""
    width, _, frames, patch, _ = told(found, "patches.weight").shape
    depth, reads = counted(found, "blocks."), counted(found, "reader.blocks.")
    inner = found.get("blocks.0.local1.down.weight")
    head = found.get("head.linear.weight")
    return UniFormerV2Config(
        width=width,
        depth=depth,
        heads=heads or max(width // 64, 1),
        patch=patch,
        resolution=square_side(told(found, "position")[None]) * patch,
        temporal_downsample=frames > 1,
        local=sum(f"blocks.0.local{number}.up.weight" in found for number in (1, 2)),
        local_reduction=1.5 if inner is None else reduction(width, len(inner)),
        read_layers=read_layers or tuple(range(depth - reads, depth)),
        reader_heads=reader_heads or max(width // 64, 1),
        reader_mlp_ratio=len(told(found, "reader.blocks.0.mlp.fc1.weight")) / width,
        frozen="reader.balance" not in found,
        classes=0 if head is None else len(head),
    )
