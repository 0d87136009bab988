"""The reader in `docs/token-file.md` is run as it stands there: an implementation that shares nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.codec import Packed, Stamp, Tables, TokenFile, write
from smalti.codec.header import DEFAULTS, DENSEST, FREE_CODES
from smalti.codec.sections import DICTIONARY, MAX_JSON
from smalti.tokens import Source, Tokens

from .samples import SIZES, small_file, tokens

PAGE = Path(__file__).resolve().parents[2] / "docs" / "token-file.md"


@pytest.fixture(scope="module")
def documented():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["DICTIONARY"] == DICTIONARY
    return names["read"]


@pytest.mark.parametrize("coder", [Packed, Tables])
@pytest.mark.parametrize("lean", [1, 6])
def test_it_reads_what_the_package_writes(tmp_path, documented, coder, lean):
    sizes = (1, 2, 300, 64000, 1 << 40)
    stamp = Stamp("any", "default", "00", sizes, (2, 3, 5))
    ids = (torch.rand(1, 10 * 12 * 14, 5, dtype=torch.float64) ** lean * torch.tensor(sizes)).long()
    clip = Tokens(ids=ids, grid=(10, 12, 14), source=Source(96, 112, 37, fps=25.0))
    write(tmp_path / "clip.smt", clip, stamp, coder=coder(sizes), temporal=(1, 4), chunk=4)
    found = documented(tmp_path / "clip.smt")
    assert np.array_equal(found.reshape(-1, 5), ids[0].numpy())


def test_it_refuses_a_changed_file(tmp_path, documented):
    path = small_file(tmp_path / "clip.smt", coder=Tables(SIZES))
    assert np.array_equal(documented(path).reshape(-1, 4), tokens().ids[0].numpy())
    raw = path.read_bytes()
    with TokenFile.open(path) as file:
        end = len(raw) - sum(size for size, _ in file.header.arrays.values())
    for position in range(0, end, 7):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        with pytest.raises((ValueError, MemoryError)):
            documented(path)


def test_it_tells_every_default_and_bound():
    page = PAGE.read_text(encoding="utf-8")
    told = {}
    for row in re.findall(r"^\| (`.*?) \| (\S.*?) \| .*\|$", page, re.MULTILINE):
        told |= {name: json.loads(row[1].strip("`")) for name in re.findall(r"`(\w+)`", row[0])}
    assert told == {name: value for fields in DEFAULTS.values() for name, value in fields.items()}
    assert (FREE_CODES, DENSEST, MAX_JSON) == (2**16, 1024, 2**25)
    for words in ("at most 2^16 + 1024 · D codes", "up to 2^25 bytes"):
        assert words in page
