"""What a request's fields have to be: one table for all methods, read before anything else looks at a request.

The table says for each method and field what the field's comment in the proto says in words. Constraints look at one
field only; what needs two fields, or the state of something, is decided further in.
"""

import datetime
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf import message

from snapd import errors, model, units
from snapd.rpc import names

LONGEST_TEXT = 128
LONGEST_FILTER_BYTES = 1024
LONGEST_TOKEN = 2048
MOST_LABELS = 64
LONGEST_LABEL_VALUE = 256
LARGEST_VOLUME = model.LARGEST_VOLUME
LARGEST_OFFSET = (1 << 63) - 1
LARGEST_CHUNK = units.MIB
LARGEST_LIMIT = 10**15
LONGEST_RETENTION = datetime.timedelta(days=3650)

_LABEL_KEY = re.compile(r"[a-z]([a-z0-9_./-]{0,61}[a-z0-9])?")

Constraint = Callable[[Any], str]
"""Takes a field's value and returns what is wrong with it, or ''."""


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def optional_id(value: str) -> str:
    """An id that is generated if it is left out."""
    return "" if not value or names.ID.fullmatch(value) else f"must match {names.ID.pattern}"


def required_id(value: str) -> str:
    """An id that has to be given."""
    return optional_id(value) if value else "is required"


def optional_name(pattern: str) -> Constraint:
    """A resource name that may be left out."""
    return lambda value: "" if not value or names.matches(pattern, value) else f"must be like {pattern}"


def required_name(*patterns: str) -> Constraint:
    """A resource name of one of the patterns."""

    def check(value: str) -> str:
        if not value:
            return "is required"
        return "" if any(names.matches(pattern, value) for pattern in patterns) else f"must be like {expected}"

    expected = " or ".join(patterns)
    return check


def listed_parent(value: str) -> str:
    """The environment whose resources are listed, or all of them."""
    return "" if value == names.ANY_ENVIRONMENT else required_name(names.ENVIRONMENT)(value)


def text(value: str) -> str:
    """Free text for people."""
    if len(value) > LONGEST_TEXT:
        return f"has {len(value)} characters, more than {LONGEST_TEXT}"
    return "contains a control character" if _has_control(value) else ""


def labels(value: Mapping[str, str]) -> str:
    """The caller's own pairs."""
    if len(value) > MOST_LABELS:
        return f"has {len(value)} entries, more than {MOST_LABELS}"
    for key, content in value.items():
        if not _LABEL_KEY.fullmatch(key):
            return f"key {key[:80]!r} must match {_LABEL_KEY.pattern}"
        if len(content) > LONGEST_LABEL_VALUE or _has_control(content):
            return f"the value of {key} must have at most {LONGEST_LABEL_VALUE} characters and no control characters"
    return ""


def retention(value: Any) -> str:
    """A google.protobuf.Duration between nothing and ten years."""
    if not 0 <= value.seconds <= LONGEST_RETENTION.total_seconds() or not 0 <= value.nanos < 1_000_000_000:
        return f"must be between 0 and {LONGEST_RETENTION.days} days"
    return ""


def pause_length(value: Any) -> str:
    """A google.protobuf.Duration; nothing stands for no end."""
    return retention(value)


def workers(value: Iterable[int]) -> str:
    """Parts of the background work, or none for all."""
    unknown = [number for number in value if not 0 < number <= len(model.Worker)]
    return f"{unknown[0]} is not a worker" if unknown else ""


def request_id(value: str) -> str:
    """A UUID in its usual form, or nothing."""
    try:
        return "" if not value or str(uuid.UUID(value)) == value.lower() else "must be a UUID"
    except ValueError:
        return "must be a UUID"


def etag(value: str) -> str:
    """An etag as it was handed out, or nothing."""
    return "" if len(value) <= 64 and value.isascii() else "was not handed out by this server"


def page_size(value: int) -> str:
    """A number of resources; too large a one is taken as the largest."""
    return "" if value >= 0 else "must not be negative"


def page_token(value: str) -> str:
    """Opaque to the caller, bounded here."""
    return "" if len(value) <= LONGEST_TOKEN else "was not handed out by this server"


def filter_text(value: str) -> str:
    """Bounded here, read by the listing."""
    return "" if len(value.encode()) <= LONGEST_FILTER_BYTES else f"is longer than {LONGEST_FILTER_BYTES} bytes"


def size_or_zero(value: int) -> str:
    """The size of a volume, or 0 for its source's."""
    if value % units.SECTOR:
        return f"must be a multiple of {units.SECTOR}"
    return "" if 0 <= value <= LARGEST_VOLUME else f"must be between 0 and {LARGEST_VOLUME} bytes"


def image_size(value: int) -> str:
    """The length of an image's file, or of its disk."""
    return "" if 0 < value <= LARGEST_VOLUME else f"must be between 1 and {LARGEST_VOLUME} bytes"


def unset(value: object) -> str:
    """A field that this method doesn't take."""
    return "must not be set here" if value else ""


def offset(value: int) -> str:
    """A place in an image."""
    return "" if value >= 0 else "must not be negative"


def sector_offset(value: int) -> str:
    """A place in a disk, at the start of a sector."""
    return offset(value) or (f"must be a multiple of {units.SECTOR}" if value % units.SECTOR else "")


def chunk(value: bytes) -> str:
    """The bytes of one message."""
    return "" if 0 < len(value) <= LARGEST_CHUNK else f"must have between 1 and {LARGEST_CHUNK} bytes"


def sectors(value: bytes) -> str:
    """The bytes of one message, in whole sectors."""
    return chunk(value) or (f"must be a multiple of {units.SECTOR} bytes" if len(value) % units.SECTOR else "")


def length(value: int) -> str:
    """The length of a range."""
    return "" if value > 0 else "must be positive"


def sector_length(value: int) -> str:
    """The length of a range of whole sectors."""
    return length(value) or (f"must be a multiple of {units.SECTOR}" if value % units.SECTOR else "")


def stated(value: int) -> str:
    """An enum that has to be given. Numbers that this release doesn't know are refused with it."""
    return "" if value in (1, 2) else "must be stated"


def known_role(value: int) -> str:
    """A volume's role."""
    return "" if 0 <= value <= len(model.VolumeRole) else "is not a role"


def known_way(value: int) -> str:
    """How an instance comes to its disk."""
    return "" if 0 <= value <= len(model.AttachmentWay) else "is not a way"


def limit(value: int) -> str:
    """What a guest may do in a second; nothing stands for all that it can. QEMU takes no more than 10¹⁵."""
    return "" if 0 <= value <= LARGEST_LIMIT else f"must be between 0 and {LARGEST_LIMIT}"


def mask(*paths: str) -> Constraint:
    """A field mask over some paths."""

    def check(value: Any) -> str:
        unknown = [path for path in value.paths if path not in paths]
        return f"{unknown[0][:80]!r} can't be changed; these can: {', '.join(paths)}" if unknown else ""

    return check


_ENVIRONMENT_PARENT: Mapping[str, Constraint] = {"parent": required_name(names.ENVIRONMENT)}
_ENVIRONMENT: Mapping[str, Constraint] = {"name": required_name(names.ENVIRONMENT)}
_VOLUME: Mapping[str, Constraint] = {"name": required_name(names.VOLUME)}
_SNAPSHOT: Mapping[str, Constraint] = {"name": required_name(names.SNAPSHOT)}
_OPERATION: Mapping[str, Constraint] = {"name": required_name(names.OPERATION)}
_GUARDED: Mapping[str, Constraint] = {"etag": etag, "request_id": request_id}
_LIMITS: Mapping[str, Constraint] = {"limits.iops": limit, "limits.bytes_per_second": limit}
_PAGED: Mapping[str, Constraint] = {"page_size": page_size, "page_token": page_token, "filter": filter_text}
_LISTED: Mapping[str, Constraint] = {"parent": listed_parent, **_PAGED, "order_by": text}


def _described(resource: str, **more: Constraint) -> Mapping[str, Constraint]:
    """Return the constraints of what every resource lets its caller say, and of some more fields of it."""
    fields: dict[str, Constraint] = {"display_name": text, "labels": labels, **more}
    return {f"{resource}.{field}": constraint for field, constraint in fields.items()}


TABLE: Mapping[str, Mapping[str, Constraint]] = {
    "CreateEnvironment": {
        "environment_id": required_id,
        **_described("environment", retention_duration=retention),
        "request_id": request_id,
    },
    "GetEnvironment": _ENVIRONMENT,
    "GetEnvironmentUsage": _ENVIRONMENT,
    "ListEnvironments": {**_PAGED, "order_by": text},
    "UpdateEnvironment": {
        "environment.name": required_name(names.ENVIRONMENT),
        **_described("environment", retention_duration=retention, etag=etag),
        "update_mask": mask("display_name", "labels", "retention_duration"),
        "request_id": request_id,
    },
    "DeleteEnvironment": {**_ENVIRONMENT, **_GUARDED},
    "CreateVolume": {
        **_ENVIRONMENT_PARENT,
        "volume_id": optional_id,
        **_described("volume", role=known_role, instance=text, size_bytes=size_or_zero),
        "volume.source_snapshot": optional_name(names.SNAPSHOT),
        "volume.source_archived_snapshot": optional_name(names.ARCHIVED_SNAPSHOT),
        "request_id": request_id,
    },
    "GetVolume": _VOLUME,
    "GetVolumeChain": _VOLUME,
    "ListVolumes": _LISTED,
    "UpdateVolume": {
        "volume.name": required_name(names.VOLUME),
        **_described("volume", instance=text, etag=etag),
        "update_mask": mask("display_name", "labels", "instance"),
        "request_id": request_id,
    },
    "RevertVolume": {**_VOLUME, "snapshot": required_name(names.SNAPSHOT), **_GUARDED},
    "DeleteVolume": {**_VOLUME, **_GUARDED},
    "AttachVolume": {**_VOLUME, "way": known_way, **_LIMITS, **_GUARDED},
    "DetachVolume": {**_VOLUME, **_GUARDED},
    "SetVolumeLimits": {**_VOLUME, **_LIMITS, **_GUARDED},
    "ImportVolume": {
        **_ENVIRONMENT_PARENT,
        "volume_id": optional_id,
        **_described("volume", role=known_role, instance=text, size_bytes=unset, source_snapshot=unset),
        "volume.source_archived_snapshot": unset,
        "format": stated,
        "size_bytes": image_size,
        "resume_offset": offset,
        "request_id": request_id,
    },
    "ImportVolume data": {"offset": offset, "data": chunk},
    "ImportVolume hole": {"offset": offset, "length": length},
    "WriteBlocks": {**_VOLUME, "etag": etag},
    "WriteBlocks data": {"offset": sector_offset, "data": sectors},
    "WriteBlocks hole": {"offset": sector_offset, "length": sector_length},
    "ExportVolume": {"source": required_name(names.SNAPSHOT, names.VOLUME), "start_offset": sector_offset},
    "CheckVolume": _VOLUME,
    "CreateSnapshot": {
        **_ENVIRONMENT_PARENT,
        "snapshot_id": optional_id,
        **_described("snapshot", retention_duration=retention),
        "snapshot.source_volume": required_name(names.VOLUME),
        "request_id": request_id,
    },
    "GetSnapshot": _SNAPSHOT,
    "ListSnapshots": _LISTED,
    "UpdateSnapshot": {
        "snapshot.name": required_name(names.SNAPSHOT),
        **_described("snapshot", retention_duration=retention, etag=etag),
        "update_mask": mask("display_name", "labels", "retention_duration"),
        "request_id": request_id,
    },
    "DeleteSnapshot": {**_SNAPSHOT, **_GUARDED},
    "ArchiveSnapshot": {**_SNAPSHOT, **_GUARDED},
    "VerifySnapshot": {**_SNAPSHOT, **_GUARDED},
    "AttachSnapshot": {**_SNAPSHOT, "way": known_way, **_LIMITS, **_GUARDED},
    "DetachSnapshot": {**_SNAPSHOT, **_GUARDED},
    "ListArchiveHosts": {"page_size": page_size, "page_token": page_token},
    "ListArchivedSnapshots": {
        "parent": required_name(names.ARCHIVE_HOST),
        "page_size": page_size,
        "page_token": page_token,
    },
    "GetServerInfo": {},
    "GetCapacity": {},
    "GetRecoveryReport": {},
    "PauseWork": {"workers": workers, "reason": text, "pause_duration": pause_length, "request_id": request_id},
    "ResumeWork": {"workers": workers, "request_id": request_id},
    "Scrub": {"parent": listed_parent, "request_id": request_id},
    "Collect": {"parent": listed_parent, "request_id": request_id},
    "GetOperation": _OPERATION,
    "ListOperations": {"name": listed_parent, **_PAGED},
    "WaitOperation": _OPERATION,
    "CancelOperation": _OPERATION,
    "DeleteOperation": _OPERATION,
}
"""Method (for a stream its first message; then the others by their kind) → dotted field → constraint."""


def check(method: str, request: message.Message) -> None:
    """Raise InvalidField for the first field of a request that breaks its constraint."""
    for path, constraint in TABLE[method].items():
        owner: Any = request
        *parents, field = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        problem = constraint(getattr(owner, field))
        if problem:
            raise errors.InvalidField(field=path, problem=problem)
