"""ResidualViT: some frames through the whole of CLIP, those between through a fraction of it and a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.centerclip import MEAN, STD, rename_official
from smalti.backbones.centerclip_tower import ClipTower
from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.backbones.picture_frames import check_source, resample_positions
from smalti.backbones.residualvit_config import ResidualViTConfig, tower_config
from smalti.backbones.residualvit_schedule import key_frames, routes
from smalti.errors import ConfigError
from smalti.nn.patch_choice import choose_patches, patch_motion
from smalti.nn.patches import reflect_to_multiple
from smalti.nn.rows import take
from smalti.nn.strict_loading import load_strictly, told
from smalti.reducers.base import Context
from smalti.reducers.tome import ToMe, ToMeConfig
from smalti.registry import Paper, replace, system
from smalti.tokens import Tokens


class ResidualTokenizer(nn.Linear):
    """A whole frame's feature [m e] → the residual token of the frames that lean on it [m d]."""

    def reset_parameters(self) -> None:
        """Small: features are long, and a large token would be foreign to frozen blocks."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


def merged(tokens: Float[Tensor, "m n d"], count: int) -> Float[Tensor, "m k d"]:
    """Means of the most similar tokens, `count` of them at last."""
    reducer, mass = ToMe(ToMeConfig(metric="tokens")), None
    while tokens.shape[1] > count:
        left = max(count, reducer.least(tokens.shape[1], 0))
        reduction = reducer.reduce(tokens, Context(mass=mass), left)
        tokens, mass = reduction.apply(tokens), reduction.mass
    return tokens


class Carried(NamedTuple):
    """What a stream keeps of the frames before: the last whole one [b 3 h w], its feature, its distance."""

    frame: Tensor
    feature: Tensor
    since: Tensor


@system(
    "residualvit",
    room="backbones",
    paper=Paper(
        "ResidualViT for Efficient Temporally Dense Video Encoding", 2025, "https://arxiv.org/abs/2509.13255"
    ),
    presets={
        "vit-l-14": ResidualViTConfig(),
        "vit-b-16": ResidualViTConfig(768, 12, 12, 16, 224, 512),
        "vit-b-32": ResidualViTConfig(768, 12, 12, 32, 224, 512),
    },
    tags=("video", "clip", "prune", "motion", "dense", "streaming"),
    status="reconstruction",
)
class ResidualViT(Backbone):
    """ResidualViT (Soldan et al., 2025): CLIP's feature of every frame, most of them from few patches.

    ```
    whole frame ───► patches + positions ────────────────────► [class, patches] ─► CLIP ─► feature f
    next frames ─┬─► patches + positions ─► a few stay ──────► [class, A f, few] ─► CLIP ─► feature
      (interval) └─────────────────────────── A: one linear layer ◄── f
    ```
    Features: `tokens` [b t e], one a frame, as CLIP projects them (not of length one); `pooled` their mean;
    `grid` (t, 1, 1). A leaning frame sees itself and the last whole frame alone, so nothing drifts and all of
    a clip pass at once. Any number of frames and any size: frames are continued in mirror image to whole
    patches, positions are resampled. CLIP is frozen; `residual_tokenizer` alone learns, by the losses of
    `residualvit_training`.
    Official defaults: an interval of 2 and a drop of 0.85, 44 % of the cost; WebVid-2.5M, 5 epochs.
    Ours, as no code is public: start and optimiser of A, its bias, motion as the difference from the whole
    frame instead of optical flow, the same random patches in all frames at test.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: tokens instead of pixels.
    """

    mean = MEAN
    deviation = STD

    def __init__(self, config: ResidualViTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or ResidualViTConfig()
        self.side = config.resolution // config.patch
        self.tower = ClipTower(tower_config(config)).requires_grad_(False)
        self.residual_tokenizer = (
            ResidualTokenizer(config.embedding, config.width) if config.residual else None
        )

    def embed(self, frames: Float[Tensor, "m 3 h w"]) -> tuple[Tensor, tuple[int, int]]:
        """Patches with their positions [m h·w d], and their grid."""
        maps = self.tower.patches(frames[:, :, None])
        grid = (maps.shape[-2], maps.shape[-1])
        places = resample_positions(self.tower.position[None, 1:], (self.side, self.side), grid)
        return rearrange(maps, "m d 1 h w -> m (h w) d") + places, grid

    def run(self, tokens: Float[Tensor, "m n d"]) -> Float[Tensor, "m e"]:
        """Tokens behind the class token → the feature of a frame."""
        first = (self.tower.class_token + self.tower.position[0]).expand(len(tokens), 1, -1)
        x = self.tower.norm_before(torch.cat([first, tokens], 1))
        for block in self.tower.blocks:
            x = block(x)
        return self.tower.norm_after(x[:, 0]) @ self.tower.projection

    def whole(self, frames: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "m e"]:
        """Features of normalised frames by all of CLIP."""
        return self._in_parts(lambda part: self.run(self.embed(part)[0]), frames)

    def lean(
        self,
        frames: Float[Tensor, "m 3 h w"],
        features: Float[Tensor, "m e"],
        others: Float[Tensor, "m 3 h w"],
    ) -> Float[Tensor, "m e"]:
        """Features of normalised frames by few of their patches.

        Args:
            frames: to encode.
            features: of the whole frames that they lean on.
            others: those whole frames, for the choice of patches by motion.
        """

        def one_pass(part: Tensor, memory: Tensor, other: Tensor) -> Tensor:
            tokens = self._reduced(part, other)
            if self.residual_tokenizer is not None:
                tokens = torch.cat([self.residual_tokenizer(memory)[:, None], tokens], 1)
            return self.run(tokens)

        return self._in_parts(one_pass, frames, features, others)

    def _reduced(self, frames: Tensor, others: Tensor) -> Float[Tensor, "m k d"]:
        """A part of the patches, or all of a smaller frame."""
        config = self.config
        strategy = config.training_strategy if self.training else config.strategy
        if strategy == "resolution":
            share = (1 - config.drop) ** 0.5
            size = [max(round(s / config.patch * share), 1) * config.patch for s in frames.shape[-2:]]
            return self.embed(F.interpolate(frames, size, mode="bilinear", antialias=True))[0]
        tokens, grid = self.embed(frames)
        count = round((1 - config.drop) * tokens.shape[1])
        if strategy == "merge":
            return merged(tokens, count)
        kept = choose_patches(
            strategy,
            len(frames),
            grid,
            count,
            motion=patch_motion(frames, others, config.patch) if strategy == "motion" else None,
            seed=None if self.training else config.seed,
            device=frames.device,
        )
        return take(tokens, kept)

    def _in_parts(self, function: Callable[..., Tensor], *given: Tensor) -> Float[Tensor, "m e"]:
        """A function of frames on as many at once as memory is meant for."""
        if not len(given[0]):
            return given[0].new_zeros(0, self.config.embedding)
        parts = zip(*(tensor.split(self.config.together) for tensor in given), strict=True)
        return torch.cat([function(*part) for part in parts])

    def encode(
        self,
        clip: Float[Tensor, "b 3 t h w"],
        forced: Bool[Tensor, "b t"] | None = None,
        carried: Carried | None = None,
    ) -> tuple[Float[Tensor, "b t e"], Carried]:
        """Features of the frames of a normalised clip, and what the frames after it will need.

        Args:
            clip: of any length.
            forced: frames that must be encoded whole, such as those of `residualvit_schedule.cuts`.
            carried: what came back for the frames before.
        """
        frames = rearrange(reflect_to_multiple(clip, self.config.patch), "b c t h w -> (b t) c h w")
        batch, before = len(clip), 0 if carried is None else len(clip)
        since = None if carried is None else carried.since
        key, since = key_frames(batch, clip.shape[2], self.config.interval, forced, since)
        way = routes(key, before)
        pictures, features = frames[way.whole], self.whole(frames[way.whole])
        if carried is not None:
            if carried.frame.shape[-2:] != frames.shape[-2:]:
                raise ConfigError("frames of a stream must all be of one size: begin anew without `carried`")
            pictures = torch.cat([carried.frame, pictures])
            features = torch.cat([carried.feature, features])
        source = way.source.flatten()[way.leaning]
        leaning = self.lean(frames[way.leaning], features[source], pictures[source])
        found = torch.cat([features[before:], leaning])[way.back].unflatten(0, (batch, -1))
        last = way.source[:, -1]
        return found, Carried(pictures[last], features[last], since)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1]."""
        if isinstance(source, Tokens):
            raise ConfigError("ResidualViT works on pixels [b 3 t h w], not on tokens")
        check_source(source)
        found, _ = self.encode(self.normalise(source))
        return Features(found, found.mean(1), grid=(found.shape[1], 1, 1))

    def stream(self) -> Stream:
        """An encoder of clips without end, part by part, the same as of the whole."""
        return Stream(self)

    @classmethod
    def from_clip(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, **config: Any
    ) -> ResidualViT:
        """On a CLIP of the original layout, with a residual tokenizer if the checkpoint holds one.

        Args:
            state: names and tensors; what is not of the picture tower (`visual.`) is passed over.
            heads: which a checkpoint does not tell; channels over 64 when not given.
            config: other fields of the configuration, such as `interval` and `drop`.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = unwrapped(state)
        width, _, patch, _ = told(state, "visual.conv1.weight").shape
        position = told(state, "visual.positional_embedding")
        sizes = ResidualViTConfig(
            width=width,
            depth=counted(state, "visual.transformer.resblocks."),
            heads=heads or max(width // 64, 1),
            patch=patch,
            resolution=square_side(position[None]) * patch,
            embedding=told(state, "visual.proj").shape[1],
        )
        model = cls(replace(sizes, config))
        pictures = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        ours = rename_official(pictures, tower_config(model.config)).items()
        found = {name.replace("visual.", "tower.", 1): tensor for name, tensor in ours}
        own = {n: tensor for n, tensor in model.state_dict().items() if n.startswith("residual_tokenizer.")}
        found |= own | {name: tensor for name, tensor in state.items() if name in own}
        load_strictly(model, found)
        return model


class Stream:
    """Features of frames as they come."""

    def __init__(self, model: ResidualViT) -> None:
        self.model = model
        self.carried: Carried | None = None

    def push(
        self, pixels: Float[Tensor, "b 3 t h w"], forced: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t e"]:
        """Features of the next frames, in [0, 1]; `forced` ones are encoded whole."""
        check_source(pixels)
        found, self.carried = self.model.encode(self.model.normalise(pixels), forced, self.carried)
        return found
