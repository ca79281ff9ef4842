"""Extents of one file read into a buffer, beside what the file and a compressor say."""

import os
import pathlib
import random
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from snapd import blockmap, errors, units
from snapd.blockmap import Kind
from snapd.qcow2.format import header, layout
from snapd.qcow2.reading import compressed, extents

BITS = 12
CLUSTER = 1 << BITS
HEADER = header.Header(
    version=3,
    cluster_bits=BITS,
    size_bytes=units.GIB,
    l1_size=1,
    l1_offset=0,
    refcount_table_offset=0,
    refcount_table_clusters=1,
)
Extent = tuple[int, int, int]
"""start, length, host"""


class Subject:
    """A file and a reader of it."""

    def __init__(self, path: pathlib.Path, content: bytes) -> None:
        path.write_bytes(content)
        self.fd = os.open(path, os.O_RDWR)
        self.reader = extents.Reader(self.fd, "disk", len(content), HEADER)

    def read(self, extents: list[Extent], kind: Kind, offset: int, length: int) -> bytes:
        columns = np.array(extents, np.int64).reshape(-1, 3)
        start, lengths, host = (np.ascontiguousarray(column) for column in columns.T)
        n = len(extents)
        found = blockmap.BlockMap(start, lengths, np.full(n, kind, np.uint8), host, np.zeros(n, np.int32))
        buffer = bytearray(b"?" * length)
        self.reader.read(found, offset, memoryview(buffer))
        return bytes(buffer)

    def read_one(self, entry: int, start: int = 0, length: int = CLUSTER) -> bytes:
        return self.read([(start, length, entry)], Kind.COMPRESSED, start, length)


def pack(content: list[bytes], gap: int = 0) -> tuple[bytes, list[int]]:
    """Return a file of compressed clusters and their L2 entries."""
    file, entries = b"", []
    for cluster in content:
        packer = zlib.compressobj(1, zlib.DEFLATED, -12)
        stream = packer.compress(cluster) + packer.flush()
        where = np.array([len(file)], np.int64), np.array([len(stream)], np.int64)
        entries.append(int(compressed.entries(*where, BITS)[0]))
        file += stream + bytes(gap)
    return file, entries


def text(seed: int, length: int = CLUSTER) -> bytes:
    chance = random.Random(seed)
    return bytes(chance.choices(b"abcdefgh", k=length))


CONTENT = random.Random(1).randbytes(100 * 512)
PIECES = strategies.lists(
    strategies.tuples(strategies.integers(0, 8), strategies.integers(1, 9), strategies.integers(0, 90)), max_size=40
)


@hypothesis.given(PIECES, strategies.integers(0, 1 << 40), strategies.integers(0, 8))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_every_extent_gets_the_bytes_of_its_place(
    tmp_path: pathlib.Path, pieces: list[Extent], offset: int, adjacent: int
) -> None:
    subject = Subject(tmp_path / "file", CONTENT)
    extents: list[Extent] = []
    expected = b""
    for number, (gap, sectors, place) in enumerate(pieces):
        follows = adjacent and number % (adjacent + 1) and extents
        host = (extents[-1][2] + extents[-1][1]) // 512 if follows else place
        count = min(sectors, 100 - host)
        if count:
            expected += b"?" * (gap * 512)
            extents.append((offset + len(expected), count * 512, host * 512))
            expected += CONTENT[host * 512 : (host + count) * 512]
    assert subject.read(extents, Kind.DATA, offset, len(expected)) == expected
    os.close(subject.fd)


def test_more_neighbours_than_the_kernel_takes_buffers_are_read(tmp_path: pathlib.Path) -> None:
    content = random.Random(2).randbytes(3000 * 512)
    subject = Subject(tmp_path / "file", content)
    backwards = [(number * 512, 512, (2999 - number) * 512) for number in range(3000)]
    found = subject.read(backwards, Kind.DATA, 0, len(content))
    assert found == b"".join(content[at : at + 512] for at in range(2999 * 512, -1, -512))
    spread = [(number * 1024, 512, number * 512) for number in range(3000)]
    found = subject.read(spread, Kind.DATA, 0, 2 * len(content))
    assert found == b"".join(content[at : at + 512] + b"?" * 512 for at in range(0, len(content), 512))


def test_a_last_cluster_that_the_file_cuts_short_goes_on_with_zeros(tmp_path: pathlib.Path) -> None:
    subject = Subject(tmp_path / "file", b"x" * (2 * CLUSTER - 1000))
    found = subject.read([(0, CLUSTER, CLUSTER), (CLUSTER, CLUSTER, 0)], Kind.DATA, 0, 2 * CLUSTER)
    assert found == b"x" * (CLUSTER - 1000) + bytes(1000) + b"x" * CLUSTER
    with pytest.raises(errors.Corrupt, match="the file ends before the data"):
        subject.read([(0, CLUSTER, 2 * CLUSTER)], Kind.DATA, 0, CLUSTER)


def test_a_file_that_is_cut_short_while_it_is_read_is_damage_and_no_zeros(tmp_path: pathlib.Path) -> None:
    subject = Subject(tmp_path / "file", b"x" * 3 * CLUSTER)
    os.truncate(subject.fd, CLUSTER + 100)
    with pytest.raises(errors.Corrupt, match="cut short at offset 4196"):
        subject.read([(0, 3 * CLUSTER, 0)], Kind.DATA, 0, 3 * CLUSTER)
    assert subject.read([(0, CLUSTER, 0)], Kind.DATA, 0, CLUSTER) == b"x" * CLUSTER


@pytest.mark.parametrize("gap", [0, 7, 700, 70_000])
def test_compressed_clusters_are_read_in_any_order(tmp_path: pathlib.Path, gap: int) -> None:
    count = 400 if gap < 1000 else 40
    content = [text(seed) for seed in range(count)]
    file, entries = pack(content, gap)
    subject = Subject(tmp_path / "file", file)
    order = random.Random(3).sample(range(count), count)
    extents = [(number * CLUSTER, CLUSTER, entries[which]) for number, which in enumerate(order)]
    found = subject.read(extents, Kind.COMPRESSED, 0, count * CLUSTER)
    assert found == b"".join(content[which] for which in order)


def test_parts_of_compressed_clusters_are_read(tmp_path: pathlib.Path) -> None:
    content = [text(seed) for seed in range(3)]
    file, entries = pack(content)
    subject = Subject(tmp_path / "file", file)
    extents = [(1000, CLUSTER - 1000, entries[0]), (CLUSTER, CLUSTER, entries[1]), (2 * CLUSTER, 50, entries[2])]
    assert subject.read(extents, Kind.COMPRESSED, 1000, CLUSTER * 2 - 950) == b"".join(content)[1000 : 2 * CLUSTER + 50]


def test_a_cluster_of_which_a_part_was_read_is_not_expanded_again(tmp_path: pathlib.Path) -> None:
    file, entries = pack([text(1), text(2)])
    subject = Subject(tmp_path / "file", file)
    assert subject.read_one(entries[0], 512, 100) == text(1)[512:612]
    assert subject.read_one(entries[1]) == text(2)
    os.pwrite(subject.fd, b"\xff" * len(file), 0)
    assert subject.read_one(entries[0], 0, CLUSTER) == text(1)
    with pytest.raises(errors.Corrupt):
        subject.read_one(entries[1], 0, 100)


def test_few_clusters_are_kept(tmp_path: pathlib.Path) -> None:
    count = 4 * units.MIB // CLUSTER + 1
    file, entries = pack([text(seed % 5) for seed in range(count)])
    subject = Subject(tmp_path / "file", file)
    for entry in entries:
        subject.read_one(entry, 0, 512)
    os.pwrite(subject.fd, b"\xff" * len(file), 0)
    assert subject.read_one(entries[1], 512, 512) == text(1)[512:1024]
    with pytest.raises(errors.Corrupt):
        subject.read_one(entries[0], 512, 512)


def test_a_cluster_may_end_with_the_file_within_a_sector(tmp_path: pathlib.Path) -> None:
    file, entries = pack([text(1), text(2)])
    assert len(file) % 512
    assert Subject(tmp_path / "file", file).read_one(entries[1]) == text(2)
    with pytest.raises(errors.Corrupt, match="ends after"):
        Subject(tmp_path / "short", file[:-5]).read_one(entries[1])
    with pytest.raises(errors.Corrupt, match="ends after 0"):
        Subject(tmp_path / "gone", file[:100]).read_one(entries[1])


def test_damage_among_many_clusters_is_named_by_its_offset(tmp_path: pathlib.Path) -> None:
    content = [text(seed) for seed in range(600)]
    file, entries = pack(content)
    subject = Subject(tmp_path / "file", file)
    place = entries[500] & ((1 << 58) - 1)
    os.pwrite(subject.fd, b"\xff" * 100, place)
    extents = [(number * CLUSTER, CLUSTER, entry) for number, entry in enumerate(entries)]
    with pytest.raises(errors.Corrupt, match=f"disk, the compressed cluster at offset {place} is damaged"):
        subject.read(extents, Kind.COMPRESSED, 0, 600 * CLUSTER)
    assert layout.COMPRESSED & entries[500]
