"""Troubles with an object store: which pass by themselves, which don't, and what they are called here."""

import datetime
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import botocore.exceptions
import botocore.parsers

from snapd import errors

T = TypeVar("T")

_PASSING_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_CODES: Final = frozenset(
    {"SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"}
)
_FULL_CODES: Final = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge"})
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_BEYOND_END: Final = frozenset({"InvalidRange", "416"})
_TAKEN_CODES: Final = frozenset({"PreconditionFailed", "412"})
_CONFLICT: Final = "ConditionalRequestConflict"
"""Two creates of one name at once: neither has won yet, so it is tried again."""

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0


def is_taken(error: botocore.exceptions.ClientError) -> bool:
    """True if a conditional create found its name taken."""
    return _code(error) in _TAKEN_CODES


class Retries:
    """Repeats requests while their trouble may pass. Thread-safe."""

    def __init__(self, longest: datetime.timedelta) -> None:
        """Give up after so long."""
        self._longest_s = longest.total_seconds()

    def retried(self, what: str, request: Callable[[], T]) -> T:
        """Return what a request returns.

        Raises errors.ArchiveUnreachable when its trouble didn't pass in time, and at once errors.NotFound,
        errors.Corrupt (a range past the end), errors.StorageFull, errors.ArchiveRefused.
        """
        deadline = time.monotonic() + self._longest_s
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return request()
            except botocore.exceptions.ClientError as error:
                if not _passes(error):
                    raise _translated(what, error) from error
                last: Exception = error
            except (botocore.exceptions.BotoCoreError, botocore.parsers.ResponseParserError, OSError) as error:
                if isinstance(error, _NEVER):
                    raise errors.ArchiveRefused(problem=f"{what}: {error}") from error
                last = error
            if time.monotonic() + wait_s > deadline:
                raise errors.ArchiveUnreachable(problem=f"{what}: {_shown(last)}") from last
            # Not all at once when the server comes back.
            threading.Event().wait(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


_NEVER: Final = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ParamValidationError,
    botocore.exceptions.SSLError,
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the SDK's refusal to begin at all into errors.ArchiveRefused."""
    try:
        yield
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise errors.ArchiveRefused(problem=f"{what}: {error}") from error


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _passes(error: botocore.exceptions.ClientError) -> bool:
    return _code(error) in _PASSING_CODES or _code(error) == _CONFLICT or _status(error) in _PASSING_STATUSES


def _translated(what: str, error: botocore.exceptions.ClientError) -> errors.SnapdError:
    code, status = _code(error), _status(error)
    if code in _MISSING_CODES:
        return errors.NotFound(resource_type="object", name=what)
    if code in _BEYOND_END:
        return errors.Corrupt(what=what, problem="it ends before the range that was asked for")
    if code in _FULL_CODES or status == 507:
        return errors.StorageFull(path=what)
    return errors.ArchiveRefused(problem=f"{what}: {_shown(error)}")


def _shown(error: Exception) -> str:
    """Return what is said of an error: what the server said, and nothing that was sent to it."""
    if isinstance(error, botocore.exceptions.ClientError):
        found = error.response.get("Error", {})
        return f"HTTP {_status(error)} {found.get('Code', '')} {found.get('Message', '')}".strip()
    return str(error)
