import contextlib
import errno
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from snapd import errors, faults, fsops


@pytest.fixture
def log() -> Iterator[list[fsops.Operation]]:
    """Record every operation."""
    operations: list[fsops.Operation] = []
    fsops.observe(operations.append)
    yield operations
    fsops.observe(None)


@contextlib.contextmanager
def _file(path: pathlib.Path, data: bytes = b"") -> Iterator[int]:
    fd = fsops.create(path)
    try:
        fsops.pwrite(fd, data, 0)
        yield fd
    finally:
        os.close(fd)


def test_a_small_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: pathlib.Path, log: list[fsops.Operation]
) -> None:
    fsops.write_file(tmp_path / "settings", b"new")
    assert (tmp_path / "settings").read_bytes() == b"new"
    assert [operation.name for operation in log] == ["unlink", "create", "pwrite", "fsync", "rename", "syncdir"]
    assert os.listdir(tmp_path) == ["settings"]


@pytest.mark.parametrize("call", ["create", "pwrite", "fsync", "rename"])
def test_a_small_file_that_can_not_be_replaced_stays_as_it_was(tmp_path: pathlib.Path, call: str) -> None:
    path = tmp_path / "settings"
    fsops.write_file(path, b"old")
    fsops.observe(faults.Faults(f"ENOSPC@{call}"))
    try:
        with pytest.raises(OSError, match="No space"):
            fsops.write_file(path, b"new")
    finally:
        fsops.observe(None)
    assert path.read_bytes() == b"old"
    fsops.write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_is_created_only_where_there_is_none(tmp_path: pathlib.Path) -> None:
    with _file(tmp_path / "a"):
        pass
    with pytest.raises(FileExistsError):
        fsops.create(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        fsops.create(tmp_path / "link")


def test_no_link_is_followed(tmp_path: pathlib.Path) -> None:
    with _file(tmp_path / "a"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic"):
        fsops.open_for_writing(tmp_path / "link")


def test_more_buffers_than_the_kernel_takes_at_once_are_all_written(tmp_path: pathlib.Path) -> None:
    buffers = [bytes([number % 256]) * (number % 3) for number in range(3000)]
    with _file(tmp_path / "a") as fd:
        fsops.pwritev(fd, buffers, 10)
    assert (tmp_path / "a").read_bytes() == bytes(10) + b"".join(buffers)


def test_a_range_is_copied_between_files(tmp_path: pathlib.Path) -> None:
    with _file(tmp_path / "a", b"0123456789") as source, _file(tmp_path / "b") as target:
        fsops.copy_range(source, target, 2, 5, 4)
    assert (tmp_path / "b").read_bytes() == bytes(5) + b"2345"


def test_a_copy_past_the_end_of_its_source_fails(tmp_path: pathlib.Path) -> None:
    with (
        _file(tmp_path / "a", b"0123") as source,
        _file(tmp_path / "b") as target,
        pytest.raises(OSError, match="source ends"),
    ):
        fsops.copy_range(source, target, 0, 0, 8)


def test_what_the_kernel_does_not_copy_goes_through_a_buffer(tmp_path: pathlib.Path) -> None:
    # The kernel refuses to copy within a file onto itself where the ranges overlap.
    with _file(tmp_path / "a", b"0123456789") as fd:
        fsops.copy_range(fd, fd, 0, 2, 2)
        fsops.copy_range(fd, fd, 0, 1, 4)
        assert os.pread(fd, 6, 0)[:1] == b"0"
    assert len((tmp_path / "a").read_bytes()) == 10


def test_a_range_is_shared_or_it_is_said_that_it_can_not_be(tmp_path: pathlib.Path) -> None:
    data = bytes(range(256)) * 16
    with _file(tmp_path / "a", data) as source, _file(tmp_path / "b", bytes(len(data))) as target:
        shared = fsops.clone_range(source, target, 0, 0, len(data))
        assert os.pread(target, len(data), 0) == (data if shared else bytes(len(data)))


def test_a_punched_hole_reads_as_zeros_and_gives_space_back(tmp_path: pathlib.Path) -> None:
    with _file(tmp_path / "a", b"x" * 65536) as fd:
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        if fsops.punch_hole(fd, 0, 32768):
            assert os.pread(fd, 65536, 0) == bytes(32768) + b"x" * 32768
            assert os.fstat(fd).st_blocks < before
        assert os.fstat(fd).st_size == 65536


def test_folders_are_made_with_their_parents_and_may_be_there(tmp_path: pathlib.Path) -> None:
    fsops.make_directory(tmp_path / "a" / "b" / "c")
    fsops.make_directory(tmp_path / "a" / "b" / "c")
    fsops.make_directories(tmp_path / "a", ["b", "d"])
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "d"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        fsops.make_directory(tmp_path / "file" / "x")


def test_only_an_empty_folder_is_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not fsops.remove_directory(tmp_path / "a")
    assert fsops.remove_directory(tmp_path / "a" / "b")
    assert fsops.remove_directory(tmp_path / "a" / "b")


def test_removing_says_whether_there_was_something(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").touch()
    assert fsops.unlink(tmp_path / "a")
    assert not fsops.unlink(tmp_path / "a")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, errors.StorageFull), (errno.EDQUOT, errors.StorageFull), (errno.EIO, errors.StorageFailed)],
)
def test_what_the_file_system_says_becomes_an_error_of_ours(code: int, kind: type[errors.SnapdError]) -> None:
    with pytest.raises(kind, match="/pool"), fsops.translated("/pool"):
        raise OSError(code, os.strerror(code))


def test_a_fault_strikes_at_its_occurrence_and_only_then(tmp_path: pathlib.Path) -> None:
    plan = faults.Faults("EIO@fsync:2,ENOSPC@half.way")
    fsops.observe(plan)
    try:
        with _file(tmp_path / "a") as fd:
            fsops.fsync(fd)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                fsops.fsync(fd)
            fsops.fsync(fd)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            fsops.point("half.way")
        fsops.point("half.way")
    finally:
        fsops.observe(None)


@pytest.mark.parametrize("plan", ["kill", "kill@", "EWHATEVER@fsync", "@fsync", "kill@fsync:x"])
def test_a_plan_that_makes_no_sense_is_refused(plan: str) -> None:
    with pytest.raises(ValueError, match=r"fsync|not ACTION|invalid literal"):
        faults.Faults(plan)


def test_a_kill_leaves_no_time_for_anything(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys, pathlib; from snapd import faults, fsops; assert faults.install();"
        "p = pathlib.Path(sys.argv[1])\n"
        "try:\n fsops.write_file(p, b'x')\nfinally:\n p.with_name('late').touch()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")],
        env=os.environ | {faults.VARIABLE: "kill@rename"},
        check=False,
    )
    assert ended.returncode == -9
    assert os.listdir(tmp_path) == [".a.tmp"]


def test_without_a_plan_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert not faults.install()


def test_a_write_that_the_kernel_takes_in_several_goes_is_announced_go_by_go(tmp_path: pathlib.Path) -> None:
    made: list[tuple[str, int, int]] = []
    with _file(tmp_path / "a") as fd:
        fsops.observe(
            lambda operation: 3 if operation.name == "pwrite" else None,
            lambda operation: made.append((operation.name, operation.offset, operation.length)),
        )
        try:
            fsops.pwrite(fd, b"01234567", 0)
            fsops.pwritev(fd, [b"89", b"abcd"], 8)
        finally:
            fsops.observe(None)
    assert (tmp_path / "a").read_bytes() == b"0123456789abcd"
    assert made == [("pwrite", at, length) for at, length in ((0, 3), (3, 3), (6, 2), (8, 2), (10, 3), (13, 1))]


def test_a_copy_that_is_short_goes_on_where_it_ended(tmp_path: pathlib.Path) -> None:
    made: list[int] = []
    with _file(tmp_path / "a", b"0123456789") as source, _file(tmp_path / "b") as target:
        fsops.observe(lambda _: 4, lambda operation: made.append(operation.length))
        try:
            fsops.copy_range(source, target, 0, 0, 10)
        finally:
            fsops.observe(None)
    assert (tmp_path / "b").read_bytes() == b"0123456789"
    assert made == [4, 4, 2]


def test_what_fails_has_no_witness(tmp_path: pathlib.Path) -> None:
    made: list[fsops.Operation] = []
    fsops.observe(faults.Faults("EIO@rename"), made.append)
    try:
        with pytest.raises(OSError, match="Input/output"):
            fsops.write_file(tmp_path / "settings", b"new")
        assert not fsops.unlink(tmp_path / "nothing")
    finally:
        fsops.observe(None)
    assert [operation.name for operation in made] == ["create", "pwrite", "fsync"]
