"""Packages of every kind, pictures and clips, made by the tests."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from PIL import Image


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def photograph(seed: int, width: int = 160, height: int = 120, kind: str = "PNG") -> bytes:
    """A smooth random field with grain: many colours, none of them common."""
    coarse = np.random.default_rng(seed).integers(30, 220, (9, 12, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = np.random.default_rng(7).integers(-9, 10, smooth.shape)
    return encoded(np.clip(smooth + grain, 0, 255).astype(np.uint8), kind)


def drawing() -> bytes:
    """Colourful, but most of it is white."""
    pixels = np.full((120, 160, 3), 255, np.uint8)
    pixels[30:90, 30:90] = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    return encoded(pixels)


def clip(path: Path, frames: int = 12) -> bytes:
    """A clip of 64×48 at 6 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            pixels = np.full((48, 64, 3), index * 9, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def tar(files: dict[str, bytes]) -> bytes:
    """With a symbolic link among the files, as packages have them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def deb(files: dict[str, bytes], ending: str = "xz", compress=lzma.compress) -> bytes:
    data = tar({f"./{name}": content for name, content in files.items()})
    members = {
        "debian-binary": b"2.0",
        "control.tar.xz": lzma.compress(tar({})),
        f"data.tar.{ending}": compress(data),
    }
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def tgz(files: dict[str, bytes]) -> bytes:
    return gzip.compress(tar(files))


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def rcc(files: dict[str, bytes]) -> bytes:
    """A Qt resource file: root ─► folder `images` ─► files, every second one deflated."""
    strings, places = b"", {}
    for name in ["images", *files]:
        places[name] = len(strings)
        strings += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHIIQ", places["images"], 2, len(files), 2, 0)
    data = b""
    for index, (name, content) in enumerate(files.items()):
        deflated = index % 2
        tree += struct.pack(">IHHHIQ", places[name], deflated, 0, 0, len(data), 0)
        block = struct.pack(">I", len(content)) + zlib.compress(content) if deflated else content
        data += struct.pack(">I", len(block)) + block
    header = 24
    offsets = struct.pack(">5I", 3, header, header + len(tree), header + len(tree) + len(data), 0)
    return b"qres" + offsets + tree + data + strings


def source(folder: Path, file: str, content: bytes, *take: dict[str, Any], **other: str) -> dict[str, Any]:
    """Put a package into a folder; its entry in a recipe."""
    (folder / file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    entry = {"name": file.split("-")[0], "version": "1", "client": "apt", "licence": "CC0-1.0"}
    return {**entry, "file": file, "sha256": digest, "take": list(take), **other}


def recipe_text(*sources: dict[str, Any], medium: str = "pictures", disk: int = 1000) -> str:
    """A recipe called `tiny`."""
    content = {"name": "tiny", "medium": medium, "disk": disk, "packages": list(sources)}
    return yaml.safe_dump(content, sort_keys=False)


def tiny_photos(folder: Path) -> str:
    """The recipe of three packages with four photographs, doubles of the first, and things that are none."""
    small, large = photograph(1), photograph(1, 320, 240, "JPEG")
    crowd = {
        "2.png": photograph(2),
        "copy.png": small,
        "larger.jpg": large,
        "logo.png": drawing(),
        "x.png": b"x",
    }
    resources = {"3.png": photograph(3), "4.png": photograph(4), "thin.png": photograph(5, 160, 95)}
    return recipe_text(
        source(folder, "first-1.deb", deb({"v/1.png": small}), {"paths": ["v/*"], "split": "val"}),
        source(folder, "second-1.tgz", tgz(crowd), {"paths": ["*.png", "*.jpg"], "split": "train"}),
        source(
            folder,
            "third-1.whl",
            zipped({"r.rcc": rcc(resources)}),
            {"paths": ["*.rcc!/images/*.png"], "split": "train"},
        ),
    )
