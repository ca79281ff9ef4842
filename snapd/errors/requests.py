"""Requests that can never succeed as they stand, or name what isn't there."""

import dataclasses

from snapd.errors.tree import InvalidArgument, SnapdError


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidField(InvalidArgument):
    """A field breaks its constraint."""

    reason = "INVALID_FIELD"
    summary = "{field}: {problem}"
    advice = "Correct the field; its comment in the proto states the constraint."
    field: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidFilter(InvalidArgument):
    """A list filter can't be read, or names a field that can't be filtered on."""

    reason = "INVALID_FILTER"
    summary = "filter: {problem}"
    advice = "Correct the filter; the List method's comment says which fields it takes."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class InvalidPageToken(InvalidArgument):
    """A page token that this list didn't hand out, or one handed out for other parameters."""

    reason = "INVALID_PAGE_TOKEN"
    summary = "page_token: {problem}"
    advice = "Start the listing again without a page token."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class RequestIdReused(InvalidArgument):
    """A request id that was used for a different request."""

    reason = "REQUEST_ID_REUSED"
    summary = "request_id {request_id} was used for a different request"
    advice = "Use a new UUID for each new request; repeat one only to retry the very same request."
    request_id: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SnapshotOfAnotherVolume(InvalidArgument):
    """A revert to a snapshot that was taken of a different volume."""

    reason = "SNAPSHOT_OF_ANOTHER_VOLUME"
    summary = "{snapshot} was not taken of {volume}"
    advice = "Choose a snapshot of this very volume, or create a new volume from the snapshot."
    snapshot: str
    volume: str


@dataclasses.dataclass(eq=False, kw_only=True)
class ChecksumMismatch(InvalidArgument):
    """Uploaded bytes don't have the checksum that was sent with them."""

    reason = "CHECKSUM_MISMATCH"
    summary = "the chunk at offset {offset} has CRC-32C {actual_crc32c}, not {expected_crc32c}"
    advice = "Resume the upload from the last durable offset."
    offset: int
    expected_crc32c: int
    actual_crc32c: int


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageRefused(InvalidArgument):
    """An image that is not what its label says, or that asks for what an image may not have."""

    reason = "IMAGE_REFUSED"
    summary = "the image is refused: {problem}"
    advice = "Have `qemu-img convert -O qcow2` make a plain copy; docs/operations.md lists what is refused, and why."
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class NotFound(SnapdError):
    """What the request names isn't there, or is not for this caller to see."""

    reason = "RESOURCE_NOT_FOUND"
    summary = "{resource_type} {name} does not exist"
    advice = "Check the name; list the parent to see what is there."
    resource_type: str
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class AlreadyExists(SnapdError):
    """The id is taken."""

    reason = "RESOURCE_ALREADY_EXISTS"
    summary = "{resource_type} {name} exists already"
    advice = "Choose another id, or leave it out to have one generated."
    resource_type: str
    name: str


@dataclasses.dataclass(eq=False, kw_only=True)
class OutOfRange(SnapdError):
    """A range that reaches past the end of what it addresses."""

    reason = "BEYOND_END"
    summary = "{length} bytes at offset {offset} reach past the end of {name}, {size_bytes} bytes long"
    advice = "Read the resource again for its size."
    name: str
    offset: int
    length: int
    size_bytes: int
