"""What lies beneath: layers, points, and the formats of images that come in."""

import dataclasses
import datetime
import enum


class LayerState(enum.StrEnum):
    """The life of a layer's file; the row is there before the file and after it."""

    CREATING = "CREATING"
    """An open intent makes the file; it may be missing or half-written."""
    HEAD = "HEAD"
    """A volume writes it."""
    FROZEN = "FROZEN"
    """Its guest-visible contents never change again."""
    FOLDING = "FOLDING"
    """A fold merges it into its neighbour; nobody else may use it any more."""
    DOOMED = "DOOMED"
    """Nothing needs it: the file is to be removed, then the row."""


class ImageFormat(enum.StrEnum):
    """The format of an image that goes in or out. It is always stated, never guessed."""

    RAW = "RAW"
    QCOW2 = "QCOW2"


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One qcow2 file of the pool."""

    uid: str
    parent: str | None
    size_bytes: int
    state: LayerState
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """An immutable moment of a volume's contents. Points are history, layers are files."""

    uid: str
    environment_uid: str
    parent: str | None
    layer: str | None
    """The frozen layer that shows its contents, while there is one on primary storage."""
    size_bytes: int
    delta_recorded: bool
    """The delta to the parent is in the catalog; until then it is the allocation of the layer's file."""
    created: datetime.datetime
