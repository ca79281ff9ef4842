"""Chunks of bytes on the wire and their checksums."""

import google_crc32c

from snapd import errors
from snapd.v1 import transfer_pb2


def verified(chunk: transfer_pb2.DataChunk) -> bytes:
    """Return a chunk's bytes. Raises ChecksumMismatch if they are not what was sent."""
    actual = google_crc32c.value(chunk.data)
    if actual != chunk.crc32c:
        raise errors.ChecksumMismatch(offset=chunk.offset, expected_crc32c=chunk.crc32c, actual_crc32c=actual)
    return chunk.data


def chunk(offset: int, data: bytes) -> transfer_pb2.DataChunk:
    """Return bytes with their checksum."""
    return transfer_pb2.DataChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))
