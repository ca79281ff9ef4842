"""The root of the tree of errors, and its branches: what a caller can do about an error at all."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapdError(Exception):
    """Root of the tree: something went wrong that has no better name."""

    reason: ClassVar[str] = "INTERNAL"
    summary: ClassVar[str] = "internal error"
    advice: ClassVar[str] = "Report it, with the daemon's log."

    def metadata(self) -> dict[str, str]:
        """Return every field of the error as text, by its name."""
        return {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        return self.summary.format(**self.metadata())


class InvalidArgument(SnapdError):
    """The request can never succeed as it stands."""


class FailedPrecondition(SnapdError):
    """The state of something has to change before the request can succeed."""


class ResourceExhausted(SnapdError):
    """A limit, a quota or a store is full."""


class Aborted(SnapdError):
    """Somebody else was faster."""


class Cancelled(SnapdError):
    """The caller asked for the work to stop."""


class Unavailable(SnapdError):
    """It can't be done for now."""


class DataLoss(SnapdError):
    """Stored bytes are not what was written."""


class StartupError(SnapdError):
    """The daemon can't start."""
