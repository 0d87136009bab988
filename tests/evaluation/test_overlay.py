import numpy as np
import pytest
import torch
from PIL import Image

from smalti.errors import ConfigError
from smalti.evaluation.overlay import overlay, overlay_frames
from smalti.reducers import Assign, Gather

RED, BLUE, GREEN, GREY = (200, 0, 0), (0, 0, 200), (0, 200, 0), (100, 100, 100)


def quarters(*colours, side=8) -> Image.Image:
    """A picture of 2 × 2 patches, each of one colour."""
    pixels = np.array(colours, np.uint8).reshape(2, 2, 3).repeat(side, 0).repeat(side, 1)
    return Image.fromarray(pixels)


def test_patches_of_one_token_share_their_mean_colour_inside_an_outline() -> None:
    merged = Assign(torch.tensor([[0, 1, 1, 2, 3]]), 4)  # a class token, then red and blue as one
    drawn = overlay(quarters(RED, BLUE, GREEN, GREY), merged, (2, 2))
    assert drawn.size == (16, 16)
    assert drawn.getpixel((3, 3)) == drawn.getpixel((12, 3)) == (100, 0, 100)
    assert drawn.getpixel((7, 3)) == (100, 0, 100), "no line between patches of one token"
    assert drawn.getpixel((3, 7)) == (255, 255, 255), "a line below them"
    assert drawn.getpixel((3, 12)) == GREEN
    assert drawn.getpixel((7, 12)) == GREEN, "no line between patches that stayed by themselves"


def test_dropped_patches_are_darkened_and_kept_ones_are_as_they_were() -> None:
    kept = Gather(5, torch.tensor([[0, 2, 3]]))
    drawn = overlay(quarters(RED, BLUE, GREEN, GREY), kept, (1, 2, 2))
    assert drawn.getpixel((3, 3)) == (50, 0, 0)
    assert drawn.getpixel((12, 12)) == (25, 25, 25)
    assert drawn.getpixel((12, 3)) == BLUE
    assert drawn.getpixel((3, 12)) == GREEN


def test_each_sample_has_its_own_tokens() -> None:
    kept = Gather(4, torch.tensor([[0], [3]]))
    drawn = overlay(quarters(RED, BLUE, GREEN, GREY), kept, (2, 2), sample=1)
    assert drawn.getpixel((12, 12)) == GREY
    assert drawn.getpixel((3, 3)) == (50, 0, 0)


def test_a_picture_of_any_size_is_shared_out_over_the_grid() -> None:
    picture = Image.new("RGB", (17, 11), RED)
    drawn = np.asarray(overlay(picture, Gather(6, torch.tensor([[0, 1, 2, 3, 4]])), (2, 3)))
    dark = (drawn[..., 0] == 50).sum()
    assert drawn.shape == (11, 17, 3)
    assert dark == 5 * 5, "the last of 2 × 3 patches: 5 of 11 rows, 5 of 17 columns"


def test_a_token_over_two_frames_has_one_colour_in_both() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, RED, BLUE, BLUE)]
    tube = Assign(torch.tensor([[0, 1, 2, 3, 0, 4, 5, 6]]), 7)
    drawn = overlay_frames(frames, tube, (2, 2, 2))
    assert len(drawn) == 4
    assert {frame.getpixel((1, 1)) for frame in drawn} == {(100, 0, 100)}
    assert drawn[0].getpixel((6, 6)) == RED
    assert drawn[3].getpixel((6, 6)) == BLUE


def test_what_does_not_fit_is_refused() -> None:
    picture, kept = quarters(RED, BLUE, GREEN, GREY), Gather(4, torch.tensor([[0]]))
    with pytest.raises(ConfigError, match="3×3"):
        overlay(picture, kept, (3, 3))
    with pytest.raises(ConfigError, match="sample 1"):
        overlay(picture, kept, (2, 2), sample=1)
    with pytest.raises(ConfigError, match="overlay_frames"):
        overlay(picture, kept, (2, 1, 2))
    with pytest.raises(ConfigError, match="3 frames"):
        overlay_frames([picture] * 3, kept, (2, 1, 2))
