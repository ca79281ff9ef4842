"""`snapd-storage rebuild-catalog`: a lost catalog made anew from a backup, the pool's headers and the archive."""

import dataclasses
import json
import os
import pathlib

import click

from snapd import clock as clocks
from snapd import errors, lockfile
from snapd.catalogtool import opening
from snapd.service.rebuilding import rebuild as rebuilding
from snapd.service.rebuilding import report as reports

UNSURE = 1
FAILED = 2

EXIT_CODES = """\b
Exit codes:
  0   the catalog is whole: nothing is lost, nothing uncertain
  1   something is lost or uncertain
  2   the catalog was not rebuilt
"""


class RebuildFailed(click.ClickException):
    """The catalog could not be rebuilt; all is as it was."""

    exit_code = FAILED


@click.command("rebuild-catalog", epilog=EXIT_CODES)
@opening.options
@click.option("--replace", is_flag=True, help="Set a catalog that is there aside, under another name.")
@click.option(
    "--backup",
    type=click.Path(path_type=pathlib.Path, dir_okay=False, exists=True),
    help="Begin with a copy that backup-catalog made, instead of the archive's newest.",
)
@click.option("--no-archive", is_flag=True, help="Do without the archive, also for what it holds.")
@click.option("--pool-lost", is_flag=True, help="Go on without a pool: what was only there is lost.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def rebuild_catalog(
    context: click.Context,
    config_path: pathlib.Path | None,
    state_dir: pathlib.Path | None,
    replace: bool,
    backup: pathlib.Path | None,
    no_archive: bool,
    pool_lost: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a lost catalog anew, while no daemon runs.

    It begins with the newest backup in the archive that is whole, and compares it with what the pool's files and the
    archive say. No file of the pool and nothing of the archive is changed. What is uncertain is marked: snapvol volume
    list --filter 'recovered = true', and likewise for snapshots.
    """
    options = rebuilding.Options(
        replace=replace, backup=backup, with_archive=not no_archive, dry_run=dry_run, pool_lost=pool_lost
    )
    try:
        config = opening.configuration(config_path, state_dir)
        _require_owner(config.state_dir)
        lock = lockfile.acquire_state(config.state_dir)
        try:
            outcome = rebuilding.rebuild(config.settings, options, clocks.SystemClock().now())
        finally:
            lock.close()
    except errors.Unavailable as error:
        hint = "" if no_archive else " Without the archive: --no-archive."
        raise RebuildFailed(f"{error}. {error.advice}{hint}") from error
    except errors.SnapdError as error:
        raise RebuildFailed(f"{error}. {error.advice}") from error
    if as_json:
        click.echo(json.dumps(_document(outcome, dry_run=dry_run), indent=2))
    else:
        _tell(outcome, options)
    context.exit(0 if outcome.report.is_sure else UNSURE)


def _require_owner(folder: pathlib.Path) -> None:
    """Refuse to make a catalog that the daemon's user couldn't open."""
    owner = folder.stat().st_uid if folder.exists() else os.geteuid()
    if owner != os.geteuid():
        raise RebuildFailed(f"{folder} belongs to user {owner}, who has to run this: sudo -u '#{owner}' …")


def _document(outcome: rebuilding.Outcome, *, dry_run: bool) -> dict[str, object]:
    return {
        "began_with": outcome.began_with,
        "passed_over": [dataclasses.asdict(entry) for entry in outcome.passed_over],
        "counts": dataclasses.asdict(outcome.report.counts),
        "recovered": [dataclasses.asdict(entry) for entry in outcome.report.recovered],
        "lost": [dataclasses.asdict(entry) for entry in outcome.report.lost],
        "left_alone": [dataclasses.asdict(entry) for entry in outcome.report.left],
        "set_aside": outcome.set_aside,
        "written": not dry_run,
    }


def _tell(outcome: rebuilding.Outcome, options: rebuilding.Options) -> None:
    for entry in outcome.passed_over:
        click.echo(f"Passed over the backup {entry.name}: {entry.problem}.")
    archive = "The archive was asked." if options.with_archive else "The archive was not asked."
    click.echo(f"Began with {outcome.began_with}. {archive}")
    counts = outcome.report.counts
    click.echo(
        f"{counts.environments} environments, {counts.volumes} volumes, {counts.snapshots} snapshots"
        f" ({counts.archived} archived), {counts.layers} layers ({counts.described} say whose they are)."
    )
    _list("Recovered, and marked:", outcome.report.recovered)
    _list("Lost, and FAILED:", outcome.report.lost)
    _list("Left alone:", outcome.report.left)
    if outcome.set_aside:
        click.echo(f"The catalog that was there is {outcome.set_aside} now.")
    click.echo("Nothing was written." if options.dry_run else "The catalog is rebuilt.")


def _list(title: str, entries: tuple[reports.Entry, ...]) -> None:
    if entries:
        click.echo(title)
    for entry in entries:
        click.echo(f"  {entry.name}: {entry.problem}")
