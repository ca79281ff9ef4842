import errno
import pathlib
from collections.abc import Iterator
from contextlib import closing

import pytest

from snapd import units
from snapd.live import qmp
from snapd.pool import layers as pools
from snapd.qcow2.checking import check
from tests import filesystems
from tests.unit.live import world as worlds

_WHY_NOT = filesystems.why_not("ext4")
_ROOM = 24 * units.MIB
_PIECE = 256 * units.KIB


@pytest.fixture
def small(folder: pathlib.Path, tmp_path: pathlib.Path, loop: qmp.Loop, world: worlds.World) -> Iterator[worlds.World]:
    """Have a pool that is smaller than the disks in it."""
    del world  # it skips what can't be tried here
    made = filesystems.FileSystem(tmp_path, "ext4", _ROOM)
    full = worlds.World(folder, loop, pools.Pool(made.place / "pool", 0))
    yield full
    full.close()
    made.close()


@pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
def test_a_pool_that_runs_full_is_told_truthfully_and_costs_no_acknowledged_write(small: worlds.World) -> None:
    filler = small.pool.root / "filler"
    filler.write_bytes(bytes(2 * _PIECE))
    volume = small.volume(size=2 * _ROOM)
    daemon = small.start(volume)
    with closing(worlds.Guest(daemon.nbd_socket, volume.uid)) as guest:
        written = 0
        while (code := guest.write(written * _PIECE, bytes([written % 255 + 1]) * _PIECE)) == 0:
            written += 1
        assert code == errno.ENOSPC
        assert 0 < written * _PIECE < _ROOM
        assert daemon.heads() == {volume.uid: volume.layers[0].uid}
        filler.unlink()
        assert guest.write(written * _PIECE, bytes([written % 255 + 1]) * _PIECE) == 0
    daemon.kill()
    contents = small.contents(volume.layers)
    for number in range(written + 1):
        assert set(contents[number * _PIECE : (number + 1) * _PIECE]) == {number % 255 + 1}
    assert check.check(small.pool.path(volume.layers[0].uid)).corruptions == 0
