"""The house itself: what importing costs, what may import what, and that its files agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

EXTRAS_ONLY = set(
    "torchvision timm transformers matplotlib accelerate ray gradio fastapi torchmetrics".split()  # noqa: SIM905
)
ROOMS = [
    path.stem
    for path in (ROOT / "src" / "smalti").iterdir()
    if path.suffix in ("", ".py") and not path.name.startswith("__")
]


def modules_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh Python holds after some code."""
    script = (
        f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_smalti_does_not_import_torch() -> None:
    assert "torch" not in modules_after("import smalti")


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["--version"], ["nonsense"]])
def test_help_does_not_import_torch(arguments) -> None:
    code = f"from smalti.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert not {"torch", "av", "PIL", "numpy"} & modules_after(code)


def test_no_room_imports_what_belongs_to_an_extra() -> None:
    code = "import importlib\n" + "\n".join(f"importlib.import_module('smalti.{room}')" for room in ROOMS)
    code += "\nimport smalti\nsmalti.systems()"
    assert not EXTRAS_ONLY & modules_after(code)


def test_import_contracts_hold() -> None:
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_can_be_imported() -> None:
    import smalti

    for name in smalti.__all__:
        assert getattr(smalti, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        smalti.tokenise  # noqa: B018


def test_the_demo_media_are_small_and_named() -> None:
    assets = ROOT / "src" / "smalti" / "assets"
    for name in ("city.mp4", "towers.png"):
        assert (assets / name).stat().st_size < 600_000
        assert name in (assets / "README.md").read_text()


def test_every_extra_named_in_an_error_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for path in (ROOT / "src").rglob("*.py")
        for extra in re.findall(r"missing_extra\([^,()]+,\s*[\"'](\w+)[\"']\)", path.read_text())
    }
    assert named <= set(extras)


def test_the_changelog_speaks_of_this_version() -> None:
    from smalti import __version__

    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text
