"""PoNet: tokens mixed by pooling over all, over segments and over neighbours, for text and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import frames_of, over_time, resample_positions
from smalti.backbones.ponet_mixing import Places, PoNetBlock
from smalti.backbones.ponet_official import rename_official
from smalti.backbones.ponet_sizes import PRESETS, PoNetConfig, PoNetWords
from smalti.errors import ConfigError, FormatError
from smalti.nn.flops import count_flops
from smalti.nn.strict_loading import load_strictly
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


class MaskedWords(nn.Module):
    """What a masked word was: a layer, then products with the embedding of every word."""

    def __init__(self, dim: int, words: nn.Embedding, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps)
        self.decoder = nn.Linear(dim, words.num_embeddings)
        self.decoder.weight = words.weight

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        """Logits of words."""
        return self.decoder(self.norm(F.gelu(self.dense(x))))


@system(
    "ponet",
    room="backbones",
    paper=Paper(
        "PoNet: Pooling Network for Efficient Token Mixing in Long Sequences",
        2022,
        "https://arxiv.org/abs/2110.02442",
    ),
    official=Official("lxchtan/PoNet", "Apache-2.0"),
    presets=PRESETS,
    tags=("text", "image", "linear", "pooling", "long"),
)
class PoNet(Backbone):
    """PoNet (Tan et al., 2022): three granularities of pooling in the place of attention, at linear cost.

    ```
    Tokens.ids [b n 1] ─► embedding + position (+ type) ─┐
    pixels [b 3 t h w] ─► patches + position            ─┼─► blocks ─► Features ─► heads
    Tokens.values [b n d] ───────────────────────────────┘
    ```
    Ids of BERT's uncased vocabulary; text up to its table of positions. Pictures of any size are padded with
    zeros to whole patches; every frame by itself. Official pretraining: masked words and the order of
    sentences (next, previous, random), Adam 1e-4, 5,000 steps of warm-up, batches of 192; on the Long Range
    Arena Adam 1e-4 and linear decay. Deviations: a batch row that is all padding gives numbers, not NaN; the
    form for pictures is ours.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: the other form's source, empty text, or text longer than the positions.
        FormatError: ids outside the vocabulary.
    """

    def __init__(self, config: PoNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PoNetConfig()
        if config.words is not None:
            self.word = nn.Embedding(config.words.vocabulary, config.dim)
            self.position = nn.Embedding(config.words.positions, config.dim)
            self.sentence = nn.Embedding(config.words.types, config.dim) if config.words.types else None
        if config.pictures is not None:
            side = config.pictures.side // config.pictures.patch
            self.patches = nn.Conv2d(3, config.dim, config.pictures.patch, config.pictures.patch)
            self.positions = nn.Parameter(torch.zeros(1, side * side, config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PoNetBlock(
                config.dim,
                config.heads,
                config.hidden,
                pre_norm=config.pre_norm,
                kernel=config.kernel,
                eps=config.eps,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, config.eps)  # of the embedding, or at the end
        self.pooler = nn.Linear(config.dim, config.dim) if config.pooling == "first" else None
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not name.startswith("patches"):
                nn.init.normal_(parameter, std=0.02)
        self.masked_words = (
            MaskedWords(config.dim, self.word, config.eps) if config.head == "pretraining" else None
        )
        self.head = _head(config)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1], of ids, or of values that lie on a grid or in a row."""
        if isinstance(source, Tokens):
            return self.read(source)
        if self.config.pictures is None:
            raise ConfigError("this preset reads Tokens with ids: choose 'picture-s' for pixels")
        frames = self.normalise(frames_of(source)[:, :, None])[:, :, 0]
        return over_time(self.look(frames), source.shape[2])

    def look(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        if self.config.pictures is None:
            raise ConfigError("this preset reads Tokens with ids: choose 'picture-s' for pixels")
        patch, height, width = self.config.pictures.patch, *frames.shape[2:]
        frames = F.pad(frames.to(self.patches.weight.dtype), (0, -width % patch, 0, -height % patch))
        maps = self.patches(frames)
        rows, columns = maps.shape[2:]
        side = self.config.pictures.side // patch
        places = resample_positions(self.positions, (side, side), (rows, columns))
        x = rearrange(maps, "b d h w -> b (h w) d") + places
        return self._through(x, Places(grid=(rows, columns), window=self.config.pictures.window))

    def read(
        self,
        tokens: Tokens,
        types: Int[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Features:
        """Features of ids or values.

        Args:
            tokens: ids of the vocabulary, or values of the model's channels, as they enter the first block.
            types: of sentences, 0 when not given.
            segments: number of every token's segment, 0 … n − 1; by separators, pieces or windows when not
                given.
        """
        words, pictures = self.config.words, self.config.pictures
        if len(tokens) == 0:
            raise ConfigError("the text is empty: give at least one token")
        if segments is not None and not _compiling(segments) and not _within(segments, len(tokens)):
            raise ConfigError(f"segments of {len(tokens)} tokens must be numbered 0 to {len(tokens) - 1}")
        if words is None or tokens.ids is None:
            if tokens.values is None or tokens.values.shape[2] != self.config.dim:
                raise ConfigError(f"this preset reads values of {self.config.dim} channels")
            pieces, grid = words.pieces if words else 1, None
            if pictures is not None and tokens.grid is not None and tokens.grid[0] == 1 and segments is None:
                grid = tokens.grid[1:]
            window = pictures.window if pictures else 1
            places = Places(segments, pieces, tokens.mask, grid=grid, window=window)
            return self._through(tokens.values, places)
        ids = tokens.ids[..., 0]
        special = None
        if words.separators and segments is None:
            segments = text_segments(ids, words.separators)
        if words.separators and self.config.isolate:
            special = torch.isin(ids, torch.tensor(words.separators, device=ids.device))
        return self._through(self._embed(ids, types), Places(segments, words.pieces, tokens.mask, special))

    def _embed(self, ids: Int[Tensor, "b n"], types: Int[Tensor, "b n"] | None) -> Float[Tensor, "b n d"]:
        length, limit = ids.shape[1], self.position.num_embeddings
        if length > limit:
            raise ConfigError(f"a text of {length} tokens is longer than {limit} positions: cut it")
        if not _compiling(ids) and not _within(ids, self.word.num_embeddings):
            size = self.word.num_embeddings
            raise FormatError(f"ids lie in [{int(ids.min())}, {int(ids.max())}], outside [0, {size - 1}]")
        x = self.word(ids) + self.position.weight[:length]
        if self.sentence is not None:
            x = x + self.sentence(torch.zeros_like(ids) if types is None else types)
        return self.dropout(x if self.config.pre_norm else self.norm(x))

    def _through(self, x: Float[Tensor, "b n d"], places: Places) -> Features:
        for block in self.blocks:
            x = block(x, places)
        real = places.mask
        if self.config.pre_norm:
            x = self.norm(x) if real is None else self.norm(x) * real[..., None]
        if self.pooler is not None:
            pooled = self.pooler(x[:, 0]).tanh()
        elif real is None or self.config.pooling == "padded-mean":
            pooled = x.mean(1)
        else:
            pooled = (x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        grid = None if places.grid is None else (1, *places.grid)
        return Features(x, pooled, grid=grid, mask=real)

    def classify(self, features: Features, other: Features | None = None) -> Float[Tensor, "b k"]:
        """Logits of classes, of the order of sentences, or of how a pair of texts relates."""
        if self.head is None or (self.config.head == "pair") != (other is not None):
            raise ConfigError(f"the head {self.config.head!r} does not take this number of features")
        a = features.pooled
        if other is None:
            return self.head(a)
        return self.head(torch.cat([a, other.pooled, a * other.pooled, a - other.pooled], 1))

    def flops(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of one forward on pixels [b 3 t h w] or ids [b n], without heads."""
        if self.config.words is None:
            return super().flops(shape)
        ids = torch.zeros(*shape, 1, dtype=torch.long, device=self.norm.weight.device)
        with torch.no_grad():
            return int(count_flops(self, Tokens(ids=ids)))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> PoNet:
        """The model of an official checkpoint: BERT's layout, or that of the Long Range Arena.

        Args:
            state: names and tensors.
            config: what they do not tell, such as `heads` of another width than 64 (BERT) or 32 (Arena);
                `words` with the task's `pieces`.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = rename_official(state)
        if "word.weight" not in ours or "blocks.0.mlp.fc1.weight" not in ours:
            raise ConfigError("this is no checkpoint of a PoNet: embeddings or blocks are missing")
        pre_norm = "sentence.weight" not in ours
        vocabulary, dim = ours["word.weight"].shape
        words = PoNetWords(vocabulary, len(ours["position.weight"]))
        if pre_norm:
            words = replace(words, {"types": 0, "separators": ()})
        told: dict[str, Any] = {
            "dim": dim,
            "depth": len({name.split(".")[1] for name in ours if name.startswith("blocks.")}),
            "heads": max(dim // (32 if pre_norm else 64), 1),
            "hidden": len(ours["blocks.0.mlp.fc1.weight"]),
            "pre_norm": pre_norm,
            "pooling": "first" if "pooler.weight" in ours else "padded-mean" if pre_norm else "mean",
            "eps": 1e-5 if pre_norm else 1e-12,
            "words": words,
            "head": "none",
        }
        if "masked_words.norm.weight" in ours:
            told |= {"head": "pretraining", "classes": len(ours["head.weight"])}
            ours["masked_words.decoder.weight"] = ours["word.weight"]
        elif "head.0.weight" in ours:
            pair = ours["head.0.weight"].shape[1] == 4 * dim
            told |= {"head": "pair" if pair else "classify", "classes": len(ours["head.2.weight"])}
        model = cls(replace(PoNetConfig(), told | config))
        load_strictly(model, ours)
        return model


def _head(config: PoNetConfig) -> nn.Module | None:
    if config.head == "none":
        return None
    if config.head == "pretraining":
        return nn.Linear(config.dim, config.classes)
    width = config.dim * (4 if config.head == "pair" else 1)
    return nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.classes))


def _compiling(numbers: Tensor) -> bool:
    return numbers.is_meta or torch.compiler.is_compiling()


def _within(numbers: Tensor, size: int) -> bool:
    return bool(numbers.min() >= 0) and bool(numbers.max() < size)


def text_segments(ids: Int[Tensor, "b n"], separators: tuple[int, ...]) -> Int[Tensor, "b n"]:
    """Numbers of segments: every separator is one, and so is all that lies between two of them."""
    special = torch.isin(ids, torch.tensor(separators, device=ids.device)).long()
    after = F.pad(special, (1, 0))[:, :-1]
    number = (special | after).cumsum(1)
    return number - number[:, :1]
