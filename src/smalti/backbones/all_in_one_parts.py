"""The doors of All in One: words and pictures on their way in, heads on the way out."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.rows import take

BERT_EPS = 1e-12


class Words(nn.Module):
    """BERT's embedding: word, position and kind of sentence, then a norm.

    Args:
        dim: channels.
        vocabulary: ids.
        length: positions.
        dropout: of the result.
    """

    def __init__(self, dim: int, vocabulary: int, length: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(length, dim)
        self.sentence = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, BERT_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Words of the first kind of sentence.

        Raises:
            ConfigError: an empty text, or one longer than the positions.
            FormatError: ids outside the vocabulary.
        """
        length, limit = ids.shape[1], self.position.num_embeddings
        if not 0 < length <= limit:
            raise ConfigError(f"a text has 1 to {limit} tokens, not {length}: cut or fill it")
        if not (ids.is_meta or torch.compiler.is_compiling()):
            low, high, size = int(ids.min()), int(ids.max()), self.word.num_embeddings
            if low < 0 or high >= size:
                raise FormatError(f"ids lie in [{low}, {high}], outside [0, {size - 1}]")
        x = self.word(ids) + self.position.weight[:length] + self.sentence.weight[0]
        return self.dropout(self.norm(x))


class Pictures(nn.Module):
    """Frames → patches with their places and times, class token first.

    Args:
        dim: channels.
        patch: pixels of a patch's side.
        size: pixels of the side that the table of places was made for.
        frames: that the table of times was made for.
        stretch: of that table, "zeros" or "linear".
        shuffle: "official" puts the patches of every frame in an order of its own.
        padding: "pixels" leaves out patches that start with exact grey.
    """

    def __init__(
        self,
        dim: int,
        patch: int,
        size: int,
        frames: int,
        stretch: Literal["zeros", "linear"],
        shuffle: Literal["none", "official"],
        padding: Literal["none", "pixels"],
    ) -> None:
        super().__init__()
        self.patch, self.side = patch, size // patch
        self.stretch, self.shuffle, self.padding = stretch, shuffle, padding
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.places = nn.Parameter(torch.zeros(1, 1 + self.side**2, dim))
        self.times = nn.Parameter(torch.zeros(1, frames, dim))
        for table in (self.class_token, self.places):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(
        self, video: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, "bt n d"], Bool[Tensor, "bt n"]]:
        """Tokens of every frame, and which are real."""
        batch, _, frames, height, width = video.shape
        x = rearrange(video, "b c t h w -> (b t) c h w").to(self.patches.weight.dtype)
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        maps = self.patches(x)
        real = self._real(x, maps)
        tokens = maps.flatten(2).mT + self._places(real)
        real = real.flatten(1)
        if self.shuffle == "official":
            order = torch.rand(real.shape, device=real.device).argsort(1)
            tokens, real = take(tokens, order), real.gather(1, order)
        tokens = tokens + self.table_of_times(frames)[0].repeat(batch, 1)[:, None]
        first = (self.class_token + self.places[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([first, tokens], 1), F.pad(real, (1, 0), value=True)

    def table_of_times(self, frames: int) -> Float[Tensor, "1 t d"]:
        """For any number of frames."""
        had = self.times.shape[1]
        if self.stretch == "zeros" or frames == had:
            return F.pad(self.times[:, :frames], (0, 0, 0, max(frames - had, 0)))
        return F.interpolate(self.times.mT, frames, mode="linear", align_corners=True).mT

    def _real(
        self, frames: Float[Tensor, "bt 3 h w"], maps: Float[Tensor, "bt d y x"]
    ) -> Bool[Tensor, "bt y x"]:
        if self.padding == "none":
            return torch.ones_like(maps[:, 0], dtype=torch.bool)
        return frames[:, :, :: self.patch, :: self.patch].sum(1) != 0

    def _places(self, real: Bool[Tensor, "bt y x"]) -> Float[Tensor, "#bt n d"]:
        """The table of places over the real part of every frame, which starts at its first corner."""
        if self.padding == "none":
            return self._stretched(*real.shape[1:], *real.shape[1:])
        extents = [(int(frame[:, 0].sum()), int(frame[0].sum())) for frame in real]
        tables = {extent: self._stretched(*extent, *real.shape[1:]) for extent in set(extents)}
        return torch.cat([tables[extent] for extent in extents])

    def _stretched(self, height: int, width: int, rows: int, columns: int) -> Float[Tensor, "1 n d"]:
        maps = rearrange(self.places[:, 1:], "1 (y x) d -> 1 d y x", y=self.side)
        if not height or not width:
            return torch.zeros_like(maps[:, :, :1, :1]).expand(-1, -1, rows, columns).flatten(2).mT
        if (height, width) != (self.side, self.side):
            maps = F.interpolate(maps.float(), (height, width), mode="bilinear", align_corners=True)
        return F.pad(maps.to(self.places.dtype), (0, columns - width, 0, rows - height)).flatten(2).mT


class MaskedWordHead(nn.Module):
    """What a masked word was.

    Args:
        dim: channels.
        vocabulary: words.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, BERT_EPS)
        self.decoder = nn.Linear(dim, vocabulary)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch v"]:
        """Logits of words."""
        return self.decoder(self.norm(F.gelu(self.dense(x))))


class MatchHead(nn.Linear):
    """Whether a text belongs to a video: logits of no and yes."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 2)


def answer_head(dim: int, answers: int) -> nn.Sequential:
    """Logits of the answers to open questions."""
    half = dim // 2
    return nn.Sequential(
        nn.Dropout(0.5), nn.Linear(dim, half), nn.LayerNorm(half), nn.GELU(), nn.Linear(half, answers)
    )
