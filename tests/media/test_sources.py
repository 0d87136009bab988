from __future__ import annotations

import io
import sys

import pytest

from smalti.errors import MediaError
from smalti.media import progress, sources


def test_files_folders_and_patterns(tmp_path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.mp4", "sub/notes.txt", "x[1].png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert sources(tmp_path) == [tmp_path / n for n in ("a.JPG", "b.png", "sub/c.mp4", "x[1].png")]
    assert sources([tmp_path / "b.png", tmp_path]) == [
        tmp_path / n for n in ("b.png", "a.JPG", "sub/c.mp4", "x[1].png")
    ]
    assert sources(str(tmp_path / "**/*.mp4")) == [tmp_path / "sub/c.mp4"]
    assert sources(tmp_path / "x[1].png") == [tmp_path / "x[1].png"]
    assert sources(tmp_path / "sub/notes.txt") == [tmp_path / "sub/notes.txt"]


def test_nothing_found(tmp_path) -> None:
    for item in (tmp_path, tmp_path / "gone.png", tmp_path / "*.png"):
        with pytest.raises(MediaError, match=str(tmp_path)[-8:]):
            sources(item)


def test_progress_tells_and_is_silent_where_nobody_looks(monkeypatch, capsys) -> None:
    told = []
    assert list(progress.track("abc", "x", 3, lambda done, total: told.append((done, total)))) == list("abc")
    assert told == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(progress, "PATIENCE", -1)
    assert list(progress.track("abc", "x", 3)) == list("abc")
    assert capsys.readouterr().err == ""


def test_progress_draws_on_a_terminal(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress, "PATIENCE", -1)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.track("abc", "reading it", 3)) == list("abc")
    assert "reading it" in sys.stderr.getvalue()
