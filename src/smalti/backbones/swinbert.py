"""SwinBERT: captions of videos, read off a dense grid of video tokens by attention that is learned sparse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import check_source
from smalti.errors import ConfigError
from smalti.nn.bert_encoder import (
    BertConfig,
    BertEmbedding,
    BertEncoder,
    MaskedWordHead,
    bert_config,
    rename_bert,
)
from smalti.nn.sparse_attention_mask import BLOCKED, SparseAttentionMask
from smalti.nn.strict_loading import load_strictly
from smalti.nn.video_swin import VIDEO_SWIN, VideoSwin, VideoSwinConfig
from smalti.nn.video_swin_official import rename_video_swin, video_swin_config
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


@dataclass(frozen=True)
class SwinBERTConfig:
    """Attributes:
    video: the encoder of pixels.
    text: the encoder of video and words together.
    features: channels between both.
    masked_tokens: video tokens that the learned mask is for; without a mask, and for any number, when 0.
    hard: entries of the mask are 0 or 1.
    tied: the head of words shares their embedding.
    """

    video: VideoSwinConfig = field(default_factory=VideoSwinConfig)
    text: BertConfig = field(default_factory=BertConfig)
    features: int = 512
    masked_tokens: int = 784
    hard: bool = False
    tied: bool = False


@system(
    "swinbert",
    room="backbones",
    paper=Paper(
        "SwinBERT: End-to-End Transformers with Sparse Attention for Video Captioning",
        2022,
        "https://arxiv.org/abs/2111.13196",
    ),
    official=Official("microsoft/SwinBERT", "MIT"),
    presets={
        "base-32": SwinBERTConfig(),
        "base-64": SwinBERTConfig(masked_tokens=1568),
        "base-full": SwinBERTConfig(masked_tokens=0),
        "tiny-32": SwinBERTConfig(VIDEO_SWIN["tiny"]),
        "large-32": SwinBERTConfig(VIDEO_SWIN["large"]),
        "large-384-32": SwinBERTConfig(VIDEO_SWIN["large-384"], masked_tokens=16 * 12 * 12),
    },
    tags=("video", "text", "caption", "sparse", "window"),
)
class SwinBERT(Backbone):
    """SwinBERT (Lin et al., 2022): Video Swin and BERT, video tokens attending by a learned sparse mask.

    ```
    pixels [b 3 t h w] ─► Video Swin [b t/2 h/32 w/32 c] ─► 512 ─► video tokens [b m 768] ──┐
    caption [b n] ─► embedding (+ position + kind) [b n 768] ───────────────────────────────┴─► BERT
                   words: earlier words and all video; video: no word, other video by the mask
    BERT ─► Features of the video tokens                    BERT ─► logits of words [b n v]
    ```
    Pixels are RGB in [0, 1]; ImageNet's mean and deviation are taken inside. Official: 32 or 64 frames of
    224 × 224, uniformly sampled; words of BERT's uncased vocabulary. The learned mask fixes the number m of
    video tokens; a model without it takes every length and size, and `mask_for` makes a mask for another.
    Training is in `swinbert_training.py`, captions in `swinbert_captions.py`. Deviations: the unused pooler
    and regression of features are not here; embeddings of video carry no position, as official.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: another number of video tokens than the mask's, or a caption that is too long.
        FormatError: ids outside the vocabulary.
    """

    def __init__(self, config: SwinBERTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SwinBERTConfig()
        self.video = VideoSwin(config.video)
        self.features = nn.Linear(config.video.channels, config.features)
        self.embed_features = nn.Linear(config.features, config.text.dim)
        self.dropout = nn.Dropout(config.text.dropout)
        self.words = BertEmbedding(config.text)
        self.encoder = BertEncoder(config.text)
        self.masked_words = MaskedWordHead(config.text, self.words.word if config.tied else None)
        self.mask = SparseAttentionMask(config.masked_tokens, config.hard) if config.masked_tokens else None

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of the video tokens behind the encoder; what caption stands beside changes nothing."""
        if isinstance(source, Tokens):
            raise ConfigError("SwinBERT reads pixels [b 3 t h w], not tokens")
        check_source(source)
        maps = self.video.pyramid(self.normalise(source))
        tokens = self.encoder(self.embed(maps[-1]), self.attention_bias(maps[-1].shape[1:4].numel()))
        grid = (maps[-1].shape[1], maps[-1].shape[2], maps[-1].shape[3])
        pyramid = tuple(level.movedim(-1, 1) for level in maps)
        return Features(tokens, tokens.mean(1), pyramid, grid=grid)

    def embed(self, maps: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b m d"]:
        """Maps as tokens of the encoder."""
        return self.dropout(self.embed_features(self.features(maps.flatten(1, 3))))

    def watch(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b m d"]:
        """Video tokens of normalised pixels, before the encoder."""
        return self.embed(self.video(video))

    def attention_bias(self, tokens: int, words: int = 0) -> Float[Tensor, "1 1 n n"] | None:
        """What to add to the logits of attention over words, then video tokens; none where all is open.

        Raises:
            ConfigError: another number of video tokens than the learned mask's.
        """
        if self.mask is not None and len(self.mask) != tokens:
            raise ConfigError(
                f"the learned mask is for {len(self.mask)} video tokens, this video has {tokens}: give "
                "another number of frames or size, or call `mask_for` with what you have"
            )
        if self.mask is None and words == 0:
            return None
        device = self.features.weight.device
        own = torch.zeros(tokens, tokens, device=device) if self.mask is None else self.mask()
        later = torch.ones(words, words, device=device).triu(1) * BLOCKED
        above = F.pad(later, (0, tokens))
        below = F.pad(own, (words, 0), value=BLOCKED)
        return torch.cat([above, below])[None, None]

    def read(self, video: Float[Tensor, "b 3 t h w"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Logits of the words at every place of a caption, from normalised pixels."""
        return self.tell(self.watch(video), ids)

    def tell(self, tokens: Float[Tensor, "b m d"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Logits of the words at every place of a caption, from video tokens before the encoder."""
        words = self.words(ids)
        bias = self.attention_bias(tokens.shape[1], words.shape[1])
        out = self.encoder(torch.cat([words, tokens.to(words.dtype)], 1), bias)
        return self.masked_words(out[:, : words.shape[1]])

    def mask_for(
        self,
        frames: int,
        height: int,
        width: int,
        mode: str = "diagonal",
    ) -> None:
        """Replace the learned mask by one for videos of another length and size.

        Raises:
            ConfigError: there is no mask, or the old one does not fit into the new a whole number of times.
        """
        if self.mask is None:
            raise ConfigError("this model has no learned mask and takes every length and size")
        t, h, w = self.config.video.grid(frames, height, width)
        self.mask = self.mask.expand(t * h * w, mode)
        self.config = replace(self.config, {"masked_tokens": t * h * w})

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        window: Sequence[int] = (8, 7, 7),
        **config: Any,
    ) -> SwinBERT:
        """The model of an official `model.bin`.

        Args:
            state: names and tensors.
            heads: of the encoder of words; of 64 channels each when not given.
            window: of the encoder of pixels; (8, 12, 12) for 384 × 384.
            config: other fields that a checkpoint does not tell, such as `hard`.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        ours = rename_official(state)
        video = {n.removeprefix("video."): t for n, t in ours.items() if n.startswith("video.")}
        decoder, word = ours.get("masked_words.decoder.weight"), ours.get("words.word.weight")
        missing = {"features.weight", "masked_words.decoder.weight", "words.word.weight"} - ours.keys()
        if decoder is None or word is None or missing:
            raise ConfigError(f"this is no checkpoint of SwinBERT: no {', '.join(sorted(missing))}")
        told = {
            "video": video_swin_config(video, window),
            "text": bert_config(ours, heads),
            "features": len(ours["features.weight"]),
            "masked_tokens": len(ours["mask.weight"]) if "mask.weight" in ours else 0,
            "tied": torch.equal(decoder, word),
        }
        model = cls(replace(SwinBERTConfig(), told | config))
        load_strictly(model, ours)
        return model


UNUSED = ("bert.pooler.", "cls_img_feat.")


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of an official checkpoint → ours; the learned mask becomes square."""
    video, text, ours = {}, {}, {}
    for name, tensor in state.items():
        name = re.sub(r"(^|\.)(module|_checkpoint_wrapped_module)\.", r"\1", name)
        if name.startswith("swin."):
            video[name.removeprefix("swin.")] = tensor
        elif name.startswith("trans_encoder."):
            name = name.removeprefix("trans_encoder.")
            if not name.startswith(UNUSED):
                text[re.sub(r"^(bert|cls)\.", "", name)] = tensor
        elif name == "learn_vid_att.weight":
            side = round(tensor.numel() ** 0.5)
            ours["mask.weight"] = tensor.reshape(side, -1)
        else:
            ours[re.sub(r"^fc\.", "features.", name)] = tensor
    ours |= {f"video.{name}": tensor for name, tensor in rename_video_swin(video).items()}
    renamed = rename_bert(text)
    return ours | {re.sub(r"^img_embedding\.", "embed_features.", n): t for n, t in renamed.items()}
