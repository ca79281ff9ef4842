import os
import pathlib
import stat
import subprocess
import sys

import pytest

from snapd import errors
from snapd.live import lending

NOBODY = 65534
_TRY = """
import os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for flags in (os.O_RDONLY, os.O_RDWR):
    try:
        os.close(os.open(sys.argv[1], flags))
        print("yes", end=" ")
    except (PermissionError, IsADirectoryError):
        print("no", end=" ")
"""


@pytest.fixture
def file(folder: pathlib.Path) -> pathlib.Path:
    """Make a file that only its owner may open, in a folder that only its owner may enter."""
    if not lending.is_supported(folder):
        pytest.skip("the file system has no access lists")
    (folder / "pool").mkdir(mode=0o700)
    path = folder / "pool" / "layer"
    path.touch(0o600)
    return path


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _opens(path: pathlib.Path) -> str:
    """Return whether the account can open a file for reading, and for writing."""
    return subprocess.run([sys.executable, "-c", _TRY, path], capture_output=True, check=True).stdout.decode().strip()


def test_what_is_lent_is_the_accounts_until_it_is_taken_back(file: pathlib.Path) -> None:
    lending.lend(file, NOBODY, lending.READ)
    lending.lend(file, NOBODY, lending.READ | lending.WRITE)
    assert lending.lent(file, NOBODY) == lending.READ | lending.WRITE
    assert lending.lent(file, NOBODY - 1) == 0
    lending.lend(file, NOBODY - 1, lending.READ)
    lending.lend(file, NOBODY, lending.READ)
    assert (lending.lent(file, NOBODY), lending.lent(file, NOBODY - 1)) == (lending.READ, lending.READ)
    lending.take_back(file, NOBODY)
    lending.take_back(file, NOBODY)
    assert (lending.lent(file, NOBODY), lending.lent(file, NOBODY - 1)) == (0, lending.READ)
    lending.take_back(file.parent / "gone", NOBODY)
    with pytest.raises(errors.StorageFailed):
        lending.lend(file.parent / "gone", NOBODY, lending.READ)


def test_others_get_nothing_of_it(file: pathlib.Path) -> None:
    lending.lend(file, NOBODY, lending.READ | lending.WRITE)
    assert _mode(file) & 0o007 == 0
    lending.take_back(file, NOBODY)
    assert _mode(file) == 0o600


def test_freezing_a_file_takes_the_permission_to_write_from_whom_it_is_lent(file: pathlib.Path) -> None:
    lending.lend(file, NOBODY, lending.READ | lending.WRITE)
    file.chmod(0o440)
    assert lending.lent(file, NOBODY) == lending.READ
    lending.lend(file, NOBODY, lending.READ | lending.WRITE)  # a frozen file stays so
    assert lending.lent(file, NOBODY) == lending.READ
    assert _mode(file) == 0o440


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_the_kernel_sees_it_so(file: pathlib.Path) -> None:
    assert _opens(file) == "no no"
    lending.lend(file.parent, NOBODY, lending.SEARCH)
    assert _opens(file) == "no no"
    assert _opens(file.parent) == "no no"
    lending.lend(file, NOBODY, lending.READ | lending.WRITE)
    assert _opens(file) == "yes yes"
    file.chmod(0o440)
    assert _opens(file) == "yes no"
    lending.take_back(file, NOBODY)
    assert _opens(file) == "no no"
