import math
import time

import pytest
import torch

import smalti
from smalti.evaluation.audit import cost
from tests.reducers.hosts.families import build, vit

CPU = torch.device("cpu")


def test_two_calls_run_by_turns_after_the_warm_up() -> None:
    order = []
    times = cost.race(lambda: order.append("full"), lambda: order.append("reduced"), CPU, repeats=3, warmup=2)
    assert order == ["full", "reduced"] * 5
    assert [len(one) for one in times] == [3, 3]


def test_spread_is_quartiles_around_the_median() -> None:
    assert cost.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert cost.spread([7.0]) == (7.0, 7.0, 7.0)


def test_speed_names_its_batch_and_compares_with_the_bound() -> None:
    model, twin = build(vit), build(vit)
    with smalti.reduce(model, "tome", keep=0.5) as handle, torch.no_grad():
        found = cost.speed(twin, handle, torch.rand(2, 3, 64, 64), bound=2.0, repeats=2, warmup=1)
        assert "step" not in vars(handle)
    assert found.batch == 2
    assert found.speedup == pytest.approx(found.full_seconds / found.seconds)
    assert found.share == pytest.approx(found.speedup / 2)
    assert 0 < found.scoring < 1
    assert found.low <= found.seconds <= found.high


def test_scoring_is_the_share_of_the_time_between_blocks() -> None:
    model = build(vit)
    with smalti.reduce(model, "tome", keep=0.5) as handle, torch.no_grad():
        reduce = handle.reducer.reduce

        def slow(*given, **options):
            time.sleep(0.05)
            return reduce(*given, **options)

        handle.reducer.reduce = slow
        assert cost.scoring(handle, torch.rand(1, 3, 64, 64), repeats=1) > 0.5


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    weight = torch.ones(1000, 1000)

    def work() -> None:
        first = torch.zeros(1000, 1000)
        view = first.view(-1)
        del first, view
        second = torch.zeros(2000, 1000)
        second += 1
        third = weight * 2
        assert len(second) > len(third)

    assert cost.peak_memory(work, CPU) == 4 * 3_000_000


def test_break_even_lies_where_the_curves_cross() -> None:
    counts = (100, 200, 400)
    assert cost.break_even(counts, (1.0, 1.0, 1.0), (2.0, 1.0, 0.5)) == pytest.approx(200)
    assert cost.break_even(counts, (1.0, 1.0, 1.0), (2.0, 2.0, 0.5)) == pytest.approx(200 * math.sqrt(2))
    assert cost.break_even(counts, (1.0, 1.0, 1.0), (0.9, 0.8, 0.7)) == 100
    assert cost.break_even(counts, (1.0, 1.0, 1.0), (0.9, 0.8, 1.1)) == math.inf
