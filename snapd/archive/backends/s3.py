"""A store in a bucket of S3-compatible object storage. The only module that knows an object store's SDK.

Creates are conditional PUTs (`If-None-Match: *`), which every one of the common servers has by now; nothing else that
differs between them is used: no multipart uploads, no conditional deletes, no versions. A body's MD5 goes with it, the
one checksum that all of them verify before they store.
"""

import base64
import contextlib
import datetime
import email.utils
import functools
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import boto3
import botocore.config
import botocore.exceptions

from snapd import errors, fsops
from snapd.archive.backends import backend, s3settings, s3trouble

T = TypeVar("T")

_WRITER: Final = "writer"
"""Name of the metadata that tells who made an object: told apart after an answer was lost."""
_CONNECTIONS: Final = 32
_LOOKS: Final = 3
"""How often an object is looked for that one request finds and another doesn't."""


class S3Backend:
    """A backend.Backend on a bucket."""

    def __init__(self, settings: s3settings.S3Settings) -> None:
        """Use a bucket. Nothing is asked of the server yet."""
        # A request ends with its retries; what it set off at the server may take as long again.
        self.settling = 2 * (settings.retry_for + settings.timeout)
        self._settings = settings
        self._trouble = s3trouble.Retries(settings.retry_for)
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        timeout_s = settings.timeout.total_seconds()
        config = botocore.config.Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            max_pool_connections=_CONNECTIONS,
            # Retried here: only here is it known that a create may have been our own.
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": "path" if settings.path_style else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with s3trouble.translated(settings.bucket):
            self._client: Any = boto3.session.Session(
                aws_access_key_id=settings.credentials.access_key,
                aws_secret_access_key=settings.credentials.secret_key,
                region_name=settings.region,
            ).client("s3", endpoint_url=settings.endpoint, verify=settings.ca_file, config=config)
        self._conditional: bool | None = None

    def upload(self, key: str) -> "S3Upload":
        path = self._settings.spool / f".upload-{secrets.token_hex(8)}.tmp"
        with fsops.translated(path):
            fsops.make_directory(self._settings.spool)
            return S3Upload(self, backend.check_key(key), fsops.create_unnamed(path))

    def put(self, key: str, chunks: Iterable[backend.Bytes]) -> None:
        data = b"".join(chunks)
        self.create(key, lambda: io.BytesIO(data), len(data), hashlib.md5(data, usedforsecurity=False).digest())

    def create(self, key: str, body: Callable[[], Any], length: int, md5: bytes) -> None:
        """Create an object from what `body` returns, a file at its start, as often as it has to be sent."""
        self._require_conditional_creates()
        self._create(key, body, length, md5)

    def _create(self, key: str, body: Callable[[], Any], length: int, md5: bytes) -> None:
        writer = secrets.token_hex(16)
        attempts = 0

        def send() -> None:
            nonlocal attempts
            attempts += 1
            # An earlier attempt may have been executed although its answer was lost: then it isn't sent again.
            if attempts > 1 and self._metadata(key).get(_WRITER) == writer:
                return
            try:
                self._client.put_object(
                    **self._named(key),
                    Body=body(),
                    ContentLength=length,
                    ContentMD5=base64.b64encode(md5).decode("ascii"),
                    IfNoneMatch="*",
                    Metadata={_WRITER: writer},
                )
            except botocore.exceptions.ClientError as error:
                if not s3trouble.is_taken(error):
                    raise
                # And it may be executed as late as this.
                if attempts == 1 or self._metadata(key).get(_WRITER) != writer:
                    raise errors.AlreadyExists(resource_type="object", name=key) from error

        self._trouble.retried(key, send)

    def _metadata(self, key: str) -> Mapping[str, str]:
        found = self._head(key)
        return {} if found is None else found.get("Metadata", {})

    def _require_conditional_creates(self) -> None:
        """Raise errors.ArchiveRefused if the server takes a condition and doesn't heed it: it would lose data."""
        if self._conditional is None:
            probe = f"probe-{secrets.token_hex(8)}"
            self._create(probe, io.BytesIO, 0, hashlib.md5(b"", usedforsecurity=False).digest())
            try:
                self._create(probe, io.BytesIO, 0, hashlib.md5(b"", usedforsecurity=False).digest())
                self._conditional = False
            except errors.AlreadyExists:
                self._conditional = True
            finally:
                self.delete(probe)
        if not self._conditional:
            raise errors.ArchiveRefused(problem="the server doesn't support conditional creates (If-None-Match)")

    def get(self, key: str) -> bytes:
        return self._trouble.retried(key, lambda: _body(self._client.get_object(**self._named(key))))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return self._empty_range(key, offset)
        wanted = f"bytes={offset}-{offset + length - 1}"
        data = self._trouble.retried(key, lambda: _body(self._client.get_object(**self._named(key), Range=wanted)))
        if len(data) != length:
            raise errors.Corrupt(what=key, problem=f"it ends before byte {offset + length}")
        return data

    def _empty_range(self, key: str, offset: int) -> bytes:
        """Return no bytes: a range of none can't be asked for."""
        size_bytes = self.size(key)
        if size_bytes is None:
            raise errors.NotFound(resource_type="object", name=key)
        if offset > size_bytes:
            raise errors.Corrupt(what=key, problem=f"it ends before byte {offset}")
        return b""

    def size(self, key: str) -> int | None:
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def modified(self, key: str) -> datetime.datetime | None:
        found = self._head(key)
        if found is None:
            return None
        modified: datetime.datetime = found["LastModified"]
        return modified.astimezone(datetime.UTC)

    def now(self) -> datetime.datetime:
        def ask() -> datetime.datetime:
            answer = self._client.list_objects_v2(Bucket=self._settings.bucket, Prefix=self._prefix, MaxKeys=1)
            date = email.utils.parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return date.astimezone(datetime.UTC)

        return self._trouble.retried("clock", ask)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._pages(prefix, delimiter=""):
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._prefix), int(found["Size"])

    def folders(self, prefix: str) -> Iterator[str]:
        for page in self._pages(prefix, delimiter="/"):
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(self._prefix + prefix).removesuffix("/")

    def delete(self, key: str) -> bool:
        if self._head(key) is None:
            return False
        self._trouble.retried(key, lambda: self._client.delete_object(**self._named(key)))
        return True

    def drop_cache(self, key: str) -> None:
        """Nothing is cached on this side of the network."""

    def discard_unfinished(self, prefix: str) -> int:  # noqa: ARG002 - an upload's file has no name and dies with it
        return 0

    def free_bytes(self) -> int | None:
        return None

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Mapping[str, Any]]:
        request = {"Bucket": self._settings.bucket, "Prefix": self._prefix + prefix}
        if delimiter:
            request["Delimiter"] = delimiter
        while True:
            page = self._trouble.retried(prefix, functools.partial(self._client.list_objects_v2, **request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _head(self, key: str) -> Mapping[str, Any] | None:
        def ask() -> Mapping[str, Any]:
            found: Mapping[str, Any] = self._client.head_object(**self._named(key))
            if "ContentLength" not in found or "LastModified" not in found:
                # Cut off within its head, an answer looks whole to the SDK.
                raise botocore.exceptions.IncompleteReadError(actual_bytes=0, expected_bytes=1)
            return found

        for _ in range(_LOOKS):
            try:
                return self._trouble.retried(key, ask)
            except errors.NotFound:
                # The answer to a HEAD has no body that would tell this from a bucket that isn't there.
                if not self._is_there(key):
                    return None
        raise errors.ArchiveUnreachable(problem=f"{key} comes and goes")

    def _is_there(self, key: str) -> bool:
        """Say whether an object can be read. Raises errors.ArchiveRefused if there is no bucket that might have it."""

        def ask() -> None:
            self._client.get_object(**self._named(key), Range="bytes=0-0")["Body"].close()

        try:
            self._trouble.retried(key, ask)
        except errors.NotFound:
            return False
        except errors.Corrupt:
            # It is empty, and has no first byte.
            return True
        return True

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._settings.bucket, "Key": self._prefix + backend.check_key(key)}


def _body(answer: Mapping[str, Any]) -> bytes:
    with contextlib.closing(answer["Body"]) as body:
        data: bytes = body.read()
    if len(data) != int(answer["ContentLength"]):
        # Some servers close a connection in the middle without an error that the SDK would see.
        raise botocore.exceptions.IncompleteReadError(actual_bytes=len(data), expected_bytes=answer["ContentLength"])
    return data


class S3Upload:
    """A backend.Upload into a file without a name, which is sent as one object in the end."""

    def __init__(self, store: S3Backend, key: str, fd: int) -> None:
        """Write to fd, which becomes key in store."""
        self._store = store
        self._key = key
        self._fd: int | None = fd
        self._length = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def append(self, buffers: Sequence[backend.Bytes]) -> None:
        assert self._fd is not None, "append after the end"
        with fsops.translated("spool"):
            fsops.pwritev(self._fd, buffers, self._length)
        for buffer in buffers:
            self._md5.update(buffer)
            self._length += len(memoryview(buffer).cast("B"))

    def finish(self) -> None:
        assert self._fd is not None, "finish after the end"
        fd = self._fd

        def body() -> io.BufferedReader:
            os.lseek(fd, 0, os.SEEK_SET)
            return open(fd, "rb", closefd=False)

        self._store.create(self._key, body, self._length, self._md5.digest())
        self.discard()

    def discard(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
