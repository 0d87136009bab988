"""Official checkpoints of every wrapping, and what is none."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file

import smalti
from smalti.errors import ConfigError, FormatError, UnsupportedError
from smalti.official import read_checkpoint


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"a": 1, "state_dict": s}]
)
def test_wrapped_checkpoints(tmp_path, wrap):
    state = {"x": torch.arange(3.0)}
    torch.save(wrap(state), tmp_path / "c.pt")
    assert torch.equal(read_checkpoint(tmp_path / "c.pt")["x"], state["x"])
    save_file(state, tmp_path / "c.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "c.safetensors")["x"], state["x"])


def test_settings_beside_the_tensors_are_read_over(tmp_path):
    settings = argparse.Namespace(size=3)
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": settings}, tmp_path / "a.ckpt")
    assert list(read_checkpoint(tmp_path / "a.ckpt")) == ["a"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print))
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name in ("code.pt", "noise.pt", "noise.safetensors", "empty.pt"):
        with pytest.raises(FormatError):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ConfigError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pt")


def test_systems_without_official_weights_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(UnsupportedError, match="tome"):
        smalti.load_official("tome", tmp_path / "c.safetensors")
