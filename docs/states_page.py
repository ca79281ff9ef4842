"""The text of docs/states.md, from the tables by which the service decides.

It owns the page's form. Which method is allowed in which state is said in snapd/service/states.py.
"""

from collections.abc import Mapping, Sequence

from snapd import model
from snapd.service import states

HEAD = """\
# States and methods

Made from `snapd/service/states.py` by `make docs`.

What is allowed in which state. Everything else answers `FAILED_PRECONDITION` / `WRONG_STATE`, and changes nothing. Get
and List are always allowed. What each state means is told in [operations](operations.md#states). A volume in
`CREATING` can be deleted while its upload waits for a client; otherwise its operation is cancelled.
"""


def page() -> str:
    """Return the whole page."""
    volumes = _matrix(states.VOLUME_METHODS, list(reversed(model.VolumeState)))
    snapshots = _matrix(states.SNAPSHOT_METHODS, list(model.SnapshotState))
    return f"{HEAD}\n## By the state of the volume\n\n{volumes}\n## By the state of the snapshot\n\n{snapshots}"


def _matrix(methods: Mapping[str, frozenset[str]], columns: Sequence[str]) -> str:
    lines = [
        "| method | " + " | ".join(f"`{state}`" for state in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method, allowed in methods.items():
        lines.append(f"| {method} | " + " | ".join("yes" if state in allowed else "" for state in columns) + " |")
    return "\n".join(lines) + "\n"
