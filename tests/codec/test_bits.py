import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codec.bits import BLOCK, pack, packed_bytes, unpack, width
from smalti.errors import FormatError


@given(st.integers(1, 62), st.lists(st.integers(0, (1 << 62) - 1), max_size=40))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_codes_come_back(bits, values):
    codes = np.array(values, np.int64) & ((1 << bits) - 1)
    data = pack(codes, bits)
    assert len(data) == packed_bytes(len(codes), bits)
    assert np.array_equal(unpack(data, len(codes), bits), codes)


def test_bits_stand_highest_first():
    assert pack(np.array([1, 2, 3]), 3) == bytes([0b00101001, 0b10000000])


@pytest.mark.parametrize("bits", [1, 7, 10, 17, 33])
def test_codes_of_several_blocks_come_back(bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, BLOCK + 5)
    assert np.array_equal(unpack(pack(codes, bits), len(codes), bits), codes)


@pytest.mark.parametrize(("size", "bits"), [(1, 0), (2, 1), (3, 2), (1024, 10), (1025, 11), (1 << 62, 62)])
def test_width_holds_every_code_and_no_more(size, bits):
    assert width(size) == bits


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0"])
def test_wrong_length_is_refused(data):
    with pytest.raises(FormatError, match="5 codes of 3 bits take 2 bytes"):
        unpack(data, 5, 3)
