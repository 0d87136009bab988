"""`smalti doctor`: what this machine and installation can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

from smalti.cli import options, screen

VIDEO_CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9")


def command(as_json: options.Json = False) -> None:
    """What this machine and installation can do.

    Args:
        as_json: print JSON for other programs.
    """
    findings = dict(_findings())
    if as_json:
        screen.print_json(findings)
    else:
        screen.console().print(screen.table(("", ""), findings.items()))


def _findings() -> Iterator[tuple[str, str]]:
    import av
    import torch
    from PIL import features

    from smalti import __version__

    yield "smalti", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "torch", torch.__version__
    yield "device", torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    yield "instructions", torch.backends.cpu.get_cpu_capability()
    yield "ffmpeg", f"{av.ffmpeg_version_info} (PyAV {av.__version__})"
    yield "video codecs", _listed({name: name in av.codecs_available for name in VIDEO_CODECS})
    yield "picture codecs", _listed({name: bool(features.check(name)) for name in ("jpg", "webp", "avif")})
    for extra, packages in _extras().items():
        missing = sorted(name for name in packages if not _installed(name))
        words = f"missing {', '.join(missing)}: pip install 'smalti[{extra}]'" if missing else "complete"
        yield f"extra {extra}", words
    yield "weights", _weights()
    yield "cache", os.environ.get("SMALTI_CACHE", "~/.cache/smalti")


def _listed(known: dict[str, bool]) -> str:
    return ", ".join(name if there else f"no {name}" for name, there in known.items())


def _extras() -> dict[str, list[str]]:
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("smalti") or []:
        found = re.match(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if found and found[1].lower() != "smalti":
            extras.setdefault(found[2], []).append(found[1])
    return extras


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _weights() -> str:
    from smalti.weights import shipped

    return (
        ", ".join(f"{name} ({screen.size(path.stat().st_size)})" for name, path in shipped().items())
        or "none"
    )
