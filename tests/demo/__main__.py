"""`make demo`: the whole main job, told as it happens, with the real daemon, the real snapvol and the Python client.

The exit status is 0 only if everything holds. What it makes lies in ./var/demo and is removed at the end.
"""

import argparse
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from snapd import client, clock, units
from snapd.client import errors
from tests.demo import narrator, story
from tests.integration import running

ROOM_BYTES = 6 * units.GIB
"""What the demo needs at most, with the daemon's own reserve, for a disk of the size that it makes."""


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(description="Run the main job against a real daemon.")
    parser.add_argument("--image", type=pathlib.Path, help="a raw or qcow2 image to use instead of one made here")
    image = parser.parse_args().image
    place = pathlib.Path("var/demo")
    place.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=place))
    daemon = running.Daemon(work.absolute() / "state")
    tell = narrator.Narrator({"SNAPVOL_ADDRESS": str(daemon.socket), "SNAPVOL_ENVIRONMENT": story.ENVIRONMENT})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun_s = clock.monotonic_s()
    try:
        if shutil.disk_usage(work).free < ROOM_BYTES:
            raise narrator.Failed(f"{place} needs {units.format_size(ROOM_BYTES)} of free space")
        with client.connect(str(daemon.socket)) as connection:
            story.Story(tell, daemon, connection, work).run(image)
    except (narrator.Failed, errors.ApiError, AssertionError, OSError, subprocess.SubprocessError) as error:
        tell.verdict(f"The demo failed: {error}", good=False)
        _tell_log(daemon.log)
        return 1
    except KeyboardInterrupt:
        tell.verdict("The demo was interrupted.", good=False)
        return 130
    finally:
        daemon.kill()
        shutil.rmtree(work)
    tell.verdict(f"All of it holds. The demo took {clock.monotonic_s() - begun_s:.0f} s.", good=True)
    return 0


def _tell_log(log: pathlib.Path) -> None:
    """Write the end of the daemon's log where the failure is told."""
    if log.exists():
        sys.stderr.write("The daemon's last words:\n")
        sys.stderr.writelines(f"  {line}\n" for line in log.read_text().splitlines()[-10:])


if __name__ == "__main__":
    sys.exit(main())
