from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codec import Packed, Tables
from smalti.codec.coders import GENERIC, LARGEST_TABLE, _model, _weight_values, _worthwhile_weights
from smalti.errors import FormatError

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.lists(
    st.one_of(st.integers(1, 40), st.sampled_from([1000, 1 << 16, (1 << 16) + 1, 1 << 40])),
    min_size=1,
    max_size=5,
)


def draw_ids(rng, shape, sizes):
    """Codes that lean towards 0, so that tables are tried as well as packing."""
    lean = rng.random((*shape, len(sizes))) ** rng.choice([1, 8])
    return np.minimum((lean * np.array(sizes)).astype(np.int64), np.array(sizes) - 1)


@pytest.mark.parametrize("coder_class", GENERIC.values())
@given(SIZES, SEEDS, st.tuples(*[st.integers(1, 7)] * 3), st.data())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_ids_come_back(coder_class, sizes, seed, shape, data):
    ids = draw_ids(np.random.default_rng(seed), shape, sizes)
    inner = data.draw(st.sets(st.integers(1, len(sizes))))
    stages = tuple(sorted(inner | {len(sizes)}))
    coder = coder_class(tuple(sizes))
    streams = coder.encode(ids, stages)
    assert len(streams) == len(stages)
    assert np.array_equal(coder.decode(streams, shape, stages), ids)


@pytest.mark.parametrize("coder_class", GENERIC.values())
def test_a_prefix_of_stages_is_what_fewer_codes_give(coder_class):
    sizes, shape = (100, 30, 7, 1000), (4, 5, 6)
    ids = draw_ids(np.random.default_rng(1), shape, sizes)
    coder = coder_class(sizes)
    streams = coder.encode(ids, (1, 2, 4))
    assert coder.encode(ids[..., :2], (1, 2)) == streams[:2]
    assert np.array_equal(coder.decode(streams[:2], shape, (1, 2)), ids[..., :2])


def test_tables_reach_the_entropy():
    rng = np.random.default_rng(2)
    probabilities = np.arange(1, 257) / np.arange(1, 257).sum()
    ids = rng.choice(256, size=(16, 64, 64, 1), p=probabilities)
    ideal = -np.log2(probabilities[ids]).sum() / 8
    assert len(Tables((256,)).encode(ids, (1,))[0]) < 1.002 * ideal + 256 + 32 + 16


def test_tables_are_never_a_byte_a_code_larger_than_packing():
    rng = np.random.default_rng(3)
    for count in (1, 10, 1000):
        ids = rng.integers(0, 1000, (1, 1, count, 3))
        packed, tables = Packed((1000,) * 3).encode(ids, (3,)), Tables((1000,) * 3).encode(ids, (3,))
        assert len(tables[0]) <= len(packed[0]) + 3


def test_a_constant_code_costs_almost_nothing():
    ids = np.full((4, 64, 64, 1), 37)
    assert len(Tables((64,)).encode(ids, (1,))[0]) < 24


def test_frequencies_are_exact_integers():
    """The weights given to constriction are integers that sum to 2^24 - k, which float32 holds exactly."""
    rng = np.random.default_rng(4)
    for size in (2, 3, 1000, LARGEST_TABLE):
        weights = rng.integers(0, 1 << 34, size)
        shares = weights * ((1 << 24) - size) // weights.sum()
        shares[weights.argmax()] += (1 << 24) - size - shares.sum()
        assert (shares >= 0).all()
        assert (shares + 1).sum() == 1 << 24
        assert shares.astype(np.float32).astype(np.int64).tolist() == shares.tolist()
        _model(weights)


def test_weights_follow_the_counts_within_one_sixteenth():
    for count in [1, 2, 7, 8, 15, 16, 17, 100, 1000, 123_456, 10_000_000]:
        plane = np.concatenate([np.zeros(count, np.int64), np.ones(1, np.int64)])
        weights = _worthwhile_weights(plane, LARGEST_TABLE if count < 8 else 4)
        if weights is not None:
            assert abs(int(_weight_values(weights)[0]) - count) <= count / 16


@pytest.mark.parametrize("coder_class", GENERIC.values())
def test_damaged_streams_are_refused_or_give_ids_of_the_right_shape(coder_class):
    rng = np.random.default_rng(5)
    sizes, shape = (40, 3), (3, 4, 5)
    ids = draw_ids(rng, shape, sizes)
    (stream,) = coder_class(sizes).encode(ids, (2,))
    for _ in range(300):
        damaged = bytearray(stream)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        del damaged[rng.integers(1, len(damaged) + 1) :]
        with suppress(FormatError):
            assert coder_class(sizes).decode([bytes(damaged)], shape, (2,)).shape == (*shape, 2)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "stream ends at byte 0"),
        (b"\x02", "code mode 2 does not exist"),
        (b"\x01\x00", "holds no code"),
        (b"\x01\x80\x01\x00\x00\x00", "4 bytes each"),
        (b"\x00" + bytes(6), "4 bytes each"),
        (b"\x00" + bytes(5) + b"\x01\x02\x03\x04" * 3, "go on after the last code"),
    ],
)
def test_tables_name_what_is_wrong(stream, message):
    with pytest.raises(FormatError, match=message):
        Tables((8,)).decode([stream], (1, 1, 12), (1,))


def test_packed_refuses_what_follows_the_last_code():
    with pytest.raises(FormatError, match="goes on"):
        Packed((8,)).decode([bytes(6)], (1, 1, 12), (1,))
