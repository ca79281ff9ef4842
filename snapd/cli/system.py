"""snapvol system: the daemon itself."""

import datetime
from typing import Any, Final

import click

from snapd.cli import output, parameters, session
from snapd.v1 import system_service_pb2 as api

WORKERS: Final = {"archiver": api.WORKER_ARCHIVER, "keeper": api.WORKER_KEEPER}
"""The parts of the background work, as they are called on the command line."""


def _worker(state: api.WorkState) -> str:
    return output.enum(api.Worker.DESCRIPTOR, state.worker).lower()


COLUMNS: list[output.Column] = [
    ("WORKER", _worker),
    ("STATE", lambda state: "paused" if state.paused else "on"),
    ("RUNNING", lambda state: str(state.running_count)),
    ("WAITING", lambda state: str(state.waiting_count)),
    ("PAUSED", lambda state: output.moment(state.pause_time)),
    ("UNTIL", lambda state: output.moment(state.resume_time)),
    ("BY", lambda state: state.paused_by),
    ("REASON", lambda state: state.reason),
]


CHANGES: list[output.Column] = [
    ("CHANGE", lambda change: change.kind),
    ("OUTCOME", lambda change: output.enum(api.RecoveredChange.Outcome.DESCRIPTOR, change.outcome).lower()),
    ("OF", lambda change: change.target),
    ("ERROR", lambda change: change.error.message),
]
FINDINGS: list[output.Column] = [
    ("FINDING", lambda finding: output.enum(api.Finding.Kind.DESCRIPTOR, finding.kind)),
    ("PROBLEM", lambda finding: finding.problem),
    ("HITS", lambda finding: ", ".join(finding.affected)),
]


@click.group(cls=session.Noun)
def system() -> None:
    """The daemon itself."""


@system.command()
@session.pass_session
def info(run: session.Session) -> None:
    """Show the daemon's version, capabilities and limits."""
    output.resource(run, run.client.system.GetServerInfo(api.GetServerInfoRequest()))


@system.command()
@session.pass_session
def capacity(run: session.Session) -> None:
    """Show how full primary storage and the archive are."""
    output.resource(run, run.client.system.GetCapacity(api.GetCapacityRequest()))


@system.command()
@session.pass_session
def status(run: session.Session) -> None:
    """Show what the background work does, and what keeps it from it."""
    _show(run, run.client.system.GetServerInfo(api.GetServerInfoRequest()).work)


@system.command()
@session.pass_session
def recovery(run: session.Session) -> None:
    """Show what the daemon found half done at its start, and what it found wrong since."""
    report = run.client.system.GetRecoveryReport(api.GetRecoveryReportRequest())
    if run.as_json:
        output.resource(run, report)
        return
    if report.changes:
        output.resources(run, report.changes, CHANGES)
    else:
        output.note("No change was half done.")
    if report.findings:
        output.resources(run, report.findings, FINDINGS)
    if report.finding_count > len(report.findings):
        output.note(f"{report.finding_count - len(report.findings)} more were found: the log has them all.")
    if not report.HasField("pool_compare_time"):
        output.note("Catalog and pool are being compared still.")
    elif report.HasField("archive_error"):
        output.note(f"The archive could not be compared yet: {report.archive_error.message}")
    elif not report.HasField("archive_compare_time"):
        output.note("Catalog and archive are being compared still.")
    elif not report.findings:
        output.note("Catalog, pool and archive agree.")


def _workers_argument(function: Any) -> Any:
    return click.argument("workers", nargs=-1, type=click.Choice(list(WORKERS)), metavar="[archiver] [keeper]")(
        function
    )


@system.command()
@_workers_argument
@click.option("--for", "duration", type=parameters.DURATION, help="Go on by itself after so long.")
@click.option("--reason", default="", help="Why, for whoever looks.")
@session.pass_session
def pause(run: session.Session, workers: tuple[str, ...], duration: datetime.timedelta | None, reason: str) -> None:
    """Hold the archiver, the keeper, or both if none is named. It outlives restarts of the daemon."""
    request = api.PauseWorkRequest(workers=[WORKERS[name] for name in workers], reason=reason)
    if duration is not None:
        if not duration:
            raise click.BadParameter("must be longer than nothing", param_hint="--for")
        request.pause_duration.FromTimedelta(duration)
    _show(run, run.client.system.PauseWork(request).work)


@system.command()
@_workers_argument
@session.pass_session
def resume(run: session.Session, workers: tuple[str, ...]) -> None:
    """Let the archiver, the keeper, or both if none is named, go on."""
    request = api.ResumeWorkRequest(workers=[WORKERS[name] for name in workers])
    _show(run, run.client.system.ResumeWork(request).work)


def _show(run: session.Session, work: Any) -> None:
    output.resources(run, work, COLUMNS)
