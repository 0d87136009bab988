"""All in One: one transformer for video, text and both, in which time is a rolling of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smalti.backbones.all_in_one_official import OfficialState
from smalti.backbones.all_in_one_parts import (
    MaskedWordHead,
    MatchHead,
    Pictures,
    Words,
    answer_head,
)
from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import check_source
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.strict_loading import load_strictly
from smalti.nn.token_rolling import TokenRoll
from smalti.nn.transformer import Block
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


@dataclass(frozen=True)
class AllInOneConfig:
    """Attributes:
    dim: channels.
    depth: blocks.
    heads: of the attention.
    mlp_ratio: hidden channels of the MLPs, as a factor.
    patch: pixels of a patch's side.
    size: side of the picture that the table of positions was made for; others are taken as well.
    frames: of the table of times; others are taken as well.
    stretch: of that table to more frames: "zeros" behind its end, as official, or "linear" in time.
    vocabulary: ids of words.
    text_length: positions of words, padding included.
    roll: of tokens along time, in front of every block of a joint pass.
    rolled: blocks with it, from 0; all when not given.
    shuffle: patches of every frame are put in a random order, "official" in its every pass; or "none".
    padding: patches whose first pixel is exactly mid-grey count as padding ("pixels", official), or all are
        real ("none").
    drop_path: of the last block, rising linearly from 0 at the first.
    dropout: of text embeddings.
    words_head: for masked words.
    match_head: whether video and text belong together.
    embedding: channels in which retrieval compares; 0 for none.
    answers: of the head for open questions; 0 for none.
    rank_head: one score for each of several texts.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    size: int = 224
    frames: int = 3
    stretch: Literal["zeros", "linear"] = "zeros"
    vocabulary: int = 30522
    text_length: int = 40
    roll: TokenRoll = field(default_factory=TokenRoll)
    rolled: tuple[int, ...] | None = None
    shuffle: Literal["none", "official"] = "none"
    padding: Literal["none", "pixels"] = "none"
    drop_path: float = 0.1
    dropout: float = 0.1
    words_head: bool = False
    match_head: bool = False
    embedding: int = 0
    answers: int = 0
    rank_head: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")
        if self.size % self.patch:
            raise ConfigError(f"a side of {self.size} pixels cannot be cut into patches of {self.patch}")


TI, S, B = AllInOneConfig(192, heads=3), AllInOneConfig(384, heads=6), AllInOneConfig()
PRETRAINING = {"words_head": True, "match_head": True}


class Joint(NamedTuple):
    """What a pass gives; parts that were not looked at are missing.

    Attributes:
        text: [b l d], mean over the frames that it was read with.
        video: [b 1+n d], class token first, mean over frames.
        pooled: [b d] of the first token.
        text_mask: [b l] True for words.
        video_mask: [b 1+n] True for patches that are no padding, of the first frame.
    """

    text: Tensor | None
    video: Tensor | None
    pooled: Tensor
    text_mask: Tensor | None
    video_mask: Tensor | None


@system(
    "all-in-one",
    room="backbones",
    paper=Paper(
        "All in One: Exploring Unified Video-Language Pre-training", 2023, "https://arxiv.org/abs/2203.07303"
    ),
    official=Official("showlab/all-in-one", "none stated"),
    presets={
        "all-in-one-b": B,
        "all-in-one-s": S,
        "all-in-one-ti": TI,
        "all-in-one-b-pretraining": replace(B, PRETRAINING),
        "all-in-one-s-pretraining": replace(S, PRETRAINING),
        "all-in-one-ti-pretraining": replace(TI, PRETRAINING),
        "all-in-one-b-retrieval": replace(B, {"embedding": 512}),
        "all-in-one-b-msrvtt-qa": replace(B, {"answers": 1501}),
        "all-in-one-b-msvd-qa": replace(B, {"answers": 1001}),
        "all-in-one-b-tgif-frame": replace(B, {"answers": 1541}),
        "all-in-one-b-choice": replace(B, {"match_head": True, "rank_head": True}),
    },
    tags=("video", "text", "retrieval", "question-answering", "roll", "linear"),
)
class AllInOne(Backbone):
    """All in One (Wang et al., 2023): frames and words in one ViT; tokens roll between neighbouring frames.

    ```
    ids [b l] ─► words + positions ─► norm ─► + kind 0 ─► once for every frame ──┐
                                                                 [(b t) l+1+n d] ├─► (roll ─► block) × depth
    pixels ─► patches + place + time ─► class token in front ─► + kind 1 ────────┘         │
    [b 3 t h w]                                        mean over frames ◄── norm ◄─────────┘
                                     text [b l d], video [b 1+n d], pooled [b d] ◄┘
    ```
    `forward` looks at pixels or reads Tokens.ids (BERT's uncased vocabulary) alone, without rolling; `encode`
    takes both. Text of a pass without video is read once, which gives the same as once for every frame.
    Official training: WebVid and HowTo100M, 200,000 steps, AdamW 1e-4, decay 0.01, 10 % warm-up and linear
    decay to 0, 3 frames, masked words and matching; new heads 10 × the rate.
    Deviations: patches keep their order unless `shuffle` says otherwise; pixels are continued with grey to
    whole patches; inside the blocks paths are dropped, but no single numbers; padded patches stay in their
    places.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: text that is empty or longer than the positions, or neither text nor video.
        FormatError: ids outside the vocabulary.
    """

    mean = (0.5, 0.5, 0.5)
    deviation = (0.5, 0.5, 0.5)

    def __init__(self, config: AllInOneConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or AllInOneConfig()
        dim = config.dim
        self.words = Words(dim, config.vocabulary, config.text_length, config.dropout)
        self.pictures = Pictures(
            dim, config.patch, config.size, config.frames, config.stretch, config.shuffle, config.padding
        )
        self.kind = nn.Embedding(2, dim)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.pooler = nn.Linear(dim, dim)
        self.masked_words = MaskedWordHead(dim, config.vocabulary) if config.words_head else None
        self.match = MatchHead(dim) if config.match_head else None
        self.text_projection = nn.Linear(dim, config.embedding) if config.embedding else None
        self.video_projection = nn.Linear(dim, config.embedding) if config.embedding else None
        self.answer = answer_head(dim, config.answers) if config.answers else None
        self.rank = nn.Linear(dim, 1) if config.rank_head else None
        self.apply(_initialise)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of a video alone, or of text alone (Tokens with ids)."""
        if isinstance(source, Tokens):
            if source.ids is None:
                raise ConfigError("text is read as Tokens with ids of words")
            given = self.encode(None, source.ids[..., 0], source.mask)
            return Features(_there(given.text), given.pooled, mask=given.text_mask)
        given = self.encode(source)
        height, width = (-(-side // self.config.patch) for side in source.shape[3:])
        return Features(
            _there(given.video), given.pooled, prefix=1, grid=(1, height, width), mask=given.video_mask
        )

    def encode(
        self,
        pixels: Float[Tensor, "b 3 t h w"] | None = None,
        ids: Int[Tensor, "b l"] | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> Joint:
        """A video in [0, 1], a text, or both together.

        Args:
            pixels: the video.
            ids: of words, the first one [CLS].
            mask: True for words, False for padding.
        """
        if pixels is not None:
            check_source(pixels)
            pixels = self.normalise(pixels)
        return self.infer(pixels, ids, mask)

    def infer(
        self,
        video: Float[Tensor, "b 3 t h w"] | None = None,
        ids: Int[Tensor, "b l"] | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> Joint:
        """As `encode`, of a normalised video."""
        if video is None and ids is None:
            raise ConfigError("give a video, a text or both")
        frames = 1 if video is None else video.shape[2]
        parts, seen, length = [], [], 0
        if ids is not None:
            x, length = self.words(ids) + self.kind.weight[0], ids.shape[1]
            mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
            parts.append(repeat(x, "b l d -> (b t) l d", t=frames))
            seen.append(repeat(mask, "b l -> (b t) l", t=frames))
        patches = None
        if video is not None:
            x, patches = self.pictures(video)
            parts.append(x + self.kind.weight[1])
            seen.append(patches)
        x = self._through(torch.cat(parts, 1), torch.cat(seen, 1), frames, length)
        x = rearrange(self.norm(x), "(b t) n d -> b t n d", t=frames).mean(1)
        return Joint(
            x[:, :length] if ids is not None else None,
            x[:, length:] if video is not None else None,
            self.pooler(x[:, 0]).tanh(),
            mask,
            None if patches is None else patches[::frames],
        )

    def _through(
        self, x: Float[Tensor, "bt n d"], seen: Bool[Tensor, "bt n"], frames: int, length: int
    ) -> Float[Tensor, "bt n d"]:
        config = self.config
        joint = 0 < length < x.shape[1] and frames > 1
        if length == x.shape[1]:  # a text of padding alone still has its first token
            seen = torch.cat([torch.ones_like(seen[:, :1]), seen[:, 1:]], 1)
        for number, block in enumerate(self.blocks):
            if joint and (config.rolled is None or number in config.rolled):
                text, video = x[:, :length], rearrange(x[:, length:], "(b t) n d -> b t n d", t=frames)
                x = torch.cat([text, config.roll(video, number).flatten(0, 1)], 1)
            x = block(x, seen[:, None, None])
        return x

    def embed_text(
        self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b e"]:
        """For retrieval: a text by itself."""
        return self._projection(self.text_projection)(_there(self.encode(None, ids, mask).text)[:, 0])

    def embed_video(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b e"]:
        """For retrieval: a video by itself."""
        return self._projection(self.video_projection)(_there(self.encode(pixels).video)[:, 0])

    def _projection(self, layer: nn.Linear | None) -> nn.Linear:
        if layer is None:
            raise ConfigError("this preset does not compare: choose an `embedding`, such as 512")
        return layer

    def joint_flops(self, shape: tuple[int, ...], words: int) -> int:
        """Multiply-adds of a joint pass of pixels [b 3 t h w] and texts of some words."""
        device = self.norm.weight.device
        pixels = torch.zeros(shape, device=device)
        ids = torch.zeros(shape[0], words, dtype=torch.long, device=device)
        with torch.no_grad():
            return int(count_flops(self.encode, pixels, ids))

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> AllInOne:
        """The model of an official checkpoint; sizes and heads are read from it.

        Args:
            state: names and tensors.
            config: what they do not tell, such as `heads` of another width than 64; another number of
                `frames` cuts the table of times or continues it with zeros, another `text_length` starts the
                positions of words anew, as official.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        official = OfficialState(state)
        model = cls(replace(AllInOneConfig(), official.sizes() | config))
        load_strictly(model, official.fitted(model.state_dict()))
        return model


def _there(part: Tensor | None) -> Tensor:
    if part is None:
        raise ConfigError("this part was not looked at")
    return part


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
