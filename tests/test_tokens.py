from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import ConfigError
from smalti.tokens import Source, Tokens


def tokens(grid: tuple[int, int, int] = (2, 3, 2), batch: int = 2, **changes) -> Tokens:
    count = grid[0] * grid[1] * grid[2]
    fields = {
        "ids": torch.arange(batch * count * 3).reshape(batch, count, 3),
        "values": torch.rand(batch, count, 4),
        "mask": torch.ones(batch, count, dtype=torch.bool),
        "coords": torch.rand(batch, count, 3),
        "mass": torch.rand(batch, count),
        "grid": grid,
        "source": Source(24, 16, 4, pad=(3, 1, 2)),
    }
    return Tokens(**{**fields, **changes})


@settings(deadline=None, max_examples=30)
@given(st.slices(12).filter(lambda index: index.step is None or index.step > 0))
def test_a_slice_takes_the_same_tokens_of_every_field(index: slice) -> None:
    whole = tokens()
    part = whole[index]
    for name in ("ids", "values", "mask", "coords", "mass"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, index])
    assert len(part) == len(range(12)[index])
    assert part.grid == (whole.grid if len(part) == 12 else None)
    assert part.source == whole.source


def test_codebooks_keeps_the_first_codes() -> None:
    whole = tokens()
    assert torch.equal(whole.codebooks(2).ids, whole.ids[..., :2])
    assert whole.codebooks(2).grid == whole.grid
    for count in (0, -1, 4):
        with pytest.raises(ConfigError, match=f"3 codes, not {count}"):
            whole.codebooks(count)
    with pytest.raises(ConfigError, match="continuous"):
        tokens(ids=None).codebooks(1)


def test_only_values_change_their_type() -> None:
    moved = tokens().to("cpu", torch.float64)
    assert moved.values.dtype == torch.float64
    assert (moved.ids.dtype, moved.mask.dtype, moved.mass.dtype) == (torch.int64, torch.bool, torch.float32)
    assert tokens().to(torch.device("meta")).coords.is_meta
    assert tokens(values=None).to(dtype=torch.float64).values is None


def test_parts_join_in_time() -> None:
    whole = tokens((3, 2, 2))
    one = Tokens(
        ids=whole.ids[:, :4], grid=(1, 2, 2), source=Source(16, 16, 1, times=(0.5,), fps=2.0, pad=(0, 1, 2))
    )
    two = Tokens(
        ids=whole.ids[:, 4:],
        grid=(2, 2, 2),
        source=Source(16, 16, 3, 1, times=(1.0, 2.0, 3.0), pad=(1, 1, 2)),
    )
    joined = Tokens.cat([one, two])
    assert torch.equal(joined.ids, whole.ids)
    assert joined.grid == (3, 2, 2)
    assert joined.source == Source(16, 16, 4, 0, fps=2.0, times=(0.5, 1.0, 2.0, 3.0), pad=(1, 1, 2))


def test_joining_keeps_a_grid_or_times_only_where_all_parts_have_them() -> None:
    one, other = tokens((1, 2, 2), source=Source(9, 9, times=(0.0,))), tokens((1, 2, 2), source=Source(9, 9))
    joined = Tokens.cat([one, other])
    assert joined.grid == (2, 2, 2)
    assert joined.source.times is None
    assert Tokens.cat([one, dataclasses.replace(one, grid=None)]).grid is None
    assert Tokens.cat([one, dataclasses.replace(one, source=None)]).source is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (tokens((2, 2, 3)), r"grid rows and columns differ, \(3, 2\) and \(2, 3\) in part 1"),
        (tokens(source=Source(24, 17)), r"source height and width differ, \(24, 16\) and \(24, 17\)"),
        (tokens(batch=3), r"values differ, \(2, 4\) and \(3, 4\)"),
        (tokens().codebooks(2), r"ids differ, \(2, 3\) and \(2, 2\)"),
    ],
)
def test_parts_of_another_shape_do_not_join(other: Tokens, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Tokens.cat([tokens(), other])


@pytest.mark.parametrize("order", [1, -1])
def test_parts_with_different_fields_do_not_join(order: int) -> None:
    parts = [tokens(), tokens(mass=None)][::order]
    with pytest.raises(ConfigError, match="some parts have mass, others do not"):
        Tokens.cat(parts)


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Tokens.cat([])


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ConfigError, match="both are missing"):
        Tokens(grid=(1, 1, 1))
    with pytest.raises(ConfigError, match=r"grid \(2, 3, 3\) does not hold 12 tokens"):
        Tokens(ids=torch.zeros(1, 12, 1, dtype=torch.int64), grid=(2, 3, 3))
