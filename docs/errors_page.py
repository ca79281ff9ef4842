"""The text of docs/errors.md, from the tree of errors and from how the RPC layer maps it.

It owns the page's form. What an error means is said in snapd/errors/, which status it gets in snapd/rpc/errors.py.
"""

import dataclasses
import inspect
from collections.abc import Iterator

from snapd import errors, model
from snapd.rpc import errors as statuses

HEAD = f"""\
# Errors

Made from `snapd/errors/` by `make docs`.

Every refusal carries a gRPC status code, a sentence, and a `google.rpc.ErrorInfo` of domain `{statuses.DOMAIN}`. Its
`reason` is stable: programs decide by it, never by the sentence. Each `{{value}}` of the sentence is also in the
`metadata` of the ErrorInfo, by that name. Where they fit, `BadRequest`, `PreconditionFailure`, `QuotaFailure`,
`ResourceInfo` and `RetryInfo` say the same for tools that know them. Failed operations and resources carry the same
status in `error`.

A status without an ErrorInfo comes from the transport: the daemon wasn't reached, or the deadline passed. What is done
about each reason is in the last column; `snapvol` prints it, and the Python client has it in `ApiError.advice`.
"""

STARTING = """\
## Errors at the start

The daemon prints one of these on standard error, with what to do, and exits with status 1.

"""


def page() -> str:
    """Return the whole page."""
    answers = [branch for branch in errors.SnapdError.__subclasses__() if branch is not errors.StartupError]
    sections = [HEAD]
    sections.extend(f"## {_code(branch)}\n\n{_table(branch)}" for branch in sorted(answers, key=_code))
    sections.append(_internal())
    sections.append(STARTING + _table(errors.StartupError))
    return "\n".join(sections)


def _concrete(branch: type[errors.SnapdError]) -> Iterator[type[errors.SnapdError]]:
    """Yield the classes of a branch that have a reason of their own, the branch's included."""
    if "reason" in vars(branch):
        yield branch
    for kind in branch.__subclasses__():
        yield from _concrete(kind)


def _code(branch: type[errors.SnapdError]) -> str:
    """Return the name of the status code that the RPC layer gives to a branch."""
    told = model.Problem(branch.__name__, branch.reason, "", {})
    return statuses.code(statuses.status(told).code).name


def _table(branch: type[errors.SnapdError]) -> str:
    lines = ["| reason | when | sentence | what to do |", "|---|---|---|---|", *map(_row, _concrete(branch))]
    return "\n".join(lines) + "\n"


def _row(kind: type[errors.SnapdError]) -> str:
    when = " ".join((inspect.getdoc(kind) or "").split())
    unsaid = [field.name for field in dataclasses.fields(kind) if f"{{{field.name}}}" not in kind.summary]
    more = f"; also {', '.join(f'`{name}`' for name in unsaid)}" if unsaid else ""
    return f"| `{kind.reason}` | {when} | {kind.summary}{more} | {kind.advice} |"


def _internal() -> str:
    root = errors.SnapdError
    return f"""\
## {root.reason}

`{root.reason}`: something went wrong that has no better name. The sentence and the `metadata` hold an `incident`; the
line of the daemon's log with that number has the rest. {root.advice}
"""
