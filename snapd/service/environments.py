"""Environments: the tenant boundary, empty when it is made and when it is deleted."""

import datetime
from collections.abc import Mapping
from typing import Any

from snapd import errors, model
from snapd.catalog import environments
from snapd.service import core as cores
from snapd.service import lookup, names


class Environments:
    """All environments."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def get(self, environment_id: str) -> model.Environment:
        """Return an environment. Raises errors.NotFound."""
        return lookup.environment(self._core.catalog.reader(), environment_id)

    def list(self, query: model.Query) -> model.Page[model.Environment]:
        """Return one page. Raises errors.InvalidFilter, errors.InvalidPageToken."""
        return environments.page(self._core.catalog.reader(), query)

    def create(
        self,
        request: model.Request,
        environment_id: str,
        display_name: str,
        labels: Mapping[str, str],
        retention: datetime.timedelta | None,
    ) -> model.Environment:
        """Create an environment. Raises errors.AlreadyExists."""
        core = self._core
        with core.catalog.transaction() as tx:
            earlier = lookup.earlier(tx.connection, request)
            if earlier is None:
                if environments.find(tx.connection, environment_id) is not None:
                    raise errors.AlreadyExists(resource_type="environment", name=names.environment(environment_id))
                now = core.now()
                uid = names.new_uid()
                environment = model.Environment(
                    uid=uid,
                    id=environment_id,
                    display_name=display_name or environment_id,
                    labels=labels,
                    retention=retention,
                    created=now,
                    updated=now,
                    revision=0,
                )
                environments.put(tx, environment)
                lookup.remember(tx, request, uid, now)
            else:
                uid = earlier[0]
        found = environments.by_uid(core.catalog.reader(), uid)
        if found is None:
            raise errors.NotFound(resource_type="environment", name=names.environment(environment_id))
        return found

    def update(
        self, request: model.Request, environment_id: str, etag: str, changes: Mapping[str, Any]
    ) -> model.Environment:
        """Change display_name, labels or retention. Raises errors.NotFound, errors.EtagMismatch."""
        core = self._core
        with core.catalog.transaction() as tx:
            environment = lookup.environment(tx.connection, environment_id)
            if lookup.earlier(tx.connection, request) is None:
                lookup.require_etag(names.environment(environment_id), environment.revision, etag)
                environments.put(tx, lookup.changed(environment, changes, now=core.now()))
                lookup.remember(tx, request, environment.uid, core.now())
        return self.get(environment_id)

    def delete(self, request: model.Request, environment_id: str, etag: str, allow_missing: bool) -> None:
        """Delete an environment that holds nothing.

        Raises errors.NotFound unless allow_missing, errors.EnvironmentNotEmpty, errors.EtagMismatch.
        """
        core = self._core
        with core.catalog.transaction() as tx:
            if lookup.earlier(tx.connection, request) is not None:
                return
            environment = environments.find(tx.connection, environment_id)
            name = names.environment(environment_id)
            if environment is None:
                if allow_missing:
                    return
                raise errors.NotFound(resource_type="environment", name=name)
            lookup.require_etag(name, environment.revision, etag)
            volume_count, snapshot_count = environments.contents(tx.connection, environment.uid)
            if volume_count or snapshot_count:
                raise errors.EnvironmentNotEmpty(name=name, volumes=volume_count, snapshots=snapshot_count)
            environments.remove(tx, environment, core.now())
            lookup.remember(tx, request, environment.uid, core.now())
        # The archive's record of it goes with its last pack.
        core.hints.environment(environment.uid)
