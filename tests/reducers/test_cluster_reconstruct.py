"""Cluster-reconstruct as a reducer: any grid, any count, and all tokens back."""

import copy

import pytest
import torch

import smalti
from smalti.errors import ConfigError, UnsupportedError
from smalti.nn.flops import count_flops
from smalti.reducers import Context, Dense
from smalti.reducers.cluster_reconstruct import ClusterReconstruct, ClusterReconstructConfig


def reducer(**options) -> ClusterReconstruct:
    return ClusterReconstruct(ClusterReconstructConfig(**options))


@pytest.mark.parametrize(
    ("grid", "window", "protected", "count"),
    [
        ((1, 8, 8), 0, 1, 17),
        ((1, 8, 8), 0, 1, 2),
        ((1, 8, 8), 0, 1, 64),
        ((1, 7, 5), 0, 0, 23),
        ((3, 4, 6), 0, 2, 31),  # 29 cells for three frames
        ((3, 4, 6), 0, 0, 2),  # fewer than frames
        ((1, 8, 8), 4, 1, 17),
        ((1, 7, 9), 4, 0, 20),  # windows at the border are smaller
        ((2, 7, 9), 3, 0, 11),  # fewer than windows
    ],
)
def test_exactly_the_count_asked(grid, window, protected, count):
    size = grid[0] * grid[1] * grid[2] + protected
    x, mass = torch.randn(2, size, 6), torch.rand(2, size) + 0.5
    context = Context(grid=grid, protected=protected, mass=mass)
    found = reducer(window=window, temperature=0.3).reduce(x, context, count)
    assert found.count == count
    assert found.mask.all()
    assert found.source_map.min() >= 0
    torch.testing.assert_close(found.mass.sum(1), mass.sum(1))
    torch.testing.assert_close(found.matrix().sum(-1), torch.ones(2, count))
    torch.testing.assert_close(found.apply(x)[:, :protected], x[:, :protected])
    assert found.restore(found.apply(x)).shape == x.shape


def test_a_relative_temperature_fits_features_of_every_scale():
    x, context = torch.randn(2, 36, 4), Context(grid=(1, 6, 6))
    small, large = (reducer().reduce(factor * x, context, 9).matrix() for factor in (1e-2, 1e2))
    torch.testing.assert_close(small, large)
    absolute = reducer(relative=False, temperature=0.02)
    assert not torch.allclose(*(absolute.reduce(f * x, context, 9).matrix() for f in (1e-2, 1e2)))


def test_a_constant_map_stays_constant_by_weights_that_sum_to_one():
    x, context = torch.ones(1, 36, 4), Context(grid=(1, 6, 6))
    found = reducer().reduce(x, context, 9)
    torch.testing.assert_close(found.restore(found.apply(x)), x)
    scaled = reducer(norm="l2").reduce(x, context, 9)
    torch.testing.assert_close(scaled.restore(scaled.apply(x)), 3 * x)  # nine equal weights of 1/3


def test_frames_and_windows_do_not_mix():
    x = torch.randn(1, 2 * 6 * 6, 4)
    found = reducer(temperature=0.1).reduce(x, Context(grid=(2, 6, 6)), 18).matrix()[0]
    assert (found[:9, 36:] == 0).all()
    assert (found[9:, :36] == 0).all()
    windowed = reducer(temperature=0.1, window=3).reduce(x[:, :36], Context(grid=(1, 6, 6)), 16)
    window = torch.arange(36) // 18 * 2 + torch.arange(36) % 6 // 3
    assert isinstance(windowed, Dense)
    inside = torch.arange(16)[:, None] // 4 == window
    assert (windowed.matrix()[0][~inside] == 0).all()
    assert windowed.back is not None
    assert (windowed.back[0].T[~inside] == 0).all()


def test_a_window_is_what_it_would_be_alone():
    x = torch.randn(2, 36, 4)
    whole = reducer(window=3).reduce(x, Context(grid=(1, 6, 6)), 16).apply(x)
    corner = x.view(2, 6, 6, 4)[:, 3:, :3].flatten(1, 2)
    alone = reducer().reduce(corner, Context(grid=(1, 3, 3)), 4).apply(corner)
    torch.testing.assert_close(whole[:, 8:12], alone)


def test_copying_the_nearest_centre():
    x = torch.randn(1, 36, 4)
    found = reducer(unpool="nearest", temperature=1.0).reduce(x, Context(grid=(1, 6, 6)), 9)
    centres = found.apply(x)
    torch.testing.assert_close(found.restore(centres), centres[:, torch.cdist(x, centres)[0].argmin(-1)])


def test_samples_do_not_touch_each_other():
    x, context = torch.randn(3, 64, 8), Context(grid=(1, 8, 8))
    whole = reducer().reduce(x, context, 20)
    torch.testing.assert_close(reducer().reduce(x[1:2], context, 20).matrix(), whole.matrix()[1:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = (40 * torch.randn(1, 64, 8)).to(dtype)
    found = reducer().reduce(x, Context(grid=(1, 8, 8)), 16)
    assert found.apply(x).dtype == dtype
    assert found.restore(found.apply(x)).isfinite().all()


def test_without_a_count_the_sides_shrink():
    assert reducer().reduce(torch.randn(1, 1601, 2), Context(grid=(1, 40, 40), protected=1)).count == 785


def test_clusters_once_after_ten_of_twenty_four_blocks():
    assert reducer().layers(24) == (9,)
    assert reducer().layers(12) == (4,)
    assert reducer().layers(1) == (0,)


def test_its_own_arithmetic():
    x, context = torch.randn(1, 144, 16), Context(grid=(1, 12, 12))
    once = 144 * 36 * 16
    # five times distances and means, the means of pooling are the first; then centres and distances back
    assert count_flops(reducer().reduce, x, context, 36) == 5 * 2 * once + 2 * once


def test_tokens_that_lie_on_no_grid_are_refused():
    with pytest.raises(UnsupportedError, match="needs grid"):
        reducer().reduce(torch.randn(1, 9, 2), Context(), 4)
    with pytest.raises(UnsupportedError, match="3×3"):
        reducer().reduce(torch.randn(1, 10, 2), Context(grid=(1, 3, 3)), 4)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"locality": 4}, {"neighbours": 0}, {"window": -1}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        reducer(**wrong)


@pytest.mark.parametrize("field", ["norm", "unpool"])
def test_names_that_do_not_exist_are_refused(field):
    config = copy.copy(ClusterReconstructConfig())
    object.__setattr__(config, field, "other")  # as from Python without checks of types
    with pytest.raises(ConfigError, match="choose"):
        config.__post_init__()


@pytest.mark.parametrize("preset", ["default", "segmenter", "dpt", "mask2former", "sam"])
def test_every_preset_reduces(preset):
    x = torch.randn(1, 576, 8)
    found = smalti.create("cluster-reconstruct", preset, room="reducers").reduce(
        x, Context(grid=(1, 24, 24)), 256
    )
    assert found.restore(found.apply(x)).isfinite().all()
