"""Windows against every partition there is."""

from itertools import pairwise, product

import pytest
import torch

from smalti.nn.film_cut import apportion, best_cut, cut_that_leaves, gains


def partitions(frames):
    for cuts in product([False, True], repeat=frames - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), frames]
        yield [(a, b - 1) for a, b in pairwise(edges)]


def still(frames, seed):
    return torch.rand(frames - 1, 9, generator=torch.Generator().manual_seed(seed)) > 0.4


@pytest.mark.parametrize("frames", range(1, 9))
@pytest.mark.parametrize("longest", [None, 3])
def test_no_partition_saves_more(frames, longest):
    moves = still(frames, frames)
    cut = best_cut(gains(moves), longest)

    def saved(windows):
        return sum(int(moves[a:b].all(0).sum()) * (b - a) for a, b in windows if b > a)

    fitting = [w for w in partitions(frames) if longest is None or all(b - a < longest for a, b in w)]
    assert cut.saved == max(map(saved, fitting)) == saved(cut.windows)
    assert [frame for a, b in cut.windows for frame in range(a, b + 1)] == list(range(frames))


def test_what_saves_nothing_stays_apart():
    assert best_cut(gains(torch.zeros(3, 5, dtype=torch.bool))).windows == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_shorter_windows_leave_enough():
    gain = gains(torch.ones(7, 10, dtype=torch.bool))
    for least in (10, 11, 25, 40, 80):
        cut = cut_that_leaves(gain, 80, least, 1024)
        longest = max(b - a + 1 for a, b in cut.windows)
        assert 80 - cut.saved >= least
        assert longest == 8 or 80 - best_cut(gain, longest + 1).saved < least


def test_apportioning():
    assert apportion([10, 0, 5, 5], 10) == [5, 0, 3, 2]
    for count in range(0, 24):
        kept = apportion([7, 1, 16], count)
        assert sum(kept) == count
        assert all(a <= b for a, b in zip(kept, [7, 1, 16], strict=True))
