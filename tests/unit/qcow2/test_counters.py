"""Refcounts of every width, packed and unpacked."""

import numpy as np
import pytest

from snapd.qcow2.format import counters


@pytest.mark.parametrize(
    ("order", "first", "packed"),
    [
        (0, [1, 0, 1, 1, 0, 0, 0, 1], b"\x8d"),
        (1, [1, 2, 3, 0], b"\x39"),
        (2, [1, 15], b"\xf1"),
        (3, [200], b"\xc8"),
        (4, [0x0102], b"\x01\x02"),
        (5, [0x01020304], b"\x01\x02\x03\x04"),
        (6, [(1 << 64) - 2], b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
    ],
)
def test_the_first_counter_lies_where_the_format_says(order: int, first: list[int], packed: bytes) -> None:
    assert counters.pack(np.array(first, counters.dtype(order)), order) == packed
    assert counters.unpack(np.frombuffer(packed, np.uint8), order).tolist() == first


@pytest.mark.parametrize("order", range(7))
def test_what_is_packed_comes_back(order: int) -> None:
    random = np.random.default_rng(order)
    count = counters.per_block(order, 9)
    high = counters.maximum(order)
    values = random.integers(0, high, count, np.uint64, endpoint=True).astype(counters.dtype(order))
    data = counters.pack(values, order)
    assert len(data) == 512
    assert np.array_equal(counters.unpack(np.frombuffer(data, np.uint8), order), values)
