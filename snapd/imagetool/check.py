"""`image check`: the verdict on an image in the fields and exit codes of `qemu-img check`, and its repair."""

import json
import os
import pathlib
import stat
from typing import Any

import click

from snapd import errors, fsops
from snapd.imagetool import command
from snapd.qcow2.checking import check as checks
from snapd.qcow2.checking import repair as repairs
from snapd.qcow2.format import layout

CORRUPT = 2
LEAKING = 3
UNSUPPORTED = 63

EXIT_CODES = """\b
Exit codes:
  0   nothing is wrong
  1   the check wasn't completed
  2   the image is corrupt
  3   the image has leaked clusters, and nothing worse
  63  the file is no qcow2 image
"""


class Unsupported(click.ClickException):
    """A file of another format."""

    exit_code = UNSUPPORTED


@click.command(cls=command.ImageCommand, epilog=EXIT_CODES)
@command.common_options
@click.option(
    "-r", "--repair", type=click.Choice(["leaks", "all"]), help="Put leaks right, or all wrong refcounts too."
)
@click.option("-q", "--quiet", is_flag=True, help="Answer by the exit code alone.")
@click.argument("file", type=command.image_file)
@click.pass_context
def check(
    context: click.Context,
    file: pathlib.Path,
    output: str,
    format_name: str,
    force_share: bool,
    repair: str | None,
    quiet: bool,
) -> None:
    """Compare what an image's tables refer to with its refcounts, and say what is wrong.

    A repair changes refcounts, and flags that tell of them. It never guesses at data: entries that can't be stay as
    they are. The exit code is that of a check after it.
    """
    del format_name
    if repair is not None and force_share:
        raise click.UsageError("an image that somebody else may write can't be repaired")
    try:
        fixed = repairs.RepairReport(0, 0) if repair is None else _repair(file, leaks_only=repair == "leaks")
        report = checks.check(file, locked=not force_share)
    except errors.ImageRefused as error:
        if _is_another_format(file):
            raise Unsupported(command.printable(f"{file} can't be checked: {error.problem}")) from error
        raise
    if not quiet:
        click.echo(json.dumps(document(file, report, fixed), indent=4) if output == "json" else text(report, fixed))
    context.exit(verdict(report))


def _repair(file: pathlib.Path, *, leaks_only: bool) -> repairs.RepairReport:
    """Repair what can be, and say why if nothing can."""
    try:
        return repairs.repair(file, leaks_only=leaks_only)
    except errors.Corrupt as error:
        click.echo(command.printable(f"Nothing was repaired: {error.problem}"), err=True)
        return repairs.RepairReport(0, 0)


def verdict(report: checks.CheckReport) -> int:
    """Return the exit code that a report stands for."""
    if report.check_errors:
        return command.FAILED
    return CORRUPT if report.corruptions else LEAKING if report.leaks else 0


def document(file: pathlib.Path, report: checks.CheckReport, fixed: repairs.RepairReport) -> dict[str, Any]:
    """Return the fields of qemu-img's JSON: numbers that are 0 are left out, but for the errors of the check itself."""
    numbers = {
        "image-end-offset": report.image_end_bytes,
        "total-clusters": report.total_clusters,
        "allocated-clusters": report.allocated_clusters,
        "fragmented-clusters": report.fragmented_clusters,
        "compressed-clusters": report.compressed_clusters,
        "corruptions": report.corruptions,
        "leaks": report.leaks,
        "corruptions-fixed": fixed.corruptions_fixed,
        "leaks-fixed": fixed.leaks_fixed,
    }
    found = {name: number for name, number in numbers.items() if number}
    return {**found, "check-errors": report.check_errors, "filename": str(file), "format": "qcow2"}


def text(report: checks.CheckReport, fixed: repairs.RepairReport) -> str:
    """Return the report for people."""
    lines = []
    if fixed.corruptions_fixed or fixed.leaks_fixed:
        lines.append(f"{fixed.corruptions_fixed} errors and {fixed.leaks_fixed} leaked clusters were put right.")
    if report.corruptions:
        lines.append(f"{report.corruptions} errors: data may be damaged, and writing may damage more.")
    if report.leaks:
        lines.append(f"{report.leaks} leaked clusters: space that nothing uses, and no harm to data.")
    if report.check_errors:
        lines.append(f"{report.check_errors} places could not be checked.")
    if report.clean:
        lines.append("Nothing is wrong with the image.")
    if report.allocated_clusters and report.total_clusters:
        share = 100 * report.allocated_clusters / report.total_clusters
        lines.append(
            f"{report.allocated_clusters} of {report.total_clusters} clusters ({share:.2f} %) are allocated,"
            f" {report.compressed_clusters} of them compressed, {report.fragmented_clusters} apart from the one before."
        )
    lines.append(f"The last cluster in use ends at offset {report.image_end_bytes}.")
    return "\n".join(lines)


def _is_another_format(file: pathlib.Path) -> bool:
    """Say whether a path leads to a regular file that doesn't begin as qcow2 images do."""
    with fsops.translated(file):
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode) and int.from_bytes(os.pread(fd, 4, 0)) != layout.MAGIC
        finally:
            os.close(fd)
