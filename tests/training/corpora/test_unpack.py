import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from smalti.errors import IntegrityError, UnsupportedError
from smalti.training.corpora.unpack import Package
from tests.training.corpora.packs import deb, rcc, tgz, zipped

FILES = {"a/one.png": b"first", "a/b/two.png": b"second" * 99}
KINDS = {
    "p.deb": deb(FILES),
    "gzipped.deb": deb(FILES, "gz", gzip.compress),
    "p.tar.gz": tgz(FILES),
    "p.tgz": tgz(FILES),
    "p.whl": zipped(FILES),
}


def packed(folder: Path, name: str, content: bytes) -> Package:
    (folder / name).write_bytes(content)
    return Package(folder / name)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read(tmp_path: Path, name: str) -> None:
    package = packed(tmp_path, name, KINDS[name])
    assert sorted(package.find("*")) == sorted(FILES)
    assert {path: package.read(path) for path in FILES} == FILES


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd command here")
def test_zstandard_is_read(tmp_path: Path) -> None:
    def compress(content: bytes) -> bytes:
        return subprocess.run(["zstd", "-c"], input=content, capture_output=True, check=True).stdout

    package = packed(tmp_path, "p.deb", deb(FILES, "zst", compress))
    assert package.read("a/b/two.png") == FILES["a/b/two.png"]


def test_zstandard_without_its_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install the `zstd` command"):
        packed(tmp_path, "p.deb", deb(FILES, "zst", bytes)).find("*")


def test_boxes_in_boxes_are_opened(tmp_path: Path) -> None:
    resources = {"one.png": b"plain", "two.png": b"deflated" * 50}
    inner = {"r.rcc": rcc(resources), "film.mp4.gz": gzip.compress(b"film"), "more.zip": zipped(FILES)}
    package = packed(tmp_path, "p.deb", deb(inner))
    assert package.find("*.rcc!/*.png") == ["r.rcc!/images/one.png", "r.rcc!/images/two.png"]
    assert package.read("r.rcc!/images/one.png") == resources["one.png"]
    assert package.read("r.rcc!/images/two.png") == resources["two.png"]
    assert package.find("*.gz!/*") == ["film.mp4.gz!/film.mp4"]
    assert package.read("film.mp4.gz!/film.mp4") == b"film"
    assert package.find("more.zip!/a/b/*") == ["more.zip!/a/b/two.png"]


@pytest.mark.parametrize(
    "escape", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "a\\..\\..\\evil.png"]
)
@pytest.mark.parametrize(("name", "pack"), [("p.deb", deb), ("p.tgz", tgz), ("p.whl", zipped)])
def test_member_that_leads_out_is_refused(tmp_path: Path, escape: str, name: str, pack) -> None:
    with pytest.raises(IntegrityError, match=r"evil\.png"):
        packed(tmp_path, name, pack({"good.png": b"", escape: b""})).find("*")


@pytest.mark.parametrize("name", KINDS)
def test_cut_package_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match=name):
        packed(tmp_path, name, KINDS[name][: len(KINDS[name]) // 2]).find("*")


def test_cut_resource_file_is_damage_at_any_length(tmp_path: Path) -> None:
    whole = rcc({"one.png": b"plain", "two.png": b"deflated" * 50})
    for length in range(len(whole)):
        package = packed(tmp_path, "p.rcc", whole[:length])
        with pytest.raises(IntegrityError, match=r"p\.rcc"):
            [package.read(path) for path in package.find("*")]


def test_resource_folder_that_holds_itself_is_damage(tmp_path: Path) -> None:
    content = bytearray(rcc({"one.png": b"plain"}))
    content[24 + 10 : 24 + 14] = bytes(4)  # the root's first child is the root
    with pytest.raises(IntegrityError, match="holds itself"):
        packed(tmp_path, "p.rcc", bytes(content)).find("*")


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"p\.rar.*\.deb"):
        packed(tmp_path, "p.rar", b"Rar!").find("*")
