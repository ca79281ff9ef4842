"""A local image file as pieces to send: chunks with checksums, and holes.

It owns what a file's bytes and holes are. It must not know where the pieces go.
"""

import errno
import os
from collections.abc import Iterator
from typing import Final

import google_crc32c

from snapd import units
from snapd.v1 import transfer_pb2

CHUNK: Final = units.MIB
"""Bytes of a full chunk, the most that the API takes."""

_ZEROS: Final = bytes(CHUNK)


def size_bytes(fd: int) -> int:
    """Return the length of a file or block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def pieces(fd: int, start: int, end: int) -> Iterator[transfer_pb2.DataChunk | transfer_pb2.Hole]:
    """Yield what [start, end) of a file holds, in ascending order and without gaps.

    Holes of the file system and chunks that are all zeros come as holes. Raises OSError, also if the file is shorter.
    """
    for offset, length, holds_data in _segments(fd, start, end):
        if not holds_data:
            yield transfer_pb2.Hole(offset=offset, length=length)
            continue
        position = offset
        while position < offset + length:
            # Chunks end at multiples of their size, so that a resumed transfer cuts as the first one did.
            wanted = min(CHUNK - position % CHUNK, offset + length - position)
            data = os.pread(fd, wanted, position)
            if len(data) < wanted:
                raise _too_short(position + len(data), end)
            if data == _ZEROS[:wanted]:
                yield transfer_pb2.Hole(offset=position, length=wanted)
            else:
                yield transfer_pb2.DataChunk(offset=position, data=data, crc32c=google_crc32c.value(data))
            position += wanted


def _segments(fd: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (offset, length, whether it holds data) of [start, end); all data where holes can't be told."""
    position = start
    while position < end:
        try:
            data = min(os.lseek(fd, position, os.SEEK_DATA), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                if size_bytes(fd) < end:
                    raise _too_short(size_bytes(fd), end) from error
                data = end
            elif error.errno == errno.EINVAL:
                data = position
            else:
                raise
        if data > position:
            yield position, data - position, False
        if data < end:
            hole = _next_hole(fd, data, end)
            yield data, hole - data, True
            position = hole
        else:
            position = end


def _too_short(offset: int, end: int) -> OSError:
    return OSError(errno.EIO, f"the file ends at offset {offset}, before {end}")


def _next_hole(fd: int, data: int, end: int) -> int:
    try:
        return min(os.lseek(fd, data, os.SEEK_HOLE), end)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return end
