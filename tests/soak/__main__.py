"""`python -m tests.soak`: hours of clients, faults and restarts at random, ending in a full verification."""

import contextlib
import os
import pathlib
import random
import sys
import tempfile
import traceback

import click

from snapd import units
from tests import filesystems, records
from tests.soak import play

_DISK = 3 * units.GIB


@click.command()
@click.option("--minutes", type=float, default=60.0, help="How long, about.")
@click.option("--turn", type=float, default=60.0, help="Seconds of each stormy and each calm turn.")
@click.option("--seed", type=int, help="Of what is done and of what happens; not of the order in which that comes.")
@click.option("--clients", type=click.IntRange(1, 64), default=4)
@click.option(
    "--record", "record_path", type=click.Path(path_type=pathlib.Path), help="Where the result goes, as JSON."
)
def soak(minutes: float, turn: float, seed: int | None, clients: int, record_path: pathlib.Path | None) -> None:
    """Torment a daemon on a file system of its own, if there can be one, else in a temporary folder."""
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapd-soak-")))
        problem = filesystems.why_not("ext4")
        if problem:
            click.echo(f"without a file system of its own, which isn't filled up: {problem}", err=True)
            place = folder
        else:
            disk = filesystems.FileSystem(folder, "ext4", _DISK)
            stack.callback(disk.close)
            place = disk.place
        running = play.Play(place, clients=clients, seed=seed, own=not problem)
        failure = None
        try:
            running.run(minutes * 60, turn)
        except AssertionError as error:
            failure = str(error)
            sys.stderr.write("".join((place / "state.log").read_text().splitlines(keepends=True)[-200:]))
            traceback.print_exception(error)
    text = play.record(running.outcome, seed, failure, {**records.about(), "processors": os.cpu_count() or 0})
    click.echo(text)
    if record_path is not None:
        record_path.write_text(text)
    if failure is not None:
        sys.exit(1)


if __name__ == "__main__":
    soak()
