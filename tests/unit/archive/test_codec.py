"""How blobs are encoded, and what is refused when they are decoded."""

import os

import pytest
import zstandard

from snapd import errors, units
from snapd.archive import codec

TEXT = b"compressible " * 5000


@pytest.mark.parametrize("data", [b"", b"x", TEXT, os.urandom(100_000), bytes(4 * units.MIB)])
def test_what_was_encoded_decodes(data: bytes) -> None:
    coder = codec.Codec(1)
    stored = b"".join(coder.encode(memoryview(data)))
    assert len(stored) <= len(data) + 1
    assert coder.decode(stored, len(data)) == data


def test_bytes_that_do_not_shrink_are_stored_as_they_are() -> None:
    data = os.urandom(10_000)
    assert b"".join(codec.Codec(1).encode(data)) == b"\0" + data


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x00",
        b"\x00" + TEXT[:-1],
        b"\x01",
        b"\x01junk",
        b"\x02" + TEXT,
        b"\x10" + TEXT,
        b"\x01" + zstandard.compress(TEXT)[:-1],
        b"\x01" + zstandard.compress(TEXT) + b"x",
        b"\x01" + zstandard.compress(TEXT) + zstandard.compress(b""),
        b"\x01" + zstandard.compress(TEXT + b"x"),
        b"\x01" + zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    ],
)
def test_anything_else_is_damage(stored: bytes) -> None:
    with pytest.raises(errors.Corrupt):
        codec.Codec(1).decode(stored, len(TEXT))


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(256 * units.MIB))
    with pytest.raises(errors.Corrupt):
        codec.Codec(1).decode(b"\x01" + bomb, 64 * units.KIB)


def test_a_window_beyond_the_limit_is_refused() -> None:
    data = os.urandom(1000) * 20_000
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with pytest.raises(errors.Corrupt):
        codec.Codec(1).decode(b"\x01" + compressor.compress(data), len(data))
