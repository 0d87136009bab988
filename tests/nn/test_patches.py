from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.nn.patches import (
    cosine_basis,
    depth_to_space,
    fold_time,
    reflect_to_multiple,
    space_to_depth,
    unfold_time,
)

SMALL = st.integers(1, 5)


@settings(deadline=None, max_examples=50)
@given(SMALL, SMALL, SMALL, SMALL, st.integers(1, 3))
def test_patches_and_folded_time_come_back(
    batch: int, frames: int, rows: int, columns: int, side: int
) -> None:
    clip = torch.rand(batch, 3, frames, rows * side, columns * side)
    folded = fold_time(clip)
    assert torch.equal(unfold_time(folded, frames), clip)
    patches = space_to_depth(folded, side)
    assert patches.shape == (batch, 3 * frames * side * side, rows, columns)
    assert torch.equal(depth_to_space(patches, side), folded)


def test_a_patch_lists_its_rows_and_time_comes_before_colour() -> None:
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert space_to_depth(maps, 2)[0, :, 0, 1].tolist() == [2, 3, 6, 7]
    clip = torch.arange(6.0).reshape(1, 3, 2, 1, 1)
    assert fold_time(clip).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_cosine_rows_are_orthonormal_and_the_first_is_the_mean(size: int) -> None:
    basis = cosine_basis(size)
    torch.testing.assert_close(basis @ basis.T, torch.eye(size))
    torch.testing.assert_close(basis[0], torch.full((size,), size**-0.5))
    assert (basis.sign().diff(dim=1) != 0).sum(1).tolist() == list(range(size))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 23), st.integers(1, 23), st.sampled_from([1, 2, 8, 16]))
def test_reflection_fills_up_to_a_multiple(height: int, width: int, side: int) -> None:
    frame = torch.rand(2, height, width)
    padded = reflect_to_multiple(frame, side)
    wanted = [-(-size // side) * side for size in (height, width)]
    pad = [(0, 0), *((0, big - size) for big, size in zip(wanted, (height, width), strict=True))]
    # numpy repeats a single row, as reflection of one row must
    assert torch.equal(padded, torch.from_numpy(np.pad(frame.numpy(), pad, mode="reflect")))
