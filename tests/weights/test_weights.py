from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file, save_file

from smalti import weights
from smalti.errors import ConfigError, FormatError
from tests.tokenizers.tiny import tiny_config, tiny_mosaic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def metadata(**changes: str) -> dict[str, str]:
    config = json.dumps(dataclasses.asdict(tiny_config()))
    return {"name": "mosaic", "preset": "custom", "config": config, **changes}


def test_a_model_comes_back_as_it_was(path) -> None:
    model = tiny_mosaic()
    weights.write(model, path)
    back = weights.read(path)
    assert not back.training
    assert back.config == model.config
    assert back.fingerprint() == model.fingerprint()
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_weights_give_the_same_bytes(path) -> None:
    contents = set()
    for _ in range(8):  # three strings come in the same order by chance once in six
        weights.write(tiny_mosaic(), path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_float16_halves_the_file_and_keeps_what_it_can_hold(path) -> None:
    model = tiny_mosaic().half_precision()
    weights.write(model, path)
    size = path.stat().st_size
    weights.write(model, path, torch.float16)
    stored = load_file(path)
    assert stored["picture.mean"].dtype == torch.float16
    assert stored["still"].dtype == torch.int64
    assert path.stat().st_size < 0.8 * size
    back = weights.read(path)
    assert back.picture.mean.dtype == torch.float32
    assert back.fingerprint() == model.fingerprint()


def test_a_failed_write_leaves_the_file_before(path, monkeypatch) -> None:
    weights.write(tiny_mosaic(), path)
    before = path.read_bytes()

    def fail(tensors, temporary, metadata) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        weights.write(tiny_mosaic(width=8), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_model_that_is_not_registered_is_refused(path) -> None:
    with pytest.raises(ConfigError, match="Linear is not a registered system"):
        weights.write(torch.nn.Linear(1, 1), path)


def test_a_known_configuration_is_called_by_its_preset(monkeypatch) -> None:
    from smalti.registry import card

    assert weights.identify(tiny_mosaic()) == ("mosaic", "custom")
    monkeypatch.setitem(card("mosaic").presets, "tiny", tiny_config())
    assert weights.identify(tiny_mosaic()) == ("mosaic", "tiny")


def test_keys_that_do_not_fit_are_listed(path) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in tiny_mosaic().state_dict().items()}
    tensors.pop("picture.mean")
    tensors["stranger"] = torch.zeros(1)
    tensors["clip.mean"] = torch.zeros(7)
    save_file(tensors, path, metadata())
    with pytest.raises(ConfigError) as caught:
        weights.read(path)
    for words in (
        "missing picture.mean",
        "unknown stranger",
        r"clip.mean is (7,), expected (768,)",
        str(path),
    ):
        assert words in str(caught.value)


def test_a_long_list_of_keys_is_cut(path) -> None:
    save_file({}, path, metadata())
    with pytest.raises(ConfigError, match=r"and \d+ more$"):
        weights.read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mosiac"}, "did you mean 'mosaic'"),
        ({"config": '{"widht": 3}'}, "no field 'widht': did you mean 'width'"),
        ({"config": '{"width": "wide"}'}, "MosaicConfig.width must be int, not 'wide'"),
    ],
)
def test_a_system_that_is_not_known_is_refused(path, changes, words: str) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata(**changes))
    with pytest.raises(ConfigError, match=words):
        weights.read(path)


@pytest.mark.parametrize("config", ["", "{", "[1]", "3"])
def test_a_configuration_that_is_none_is_refused(path, config: str) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata(config=config))
    with pytest.raises(FormatError, match="configuration"):
        weights.read(path)


def test_foreign_files_are_refused(path) -> None:
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FormatError, match="no name and configuration"):
        weights.read(path)
    torch.save({"x": torch.zeros(1)}, path)  # a pickle, which is never opened
    with pytest.raises(FormatError, match="cannot be read as safetensors"):
        weights.read(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="cannot be read"):
        weights.read(path)
    with pytest.raises(FormatError, match="cannot be read"):
        weights.read(path.with_name("absent"))


def test_a_file_cut_short_is_refused(path) -> None:
    weights.write(tiny_mosaic(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="cannot be read"):
        weights.read(path)


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = ()
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    on: bool = False
    name: str = ""


def test_plain_values_become_a_nested_configuration() -> None:
    values = {"inner": {"sizes": [1, 2], "rate": 3}, "maybe": {"rate": "1e-4"}, "on": True}
    assert weights.build(Outer, values) == Outer(Inner((1, 2), 3), Inner(rate=1e-4), True)
    assert weights.build(Outer, {"maybe": None}) == Outer()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"inner": {"size": [1]}}, "Inner has no field 'size': did you mean 'sizes'"),
        ({"inner": {"rate": "fast"}}, "Inner.rate must be float, not 'fast'"),
        ({"on": 1}, "Outer.on must be bool, not 1"),
        ({"name": 5}, "Outer.name must be str, not 5"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        weights.build(Outer, values)
