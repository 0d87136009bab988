import pytest
import torch

from smalti.codec import Latents
from smalti.errors import ConfigError, FormatError

VALUES = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_floats_come_back_as_rounded_once(precision, size):
    latents = Latents(precision, 6)
    stored = VALUES.to(getattr(torch, precision))
    (stream,) = latents.encode(VALUES)
    assert len(stream) == VALUES.numel() * size == latents.stream_bytes(60)
    assert torch.equal(latents.decode([stream], (3, 4, 5)), stored)


def test_int8_is_within_half_a_step_of_every_channel():
    values = VALUES * torch.tensor([1.0, 10, 100, 1e-3, 0, 1])
    back = Latents("int8", 6).decode(Latents("int8", 6).encode(values), (3, 4, 5))
    step = values.abs().amax(dim=(0, 1, 2)) / 127
    assert ((back - values).abs() <= 0.5001 * step).all()


def test_bytes_are_little_endian():
    assert Latents("float32", 1).encode(torch.ones(1, 1, 1, 1)) == [b"\x00\x00\x80\x3f"]


@pytest.mark.parametrize(
    ("precision", "bad"), [("float16", 1e6), ("int8", float("nan")), ("float32", float("inf"))]
)
def test_what_does_not_fit_is_refused_by_place(precision, bad):
    values = VALUES.clone()
    values[1, 2, 3, 4] = bad
    with pytest.raises(ConfigError, match=r"\[t, h, w, d\] = \[\d, \d, \d, 4\]"):
        Latents(precision, 6).encode(values)


def test_wrong_length_and_precision_are_refused():
    with pytest.raises(FormatError, match="found 3"):
        Latents("float16", 6).decode([b"abc"], (1, 1, 1))
    with pytest.raises(ConfigError, match="float16"):
        Latents("flot16", 6)
