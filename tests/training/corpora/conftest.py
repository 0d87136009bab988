from pathlib import Path

import pytest


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of packages in a cache of this test's own."""
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "packages"
    folder.mkdir(parents=True)
    return folder
