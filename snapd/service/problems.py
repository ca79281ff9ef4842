"""Errors as they are kept with a resource or an operation, and back."""

from snapd import errors, model

_BRANCHES = (
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.ResourceExhausted,
    errors.Aborted,
    errors.OutOfRange,
    errors.Cancelled,
    errors.Unavailable,
    errors.DataLoss,
)


def describe(error: errors.SnapdError) -> model.Problem:
    """Return an error as it is stored."""
    branch = next((branch.__name__ for branch in _BRANCHES if isinstance(error, branch)), errors.SnapdError.__name__)
    return model.Problem(branch, error.reason, str(error), error.metadata())


def is_passing(error: errors.SnapdError) -> bool:
    """Say whether trying again later may help: the store was away or full, not damaged."""
    return isinstance(error, errors.Unavailable | errors.ResourceExhausted)
