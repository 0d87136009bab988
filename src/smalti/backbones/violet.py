"""VIOLET: few frames and a text in one transformer, pretrained by guessing masked words and visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import check_source, resample_positions
from smalti.backbones.violet_official import rename_official
from smalti.errors import ConfigError
from smalti.nn.bert_encoder import BertConfig, BertEmbedding, BertEncoder, MaskedWordHead, bert_config
from smalti.nn.strict_loading import load_strictly
from smalti.nn.video_swin import VideoSwin, VideoSwinConfig
from smalti.nn.video_swin_official import video_swin_config
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens

VIDEO = VideoSwinConfig(dim=96, heads=(3, 6, 12, 24), time_stride=1)


@dataclass(frozen=True)
class VIOLETConfig:
    """Attributes:
    video: the encoder of pixels.
    text: embeddings of words, and the transformer of video and words together.
    places: side of the grid that the table of places in a frame is for.
    frames: of the table of places in time.
    codes: of the tokenizer whose ids are guessed; no heads of pretraining when 0.
    outputs: of the head on the text's first token: 1 to match or choose, or the number of answers.
    dropout: before the heads.
    """

    video: VideoSwinConfig = VIDEO
    text: BertConfig = field(default_factory=BertConfig)
    places: int = 14
    frames: int = 6
    codes: int = 8192
    outputs: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.video.channels != self.text.dim:
            raise ConfigError(
                f"video of {self.video.channels} channels and words of {self.text.dim} cannot meet: "
                "give both the same"
            )


class Watched(NamedTuple):
    """A video before the transformer.

    Attributes:
        tokens: [b t·(1 + h·w) d], every frame's class token before its cells.
        grid: (t, h, w) of the cells.
    """

    tokens: Tensor
    grid: tuple[int, int, int]


def two_layers(dim: int, outputs: int, dropout: float) -> nn.Sequential:
    """The official head: dropout, twice the channels, ReLU, outputs."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, outputs))


@system(
    "violet",
    room="backbones",
    paper=Paper(
        "VIOLET: End-to-End Video-Language Transformers with Masked Visual-token Modeling",
        2021,
        "https://arxiv.org/abs/2111.12681",
    ),
    official=Official("tsujuifu/pytorch_violet", "none given"),
    presets={
        "pretrain": VIOLETConfig(),
        "retrieval": VIOLETConfig(codes=0),
        "msvd-qa": VIOLETConfig(codes=0, outputs=1000),
        "msrvtt-qa": VIOLETConfig(codes=0, outputs=1500),
    },
    tags=("video", "text", "masked", "retrieval", "question-answering", "window"),
)
class VIOLET(Backbone):
    """VIOLET (Fu et al., 2021): Video Swin that keeps all frames, and BERT over video and words.

    ```
    pixels [b 3 t h w] ─► Video Swin [b t h/32 w/32 768] ─► class token a frame + place + time ─► norm ┐
    ids [b n] ─► embedding (+ position + kind) ────────────────────────────────────────────────────────┴► BERT
    BERT ─► video tokens ─► ids of visual tokens [b t·(1+h·w) 8192]
        ─► words ─► words [b n v]                 ─► first word ─► match, choice or answer [b outputs]
    ```
    Pixels are RGB in [0, 1]; ImageNet's mean and deviation are taken inside. Official: 4 frames of 224 × 224
    to pretrain, 5 uniformly sampled ones after, texts of 32 words of BERT's uncased vocabulary. The official
    table of places is for 14 × 14 cells, of which a smaller grid takes the first rows. Masks and losses are
    in `violet_masking.py` and `violet_training.py`. `forward` runs the transformer over video alone.
    Deviations: a larger grid and more frames than the tables' stretch them.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: tokens in the place of pixels, or a head that this model lacks.
        FormatError: ids outside the vocabulary.
    """

    def __init__(self, config: VIOLETConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VIOLETConfig()
        dim = config.text.dim
        self.video = VideoSwin(config.video)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, 1, dim))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + config.places**2, dim))
        self.times = nn.Parameter(0.02 * torch.randn(1, config.frames, dim))
        self.norm = nn.LayerNorm(dim)
        self.words = BertEmbedding(config.text)
        self.encoder = BertEncoder(config.text)
        self.head = two_layers(dim, config.outputs, config.dropout)
        self.masked_words = MaskedWordHead(config.text) if config.codes else None
        self.masked_codes = two_layers(dim, config.codes, config.dropout) if config.codes else None

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of video alone, class tokens of all frames in front."""
        if isinstance(source, Tokens):
            raise ConfigError("VIOLET reads pixels [b 3 t h w], not tokens")
        check_source(source)
        maps = self.video.pyramid(self.normalise(source))
        watched = self.place(maps[-1])
        out = self.encoder(watched.tokens).unflatten(1, (watched.grid[0], -1))
        first, cells = out[:, :, 0], out[:, :, 1:].flatten(1, 2)
        return Features(
            torch.cat([first, cells], 1),
            first.mean(1),
            tuple(level.movedim(-1, 1) for level in maps),
            prefix=watched.grid[0],
            grid=watched.grid,
        )

    def watch(self, video: Float[Tensor, "b 3 t h w"]) -> Watched:
        """Tokens of normalised pixels, as they enter the transformer."""
        return self.place(self.video(video))

    def place(self, maps: Float[Tensor, "b t h w d"]) -> Watched:
        """Maps with class tokens, places and times."""
        batch, frames, height, width = maps.shape[:4]
        first = self.first.expand(batch, frames, -1, -1)
        tokens = torch.cat([first, maps.flatten(2, 3)], 2)
        tokens = tokens + self._places(height, width)[:, None] + self._times(frames)[:, :, None]
        return Watched(self.norm(tokens).flatten(1, 2), (frames, height, width))

    def _places(self, height: int, width: int) -> Float[Tensor, "1 n d"]:
        if height * width < self.places.shape[1]:
            return self.places[:, : 1 + height * width]
        side = self.config.places
        cells = resample_positions(self.places[:, 1:], (side, side), (height, width))
        return torch.cat([self.places[:, :1], cells], 1)

    def _times(self, frames: int) -> Float[Tensor, "1 t d"]:
        if frames <= self.times.shape[1]:
            return self.times[:, :frames]
        table = self.times.float().mT
        return F.interpolate(table, frames, mode="linear", align_corners=True).mT.to(self.times.dtype)

    def attention_mask(
        self, video: Float[Tensor, "b n d"], mask: Bool[Tensor, "b m"]
    ) -> Bool[Tensor, "b 1 1 k"]:
        """True where attention may go: all of the video, real words."""
        return F.pad(mask, (video.shape[1], 0), value=True)[:, None, None]

    def combine(
        self, video: Float[Tensor, "b n d"], text: Float[Tensor, "b m d"], mask: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b k d"]:
        """Through the transformer: video tokens, then words; `mask` is True where a word is real."""
        return self.encoder(torch.cat([video, text], 1), self.attention_mask(video, mask))

    def answer(
        self,
        pixels: Float[Tensor, "b 3 t h w"],
        ids: Int[Tensor, "b m"],
        mask: Bool[Tensor, "b m"],
    ) -> Float[Tensor, "b outputs"]:
        """Outputs of the head for videos in [0, 1], each with its text."""
        check_source(pixels)
        video = self.watch(self.normalise(pixels)).tokens
        return self.head(self.combine(video, self.words(ids), mask)[:, video.shape[1]])

    def attention_received(
        self,
        pixels: Float[Tensor, "b 3 t h w"],
        ids: Int[Tensor, "b m"],
        mask: Bool[Tensor, "b m"],
    ) -> Float[Tensor, "b k"]:
        """Attention that falls on video tokens and words, without gradient."""
        with torch.no_grad():
            video, text = self.watch(self.normalise(pixels)).tokens, self.words(ids)
            bias = self.attention_mask(video, mask)
            return self.encoder.attention_received(torch.cat([video, text], 1), bias)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        window: Sequence[int] = (8, 7, 7),
        **config: Any,
    ) -> VIOLET:
        """The model of an official checkpoint, of pretraining, retrieval or answering.

        Args:
            state: names and tensors.
            heads: of the transformer; of 64 channels each when not given.
            window: of the encoder of pixels.
            config: other fields that a checkpoint does not tell.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        ours = rename_official(state)
        video = {n.removeprefix("video."): t for n, t in ours.items() if n.startswith("video.")}
        missing = {"places", "times", "head.3.weight"} - ours.keys()
        if missing:
            raise ConfigError(f"this is no checkpoint of VIOLET: no {', '.join(sorted(missing))}")
        told = {
            "video": video_swin_config(video, window, time_stride=1),
            "text": bert_config(ours, heads),
            "places": round((ours["places"].shape[1] - 1) ** 0.5),
            "frames": ours["times"].shape[1],
            "codes": len(ours.get("masked_codes.3.weight", ())),
            "outputs": len(ours["head.3.weight"]),
        }
        model = cls(replace(VIOLETConfig(), told | config))
        load_strictly(model, ours)
        return model
