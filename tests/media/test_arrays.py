from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.errors import MediaError
from smalti.media import as_pixels


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 7), (1, 3, 1, 5, 7)),
        ((3, 5, 7), (1, 3, 1, 5, 7)),
        ((1, 5, 7), (1, 3, 1, 5, 7)),
        ((5, 7, 3), (1, 3, 1, 5, 7)),
        ((6, 3, 5, 7), (6, 3, 1, 5, 7)),
        ((6, 5, 7, 3), (1, 3, 6, 5, 7)),
        ((2, 3, 6, 5, 7), (2, 3, 6, 5, 7)),
        ((2, 6, 5, 7, 3), (2, 3, 6, 5, 7)),
    ],
)
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_layouts(shape, expected, library) -> None:
    x = torch.rand(shape)
    assert as_pixels(x if library == "torch" else x.numpy()).shape == expected


def test_where_both_layouts_fit_torch_has_channels_first_and_numpy_last() -> None:
    x = torch.rand(3, 5, 3)
    assert torch.equal(as_pixels(x)[0, :, 0], x)
    assert torch.equal(as_pixels(x.numpy())[0, :, 0], x.permute(2, 0, 1))


def test_integers_are_divided_by_their_white() -> None:
    eight = np.array([[0, 51, 255]], np.uint8)
    sixteen = np.array([[0, 13107, 65535]], np.uint16)
    for x in (eight, sixteen, sixteen.astype(">u2"), torch.from_numpy(eight)):
        assert as_pixels(x)[0, 1, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert as_pixels(np.array([[True, False]]))[0, 0, 0, 0].tolist() == [1, 0]


def test_alpha_goes_over_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    for x in (rgba, Image.fromarray(rgba)):
        pixels = as_pixels(x)[0, :, 0]
        assert pixels[:, 0, 0].tolist() == [1, 0, 0]
        assert pixels[:, 1, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "I;16", "F"])
def test_pillow_modes(mode) -> None:
    image = Image.new("RGB", (7, 5), "white").convert("L" if mode in {"I;16", "F"} else mode)
    if mode == "I;16":
        image = Image.fromarray(np.full((5, 7), 65535, np.uint16))
    if mode == "F":
        image = Image.fromarray(np.ones((5, 7), np.float32))
    assert as_pixels(image).shape == (1, 3, 1, 5, 7)
    assert float(as_pixels(image).min()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_the_first_bad_value_is_named(bad) -> None:
    x = torch.zeros(1, 3, 2, 4, 5)
    x[0, 1, 1, 2, 3] = bad
    x[0, 2, 1, 2, 3] = bad
    with pytest.raises(MediaError, match=r"index \[0, 1, 1, 2, 3\]"):
        as_pixels(x)


def test_nan_can_be_made_black() -> None:
    x = torch.full((3, 4, 5), 0.5)
    x[0, 0, 0] = float("nan")
    assert float(as_pixels(x, nan="zero")[0, 0, 0, 0, 0]) == 0
    x[0, 0, 0] = 2.0
    with pytest.raises(MediaError):
        as_pixels(x, nan="zero")


def test_eight_bit_values_in_sixteen_bits_are_refused() -> None:
    with pytest.raises(MediaError, match="eight-bit"):
        as_pixels(np.full((4, 5, 3), 200, np.uint16))
    assert float(as_pixels(np.zeros((4, 5, 3), np.uint16)).max()) == 0


@pytest.mark.parametrize(
    "x",
    [
        "path.png",
        np.zeros((4, 5), np.int64),
        np.zeros((4, 5), complex),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 6, 7), np.uint8),
        np.zeros(3, np.uint8),
        torch.zeros(1, 1, 1, 1, 1, 1),
    ],
)
def test_what_holds_no_pixels(x) -> None:
    with pytest.raises(MediaError):
        as_pixels(x)
    assert issubclass(MediaError, ValueError)
