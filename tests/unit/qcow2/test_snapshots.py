import dataclasses
import pathlib
import time

import pytest

from snapd import errors, units
from snapd.qcow2.format import layout
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, writer

CLUSTER = 65536
SIZE = 8 * units.MIB


def entry(**fields: int | bytes) -> bytes:
    """Return an entry of the snapshot table; what isn't given is as QEMU would have it."""
    given = {"id": b"1", "name": b"before", "extra": (0).to_bytes(8) + SIZE.to_bytes(8), "l1_size": 1, **fields}
    texts = [value for key in ("extra", "id", "name") if isinstance(value := given[key], bytes)]
    lengths = [given.get("id_length", len(texts[1])), given.get("name_length", len(texts[2]))]
    numbers = [given["l1_offset"], given["l1_size"], *lengths, 5, 6, 7, 8, given.get("extra_length", len(texts[0]))]
    data = layout.SNAPSHOT.pack(*numbers) + b"".join(texts)
    return data.ljust(units.round_up(len(data), 8), b"\0")


@dataclasses.dataclass
class Subject:
    """An image whose snapshot table the tests write, in a cluster of its own behind all others."""

    path: pathlib.Path
    l1_offset: int
    """Of a copy of the image's L1 table."""

    def snapshots(self, *entries: bytes, count: int | None = None) -> image.Image:
        with self.path.open("r+b") as file:
            table = self.path.stat().st_size
            file.seek(table)
            data = b"".join(entries)
            file.write(data.ljust(units.round_up(len(data), CLUSTER), b"\0"))
            file.seek(60)
            file.write((len(entries) if count is None else count).to_bytes(4) + table.to_bytes(8))
        return image.Image.open(self.path)

    def refused(self, *entries: bytes, problem: str, count: int | None = None) -> None:
        with self.snapshots(*entries, count=count) as opened:
            for use in (opened.snapshots, lambda: opened.block_map(0, SIZE), lambda: opened.of_snapshot("1")):
                with pytest.raises(errors.ImageRefused, match=problem):
                    use()


@pytest.fixture
def subject(tmp_path: pathlib.Path) -> Subject:
    path = tmp_path / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    with writer.Writer.open(path) as target:
        target.write(0, b"x" * (4 * CLUSTER))
    with image.Image.open(path) as opened:
        l1, _ = opened.l1_and_metadata()
    copy_at = units.round_up(path.stat().st_size, CLUSTER)
    with path.open("r+b") as file:
        file.seek(copy_at)
        file.write(l1.astype(">i8").tobytes().ljust(CLUSTER, b"\0"))
    return Subject(path, copy_at)


def read(opened: image.Image) -> bytes:
    buffer = bytearray(opened.size_bytes)
    chain.Chain([opened]).read_into(0, memoryview(buffer))
    return bytes(buffer)


def test_entries_say_what_their_fields_say(subject: Subject) -> None:
    at = subject.l1_offset
    long = (1 << 33).to_bytes(8) + (4 * units.MIB).to_bytes(8) + (99).to_bytes(8) + bytes(1000)
    with subject.snapshots(
        entry(l1_offset=at),
        entry(l1_offset=at, id=b"2", name=b"a\xff\nb", extra=long),
        entry(l1_offset=at, id=b"", name=b"", extra=b""),
        entry(l1_offset=at, id=b"4", extra=(3).to_bytes(8) + SIZE.to_bytes(8) + b"\xff" * 8),
    ) as opened:
        found = opened.snapshots()
    assert [each.id for each in found] == ["1", "2", "", "4"]
    assert [each.name for each in found] == ["before", "a\\xff\nb", "", "before"]
    assert [each.vm_state_bytes for each in found] == [0, 1 << 33, 8, 3]
    assert [each.size_bytes for each in found] == [SIZE, 4 * units.MIB, SIZE, SIZE]
    assert [each.icount for each in found] == [None, 99, None, None]
    assert (found[0].date_s, found[0].date_ns, found[0].vm_clock_ns) == (5, 6, 7)


def test_a_snapshot_is_found_by_its_id_and_then_by_its_name(subject: Subject) -> None:
    at = subject.l1_offset
    with subject.snapshots(
        entry(l1_offset=at, id=b"1", name=b"2"), entry(l1_offset=at, id=b"2", name=b"one", extra=b"")
    ) as opened:
        with opened.of_snapshot("2") as seen, opened.of_snapshot("one") as same:
            assert read(seen) == read(same) == read(opened)
        with pytest.raises(errors.NotFound):
            opened.of_snapshot("three")


def test_a_snapshot_has_its_own_size_and_outlives_what_it_was_opened_from(subject: Subject) -> None:
    extra = (0).to_bytes(8) + (3 * CLUSTER).to_bytes(8)
    with subject.snapshots(entry(l1_offset=subject.l1_offset, extra=extra)) as opened:
        seen = opened.of_snapshot("before")
    with seen:
        assert read(seen) == b"x" * (3 * CLUSTER)


def test_data_on_another_l1_table_is_damage(subject: Subject) -> None:
    with subject.snapshots(entry(l1_offset=subject.l1_offset)) as opened:
        l1, _ = opened.l1_and_metadata()
        active = opened.header.l1_offset
    for host in (subject.l1_offset, active, subject.l1_offset + CLUSTER):
        with subject.path.open("r+b") as file:
            file.seek(int(l1[0]) & layout.OFFSET_MASK)
            file.write((1 << 63 | host).to_bytes(8))
        with image.Image.open(subject.path) as opened:
            with pytest.raises(errors.Corrupt):
                opened.block_map(0, SIZE)
            with opened.of_snapshot("1") as seen, pytest.raises(errors.Corrupt):
                seen.block_map(0, SIZE)


def test_impossible_tables_are_refused(subject: Subject) -> None:
    at = subject.l1_offset
    disk = (0).to_bytes(8)
    subject.refused(entry(l1_offset=at, l1_size=1 << 23), problem="L1 table of 8388608 entries")
    subject.refused(entry(l1_offset=at + 512), problem="misaligned")
    subject.refused(entry(l1_offset=1 << 40), problem="past the end")
    subject.refused(entry(l1_offset=(1 << 64) - CLUSTER), problem="past the end")
    subject.refused(entry(l1_offset=0), problem="overlaps the header")
    subject.refused(entry(l1_offset=CLUSTER), problem="overlaps")
    subject.refused(entry(l1_offset=at, extra=bytes(1025)), problem="1025 bytes of extra data")
    subject.refused(entry(l1_offset=at, extra_length=1 << 31), problem="extra data")
    subject.refused(entry(l1_offset=at, name_length=65535, id_length=65535), problem="past the end")
    subject.refused(entry(l1_offset=at, extra=disk + (1 << 63).to_bytes(8)), problem="more than its L1 table maps")
    subject.refused(entry(l1_offset=at, extra=disk + (1 << 40).to_bytes(8)), problem="more than its L1 table maps")
    subject.refused(entry(l1_offset=at, extra=disk + (513).to_bytes(8)), problem="a disk of 513 bytes")
    subject.refused(entry(l1_offset=at, l1_size=0), problem="more than its L1 table maps")
    subject.refused(*[entry(l1_offset=at)] * 2, count=1500, problem="internal snapshot 2")


def test_a_table_of_the_greatest_count_is_read_within_bounds(subject: Subject) -> None:
    began = time.monotonic()
    many = [entry(l1_offset=subject.l1_offset, id=b"%d" % number) for number in range(65_536)]
    with subject.snapshots(*many) as opened:
        assert len(opened.snapshots()) == 65_536
        assert opened.block_map(0, SIZE).total() == 4 * CLUSTER
    assert time.monotonic() - began < 30
    long = entry(l1_offset=subject.l1_offset, name=b"n" * 65_000)
    subject.refused(*[long] * 1_100, problem="64.0 MiB")


def test_writers_are_kept_out_until_the_last_view_is_closed(subject: Subject) -> None:
    with subject.snapshots(entry(l1_offset=subject.l1_offset)) as opened:
        seen = opened.of_snapshot("1")
    with pytest.raises(errors.ImageBusy):
        writer.Writer.open(subject.path)
    seen.close()
    with pytest.raises(errors.ImageRefused, match="internal snapshots"):
        writer.Writer.open(subject.path)
