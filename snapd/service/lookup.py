"""Finding what a request names, or saying in a typed error why not."""

import dataclasses
import datetime
import sqlite3
from collections.abc import Mapping
from typing import Any, TypeVar

from snapd import errors, model
from snapd.catalog import db, environments, operations, snapshots, volumes
from snapd.service import names


def environment(connection: sqlite3.Connection, environment_id: str) -> model.Environment:
    """Return an environment. Raises errors.NotFound."""
    found = environments.find(connection, environment_id)
    if found is None:
        raise errors.NotFound(resource_type="environment", name=names.environment(environment_id))
    return found


def volume(connection: sqlite3.Connection, environment_id: str, volume_id: str) -> model.Volume:
    """Return a volume. Raises errors.NotFound, of its environment if that is what isn't there."""
    found = volumes.find(connection, environment(connection, environment_id).uid, volume_id)
    if found is None:
        raise errors.NotFound(resource_type="volume", name=names.volume(environment_id, volume_id))
    return found


def snapshot(connection: sqlite3.Connection, environment_id: str, snapshot_id: str) -> model.Snapshot:
    """Return a snapshot. Raises errors.NotFound, of its environment if that is what isn't there."""
    found = snapshots.find(connection, environment(connection, environment_id).uid, snapshot_id)
    if found is None:
        raise errors.NotFound(resource_type="snapshot", name=names.snapshot(environment_id, snapshot_id))
    return found


def scope(connection: sqlite3.Connection, query: model.Query) -> str | None:
    """Return the uid of the environment that a listing is confined to, or None for all. Raises errors.NotFound."""
    return None if query.environment == "-" else environment(connection, query.environment).uid


def etag(revision: int) -> str:
    """Return the etag of a resource whose last change had a revision."""
    return f'"{revision:x}"'


def require_etag(name: str, revision: int, wanted: str) -> None:
    """Raise errors.EtagMismatch unless the caller gave no etag or the present one."""
    if wanted and wanted != etag(revision):
        raise errors.EtagMismatch(name=name)


def earlier(connection: sqlite3.Connection, request: model.Request) -> tuple[str, model.Operation | None] | None:
    """Return (resource uid, operation) that the same request made before, or None if it is new.

    Called inside the transaction that would accept it, so that two of the same kind can't both be new. Raises
    errors.RequestIdReused.
    """
    if not request.request_id:
        return None
    found = operations.find_request(connection, request)
    if found is None:
        return None
    digest, resource_uid, operation_uid = found
    if digest != request.digest:
        raise errors.RequestIdReused(request_id=request.request_id)
    return resource_uid, operations.by_uid(connection, operation_uid)


def require_new(connection: sqlite3.Connection, request: model.Request) -> None:
    """Require, inside the transaction that accepts it, that a request is new, where a mutex is held by which the same
    request would have waited. Raises errors.RequestIdReused if another one has taken its id since.
    """
    found = earlier(connection, request)
    assert found is None


def accept(
    tx: db.Transaction, request: model.Request, operation: model.Operation, resource_uid: str
) -> model.Operation:
    """Record an operation and, in the same transaction, the request that began it."""
    operations.insert(tx, operation)
    operations.insert_request(tx, request, resource_uid, operation.uid, operation.created)
    return operation


def remember(tx: db.Transaction, request: model.Request, resource_uid: str, now: datetime.datetime) -> None:
    """Record a request that needed no operation."""
    operations.insert_request(tx, request, resource_uid, "", now)


Resource = TypeVar("Resource", model.Environment, model.Volume, model.Snapshot)


def changed(resource: Resource, changes: Mapping[str, Any], now: datetime.datetime) -> Resource:
    """Return a resource with some fields changed; a blank display_name becomes the id."""
    fields = dict(changes)
    if "display_name" in fields:
        fields["display_name"] = fields["display_name"] or resource.id
    return dataclasses.replace(resource, **fields, updated=now)
