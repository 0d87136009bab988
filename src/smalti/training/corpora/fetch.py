"""Package files from the machine's own clients: apt, npm and pip. What is there already is not fetched again.

```
~/.cache/smalti/packages/<file> there? ──yes──► SHA-256 right? ──► path
        │ no                                         │ no
        ▼                                            ▼
  apt-get download │ npm pack │ pip download    IntegrityError
        └──► a temporary folder ──► SHA-256 ──► renamed into the cache
```
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from smalti.errors import IntegrityError, UnsupportedError
from smalti.training.corpora.recipe import Source


def cache_home() -> Path:
    """Where packages and corpora lie: `$SMALTI_CACHE`, else `~/.cache/smalti`."""
    return Path(os.environ.get("SMALTI_CACHE") or Path.home() / ".cache" / "smalti")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(source: Source) -> Path:
    """The package's file in the cache, checked.

    Raises:
        UnsupportedError: the client is not on this machine, or does not offer this version.
        IntegrityError: the file is not the one that the recipe names.
    """
    folder = cache_home() / "packages"
    path = folder / source.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            fetched = download(source, Path(part))
            check(fetched, source)
            os.replace(fetched, path)
        return path
    check(path, source)
    return path


def check(path: Path, source: Source) -> None:
    """Raise IntegrityError unless the file is the one that the recipe names."""
    found = sha256_of(path)
    if found != source.sha256:
        raise IntegrityError(
            f"{path}: SHA-256 is {found}, the recipe has {source.sha256}: remove the file and run again"
        )


def download(source: Source, folder: Path) -> Path:
    """Let the client put the package into an empty folder; the file, whatever its name."""
    command = {"apt": _apt, "npm": _npm, "pip": _pip}[source.client](source, folder)
    if shutil.which(command[0]) is None:
        raise UnsupportedError(
            f"{source.name} {source.version} needs {command[0]!r}, which is not on this machine: install it, "
            f"or put {source.file} into {cache_home() / 'packages'}"
        )
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    files = [path for path in folder.iterdir() if path.suffix != ".txt"]
    if run.returncode or len(files) != 1:
        words = (run.stderr or run.stdout).strip().splitlines()
        raise UnsupportedError(
            f"{' '.join(command[:2])} did not deliver {source.name} {source.version} "
            f"({words[-1] if words else 'no message'}): put {source.file} into {cache_home() / 'packages'}"
        )
    return files[0]


def _apt(source: Source, folder: Path) -> list[str]:
    return ["apt-get", "download", f"{source.name}={source.version}"]


def _npm(source: Source, folder: Path) -> list[str]:
    return ["npm", "pack", "--silent", f"{source.name}@{source.version}"]


def _pip(source: Source, folder: Path) -> list[str]:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{source.name}=={source.version} --hash=sha256:{source.sha256}\n")
    only = "--only-binary" if source.file.endswith(".whl") else "--no-binary"
    return [sys.executable, "-m", "pip", "download", "--no-deps", only, source.name, "-r", str(wanted)]
