"""Errors as they are stored with a resource: JSON text, or NULL."""

import json

from snapd import model


def encode(problem: model.Problem | None) -> str | None:
    """Return a problem as a column's value."""
    if problem is None:
        return None
    return json.dumps([problem.branch, problem.reason, problem.message, dict(problem.metadata)])


def decode(text: str | None) -> model.Problem | None:
    """Return the problem that a column holds."""
    if text is None:
        return None
    branch, reason, message, metadata = json.loads(text)
    return model.Problem(branch, reason, message, metadata)
