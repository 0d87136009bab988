"""The functions of everyday use: encode, decode, save, load.

```
path | array | Tensor | picture ── encode ──► Tokens ── decode ──► pixels [b 3 t h w]
                                   Tokens ── save_tokens ──► file.smt ── load_tokens ──► Tokens
                                      name | path | hub id ── load ──► Tokenizer
```

`tokenizer` may be anywhere a name that `smalti.systems("tokenizers")` knows, a file or folder of weights, an
id on the Hugging Face hub, or a tokenizer itself.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from smalti import codec, media, registry, weights
from smalti.codec.coders import GENERIC
from smalti.errors import ConfigError, UnsupportedError, nearest
from smalti.tokenizers.base import Tokenizer
from smalti.tokens import Tokens

StrPath = str | os.PathLike[str]
WHOLE = 1 << 31  # grids: one chunk holds all


def encode(
    source: StrPath | np.ndarray | Tensor | Image,
    tokenizer: StrPath | Tokenizer = "mosaic",
    quality: int | None = None,
    **options: Any,
) -> Tokens:
    """Tokens of a picture or clip of any size and length.

    Args:
        source: a file; an array or tensor, [h w 3], [t h w 3] or [b 3 t h w]; or a Pillow picture.
        tokenizer: see the module.
        quality: 1 to `len(tokenizer.stages)`; the highest when not given.
        options: for files, those of `smalti.media.read`: `size`, `frames`, `fps`, `start`, `end`, `budget`, …

    Returns:
        ids [b n q] with their grid, and the source's size, frames and times.

    Raises:
        MediaError: the source cannot be read, or its values mean nothing.
        BudgetError: the source is larger than the budget allows.
        ConfigError: a tokenizer or quality that does not exist.
    """
    tokenizer = load(tokenizer)
    if not isinstance(source, str | os.PathLike):
        return tokenizer.encode(media.as_pixels(source, **options), quality)
    whole = media.read(source, **options)
    tokens = tokenizer.encode(whole.pixels, quality)
    if tokens.source is None or tokens.source.frames == 1:
        return tokens
    times = whole.times if whole.fps is None else None
    return dataclasses.replace(tokens, source=dataclasses.replace(tokens.source, fps=whole.fps, times=times))


def decode(tokens: Tokens, tokenizer: StrPath | Tokenizer = "mosaic") -> Float[Tensor, "b 3 t h w"]:
    """Pixels in [0, 1], of the size and length that were encoded.

    Raises:
        FormatError: ids that no codebook holds, or tokens without grid or source.
    """
    return load(tokenizer).decode(tokens)


def save_tokens(
    tokens: Tokens, path: StrPath, tokenizer: StrPath | Tokenizer = "mosaic", **options: Any
) -> None:
    """Write a token file, whole or not at all.

    Args:
        tokens: of one source.
        path: where to; `.smt` by custom.
        tokenizer: the one that made the tokens.
        options: those of `smalti.codec.TokenWriter`: `audio`, `extra`, `precision`, …

    Raises:
        ConfigError: tokens without source, of several sources, or a path that cannot be written.
    """
    tokenizer = load(tokenizer)
    codec.write(path, tokens, stamp(tokenizer), **coding(tokenizer), **options)


def load_tokens(
    path: StrPath,
    start: float | None = None,
    end: float | None = None,
    quality: int | None = None,
    tokenizer: StrPath | Tokenizer | None = None,
) -> Tokens:
    """Tokens of a token file, or of some seconds of it; only what is needed is read.

    Args:
        path: a token file.
        start, end: the chunks that hold the frames shown in [start, end), in seconds.
        quality: only the codes of this quality and those before.
        tokenizer: its context model reads the codes; the one that the file names when not given.

    Raises:
        FormatError: not a token file, or one that breaks the format.
        IntegrityError: a byte was changed since it was written.
        ConfigError: seconds or a quality that the file does not hold, or another tokenizer than the file's.
    """
    with codec.TokenFile.open(path) as file:
        if tokenizer is None and file.header.coder in GENERIC:
            return file.read(start, end, quality=quality)
        coder = entropy_coder(file, tokenizer_of(file, tokenizer))
        return file.read(start, end, quality=quality, coder=coder)


def tokenizer_of(file: codec.TokenFile, tokenizer: StrPath | Tokenizer | None = None) -> Tokenizer:
    """The tokenizer that wrote a file: loaded by the name in its header, or the given one if it is the same.

    Raises:
        ConfigError: another tokenizer, or other weights.
        UnsupportedError: its weights do not come with this installation.
    """
    if tokenizer is None:
        name, preset = file.header.stamp.name, file.header.stamp.preset
        tokenizer = f"{name}-{preset}" if f"{name}-{preset}" in weights.shipped() else name
    loaded = load(tokenizer)
    file.check(stamp(loaded))
    return loaded


def load(name: StrPath | Tokenizer) -> Tokenizer:
    """A tokenizer with its weights, ready to use; the same object when asked again.

    Args:
        name: one of the shipped weights (`mosaic`), a safetensors file, a folder with `model.safetensors`,
            or a hub id (`owner/name`).

    Raises:
        ConfigError: no such system, file or hub id.
        UnsupportedError: a system whose weights do not come with this installation.
        FormatError: a file that holds no system.
    """
    if isinstance(name, Tokenizer):
        return name
    path = _weights_file(os.fspath(name))
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> Tokenizer:
    return weights.read(path)


def _weights_file(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        return weights.locate(name)
    shipped = weights.shipped()
    if name in shipped:
        return shipped[name]
    known = {card.name: card for card in registry.systems("tokenizers")}
    if name.partition("-")[0] in known or name in known:
        raise UnsupportedError(
            f"{name}: its weights do not come with this installation (which has "
            f"{', '.join(shipped) or 'none'}): give a file or folder of weights, or train it (smalti train)"
        )
    if name.count("/") == 1 and not path.suffix and not name.startswith((".", "/")):
        return weights.locate(name)
    raise ConfigError(f"no tokenizer, file or folder {name!r}: {nearest(name, known)}")


def stamp(tokenizer: Tokenizer) -> codec.Stamp:
    """What a token file says of the tokenizer that wrote it."""
    name, preset = weights.identify(tokenizer)
    return codec.Stamp(name, preset, tokenizer.fingerprint(), tokenizer.codebook_sizes, tokenizer.stages)


def entropy_coder(file: codec.TokenFile, tokenizer: Tokenizer) -> codec.EntropyCoder | None:
    """What reads the codes of a file, where a generic coder cannot."""
    return None if file.header.coder in GENERIC else _coder(tokenizer)


def coding(tokenizer: Tokenizer) -> dict[str, Any]:
    """How a tokenizer wants its tokens written: its entropy coder, its chunks, its frames a latent."""
    options: dict[str, Any] = {"coder": _coder(tokenizer)}
    if tokenizer.causal:
        options["temporal"] = (1, tokenizer.compression[0])
        options["chunk"] = tokenizer.chunk or WHOLE
    return options


def _coder(tokenizer: Tokenizer) -> codec.EntropyCoder | None:
    own: Callable[[], codec.EntropyCoder] | None = getattr(tokenizer, "entropy_coder", None)
    return None if own is None else own()
