"""A tokenizer and its file format, measured like a codec.

```
pixels ──► encode ──► Tokens ──► write ──► file, whose size is the rate ──► read ──► decode ──► pixels
```
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import MediaError
from smalti.evaluation.codecs import Coded
from smalti.tokenizers.base import Tokenizer
from smalti.tokens import Tokens


@dataclass(frozen=True)
class CodebookUsage:
    """How much of a codebook was used.

    Attributes:
        size: values that a code can take.
        used: of these, how many appeared.
        perplexity: how many equally likely values would carry the same information.
    """

    size: int
    used: int
    perplexity: float


@dataclass(frozen=True)
class TokenFormat:
    """The file format: how tokens are written and read.

    Attributes:
        write: as `smalti.save_tokens`; the size of the file is what counts.
        read: as `smalti.load_tokens`.
    """

    write: Callable[[Tokens, Path, Tokenizer], None]
    read: Callable[[Path], Tokens]


class TokenCoder:
    """A tokenizer at every quality, through real files.

    Args:
        tokenizer: encodes and decodes.
        format: the files.
        name: as tables print it.
        qualities: those to measure; none: all.

    Raises:
        ConfigError: a quality that the tokenizer does not have.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        format: TokenFormat,
        name: str,
        qualities: tuple[int, ...] | None = None,
    ) -> None:
        self.tokenizer, self.format, self.name = tokenizer, format, name
        self.settings = qualities or tuple(range(1, len(tokenizer.stages) + 1))
        self._codes = {quality: tokenizer.codes_at(quality) for quality in self.settings}
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in tokenizer.codebook_sizes]

    def round_trip(self, pixels: Float[Tensor, "1 3 t h w"], setting: int, fps: float) -> Coded:
        """Encode to a file and decode from it.

        Raises:
            MediaError: what comes back has another shape.
        """
        with tempfile.TemporaryDirectory(prefix="smalti-evaluation-") as folder:
            path = Path(folder) / "tokens.smt"
            started = time.perf_counter()
            tokens = _with_fps(self.tokenizer.encode(pixels, setting), fps)
            self.format.write(tokens, path, self.tokenizer)
            encoded = time.perf_counter()
            size = path.stat().st_size
            back = self.tokenizer.decode(self.format.read(path))
            decoded = time.perf_counter()
        if back.shape != pixels.shape:
            raise MediaError(f"{self.name} gave {tuple(back.shape)} back for {tuple(pixels.shape)}")
        if tokens.ids is not None and setting == self.settings[-1]:
            self._count(tokens.ids)
        codes = self._codes[setting]
        bits = sum(map(math.log2, self.tokenizer.codebook_sizes[:codes])) if codes else math.nan
        return Coded(size, back, encoded - started, decoded - encoded, float(len(tokens)), len(tokens) * bits)

    def usage(self) -> list[CodebookUsage]:
        """Use of every codebook at the highest quality measured, over all that went through so far."""
        return [_usage(counts) for counts in self._counts if counts.any()]

    def _count(self, ids: Int[Tensor, "b n q"]) -> None:
        for counts, codes in zip(self._counts, ids.flatten(0, 1).unbind(-1), strict=False):
            counts += torch.bincount(codes.cpu().long(), minlength=len(counts))


def _with_fps(tokens: Tokens, fps: float) -> Tokens:
    if tokens.source is None or tokens.source.frames == 1:
        return tokens
    return dataclasses.replace(tokens, source=dataclasses.replace(tokens.source, fps=fps))


def _usage(counts: Int[Tensor, "k"]) -> CodebookUsage:
    shares = counts[counts > 0].double() / counts.sum()
    entropy = -(shares * shares.log()).sum()
    return CodebookUsage(len(counts), len(shares), entropy.exp().item())
