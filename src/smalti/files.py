"""Files → token files → files, a few frames at a time: memory does not grow with length.

```
clip ── open_clip.chunks ──► stream().encoder ──► TokenWriter ──► clip.smt                    encode_file
clip.smt ── TokenFile ── chunk ── 4 grids at a time ──► stream().decoder ──► ClipWriter        decode_file
```
Sound is the exception: it is kept as it is, and whole, in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from smalti import codec, media
from smalti.api import coding, entropy_coder, load, stamp, tokenizer_of
from smalti.errors import ConfigError
from smalti.media.encoders import CONTAINERS
from smalti.media.frames import steady_rate
from smalti.media.progress import track
from smalti.media.stills import FORMATS
from smalti.tokenizers.base import Tokenizer
from smalti.tokens import Source, Tokens

StrPath = str | os.PathLike[str]
FRAMES = 16  # that are read at once
GRIDS = 4  # token grids that are decoded at once
USUAL_RATE = 25.0  # of clips that do not say theirs
TICK = 1e-3  # seconds: the coarsest clock of common containers


@dataclass(frozen=True)
class Encoded:
    """What `encode_file` wrote.

    Attributes:
        source: size, frames and rate of what was encoded.
        tokens: how many.
        bytes: of the whole token file.
    """

    source: Source
    tokens: int
    bytes: int

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the file for every pixel of every frame."""
        return 8 * self.bytes / (self.source.frames * self.source.height * self.source.width)

    def __str__(self) -> str:
        source = self.source
        frames = f"{source.frames} frames of " if source.frames > 1 else ""
        return (
            f"{frames}{source.width}×{source.height} → {self.tokens:,} tokens, {self.bytes:,} bytes, "
            f"{self.bits_per_pixel:.3f} bits per pixel"
        )


def encode_file(
    path: StrPath,
    out: StrPath,
    tokenizer: StrPath | Tokenizer = "mosaic",
    quality: int | None = None,
    *,
    audio: bool = False,
    **options: Any,
) -> Encoded:
    """Encode a picture or clip of any length into a token file that appears whole or not at all.

    Args:
        path: a picture or clip.
        out: the token file.
        tokenizer: as in `smalti.load`. One that cannot stream takes the whole clip at once.
        quality: 1 to `len(tokenizer.stages)`; the highest when not given.
        audio: keep the sound track in the token file.
        options: those of `smalti.media.open_clip`: `size`, `frames`, `fps`, `start`, `end`, `budget`, …

    Raises:
        MediaError: the source cannot be read to its end.
        BudgetError: the source is larger than the budget allows, or the disk is full.
        ConfigError: a tokenizer, quality or output that does not fit.
    """
    tokenizer = load(tokenizer)
    codes = tokenizer.codes_at(quality)
    sound = sound_of(path) if audio else None
    count, last = 0, None
    with (
        media.open_clip(path, **options) as clip,
        codec.TokenWriter(out, stamp(tokenizer), audio=sound, **coding(tokenizer)) as writer,
    ):
        for tokens in _encoded(clip, tokenizer, codes):
            writer.append(tokens)
            count += len(tokens)
            last = tokens.source
    if last is None:
        raise clip.fault or ConfigError(f"{path}: no frame was taken")
    whole = dataclasses.replace(last, frames=last.first + last.frames, first=0, times=None)
    return Encoded(whole, count, Path(out).stat().st_size)


def _encoded(clip: media.ClipReader, tokenizer: Tokenizer, codes: int) -> Iterator[Tokens]:
    """The clip's tokens as they become certain, with the times of their frames."""
    moving = clip.info.kind == "clip"
    step = FRAMES if tokenizer.causal else max(clip.expected or clip.info.frames or 1, 1)
    chunks = clip.chunks(step)
    total = clip.expected and -(-clip.expected // step)
    times: list[float] = []
    encoder = tokenizer.stream().encoder if tokenizer.causal else None
    for chunk in track(chunks, f"encoding {clip.info.path.name}", total):
        times.extend(chunk.times)
        tokens = encoder.push(chunk.pixels) if encoder else tokenizer.encode(chunk.pixels)
        if tokens is not None:
            yield _timed(tokens, codes, times if moving else None, clip.info.fps)
    if encoder and (tokens := encoder.flush()) is not None:
        yield _timed(tokens, codes, times if moving else None, clip.info.fps)


def _timed(tokens: Tokens, codes: int, times: list[float] | None, fps: float | None) -> Tokens:
    """Tokens of the wanted quality that know when their frames are shown; takes these times off the list."""
    if tokens.ids is not None:
        tokens = tokens.codebooks(codes)
    if times is None or tokens.source is None:
        return tokens
    frames = tokens.source.frames
    shown = tuple(times[:frames])
    del times[:frames]
    return dataclasses.replace(tokens, source=dataclasses.replace(tokens.source, fps=fps, times=shown))


def decode_file(
    path: StrPath,
    out: StrPath | None = None,
    tokenizer: StrPath | Tokenizer | None = None,
    quality: int | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    **options: Any,
) -> Path:
    """Decode a token file, or some seconds of it, into a picture or clip.

    Args:
        path: a token file.
        out: what to write; its suffix says the format. Beside `path`, .png or .mp4, when not given.
        tokenizer: as in `smalti.load`; the one that the file names when not given.
        quality: only the codes of this quality and those before.
        start, end: only frames shown in [start, end), in seconds.
        options: those of `smalti.media.write_image` or `smalti.media.ClipWriter`.

    Raises:
        FormatError: not a token file, or one that breaks the format.
        IntegrityError: a byte was changed since it was written.
        ConfigError: another tokenizer than the file's, or seconds that the file does not hold.
    """
    with codec.TokenFile.open(path) as file, contextlib.ExitStack() as stack:
        tokenizer = tokenizer_of(file, tokenizer)
        selection = file.select(start, end)
        still = len(selection.wanted) == 1
        out = Path(out) if out is not None else Path(path).with_suffix(".png" if still else ".mp4")
        frames = decoded(file, tokenizer, selection, quality)
        if still and out.suffix.lower() in FORMATS:
            media.write_image(out, next(frames).pixels, **options)
            return out
        if out.suffix.lower() in CONTAINERS:
            options |= _sound_beside(file, selection.wanted, stack)
        writer = stack.enter_context(media.ClipWriter(out, fps=_rate(file, selection.wanted), **options))
        for chunk in frames:
            writer.write(chunk.pixels, chunk.times or None)
    return out


def _rate(file: codec.TokenFile, wanted: range) -> float | None:
    """Frames a second where the wanted frames stand evenly; None where every frame has its own time."""
    if file.times is None:
        return file.header.source.fps or USUAL_RATE
    times = file.times[wanted.start : wanted.stop].tolist()
    late = wanted.start == 0 and times[0] > 0 and file.audio() is not None
    if late:
        return None  # sound and frames share one clock
    return steady_rate(times, TICK) or (file.header.source.fps if len(times) == 1 else None)


def _sound_beside(file: codec.TokenFile, wanted: range, stack: contextlib.ExitStack) -> dict[str, Path]:
    """The sound that is heard with the wanted frames, as a file that lives as long as the stack."""
    sound, times = file.audio(), file.times
    if sound is not None and times is not None and len(wanted) < len(times):
        end = float(times[wanted.stop]) if wanted.stop < len(times) else None
        sound = copy_of_sound(io.BytesIO(sound), _begin(file, wanted), end)
    if sound is None:
        return {}
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smalti-"))) / "sound.mka"
    path.write_bytes(sound)
    return {"audio_from": path}


def _begin(file: codec.TokenFile, wanted: range) -> float:
    """Where seconds are counted from: the first frame of a part, the source's 0 from the first frame on."""
    return 0.0 if file.times is None or not wanted.start else float(file.times[wanted.start])


def decoded(
    file: codec.TokenFile, tokenizer: Tokenizer, selection: codec.Selection, quality: int | None = None
) -> Iterator[media.Chunk]:
    """The wanted frames of a token file, chunk by chunk, with their seconds where these are known.

    Seconds of a part are counted from its first frame, those of the whole as in the source.
    """
    coder = entropy_coder(file, tokenizer)
    decoder = tokenizer.stream().decoder if tokenizer.causal else None
    wanted, times = selection.wanted, file.times
    begin = _begin(file, wanted)
    for index in track(selection.chunks, f"decoding {file.path.name}", len(selection.chunks)):
        chunk = file.header.chunks[index]
        tokens = file.read(
            chunk.frame, chunk.frame + chunk.frames, unit="frames", quality=quality, coder=coder
        )
        for part, first in (
            _parts(tokens, chunk, file.header.temporal) if decoder else [(tokens, chunk.frame)]
        ):
            pixels = decoder.push(part) if decoder else tokenizer.decode(part)
            shown = range(max(first, wanted.start), min(first + pixels.shape[2], wanted.stop))
            if shown:
                seconds = () if times is None else tuple((times[shown.start : shown.stop] - begin).tolist())
                yield media.Chunk(pixels[:, :, shown.start - first : shown.stop - first], seconds)
            if first + pixels.shape[2] >= wanted.stop:
                return


def _parts(
    tokens: Tokens, chunk: codec.Chunk, temporal: tuple[int, int] | None
) -> Iterator[tuple[Tokens, int]]:
    """A chunk's tokens, some grids at a time, each with the file's number of its first frame."""
    if tokens.grid is None or tokens.source is None or temporal is None:
        yield tokens, chunk.frame
        return
    (grids, height, width), (head, every) = tokens.grid, temporal
    end = chunk.frame + chunk.frames
    for start in range(0, grids, GRIDS):
        stop = min(start + GRIDS, grids)
        first, last = (
            min(head + every * (grid - 1), end) if grid else 0
            for grid in (chunk.latent + start, chunk.latent + stop)
        )
        source = dataclasses.replace(
            tokens.source,
            frames=last - first,
            first=tokens.source.first + first - chunk.frame,
            times=None,
            pad=tokens.source.pad if stop == grids else (0, *tokens.source.pad[1:]),
        )
        part = tokens[start * height * width : stop * height * width]
        yield dataclasses.replace(part, grid=(stop - start, height, width), source=source), first


def sound_of(path: StrPath) -> bytes | None:
    """The first sound track of a file, copied packet by packet into a Matroska file; None without sound."""
    with open(path, "rb") as file:
        return copy_of_sound(file)


def copy_of_sound(file: io.BufferedIOBase, begin: float = 0.0, end: float | None = None) -> bytes | None:
    """The packets of a sound track that begin in [begin, end) seconds, moved to 0; None without any."""
    out, count = io.BytesIO(), 0
    with av.open(file, metadata_errors="replace") as source:
        if not source.streams.audio:
            return None
        with av.open(out, "w", format="matroska") as target:
            track = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(source.streams.audio[0]):
                if packet.dts is None:
                    continue
                seconds = float(packet.dts * packet.time_base)
                if (begin and seconds < begin) or (end is not None and seconds >= end):
                    continue
                shift = round(begin / packet.time_base)
                packet.dts, packet.pts = packet.dts - shift, packet.pts - shift
                packet.stream = track
                target.mux(packet)
                count += 1
    return out.getvalue() if count else None
