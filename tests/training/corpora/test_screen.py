import io

import numpy as np
import pytest
from PIL import Image

from smalti.training.corpora.screen import look
from tests.training.corpora.packs import drawing, encoded, photograph


def test_photograph_passes() -> None:
    seen = look(photograph(1))
    assert seen.fault is None
    assert (seen.width, seen.height) == (160, 120)


def test_grey_photograph_passes() -> None:
    red = np.asarray(Image.open(io.BytesIO(photograph(1))))[..., 0]
    assert look(encoded(red)).fault is None


def test_drawing_is_seen() -> None:
    assert look(drawing()).fault == "one colour fills 81%"


def test_few_colours_are_seen() -> None:
    pixels = np.random.default_rng(0).integers(0, 5, (120, 160, 3), np.uint8)
    assert look(encoded(pixels)).fault == "only 125 colours"


@pytest.mark.parametrize(("size", "kept"), [((96, 200), True), ((200, 95), False)])
def test_short_side_decides(size: tuple[int, int], kept: bool) -> None:
    assert (look(photograph(1, *size)).fault is None) == kept


def test_hash_knows_a_picture_at_any_size_and_quality() -> None:
    seen = look(photograph(1))
    assert seen.like(look(photograph(1, 800, 600, "JPEG")).hash)
    assert not any(seen.like(look(photograph(seed)).hash) for seed in range(2, 30))


def test_size_is_of_the_file_however_it_is_decoded() -> None:
    seen = look(photograph(1, 2500, 1300, "JPEG"))
    assert (seen.width, seen.height) == (2500, 1300)
