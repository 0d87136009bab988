"""The README's and the documentation's commands and snippets, run as a reader would run them.

A block after `<!-- not run: why -->` is left out. Blocks of one page share a folder with `photo.png` and
`clip.mp4`, and Python blocks share their names.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from smalti import registry, weights
from tests import test_contracts
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>\w+)[^\n]*\n(?P<code>.*?)```", re.DOTALL)
ELSEWHERE = ("make ", "git ", "pip ", "pre-commit ", ".venv/bin/", "cd ")


class Block(NamedTuple):
    language: str
    code: str
    mark: str


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["code"], m["mark"] or "") for m in BLOCK.finditer(page.read_text())]


def commands(code: str) -> list[list[str]]:
    """The `smalti` commands of a shell block. Others must be known to be run elsewhere."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "smalti":
            found.append(words[1:])
        elif words:
            assert line.startswith(ELSEWHERE), f"nothing runs this line: {line}"
    return found


def is_slow(block: Block) -> bool:
    return block.language == "sh" and any(words[0] in ("demo", "evaluate") for words in commands(block.code))


def runnable(page: Path, slow: bool) -> list[Block]:
    shown = [block for block in blocks(page) if block.language in ("sh", "python")]
    return [b for b in shown if not b.mark.startswith(("not run", "system")) and is_slow(b) == slow]


@pytest.fixture
def shipped(media, monkeypatch) -> None:
    """Where the package's own weights are missing, a tiny tokenizer takes their place."""
    if "mosaic" not in weights.shipped():
        weights.write(test_contracts.build("mosaic"), media / "mosaic.safetensors")
        monkeypatch.setattr(weights, "HERE", media)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_works(page, media, run, shipped) -> None:
    names: dict[str, object] = {}
    for block in runnable(page, slow=False):
        if block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)
            continue
        for words in commands(block.code):
            code, _, err = run(*words)
            assert code == 0, f"smalti {shlex.join(words)}: {err}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page, slow=True)], ids=lambda page: page.name
)
def test_what_a_page_shows_and_takes_long_works(page, media, run, shipped) -> None:
    for block in runnable(page, slow=True):
        for words in commands(block.code):
            code, _, err = run(*words)
            assert code == 0, f"smalti {shlex.join(words)}: {err}"


def test_the_make_targets_that_pages_name_exist() -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named <= known


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_adding_a_system_works_as_contributing_says(tmp_path, monkeypatch) -> None:
    (block,) = [block for block in blocks(ROOT / "CONTRIBUTING.md") if block.mark == "system"]
    file = tmp_path / "blocks.py"
    file.write_text(block.code)
    monkeypatch.setattr(registry, "_cards", dict(registry._cards))
    monkeypatch.setattr("smalti.tokenizers.__path__", [*_tokenizers_path(), str(tmp_path)])
    import importlib

    importlib.import_module("smalti.tokenizers.blocks")
    try:
        assert registry.card("blocks").summary == "Mean colours of square blocks, frame by frame."
        tokenizer = registry.create("blocks", "coarse")
        for size in test_contracts.SIZES:
            test_contracts.test_the_size_and_length_that_went_in_come_out(tokenizer, *size)
        for check in (
            test_contracts.test_equal_pixels_give_equal_tokens_and_pixels,
            test_contracts.test_a_clip_gives_the_same_tokens_alone_and_in_a_batch,
            test_contracts.test_tokens_differ_where_pixels_do,
            test_contracts.test_every_id_is_in_its_codebook,
            test_contracts.test_ids_outside_a_codebook_are_refused,
            test_contracts.test_pixels_that_mean_nothing_are_refused,
        ):
            check(tokenizer)
        test_contracts.test_saving_and_loading_change_nothing(tokenizer, tmp_path)
        test_contracts.test_a_token_file_gives_the_tokens_back(tokenizer, tmp_path, 3)
        test_contracts.test_streaming_gives_what_the_whole_gives(tokenizer, 3)
    finally:
        del sys.modules["smalti.tokenizers.blocks"]


def _tokenizers_path() -> list[str]:
    import smalti.tokenizers

    return list(smalti.tokenizers.__path__)


def test_the_house_style_holds_for_contributing_too(tmp_path) -> None:
    (block,) = [block for block in blocks(ROOT / "CONTRIBUTING.md") if block.mark == "system"]
    (tmp_path / "blocks.py").write_text(block.code)
    for check in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--config",
            "pyproject.toml",
            str(tmp_path / "blocks.py"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_site_builds(tmp_path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mosaic" in (tmp_path / "systems" / "index.html").read_text()
