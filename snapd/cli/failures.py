"""How snapvol fails: one line that says what is wrong, one that says what to do, and an exit code for scripts."""

import sys
from typing import Final

import click
import grpc

from snapd import errors
from snapd.client import download
from snapd.client import errors as client_errors

EXIT_CODES: Final = """\b
Exit codes:
  0    it is done
  1    any other error; also a delete that was declined
  2    wrong usage, or arguments that the daemon refuses
  3    something that isn't there
  4    conflict: it exists already, is in the wrong state, or has changed
  5    the daemon can't be reached or doesn't answer in time
  6    damaged data
  7    a limit, a quota or a store is full
  130  interrupted; accepted work goes on
"""

FAILED: Final = 1
USAGE: Final = 2
DAMAGED: Final = 6
FULL: Final = 7
INTERRUPTED: Final = 130

_EXIT_CODES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
    grpc.StatusCode.OUT_OF_RANGE: USAGE,
    grpc.StatusCode.NOT_FOUND: 3,
    grpc.StatusCode.ALREADY_EXISTS: 4,
    grpc.StatusCode.FAILED_PRECONDITION: 4,
    grpc.StatusCode.ABORTED: 4,
    grpc.StatusCode.UNAVAILABLE: 5,
    grpc.StatusCode.DEADLINE_EXCEEDED: 5,
    grpc.StatusCode.DATA_LOSS: DAMAGED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FULL,
}


class Damaged(click.ClickException):
    """What was to be checked is not sound."""

    exit_code = DAMAGED


class Declined(click.ClickException):
    """The user was asked and said no."""

    exit_code = FAILED


def of_call(error: client_errors.ApiError, address: str) -> int:
    """Say what the daemon or the connection to it answered, and return the exit code."""
    if error.from_transport and error.code == grpc.StatusCode.UNAVAILABLE:
        _say(f"no daemon answers at {address}", "Start it, or name its address with --socket or SNAPVOL_ADDRESS.")
    else:
        _say(error.message, error.advice)
        for violation in error.violations:
            # The message says the first one, as a rule.
            if violation.description not in error.message:
                sys.stderr.write(f"  {violation.subject}: {violation.description}\n")
    return _EXIT_CODES.get(error.code, FAILED)


def of_usage(error: click.ClickException) -> int:
    """Say what is wrong with the command, and return the exit code."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    _say(error.format_message(), f"See '{context.command_path} --help'." if context is not None else "")
    return error.exit_code


def of_download(error: download.Damaged) -> int:
    """Say that wrong bytes came, and return the exit code."""
    _say(str(error), "Try again; if it stays, look into the daemon's log.")
    return DAMAGED


def of_file(error: OSError | errors.SnapdError) -> int:
    """Say what a local file has, and return the exit code."""
    if isinstance(error, FileExistsError) and not error.filename:
        _say(str(error), "Give --force to replace it.")
    elif isinstance(error, OSError):
        _say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), "")
    else:
        _say(str(error), error.advice)
    return FAILED


def interrupted(what_goes_on: str = "") -> int:
    """Say that the user stopped it, and return the exit code."""
    _say("interrupted", what_goes_on)
    return INTERRUPTED


def _say(problem: str, advice: str) -> None:
    sys.stderr.write(f"snapvol: {problem}\n")
    if advice:
        sys.stderr.write(f"  {advice}\n")
