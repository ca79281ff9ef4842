import os
import pathlib
import subprocess
import sys

from snapd import lockfile

_HOLD = (
    "import pathlib, sys; from snapd import lockfile; lock = lockfile.acquire(pathlib.Path(sys.argv[1]));"
    "print(lock is not None, flush=True); sys.stdin.read()"
)


def test_a_lock_is_taken_once_and_again_after_it_was_closed(tmp_path: pathlib.Path) -> None:
    lock = lockfile.acquire(tmp_path / "lock")
    assert lock is not None
    assert lockfile.acquire(tmp_path / "lock") is None
    assert lockfile.holder(tmp_path / "lock") == str(os.getpid())
    lock.close()
    again = lockfile.acquire(tmp_path / "lock")
    assert again is not None
    again.close()


def test_a_lock_dies_with_its_process_and_names_it_while_it_lives(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert lockfile.acquire(path) is None
        assert lockfile.holder(path) == str(other.pid)
        other.kill()
        other.wait()
    lock = lockfile.acquire(path)
    assert lock is not None
    lock.close()
