"""`snapd-storage fsck`: catalog, pool and archive compared with one another, and mended as far as that can be done."""

import dataclasses
import json
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator

import click

from snapd import clock as clocks
from snapd import errors, lockfile
from snapd.archive import repository as repositories
from snapd.archive import sealing
from snapd.catalog import db
from snapd.catalogtool import opening
from snapd.pool import layers as pools
from snapd.service import core, stores
from snapd.service.inspection import copies, files, findings, repair, rows
from snapd.service.settings import Settings

MENDED = 1
LEFT = 4
FAILED = 8

EXIT_CODES = """\b
Exit codes, as of fsck(8):
  0   nothing is wrong
  1   all that was wrong has been mended
  4   something is wrong still
  8   the check wasn't completed
"""


class FsckFailed(click.ClickException):
    """The check could not be made, or not to its end."""

    exit_code = FAILED


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A finding and what was done about it."""

    finding: findings.Finding
    mended: str
    """'' if nothing was done."""
    problem: str = ""
    """Why it could not be mended, if that was tried."""


@click.command(epilog=EXIT_CODES)
@opening.options
@click.option("--repair", "mending", is_flag=True, help="Mend what can be mended without guessing.")
@click.option("--images", is_flag=True, help="Look inside the layers' files too, which takes longer.")
@click.option("--no-archive", is_flag=True, help="Leave the archive out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def fsck(
    context: click.Context,
    config_path: pathlib.Path | None,
    state_dir: pathlib.Path | None,
    mending: bool,
    images: bool,
    no_archive: bool,
    as_json: bool,
) -> None:
    """Compare catalog, pool and archive, while no daemon runs.

    Files of the pool and snapshots of the archive that nothing explains are told and left alone. What is lost is lost:
    a repair has volumes and snapshots say so in their state. A daemon that runs does the same comparison after its
    start: snapvol system recovery.
    """
    problem = ""
    try:
        config = opening.configuration(config_path, state_dir)
        lock = lockfile.acquire_state(config.state_dir)
        try:
            told = list(_look(config.settings, mending=mending, images=images))
            if not no_archive and not any(one.finding.kind is findings.Kind.CATALOG_DAMAGED for one in told):
                try:
                    told += _look_at_archive(config.settings, mending=mending)
                except (errors.Unavailable, errors.FailedPrecondition, errors.DataLoss, errors.StartupError) as error:
                    problem = f"the archive was not compared: {error}. {error.advice}"
        finally:
            lock.close()
    except errors.SnapdError as error:
        raise FsckFailed(f"{error}. {error.advice}") from error
    _tell(told, problem, as_json=as_json)
    context.exit(_verdict(told, problem))


def _look(settings: Settings, *, mending: bool, images: bool) -> Iterator[Told]:
    """Yield what is wrong with catalog and pool."""
    pool = _pool(settings)
    with db.looked_into(settings.catalog_path) as connection:

        def read() -> sqlite3.Connection:
            return connection

        found = list(rows.look(connection))
        if not any(one.kind is findings.Kind.CATALOG_DAMAGED for one in found):
            found += files.strays(read, pool)
            found += files.missing(read, pool, _go_on)
            if images:
                found += files.damaged(read, pool, _go_on)
    yield from _mended(settings, pool, found, mending=mending)


def _pool(settings: Settings) -> pools.Pool:
    """Open the pool. Raises errors.StorageFailed if there is none: it isn't mounted, rather than lost."""
    if not pools.is_there(settings.pool_path):
        raise errors.StorageFailed(path=str(settings.pool_path), problem="there is no pool: is it mounted?")
    return pools.Pool(settings.pool_path, settings.low_watermark_bytes)


def _look_at_archive(settings: Settings, *, mending: bool) -> list[Told]:
    """Return what is wrong between catalog and archive. Raises as copies.look does."""
    pool = _pool(settings)
    with tempfile.TemporaryDirectory(prefix="snapd-storage-") as scratch:
        # Nothing is claimed and nothing written, so that another host may own it by now.
        repository = repositories.Repository(
            stores.store(settings),
            pathlib.Path(scratch, "index.sqlite3"),
            settings.host,
            keyring=None if settings.key_file is None else sealing.read_keys(settings.key_file),
        )
        try:
            with db.looked_into(settings.catalog_path) as connection:
                found = list(copies.look(lambda: connection, repository, {core.CATALOG_AREA}, _go_on))
        finally:
            repository.close()
    return list(_mended(settings, pool, found, mending=mending))


def _mended(settings: Settings, pool: pools.Pool, found: list[findings.Finding], *, mending: bool) -> Iterator[Told]:
    """Yield findings with what was done about each, if that is wanted."""
    broken = any(one.kind in (findings.Kind.CATALOG_DAMAGED, findings.Kind.CATALOG_INCONSISTENT) for one in found)
    if not found or not mending or broken:
        # In a catalog that contradicts itself nothing is changed.
        yield from (Told(finding, "") for finding in found)
        return
    catalog = db.Catalog(settings.catalog_path)
    try:
        now = clocks.SystemClock().now()
        for finding in found:
            try:
                yield Told(finding, repair.mend(catalog, pool, finding, now))
            except errors.SnapdError as error:
                # The others are mended all the same, and all are told.
                yield Told(finding, "", f"it could not be mended: {error}")
    finally:
        catalog.close()


def _go_on() -> None:
    """Nobody stops a command but by its interruption."""


def _tell(told: list[Told], problem: str, *, as_json: bool) -> None:
    if as_json:
        document = {
            "findings": [
                {**dataclasses.asdict(one.finding), "mended": one.mended, "problem_mending": one.problem}
                for one in told
            ],
            "not_compared": problem,
        }
        click.echo(json.dumps(document, indent=2))
        return
    for one in told:
        click.echo(f"{one.finding.kind}: {one.finding.problem}")
        for name in one.finding.affected:
            click.echo(f"  hits {name}")
        if one.mended or one.problem:
            click.echo(f"  {one.mended or one.problem}")
    if problem:
        click.echo(problem, err=True)
    left = sum(not one.mended for one in told)
    if not told and not problem:
        click.echo("Catalog, pool and archive agree.")
    elif told:
        click.echo(f"{len(told)} found, {len(told) - left} mended.")


def _verdict(told: list[Told], problem: str) -> int:
    if problem:
        return FAILED
    if any(not one.mended for one in told):
        return LEFT
    return MENDED if told else 0
