import hashlib
from pathlib import Path

import pytest

from smalti.errors import IntegrityError, UnsupportedError
from smalti.training.corpora.fetch import cache_home, fetch
from smalti.training.corpora.recipe import Source
from tests.training.corpora.packs import zipped

METADATA = "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
WHEEL = zipped(
    {
        "tiny_package/picture.png": b"picture",
        "tiny_package-1.0.dist-info/METADATA": METADATA.encode(),
        "tiny_package-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_package-1.0.dist-info/RECORD": b"",
    }
)


def tiny(client: str, content: bytes = WHEEL) -> Source:
    digest = hashlib.sha256(content).hexdigest()
    return Source("tiny-package", "1.0", client, "tiny_package-1.0-py3-none-any.whl", digest, "CC0-1.0", ())


def client(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a command of that name first on the path."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_package_that_is_there_is_not_fetched(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (packages / "tiny_package-1.0-py3-none-any.whl").write_bytes(WHEEL)
    assert fetch(tiny("apt")).read_bytes() == WHEEL


def test_package_that_is_another_is_named(packages: Path) -> None:
    (packages / "tiny_package-1.0-py3-none-any.whl").write_bytes(WHEEL + b"!")
    with pytest.raises(IntegrityError, match=r"tiny_package-1\.0-py3-none-any\.whl: SHA-256 is"):
        fetch(tiny("apt"))


@pytest.mark.parametrize(("kind", "command"), [("apt", "apt-get"), ("npm", "npm")])
def test_client_is_asked_for_the_version(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    (tmp_path / "offered").write_bytes(WHEEL)
    script = f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/offered named-as-it-likes.deb'
    client(tmp_path / "bin", command, script, monkeypatch)
    path = fetch(tiny(kind))
    assert path == packages / "tiny_package-1.0-py3-none-any.whl"
    assert path.read_bytes() == WHEEL
    asked = {"apt": "download tiny-package=1.0", "npm": "pack --silent tiny-package@1.0"}
    assert (tmp_path / "asked").read_text().strip() == asked[kind]
    assert list(packages.iterdir()) == [path]


def test_client_that_delivers_another_file_leaves_nothing(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", "npm", "echo other > other.tgz", monkeypatch)
    with pytest.raises(IntegrityError, match=r"other\.tgz"):
        fetch(tiny("npm"))
    assert not list(packages.iterdir())


def test_client_that_fails_is_quoted(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path / "bin", "apt-get", "echo E: no such version >&2; exit 100", monkeypatch)
    with pytest.raises(UnsupportedError, match=r"tiny-package 1\.0 \(E: no such version\): put tiny_package"):
        fetch(tiny("apt"))


@pytest.mark.parametrize(("kind", "command"), [("apt", "apt-get"), ("npm", "npm")])
def test_client_that_is_missing_is_named(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match=f"needs '{command}', which is not on this machine"):
        fetch(tiny(kind))


def test_pip_delivers_by_checksum(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = tmp_path / "offered"
    offered.mkdir()
    (offered / "tiny_package-1.0-py3-none-any.whl").write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    path = fetch(tiny("pip"))
    assert path.read_bytes() == WHEEL
    path.unlink()
    with pytest.raises(UnsupportedError, match="did not deliver"):
        fetch(tiny("pip", WHEEL + b"!"))


def test_cache_moves_with_its_variable(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_home() == packages.parent
    monkeypatch.delenv("SMALTI_CACHE")
    assert cache_home() == Path.home() / ".cache" / "smalti"
