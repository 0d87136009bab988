"""TokBench: can words still be read, and faces still be recognised, behind a tokenizer?

```
picture, boxes ──► s × s ──► tokenizer ──► own size ─┬─ crop of every word ──► recogniser ──► T-ACC, T-NED
                                                     └─ every face, aligned ─► embedder ────► F-Sim
original ────────────────────────────────────────────┴─ the same crops: what cannot be read is left out
```
From "TokBench: Evaluating Your Visual Tokenizer before Visual Generation" (2025). Figures are means of three
buckets of scale, each the mean of its words or faces; nothing is searched for in the reconstruction.

Deviations: words are read by PP-OCRv4, faces embedded by dlib's network (the paper: PARSeq, ArcFace), both of
which can be exchanged; pictures only, so a clip is given as its frames; the data are drawn or found here, as
the paper's are not in any package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.errors import MediaError
from smalti.evaluation.codecs import Coded
from smalti.evaluation.rate_distortion import Coder
from smalti.evaluation.tokbench_annotations import Annotated, Face, Word
from smalti.evaluation.tokbench_crops import aligned, crop, reconstructed
from smalti.evaluation.tokbench_faces import Embedder, Embedding
from smalti.evaluation.tokbench_scores import (
    BOUNDS,
    FaceRow,
    Scores,
    TextRow,
    bounds,
    bucket,
    face_similarity,
    scores,
    text_row,
)
from smalti.evaluation.tokbench_text import RapidOCR, Recognizer
from smalti.media.progress import Report as Progress
from smalti.media.progress import track

SHORTEST, LONGEST = 2, 22
SMALLEST = min(edges["text"][0] for edges in BOUNDS.values())

Picture = Float[Tensor, "3 h w"]


class Sample(NamedTuple):
    """A picture, RGB in [0, 1], and what is in it."""

    pixels: Float[Tensor, "3 h w"]
    annotated: Annotated


class Measured(NamedTuple):
    """A coder at one setting.

    Attributes:
        name: of the tokenizer or codec.
        quality: one of its settings.
        tokens: a picture; NaN of codecs.
        bits_per_pixel: of real files, over the s² pixels that the coder was given.
        psnr: dB, at the pictures' own size, so what resizing loses counts as well.
        scores: legibility and identity.
    """

    name: str
    quality: int
    tokens: float
    bits_per_pixel: float
    psnr: float
    scores: Scores


class ResizedOnly:
    """No tokenizer: what is lost by the setting's size alone, the most that any can reach."""

    name = "resized only"
    settings = (1,)

    def round_trip(self, pixels: Float[Tensor, "1 3 t h w"], setting: int, fps: float) -> Coded:
        """The pixels as they came, in 8 bits."""
        return Coded(pixels.numel(), pixels.mul(255).round().div(255), 0.0, 0.0)


class TokBench:
    """The benchmark with its two judges.

    Args:
        recognizer: reads words; `RapidOCR` when not given.
        embedder: embeds faces; `Embedding` when not given.

    Raises:
        UnsupportedError: onnxruntime is not installed, or a judge cannot be fetched.
        IntegrityError: a judge is not the one that was published.
    """

    def __init__(self, recognizer: Recognizer | None = None, embedder: Embedder | None = None) -> None:
        self.recognizer = recognizer or RapidOCR()
        self.embedder = embedder or Embedding()

    def curate(self, pixels: Picture, annotated: Annotated) -> Annotated:
        """Only the words that the recogniser reads exactly in the original.

        Also left out are words of fewer than 2 or more than 22 characters, with characters that the
        recogniser does not know, or smaller than any bucket; faces without area in the picture.

        Raises:
            MediaError: the picture has not the size that the annotations give.
        """
        _check_size(pixels, annotated)
        legible = [
            word
            for word in annotated.words
            if SHORTEST <= len(word.text) <= LONGEST
            and word.ratio >= SMALLEST
            and self.recognizer.vocabulary.issuperset(word.text)
        ]
        readings = self._read(pixels, legible)
        words = (word for word, reading in zip(legible, readings, strict=True) if reading == word.text)
        return replace(annotated, words=tuple(words))

    def measure(
        self, original: Picture, reconstruction: Tensor, annotated: Annotated, setting: int
    ) -> tuple[list[TextRow], list[FaceRow]]:
        """A row for every word and face of one picture that a bucket of the setting takes.

        Raises:
            ConfigError: a setting that TokBench does not have.
            MediaError: original, reconstruction and annotations differ in size.
        """
        _check_size(original, annotated)
        _check_size(reconstruction, annotated)
        words = [word for word in annotated.words if bucket(word.ratio, setting, "text") is not None]
        faces = [face for face in annotated.faces if bucket(face.ratio, setting, "face") is not None]
        readings = self._read(reconstruction, words)
        texts = [
            text_row(annotated.name, word.text, reading, word.ratio)
            for word, reading in zip(words, readings, strict=True)
        ]
        if not faces:
            return texts, []
        similar = face_similarity(self._embed(original, faces), self._embed(reconstruction, faces))
        rows = (
            FaceRow(annotated.name, face.ratio, value)
            for face, value in zip(faces, similar.tolist(), strict=True)
        )
        return texts, list(rows)

    def evaluate(
        self,
        originals: Mapping[str, Picture],
        reconstructions: Mapping[str, Picture],
        annotations: Iterable[Annotated],
        setting: int,
    ) -> Scores:
        """Scores of pictures that were reconstructed elsewhere.

        Args:
            originals, reconstructions: by name, at the original size, RGB in [0, 1].
            annotations: of the originals; curate them first.
            setting: pixels a side at which the tokenizer worked.

        Raises:
            ConfigError: a setting that TokBench does not have.
            MediaError: a picture is missing or has another size.
        """
        bounds(setting, "text")
        words: list[TextRow] = []
        faces: list[FaceRow] = []
        for each in annotations:
            for pictures, what in ((originals, "original"), (reconstructions, "reconstruction")):
                if each.name not in pictures:
                    raise MediaError(f"no {what} of {each.name}: names must be those of the annotations")
            rows = self.measure(originals[each.name], reconstructions[each.name], each, setting)
            words += rows[0]
            faces += rows[1]
        return scores(words, faces, setting)

    def run(
        self,
        samples: Sequence[Sample],
        coder: Coder,
        setting: int,
        quality: int | None = None,
        progress: bool | Progress | None = None,
    ) -> Measured:
        """A tokenizer or codec on curated pictures at one setting.

        Args:
            samples: at least one.
            coder: what is measured.
            setting: pixels a side of the square that it is given: 256, 512 or 1024.
            quality: one of the coder's settings; its last when not given.
            progress: see `smalti.media.progress.track`.

        Raises:
            ConfigError: a setting that TokBench does not have.
        """
        bounds(setting, "text")
        quality = coder.settings[-1] if quality is None else quality
        words: list[TextRow] = []
        faces: list[FaceRow] = []
        coded: list[Coded] = []
        errors: list[float] = []
        for sample in track(samples, f"{coder.name} at {setting}", len(samples), progress):
            back, result = reconstructed(sample.pixels, coder, quality, setting)
            rows = self.measure(sample.pixels, back, sample.annotated, setting)
            words += rows[0]
            faces += rows[1]
            coded.append(result._replace(pixels=back[:0]))
            errors.append((back - sample.pixels).square().mean().item())
        decibels = [-10 * math.log10(error) if error else math.inf for error in errors]
        return Measured(
            coder.name,
            quality,
            fmean(each.tokens for each in coded),
            8 * fmean(each.bytes for each in coded) / setting**2,
            fmean(decibels),
            scores(words, faces, setting),
        )

    def strangers(self, samples: Iterable[Sample]) -> float:
        """Mean cosine of the first faces of different pictures: what F-Sim is when identity is lost.

        NaN with fewer than two pictures with faces.
        """
        firsts = [self._embed(s.pixels, s.annotated.faces[:1]) for s in samples if s.annotated.faces]
        if len(firsts) < 2:
            return math.nan
        unit = torch.nn.functional.normalize(torch.cat(firsts), dim=1)
        cosines = unit @ unit.T
        count = len(unit)
        return ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item()

    def _read(self, pixels: Picture, words: Sequence[Word]) -> list[str]:
        return self.recognizer([crop(pixels, word.box) for word in words]) if words else []

    def _embed(self, pixels: Picture, faces: Sequence[Face]) -> Float[Tensor, "n d"]:
        """Both pictures are aligned by the original's key points."""
        template, side = self.embedder.template, self.embedder.side
        return self.embedder(
            torch.stack([aligned(pixels, torch.tensor(face.points), template, side) for face in faces])
        )


def _check_size(pixels: Tensor, annotated: Annotated) -> None:
    if tuple(pixels.shape) != (3, annotated.height, annotated.width):
        raise MediaError(
            f"{annotated.name}: pixels [3, {annotated.height}, {annotated.width}] are annotated, "
            f"these are {list(pixels.shape)}"
        )
