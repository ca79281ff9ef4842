"""How a blob's bytes are stored: one encoding byte and a payload. Knows nothing of names and packs.

A payload of encoding 0x10 is another blob as it is stored here, sealed; that is `pack`'s business.
"""

import threading
from typing import Final

import zstandard

from snapd import errors, units
from snapd.archive import sealing
from snapd.archive.backends import backend

SEALED: Final = b"\x10"

_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
_LARGEST_WINDOW: Final = 8 * units.MIB


def longest(length: int) -> int:
    """Return the most bytes that `length` bytes are stored as."""
    return len(SEALED) + sealing.OVERHEAD + 1 + length


class _ThreadContexts(threading.local):
    """A compressor and a decompressor for each thread: they can't be shared."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)


class Codec:
    """Encodes and decodes blobs. Thread-safe, and the heavy work releases the GIL."""

    def __init__(self, level: int) -> None:
        """Compress with zstd at level."""
        self._contexts = _ThreadContexts(level)

    def encode(self, data: backend.Bytes) -> list[backend.Bytes]:
        """Return what is to be stored, as buffers. Data that doesn't shrink is among them as it is."""
        compressed = self._contexts.compressor.compress(data)
        return [_ZSTD, compressed] if len(compressed) < len(data) else [_RAW, data]

    def decode(self, stored: backend.Bytes, length: int) -> bytes:
        """Return the `length` bytes that were encoded.

        Raises errors.Corrupt if `stored` is anything else. At most `length` bytes are ever allocated:
        python-zstandard trusts the size that a frame declares, so that is compared first.
        """
        view = memoryview(stored)
        encoding, payload = bytes(view[:1]), view[1:]
        if encoding == _RAW:
            if len(payload) != length:
                raise errors.Corrupt(what="blob", problem=f"it has {len(payload)} bytes, not {length}")
            return bytes(payload)
        if encoding != _ZSTD:
            raise errors.Corrupt(what="blob", problem=f"its encoding is {encoding.hex() or 'missing'}")
        try:
            frame = zstandard.get_frame_parameters(payload)
            if frame.content_size != length or frame.window_size > _LARGEST_WINDOW or frame.dict_id:
                raise errors.Corrupt(what="blob", problem=f"its frame isn't one of {length} bytes")
            data = self._contexts.decompressor.decompress(payload, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise errors.Corrupt(what="blob", problem=str(error)) from error
        if len(data) != length:
            raise errors.Corrupt(what="blob", problem=f"it has {len(data)} bytes, not {length}")
        return data
