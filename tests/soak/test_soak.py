"""A few seconds of the soak: enough to pass through every kind of turn once."""

import contextlib
import pathlib
import sys
import tempfile

from snapd import units
from tests import filesystems
from tests.soak import play


def test_a_tormented_daemon_keeps_what_it_promised() -> None:
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapd-")))
        own = not filesystems.why_not("ext4")
        if own:
            disk = filesystems.FileSystem(place, "ext4", 3 * units.GIB)
            stack.callback(disk.close)
            place = disk.place
        played = play.Play(place, clients=3, seed=20260301, own=own)
        try:
            played.run(1, 6)
        except BaseException:
            # It is gone with the folder.
            sys.stderr.write((place / "state.log").read_text()[-20_000:])
            raise
    assert played.outcome.turns == 2
    assert played.outcome.contents_compared > 0
