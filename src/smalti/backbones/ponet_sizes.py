"""PoNet's configurations, and those that were published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smalti.errors import ConfigError


@dataclass(frozen=True)
class PoNetWords:
    """The form for text and other sequences of ids.

    Attributes:
        vocabulary: ids.
        positions: longest text.
        types: kinds of sentences; none when 0.
        separators: ids that are segments by themselves and cut the text between them; none cuts `pieces`.
        pieces: equal segments that a text without separators is cut into, by the official formula.
    """

    vocabulary: int = 30522
    positions: int = 512
    types: int = 2
    separators: tuple[int, ...] = (101, 102)
    pieces: int = 1


@dataclass(frozen=True)
class PoNetPictures:
    """The form for pictures, which is not the paper's: neighbours and segments lie in two dimensions.

    Attributes:
        side: pixels of height and width that the table of positions was made for.
        patch: pixels a side.
        window: patches a side of a segment.
    """

    side: int = 224
    patch: int = 16
    window: int = 4


@dataclass(frozen=True)
class PoNetConfig:
    """Attributes:
    dim: channels.
    depth: blocks.
    heads: that divide the channels.
    hidden: channels of the MLP.
    pre_norm: norms before branches and at the end, as on the Long Range Arena; else after them, as BERT.
    kernel: neighbours that are pooled, odd.
    isolate: separators take nothing from neighbours and segments, and give neighbours nothing.
    pooling: "first" token, through a layer and tanh; "mean" of real tokens; or "padded-mean", which
        divides by all of them, as official on the Long Range Arena.
    head: "pretraining" (masked words, order of sentences), "classify", "pair" of texts, or "none".
    classes: of the head; kinds of order when pretraining.
    eps: of all norms.
    dropout: of embeddings and branches.
    words: the form for ids; or
    pictures: the form for pixels.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    pre_norm: bool = False
    kernel: int = 3
    isolate: bool = True
    pooling: Literal["first", "mean", "padded-mean"] = "first"
    head: Literal["pretraining", "classify", "pair", "none"] = "pretraining"
    classes: int = 3
    eps: float = 1e-12
    dropout: float = 0.1
    words: PoNetWords | None = PoNetWords()
    pictures: PoNetPictures | None = None

    def __post_init__(self) -> None:
        if (self.pictures is None) == (self.words is None):
            raise ConfigError("choose one of pictures and words, and leave the other out")
        if self.dim % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide {self.dim} channels")
        if self.kernel % 2 == 0 or self.kernel < 1:
            raise ConfigError(f"a kernel has a middle: {self.kernel} is not odd")
        if self.words is not None and self.words.pieces < 1:
            raise ConfigError(f"a text is cut into 1 piece or more, not {self.words.pieces}")
        if self.pictures is not None and self.head in ("pretraining", "pair"):
            raise ConfigError(f"head {self.head!r} is for words: choose classify or none")


def _arena(
    vocabulary: int, positions: int, pieces: int, classes: int, head: Literal["classify", "pair"] = "classify"
) -> PoNetConfig:
    words = PoNetWords(vocabulary, positions, types=0, separators=(), pieces=pieces)
    return PoNetConfig(
        64, 2, 2, 128, True, pooling="padded-mean", head=head, classes=classes, eps=1e-5, words=words
    )


PRESETS = {
    "base-uncased": PoNetConfig(),
    "lra-listops": _arena(32, 2000, 64, 10),
    "lra-text": _arena(512, 4000, 4096, 2),
    "lra-retrieval": _arena(512, 4000, 64, 2, "pair"),
    "lra-image": _arena(512, 1024, 32, 10),
    "lra-pathfinder": _arena(512, 1024, 1, 2),
    "picture-s": PoNetConfig(
        384,
        heads=6,
        hidden=1536,
        pre_norm=True,
        pooling="mean",
        head="classify",
        classes=1000,
        eps=1e-6,
        dropout=0.0,
        words=None,
        pictures=PoNetPictures(),
    ),
}
