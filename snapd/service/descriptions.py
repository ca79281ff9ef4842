"""What files and manifests say of themselves, so that a lost catalog can be rebuilt from them.

A layer's header says whose head it was made to be, on which point it stands, and which snapshot its capture took of
that point. A manifest's metadata say which snapshot it is. Both are read when nothing else is left to ask, so what is
read is believed no further than its form goes: a text of ours that is damaged is no text of ours.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from snapd import errors, model

_VERSION = 1
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST = 16_384
"""Bytes of a description in a header, which lies in the header's cluster of 64 KiB. Only labels can take more."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """The volume whose head a layer was made to be, as it was then."""

    uid: str
    environment_uid: str
    environment: str
    """The environment's id."""
    id: str
    display_name: str
    labels: model.Labels
    role: model.VolumeRole
    instance: str
    source_snapshot: str
    created: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Stand:
    """The point on which a head was put."""

    point: str
    environment_uid: str
    """Whose contents the point are; a clone's head may stand on another environment's."""
    layer: str
    """Uid of the layer that showed the point."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """The snapshot that a capture took of the point below, as it was then."""

    uid: str
    id: str
    display_name: str
    labels: model.Labels
    rapid: bool
    retention: datetime.timedelta | None
    due: datetime.datetime
    captured: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What the header of a layer says that was made to be a volume's head."""

    generation: int
    """The number of the intent that made it: of two heads of a volume the higher one is the later."""
    owner: Owner
    stand: Stand | None
    taken: Taken | None


@dataclasses.dataclass(frozen=True, slots=True)
class Archived:
    """What a manifest's metadata say of the snapshot that it holds, as it was when it was archived."""

    id: str
    display_name: str
    labels: model.Labels
    environment: str
    """The environment's id."""
    volume: str
    """The volume's id."""
    volume_uid: str
    point: str
    parent_point: str
    """Uid of the point before it, or ''."""
    captured: datetime.datetime
    requested_rapid: bool
    retention: datetime.timedelta | None


def owner_of(volume: model.Volume) -> Owner:
    """Return what a head's header says of its volume."""
    return Owner(
        uid=volume.uid,
        environment_uid=volume.environment_uid,
        environment=volume.environment,
        id=volume.id,
        display_name=volume.display_name,
        labels=volume.labels,
        role=volume.role,
        instance=volume.instance,
        source_snapshot=volume.source_snapshot,
        created=volume.created,
    )


def stand_on(point: model.Point, layer: str) -> Stand:
    """Return what a head's header says of the point on which it is put, and of the layer that shows that point."""
    return Stand(point=point.uid, environment_uid=point.environment_uid, layer=layer)


def encode_head(head: Head) -> bytes:
    """Return the text for a layer's header: JSON in UTF-8, without the labels if it were too long with them."""
    document: dict[str, Any] = {"version": _VERSION, "generation": head.generation, "owner": _plain(head.owner)}
    if head.stand is not None:
        document["stand"] = _plain(head.stand)
    if head.taken is not None:
        document["taken"] = _plain(head.taken)
    data = _packed(document)
    if len(data) > _LONGEST:
        for part in document.keys() & {"owner", "taken"}:
            document[part]["labels"] = {}
        data = _packed(document)
    return data


def folded(child: bytes, lower: bytes) -> list[bytes]:
    """Return what a layer's header is to say once the one below it is merged with it, the fullest first.

    It stays what it was made to be, and stands on what the lower one stood on: whose point that shows, and which
    snapshot was taken of it, nothing else may say. None if nothing is known of either.
    """
    heads: list[Head | None] = []
    for text in (child, lower):
        try:
            heads.append(decode_head(text) if text else None)
        except errors.Corrupt:
            heads.append(None)
    above, below = heads
    if above is None:
        return []
    made = dataclasses.replace(
        above, stand=None if below is None else below.stand, taken=None if below is None else below.taken
    )
    taken = None if made.taken is None else dataclasses.replace(made.taken, labels={})
    bare = dataclasses.replace(made, owner=dataclasses.replace(made.owner, labels={}), taken=taken)
    return [encode_head(made), encode_head(bare)]


def decode_head(data: bytes) -> Head:
    """Return what a layer's header says. Raises errors.Corrupt if it is none of ours, or of a later version."""
    document = _document(data)
    return _checked(
        "the description in a layer's header",
        lambda: Head(
            generation=_whole(document["generation"]),
            owner=_read(Owner, document["owner"]),
            stand=_read(Stand, document["stand"]) if "stand" in document else None,
            taken=_read(Taken, document["taken"]) if "taken" in document else None,
        ),
    )


def metadata_of(snapshot: model.Snapshot, parent_point: str | None) -> dict[str, str]:
    """Return what a manifest says of its snapshot."""
    return {
        "snapshot_id": snapshot.id,
        "display_name": snapshot.display_name,
        "labels": json.dumps(dict(snapshot.labels), sort_keys=True),
        "environment_id": snapshot.environment,
        "volume_id": snapshot.volume,
        "volume_uid": snapshot.volume_uid,
        "point_uid": snapshot.point,
        "parent_point_uid": parent_point or "",
        "captured": snapshot.captured.isoformat(),
        "requested_rapid": "true" if snapshot.requested_rapid else "false",
        "retention_s": "" if snapshot.retention is None else repr(snapshot.retention.total_seconds()),
    }


def decode_metadata(metadata: Mapping[str, object]) -> Archived:
    """Return what a manifest says of its snapshot. Raises errors.Corrupt if that isn't of our writing."""
    return _checked(
        "a manifest's metadata",
        lambda: Archived(
            id=_text(metadata["snapshot_id"]),
            display_name=_text(metadata["display_name"]),
            labels=_labels(json.loads(_text(metadata.get("labels", "{}")))),
            environment=_text(metadata["environment_id"]),
            volume=_text(metadata["volume_id"]),
            volume_uid=_uid(metadata["volume_uid"]),
            point=_uid(metadata["point_uid"]),
            parent_point=_uid(metadata["parent_point_uid"]) if metadata.get("parent_point_uid") else "",
            captured=_moment(metadata["captured"]),
            requested_rapid=metadata["requested_rapid"] == "true",
            retention=_retention(_text(metadata.get("retention_s", ""))),
        ),
    )


# --- forms ------------------------------------------------------------------------------------------------------------


def _plain(value: Owner | Stand | Taken) -> dict[str, Any]:
    """Return the fields as JSON has them."""
    return {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _as_json(value: object) -> object:
    match value:
        case datetime.datetime():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case Mapping():
            return dict(value)
        case _:
            return value


def _read(kind: type[T], document: Mapping[str, Any]) -> T:
    """Return a record of JSON fields; those that it doesn't know are ignored."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: _READERS.get(name, _text)(document[name]) for name in names})


def _packed(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _document(data: bytes) -> Mapping[str, Any]:
    def parse() -> Mapping[str, Any]:
        if len(data) > _LONGEST:
            raise ValueError(f"it has {len(data)} bytes")
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ValueError(f"it is of version {document['version']!r}")
        return dict(document)

    return _checked("the description in a layer's header", parse)


def _checked(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise errors.Corrupt(what=what, problem=f"{type(error).__name__}: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    # What JSON can escape but UTF-8 can't hold must not get any further.
    value.encode()
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no number of an intent")
    return value


def _uid(value: object) -> str:
    text = _text(value)
    if not _UID.fullmatch(text):
        raise ValueError(f"{text!r} is no uid")
    return text


def _labels(value: Mapping[str, Any]) -> dict[str, str]:
    return {_text(key): _text(each) for key, each in value.items()}


def _moment(value: object) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment.astimezone(datetime.UTC)


def _period(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)


def _retention(text: str) -> datetime.timedelta | None:
    return _period(float(text)) if text else None


def _optional_period(seconds: float | None) -> datetime.timedelta | None:
    return None if seconds is None else _period(seconds)


_READERS: Mapping[str, Callable[[Any], object]] = {
    "uid": _uid,
    "environment_uid": _uid,
    "point": _uid,
    "layer": _uid,
    "labels": _labels,
    "role": model.VolumeRole,
    "rapid": bool,
    "retention": _optional_period,
    "created": _moment,
    "due": _moment,
    "captured": _moment,
}
"""How to read the fields that are more than a text."""
