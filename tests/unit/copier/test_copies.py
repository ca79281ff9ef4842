"""Bytes moved between chains, archive and streams, cut as they should be, stopped when they should be."""

import contextlib
import pathlib
import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from snapd import blockmap, units
from snapd.copier import control as controls
from snapd.copier import convert, export, inflight, record
from snapd.qcow2.reading import chain as chains
from snapd.qcow2.reading import image
from snapd.qcow2.writing import create, writer

BLOCK = 256 * units.KIB
CLUSTER = 64 * units.KIB
SIZE = 5 * units.MIB + 512
SOURCE = random.Random(8)


class Recording:
    """Blocks as they were put."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.blocks: dict[int, bytes] = {}
        self.zeroes: set[int] = set()

    def put(self, number: int, data: memoryview) -> None:
        with self._lock:
            assert number not in self.blocks
            self.blocks[number] = bytes(data)

    def put_zeroes(self, numbers: blockmap.Int64Array) -> None:
        with self._lock:
            self.zeroes |= set(numbers.tolist())


@contextlib.contextmanager
def _chain(
    folder: pathlib.Path, writes: Sequence[tuple[int, bytes]], holes: Sequence[tuple[int, int]] = ()
) -> Iterator[chains.Chain]:
    path = folder / "disk.qcow2"
    create.create(path, size_bytes=SIZE)
    with writer.Writer.open(path) as target:
        for offset, data in writes:
            target.write(offset, data)
        for offset, length in holes:
            target.write_zeroes(offset, length)
    with image.Image.open(path) as opened:
        yield chains.Chain([opened])


def _joined(pieces: Iterator[export.Piece], position: int) -> bytes:
    parts = []
    for piece in pieces:
        assert piece.offset == position
        parts.append(bytes(piece.length) if piece.data is None else piece.data)
        assert 0 < len(parts[-1]) == piece.length
        assert piece.data is None or piece.length <= export.MESSAGE
        position += piece.length
    return b"".join(parts)


WRITES = [
    (0, SOURCE.randbytes(512)),
    (units.MIB - 512, SOURCE.randbytes(3 * CLUSTER)),
    (SIZE - 512, SOURCE.randbytes(512)),
]


def _content() -> bytes:
    content = bytearray(SIZE)
    for offset, data in WRITES:
        content[offset : offset + len(data)] = data
    return bytes(content)


@pytest.mark.parametrize("offset", [0, 512, units.MIB, units.MIB + 512, 3 * units.MIB, SIZE - 512, SIZE])
def test_an_export_begins_anywhere_and_has_no_gaps(tmp_path: pathlib.Path, offset: int) -> None:
    with _chain(tmp_path, WRITES) as chain:
        assert _joined(export.of_chain(chain, offset), offset) == _content()[offset:]


def test_a_disk_that_holds_nothing_is_one_hole(tmp_path: pathlib.Path) -> None:
    with _chain(tmp_path, []) as chain:
        assert list(export.of_chain(chain, 0)) == [export.Piece(0, SIZE, None)]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_conversion_holds_what_its_source_shows(tmp_path: pathlib.Path, threads: int) -> None:
    path = tmp_path / "copy.qcow2"
    create.create(path, size_bytes=SIZE)
    control = controls.Control()
    with _chain(tmp_path, WRITES) as chain:
        with writer.Writer.open(path) as target:
            convert.convert(chain, target, threads, control)
        with image.Image.open(path) as opened:
            assert _joined(export.of_chain(chains.Chain([opened]), 0), 0) == _content()
    assert control.progress().bytes_done == control.progress().bytes_total > 0


def test_without_a_delta_every_block_with_data_is_recorded(tmp_path: pathlib.Path) -> None:
    recording, control = Recording(), controls.Control()
    with _chain(tmp_path, WRITES, [(2 * units.MIB, units.MIB)]) as chain:
        record.record(chain, None, recording, BLOCK, 2, control)
    content = _content()
    touched = {0, 3, 4, (SIZE - 512) // BLOCK}
    assert recording.blocks == {number: content[number * BLOCK : (number + 1) * BLOCK] for number in touched}
    assert recording.zeroes == set()
    assert control.progress().stage == "ARCHIVING"


def test_with_a_delta_what_it_touches_is_recorded_and_nothing_else(tmp_path: pathlib.Path) -> None:
    def delta(_start: int, _length: int) -> blockmap.BlockMap:
        one = blockmap.single(units.MIB, 512, blockmap.Kind.DATA)
        return blockmap.overlay(one, blockmap.single(2 * units.MIB, 2 * BLOCK, blockmap.Kind.ZERO))

    recording = Recording()
    with _chain(tmp_path, WRITES) as chain:
        record.record(chain, delta, recording, BLOCK, 2, controls.Control())
    assert recording.blocks == {4: _content()[4 * BLOCK : 5 * BLOCK]}
    assert recording.zeroes == {8, 9}


def test_neighbouring_blocks_are_read_together_up_to_a_limit() -> None:
    numbers = np.array([0, 1, 2, 3, 4, 7, 8, 20], np.int64)
    first, count = record._runs(numbers, 4)
    assert list(zip(first.tolist(), count.tolist(), strict=True)) == [(0, 4), (4, 1), (7, 1), (8, 1), (20, 1)]


@pytest.mark.parametrize("parked", [True, False])
def test_work_stops_when_it_is_asked_to(tmp_path: pathlib.Path, parked: bool) -> None:
    control = controls.Control()
    if parked:
        control.park()
    else:
        control.cancel()
    with _chain(tmp_path, WRITES) as chain, pytest.raises(controls.Stopped) as stopped:
        record.record(chain, None, Recording(), BLOCK, 1, control)
    assert stopped.value.parked is parked


def test_a_cancelled_work_is_not_taken_for_a_parked_one() -> None:
    control = controls.Control()
    control.park()
    control.cancel()
    with pytest.raises(controls.Stopped) as stopped:
        control.check()
    assert not stopped.value.parked


def test_a_condition_is_heeded_between_pieces() -> None:
    control = controls.Control()
    control.heed(lambda: (_ for _ in ()).throw(KeyError("no room")))
    with pytest.raises(KeyError, match="no room"):
        list(inflight.ordered(lambda piece: piece, range(3), 1, control))


def test_results_come_in_order_and_few_are_ahead() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def work(piece: int) -> int:
        with lock:
            started.append(piece)
        return piece * 2

    results = inflight.ordered(work, range(100), 2, controls.Control())
    seen = []
    for result in results:
        seen.append(result)
        with lock:
            assert max(started) <= len(seen) + 2 * inflight.DEPTH_PER_THREAD
    assert seen == [2 * piece for piece in range(100)]


def test_the_first_error_ends_the_work_when_it_has_come_to_rest() -> None:
    def work(piece: int) -> int:
        if piece == 3:
            raise KeyError(piece)
        return piece

    seen: list[int] = []
    with pytest.raises(KeyError):
        seen.extend(inflight.ordered(work, range(100), 2, controls.Control()))
    assert seen in ([0, 1, 2], [])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copier")]
