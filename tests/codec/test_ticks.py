from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codec.ticks import read_times, times_bytes, write_times
from smalti.errors import ConfigError, FormatError


def there_and_back(times, time_base=None):
    base, layout, data = write_times(times, time_base)
    assert len(data) == times_bytes(layout, len(times))
    return read_times(layout, data, len(times), base), base, layout, data


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30),
    st.sampled_from([None, Fraction(1, 90000), Fraction(1001, 30000)]),
)
@settings(deadline=None, max_examples=200, derandomize=True)
def test_any_times_come_back_exactly(times, base):
    times = np.array(times)
    assert np.array_equal(there_and_back(times, base)[0], times)


@given(
    st.lists(st.integers(-(2**32), 2**32), min_size=1, max_size=30),
    st.fractions(Fraction(1, 10**6), 1, max_denominator=10**6),
)
@settings(deadline=None, max_examples=200, derandomize=True)
def test_ticks_of_a_known_base_are_kept_as_ticks(ticks, base):
    times = np.array(ticks, np.float64) * base.numerator / base.denominator
    back, _, layout, _ = there_and_back(times, base)
    assert np.array_equal(back, times)
    assert layout["kind"] == "ticks"


@pytest.mark.parametrize("denominator", [25, 1000, 15360, 90000, 1_000_000])
def test_the_base_is_found(denominator):
    ticks = np.cumsum(np.random.default_rng(0).integers(1, 5 * denominator // 25, 500))
    times = ticks / denominator
    back, base, layout, data = there_and_back(times)
    assert np.array_equal(back, times)
    assert layout["kind"] == "ticks"
    assert len(data) < 3 * len(times)
    assert denominator % base.denominator == 0 or base.denominator % denominator == 0


def test_a_steady_rate_takes_no_byte():
    times = np.arange(1000) * 1001 / 30000
    back, _, layout, data = there_and_back(times)
    assert np.array_equal(back, times)
    assert (layout["bits"], data) == (0, b"")


def test_wrong_lengths_are_refused():
    with pytest.raises(FormatError, match="3 frames take 24 bytes"):
        read_times({"kind": "float64"}, b"", 3, None)
    layout = {"kind": "ticks", "first": 0, "step": 1, "bits": 4}
    with pytest.raises(FormatError, match="found 0"):
        read_times(layout, b"", 3, Fraction(1, 25))
    with pytest.raises(FormatError, match="no time base"):
        read_times(layout, b"\0", 3, None)


def test_a_time_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="frame 1"):
        write_times(np.array([0.0, np.nan]), None)
