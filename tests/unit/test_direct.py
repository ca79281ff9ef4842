"""Writing past the page cache: the same file as by it, whatever is aligned, cut short or refused."""

import errno
import os
import pathlib
import random
from collections.abc import Iterator

import pytest

from snapd import direct, fsops, units

SIZE = units.MIB


@pytest.fixture
def file(tmp_path: pathlib.Path) -> Iterator[int]:
    """Give a descriptor of an empty file."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    fsops.observe(None)
    os.close(fd)


@pytest.mark.parametrize("seed", [1, random.SystemRandom().getrandbits(32)], ids=["fixed", "fresh"])
def test_any_pieces_in_any_order_make_the_same_file(file: int, seed: int) -> None:
    chance = random.Random(seed)
    memory = direct.buffer(SIZE)
    expected = bytearray()
    output = direct.Output(file)
    for _ in range(40):
        unit = chance.choice((1, 512, 4096, 65536))
        place = chance.choice((0, 0, 512, 7))
        data = memory[place : place + chance.randrange(1, SIZE // 2 // unit) * unit]
        data[:] = chance.randbytes(len(data))
        offset = chance.randrange(0, 2 * SIZE // unit) * unit
        output.pwrite(data, offset)
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset : offset + len(data)] = data
    output.close()
    assert os.pread(file, len(expected) + 1, 0) == expected


def test_what_is_aligned_goes_past_the_cache_and_the_rest_by_it(file: int) -> None:
    if (opened := direct.reopen(file)) is None:
        pytest.skip("the file system of the temporary folder has no O_DIRECT")
    os.close(opened)
    calls: list[tuple[bool, int, int]] = []

    def observe(operation: fsops.Operation) -> None:
        calls.append((int(operation.target) == file, operation.offset, operation.length))

    fsops.observe(observe)
    output = direct.Output(file)
    output.pwrite(direct.buffer(SIZE)[: 100 * units.KIB + 10], 4096)
    output.pwrite(direct.buffer(SIZE)[: direct.LEAST - 1], 0)
    output.close()
    output.pwrite(direct.buffer(SIZE), 0)
    assert calls == [
        (False, 4096, 100 * units.KIB),
        (True, 4096 + 100 * units.KIB, 10),
        (True, 0, direct.LEAST - 1),
        (True, 0, SIZE),
    ]


def test_a_write_that_was_cut_short_where_it_can_not_go_on_is_made_by_the_cache(file: int) -> None:
    fsops.observe(lambda operation: 5000 if int(operation.target) != file else None)
    memory = direct.buffer(SIZE)
    memory[:] = random.Random(3).randbytes(SIZE)
    output = direct.Output(file)
    output.pwrite(memory, 0)
    output.close()
    assert os.pread(file, SIZE + 1, 0) == memory


def test_a_full_disk_is_told_and_not_tried_again(file: int) -> None:
    def observe(_: fsops.Operation) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fsops.observe(observe)
    output = direct.Output(file)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        output.pwrite(direct.buffer(SIZE), 0)
    output.close()
