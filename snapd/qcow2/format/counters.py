"""Refcounts of every width as arrays: how a refcount block's bytes are unpacked and packed.

Knows nothing of files. Source: qcow2 specification, "Host cluster management": counters of 8 bits and more are
big-endian, those of less fill each byte from its low bits upwards.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from snapd.blockmap import UInt8Array

Counters = npt.NDArray[np.unsignedinteger[Any]]
"""One refcount each, of the type that `dtype` names."""

_BYTE_ORDER = 3
"""The refcount order at which a counter is a byte: 2**3 bits."""
_TYPES = (np.uint8, np.uint8, np.uint8, np.uint8, np.uint16, np.uint32, np.uint64)


def dtype(order: int) -> "np.dtype[np.unsignedinteger[Any]]":
    """Return the type of counters in memory: the smallest that holds 2**order bits."""
    return np.dtype(_TYPES[order])


def maximum(order: int) -> int:
    """Return the highest refcount that 2**order bits hold."""
    return (1 << (1 << order)) - 1


def per_block(order: int, cluster_bits: int) -> int:
    """Return how many counters a refcount block of one cluster has."""
    return 1 << (cluster_bits + 3 - order)


def unpack(data: UInt8Array, order: int) -> Counters:
    """Return the counters that these bytes hold."""
    if order >= _BYTE_ORDER:
        return data.view(dtype(order).newbyteorder(">")).astype(dtype(order))
    bits = 1 << order
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((data[:, None] >> shifts) & np.uint8(maximum(order))).reshape(-1)


def pack(counters: Counters, order: int) -> bytes:
    """Return the bytes of counters, which fill whole bytes. The reverse of `unpack`."""
    if order >= _BYTE_ORDER:
        return counters.astype(dtype(order).newbyteorder(">")).tobytes()
    bits = 1 << order
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = counters.astype(np.uint8).reshape(-1, 8 // bits) << shifts
    packed: UInt8Array = np.bitwise_or.reduce(parts, axis=1).astype(np.uint8)
    return packed.tobytes()
