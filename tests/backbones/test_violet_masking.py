"""What VIOLET hides: boxes, attended positions, pixels, words."""

from __future__ import annotations

import pytest
import torch

from smalti.backbones.violet_masking import Masking, attended, blockwise, hide
from smalti.errors import ConfigError
from tests.backbones.test_violet import CELL, build, pixels, texts


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_single_box_never_covers_all_frames_nor_two_thirds_of_a_side() -> None:
    seen = set()
    for seed in range(300):
        draw = generator(seed)
        chosen = blockwise((2, 7, 7), draw)
        assert chosen.any()
        frames = chosen.flatten(1).any(1).sum()
        seen.add(int(frames))
        for frame in chosen:  # a frame holds at most two boxes of at most 3 × 3
            assert frame.sum() <= 18
    assert seen == {1, 2}


def test_sizes_of_a_box_are_uniform_from_one_to_three_of_seven() -> None:
    boxes = [blockwise((1, 7, 7), generator(seed))[0] for seed in range(900)]
    heights = torch.stack([box.any(1).sum() for box in boxes])
    widths = torch.stack([box.any(0).sum() for box in boxes])
    areas = torch.stack([box.sum() for box in boxes])
    assert torch.equal(heights * widths, areas)
    for sizes in (heights, widths):
        assert torch.bincount(sizes)[1:].tolist() == pytest.approx([300] * 3, rel=0.2)
    assert torch.stack(boxes).any(0).all()


@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 2, 2), (4, 3, 9)])
def test_small_grids_have_boxes_too(grid) -> None:
    assert blockwise(grid, generator()).any()


def test_attended_positions_are_drawn_in_proportion_and_never_special() -> None:
    mass = torch.tensor([4.0, 1, 1, 1, 1, 1, 1, 1, 1, 9]).expand(4000, -1)
    special = torch.zeros(4000, 10, dtype=torch.bool)
    special[:, 9] = True
    chosen = attended(mass, special, 0.15, generator())
    assert (chosen.sum(1) == 1).all()
    counts = chosen.sum(0).double()
    expected = torch.tensor([4.0, 1, 1, 1, 1, 1, 1, 1, 1, 0]).double() / 12 * 4000
    assert counts[9] == 0
    chi_square = ((counts - expected)[:9].square() / expected[:9]).sum()
    assert float(chi_square) < 26.1  # 8 degrees of freedom, one in a thousand
    assert (attended(mass, special, 0.5, generator()).sum(1) == 5).all()


def test_more_than_may_be_drawn_is_refused() -> None:
    special = torch.tensor([[True] * 8 + [False] * 2])
    with pytest.raises(ConfigError, match="3 positions"):
        attended(torch.ones(1, 10), special, 0.3)
    assert not attended(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), 0.15).any()


def test_pixels_of_a_hidden_cell_are_zero_and_all_others_stay() -> None:
    video = pixels(1, 2, 20, 24) + 0.1
    cells = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    cells[0, 1, 2, 0] = True
    hidden = hide(video, cells, (8, 8))
    assert not hidden[0, :, 1, 16:, :8].any()
    hidden[0, :, 1, 16:, :8] = video[0, :, 1, 16:, :8]
    assert torch.equal(hidden, video)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_is_hidden(share) -> None:
    model, video = build(), pixels(4)
    ids, real = texts(4)
    hidden = Masking(attended=share)(model, video, ids, real, generator())
    assert hidden.cells.shape == (4, 3, 3, 4)
    cover = hidden.cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)[:, None].expand_as(video)
    assert torch.equal(hidden.pixels, video * ~cover)
    assert torch.equal(hidden.ids, torch.where(hidden.words, 103, ids))
    assert not (hidden.words & ((ids < 103) | ~real)).any()
    if share:
        total = hidden.cells.flatten(1).sum(1) + hidden.words.sum(1)
        assert (total == int(0.15 * (39 + 6))).all()
    else:
        assert hidden.cells.flatten(1).any(1).all()


def test_a_coin_decides_for_each_sample() -> None:
    model, video = build(), pixels(40, 1, 8, 8)
    ids, real = texts(40)
    masking = Masking(share=0.3)
    cells = masking(model, video, ids, real, generator()).cells.flatten()
    # one cell: hidden by a box always, by attention at times
    assert 18 < int(cells.sum()) < 40
