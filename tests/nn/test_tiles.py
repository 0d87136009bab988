"""Weights and inputs are whole numbers, so float32 sums are exact and tiles must agree to the bit."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smalti.nn.patches import depth_to_space, space_to_depth
from smalti.nn.tiles import tiled

SIZES = st.integers(1, 21)
EXAMPLES = settings(deadline=None, max_examples=40)


def convolutions(channels: int = 2, depth: int = 2) -> nn.Sequential:
    stack = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth)))
    for parameter in stack.parameters():
        parameter.data = torch.randint(-3, 4, parameter.shape).float()
    return stack.requires_grad_(False)


def whole_numbers(*shape: int) -> Tensor:
    return torch.randint(-9, 10, shape).float()


@EXAMPLES
@given(SIZES, SIZES, st.integers(1, 9))
def test_tiles_give_exactly_what_the_whole_gives(height: int, width: int, tile: int) -> None:
    stack, maps = convolutions(), whole_numbers(1, 2, height, width)
    assert torch.equal(tiled(stack, maps, tile=tile, halo=2, scale=Fraction(1)), stack(maps))


@EXAMPLES
@given(SIZES, SIZES, st.integers(1, 4))
def test_output_may_be_larger_than_input(height: int, width: int, tile: int) -> None:
    stack, maps = convolutions(4), whole_numbers(1, 4, height, width)

    def grow(part: Tensor) -> Tensor:
        return depth_to_space(stack(part), 2)

    assert torch.equal(tiled(grow, maps, tile=tile, halo=2, scale=Fraction(2)), grow(maps))


@EXAMPLES
@given(SIZES, SIZES, st.integers(1, 4))
def test_output_may_be_smaller_than_input(rows: int, columns: int, tile: int) -> None:
    stack, maps = convolutions(4), whole_numbers(1, 1, 2 * rows, 2 * columns)

    def shrink(part: Tensor) -> Tensor:
        return stack(space_to_depth(part, 2))

    given = tiled(shrink, maps, tile=2 * tile, halo=4, scale=Fraction(1, 2))
    assert torch.equal(given, shrink(maps))


def test_no_call_sees_more_than_a_tile_and_its_halo() -> None:
    seen: list[tuple[int, ...]] = []

    def look(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return part

    tiled(look, torch.rand(3, 10, 25), tile=8, halo=2, scale=Fraction(1))
    assert seen == [(10, 10), (10, 12), (10, 11), (10, 3), (4, 10), (4, 12), (4, 11), (4, 3)]
    seen.clear()
    tiled(look, torch.rand(3, 8, 7), tile=8, halo=2, scale=Fraction(1))
    assert seen == [(8, 7)]
