"""HoT's selection: one frame a segment, diversity, and what the contract of reducers asks."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers import Assign, Context, Gather
from smalti.reducers.hot import HoT, HoTConfig, motion, select


def segments(lengths: tuple[int, ...], dim: int = 16, seed: int = 0) -> torch.Tensor:
    """Constant runs with a little noise [1 f d]."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randn(len(lengths), dim, generator=generator)
    runs = torch.cat([level.expand(length, -1) for level, length in zip(levels, lengths, strict=True)])
    return (runs + 0.01 * torch.randn(runs.shape, generator=generator))[None]


def uneven_walk(frames: int = 81, dim: int = 24, seed: int = 0) -> torch.Tensor:
    """A smooth path whose speed changes by a factor of thirty [1 f d]."""
    generator = torch.Generator().manual_seed(seed)
    speed = torch.where(torch.arange(frames) % 40 < 28, 0.03, 1.0)
    place = speed.cumsum(0)[:, None]
    rate, phase = torch.rand(2, 1, dim, generator=generator)
    return (0.6 * place * rate + 6 * phase).sin()[None]


@pytest.mark.parametrize("seed", range(5))
def test_every_uneven_segment_keeps_one_frame_where_uniform_spacing_misses_some(seed) -> None:
    lengths = (50, 3, 4, 40, 3)
    x = segments(lengths, seed=seed)
    bounds = torch.tensor(lengths).cumsum(0)
    kept = torch.searchsorted(bounds, select(x, 5)[0], right=True)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    uniform = torch.searchsorted(bounds, select(x, 5, HoTConfig(selection="uniform"))[0], right=True)
    assert len(set(uniform.tolist())) < 5


def covered(x: torch.Tensor, kept: torch.Tensor) -> float:
    """Worst distance of a frame to the nearest kept one."""
    return torch.cdist(x[0], x[0, kept[0]]).amin(-1).max().item()


def spread(x: torch.Tensor, kept: torch.Tensor) -> float:
    return torch.pdist(x[0, kept[0]]).mean().item()


def test_kept_frames_are_more_diverse_than_uniform_and_random_ones() -> None:
    ours, uniform, random = [], [], []
    for seed in range(8):
        x = uneven_walk(seed=seed)
        drawn = torch.randperm(81, generator=torch.Generator().manual_seed(seed))[:18].sort().values[None]
        for found, kept in (
            (ours, select(x, 18)),
            (uniform, select(x, 18, HoTConfig(selection="uniform"))),
            (random, drawn),
        ):
            found.append((covered(x, kept), spread(x, kept)))
    worst, apart = torch.tensor(ours).mean(0)
    for control in (uniform, random):
        control_worst, control_apart = torch.tensor(control).mean(0)
        assert worst < control_worst
        assert apart > control_apart


@pytest.mark.parametrize("selection", ["dpc", "uniform", "motion"])
@pytest.mark.parametrize("must_keep", [None, 6])
def test_kept_frames_rise_are_different_and_hold_the_wanted_one(selection, must_keep) -> None:
    x = torch.randn(3, 13, 8, generator=torch.Generator().manual_seed(1))
    config = HoTConfig(selection=selection)
    for count in range(1, 14):
        kept = select(x, count, config, must_keep)
        assert kept.shape == (3, count)
        assert (kept.diff(dim=-1) > 0).all()
        assert must_keep is None or (kept == must_keep).any(-1).all()
    assert torch.equal(select(x, 13, config), torch.arange(13).expand(3, -1))


def test_the_wanted_frame_takes_the_place_of_the_least() -> None:
    x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(2))
    three, wanted = select(x, 3), select(x, 4, must_keep=9)
    for sample in range(2):
        if 9 not in three[sample]:
            assert set(wanted[sample].tolist()) == {*three[sample].tolist(), 9}


def test_noise_breaks_ties_the_same_way_every_time() -> None:
    x = torch.ones(2, 10, 4)
    x[:, 5:] = -1
    assert torch.equal(select(x, 2), select(x, 2))
    chosen = {tuple(select(x, 2, HoTConfig(seed=seed))[0].tolist()) for seed in range(6)}
    assert len(chosen) > 1
    assert all(first < 5 <= second for first, second in chosen)
    assert select(torch.ones(1, 4, 2), 3).tolist() == [[0, 1, 2]]


def test_without_noise_the_densest_pair_gives_two_centres() -> None:
    x = torch.tensor([[[0.0], [0.1], [5.0], [5.2], [5.5]]])
    assert select(x, 2, HoTConfig(noise=0.0)).tolist() == [[0, 1]]
    assert (select(x, 2)[0] >= 2).tolist() == [False, True]


def test_motion_is_where_frames_change() -> None:
    x = torch.zeros(1, 6, 2)
    x[:, 3:] = 1
    assert motion(x).argsort(descending=True, stable=True)[0, :2].tolist() == [2, 3]
    assert motion(x[:, :1]).tolist() == [[0.0]]


def test_tokens_are_pruned_behind_protected_ones_and_keep_their_mass() -> None:
    x = torch.randn(2, 21, 8, generator=torch.Generator().manual_seed(3))
    mass = torch.arange(1.0, 22).expand(2, -1)
    reduction = HoT().reduce(x, Context(protected=1, mass=mass), 6)
    assert isinstance(reduction, Gather)
    assert reduction.apply(x).shape == (2, 6, 8)
    assert torch.equal(reduction.apply(x)[:, 0], x[:, 0])
    assert torch.equal(reduction.mass, mass.gather(1, reduction.index))
    assert torch.equal(reduction.index[:, 1:] - 1, select(x[:, 1:], 5))


def test_merging_loses_no_mass_and_orders_groups_by_their_centres() -> None:
    x = segments((5, 4, 6))
    reduction = HoT(HoTConfig(merge=True)).reduce(x, Context(), 3)
    assert isinstance(reduction, Assign)
    assert reduction.mass.tolist() == [[5, 4, 6]]
    assert reduction.source_map[0].tolist() == [0] * 5 + [1] * 4 + [2] * 6


def test_whole_frames_stay_together() -> None:
    x = segments((6, 2, 4), dim=8).repeat_interleave(4, 1)
    context = Context(grid=(12, 2, 2))
    reducer = HoT(HoTConfig(level="frame"))
    reduction = reducer.reduce(x, context, 12)
    kept = reduction.index[0].view(3, 4)
    assert torch.equal(kept, kept[:, :1] // 4 * 4 + torch.arange(4))
    assert kept[:, 0].div(24, rounding_mode="floor").tolist()[0] == 0
    merged = HoT(HoTConfig(level="frame", merge=True)).reduce(x, context, 12)
    assert merged.mass.sum() == 48
    with pytest.raises(ConfigError, match="multiple of 4"):
        reducer.reduce(x, context, 13)
    with pytest.raises(ConfigError, match="grid"):
        reducer.reduce(x, Context(), 12)


def test_attention_chooses_what_is_looked_at() -> None:
    x = torch.randn(1, 8, 4)
    received = torch.tensor([[0.0, 5, 1, 0, 4, 0, 0, 3]])
    reducer = HoT(HoTConfig(selection="attention"))
    found = reducer.reduce(x, Context(attention=lambda queries: received), 3)
    assert found.index.tolist() == [[1, 4, 7]]
    with pytest.raises(UnsupportedError, match="attention"):
        reducer.reduce(x, Context(), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_samples_do_not_see_each_other_and_halves_will_do(dtype) -> None:
    x = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(4)).to(dtype)
    together = HoT().reduce(x, Context(), 7)
    assert together.apply(x).dtype == dtype
    for sample in range(3):
        alone = HoT().reduce(x[sample : sample + 1], Context(), 7)
        assert torch.equal(alone.index[0], together.index[sample])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="neighbour"):
        HoTConfig(neighbours=0)
    with pytest.raises(ConfigError, match="9 frames"):
        select(torch.zeros(1, 8, 2), 9)


def test_left_to_itself_it_keeps_a_third_early() -> None:
    reducer = HoT()
    assert reducer.reduce(torch.randn(1, 243, 4), Context()).count == 81
    assert reducer.layers(8) == (2,)
