"""What callers do: steps, each of a kind, and a number from which the rest follows.

What isn't possible at that moment is left out, so any subset of steps is a plan as well.
"""

import dataclasses
from typing import Final

WEIGHTS: Final = {
    "create": 4,
    "bring": 3,
    "write": 25,
    "zero": 6,
    "capture": 14,
    "archive": 3,
    "revert": 7,
    "clone": 7,
    "delete_volume": 4,
    "delete_snapshot": 8,
    "rename": 3,
    "cancel": 3,
    "pause": 2,
    "read_volume": 4,
    "read_snapshot": 5,
    "check": 3,
    "rest": 8,
}
"""What callers do, and how often."""
BUSY: Final = {"create": 1, "write": 30, "zero": 6, "capture": 15, "delete_snapshot": 5, "read_volume": 3, "rest": 1}
"""What they do when they all want the same few disks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Something that a caller does."""

    life: int
    caller: int
    kind: str
    seed: int
