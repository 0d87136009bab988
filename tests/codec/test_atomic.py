import os
import resource
import signal
from pathlib import Path

import pytest

from smalti.codec import TokenFile, atomic
from smalti.errors import BudgetError, ConfigError, SmaltiError

from .samples import small_file


class FailingFile:
    """A file whose n-th write fails."""

    def __init__(self, file, fail_at):
        self.file, self.left = file, fail_at

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)


def failing(function, fail_at):
    calls = iter(range(1000))

    def call(*arguments):
        if next(calls) == fail_at:
            raise OSError(5, "Input/output error")
        return function(*arguments)

    return call


def faults(monkeypatch):
    """Every operation of one write made to fail, one after another."""
    for n in range(4):  # header, chunks, audio, times
        yield lambda n=n: monkeypatch.setattr(
            atomic, "open", lambda *a: FailingFile(Path.open(*a), n), raising=False
        )
    yield lambda: monkeypatch.setattr(os, "replace", failing(os.replace, 0))
    for n in range(2):  # the file, the folder
        yield lambda n=n: monkeypatch.setattr(os, "fsync", failing(os.fsync, n))


@pytest.mark.parametrize("old", [True, False])
def test_a_failing_disk_leaves_the_old_file_or_the_new_one_whole(tmp_path, monkeypatch, old):
    new = small_file(tmp_path / "new.smt").read_bytes()
    for number, inject in enumerate(faults(monkeypatch)):
        path = tmp_path / f"{number}" / "clip.smt"
        path.parent.mkdir()
        if old:
            path.write_bytes(b"old")
        with monkeypatch.context():
            inject()
            with pytest.raises(BudgetError, match=r"clip\.smt: writing failed: (No space|Input/output)"):
                small_file(path)
            monkeypatch.undo()
        synced = number == 6  # the rename is done, and only its safety against power loss is not certain
        left = {p.name: p.read_bytes() for p in path.parent.iterdir()}
        assert left == ({"clip.smt": new} if synced else {"clip.smt": b"old"} if old else {})


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "clip.smt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(BudgetError, match="Make room"):
            small_file(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.smt"]
    assert path.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def write():
        with atomic.atomic_file(tmp_path / "clip.smt") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "no" / "clip.smt", tmp_path / "file" / "clip.smt", tmp_path):
        with pytest.raises(ConfigError, match="cannot be written"):
            small_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name", ["with space.smt", "line\nbreak.smt", "ünï.smt", os.fsdecode(b"\xff\xfe.smt"), "a" * 251]
)
def test_any_file_name_works(tmp_path, name):
    with TokenFile.open(small_file(tmp_path / name)) as file:
        file.verify()
        assert len(file.read()) == 36


def test_errors_carry_the_exit_code_of_their_kind(tmp_path):
    with pytest.raises(SmaltiError) as caught:
        small_file(tmp_path / "no" / "clip.smt")
    assert caught.value.exit_code == 2
