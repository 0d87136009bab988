"""What is said about scenes of small worlds: captions, questions with answers, and their vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from smalti.errors import ConfigError, nearest
from smalti.media.worlds.motion import Thing
from smalti.media.worlds.scene import COLOURS, DIRECTIONS, KINDS, RADII, Scene, heading

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
VERBS = ("bounces", "hits", "passes", "appears", "enters", "leaves")
TURNS = ("bounces", "hits")  # after these a thing moves elsewhere
FASTER = 1.5  # times as fast, to be asked about
PAD, CLS, SEP, MASK = SPECIAL = ("[pad]", "[cls]", "[sep]", "[mask]")


class Question(NamedTuple):
    """Attributes:
    kind: "colour", "shape", "size", "number", "direction", "faster" or "first".
    text: in words of the vocabulary.
    answer: one word.
    """

    kind: str
    text: str
    answer: str


def caption(scene: Scene) -> str:
    """What the actor does: "a red square moves left and hits a blue circle"."""
    actor = f"a {named(scene.things[0])}"
    moves = f"moves {scene.direction}"
    other = f"a {named(scene.things[1])}" if len(scene.things) > 1 else ""
    return {
        "rests": f"{actor} rests",
        "moves": f"{actor} {moves}",
        "bounces": f"{actor} {moves} and bounces",
        "hits": f"{actor} {moves} and hits {other}",
        "passes": f"{actor} {moves} and passes behind {other}",
        "appears": f"{actor} appears and {moves}",
        "enters": f"{actor} enters and {moves}",
        "leaves": f"{actor} {moves} and leaves",
    }[scene.plot]


def named(thing: Thing) -> str:
    """Its colour and kind."""
    return f"{thing.colour} {thing.kind}"


def plural(kind: str) -> str:
    """Several of a kind."""
    return kind + ("es" if kind.endswith("s") else "s")


def questions(scene: Scene) -> tuple[Question, ...]:
    """All that can be asked about a scene and has one answer."""
    return tuple(_questions(scene))


def _questions(scene: Scene) -> Iterator[Question]:
    things = scene.things
    yield Question("number", "how many things are there ?", NUMBERS[len(things)])
    for kind in sorted({thing.kind for thing in things}):
        alike = [thing for thing in things if thing.kind == kind]
        yield Question("number", f"how many {plural(kind)} are there ?", NUMBERS[len(alike)])
        if len(alike) == 1:
            yield Question("colour", f"what colour is the {kind} ?", alike[0].colour)
    turned = {
        number for event in scene.events if event.verb in TURNS for number in (event.actor, event.other)
    }
    for number, thing in enumerate(things):
        yield Question("shape", f"what shape is the {thing.colour} thing ?", thing.kind)
        yield Question("size", f"how big is the {named(thing)} ?", thing.size)
        if thing.velocity != (0.0, 0.0) and number not in turned:
            yield Question("direction", f"where does the {named(thing)} move ?", heading(thing.velocity))
    speeds = _speeds(scene)
    for i, j in combinations(range(len(things)), 2):
        slow, fast = sorted((i, j), key=lambda number: speeds[number])
        if speeds[fast] > max(FASTER * speeds[slow], 1e-6):
            text = f"which moves faster , the {named(things[i])} or the {named(things[j])} ?"
            yield Question("faster", text, things[fast].colour)
    if len(scene.events) > 1:
        first, then = scene.events[:2]
        if first.frame < then.frame and first.verb != then.verb:
            yield Question("first", "what happens first ?", first.verb)


def _speeds(scene: Scene) -> list[float]:
    """Mean pixels a frame of every thing while it is there."""
    steps = np.linalg.norm(np.diff(scene.tracks.centres, axis=1), axis=-1)
    both = scene.tracks.present[:, 1:] & scene.tracks.present[:, :-1]
    return [
        float(step[there].mean()) if there.any() else 0.0 for step, there in zip(steps, both, strict=True)
    ]


@dataclass(frozen=True)
class Vocabulary:
    """Words and their numbers.

    Attributes:
        words: in order of their numbers; the first are "[pad]", "[cls]", "[sep]" and "[mask]".
    """

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int:
        """The number of a word.

        Raises:
            ConfigError: a word that is not in it.
        """
        if word not in self.words:
            raise ConfigError(f"the vocabulary has no word {word!r}: {nearest(word, self.words)}")
        return self.words.index(word)

    def encode(self, texts: Sequence[str], length: int | None = None) -> Int[Tensor, "b l"]:
        """Numbers of the words of every text, between "[cls]" and "[sep]", filled up with "[pad]".

        Args:
            texts: of words with spaces between them.
            length: of all rows; that of the longest text where not given.

        Raises:
            ConfigError: a word that is unknown, or a text too long.
        """
        rows = [[self.number(word) for word in (CLS, *text.split(), SEP)] for text in texts]
        longest = max(map(len, rows), default=0)
        length = longest if length is None else length
        if longest > length:
            raise ConfigError(f"a text of {longest} words, with its ends, does not fit into {length}")
        pad = self.number(PAD)
        return torch.tensor([row + [pad] * (length - len(row)) for row in rows]).view(len(rows), length)

    def decode(self, numbers: Sequence[int] | Int[Tensor, "l"]) -> str:
        """The words up to "[sep]", special ones left out."""
        words = []
        for number in numbers:
            word = self.words[int(number)]
            if word == SEP:
                break
            if word not in SPECIAL:
                words.append(word)
        return " ".join(words)


ANSWERS = (*COLOURS, *KINDS, *RADII, *NUMBERS, *DIRECTIONS, *VERBS)
_OTHERS = (
    "a and are behind colour does faster first happens how is many move moves or rests shape the there thing "
    "things what where which big ? ,"
)
VOCABULARY = Vocabulary((*SPECIAL, *dict.fromkeys((*ANSWERS, *map(plural, KINDS), *_OTHERS.split()))))
