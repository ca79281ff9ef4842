"""Mending what an inspection found, as far as that can be done without guessing. Nothing else may use the stores.

A frozen layer's file that could be written is made read-only; leaks and wrong refcounts are put right. What is lost is
lost: the repair has the states tell it. A volume whose layer is gone is FAILED and a snapshot's health DAMAGED; one
that is missing in the archive and still on primary storage is archived anew. Files and copies that nobody explains are
left alone. Each mending is one transaction, or can be done again.
"""

import dataclasses
import datetime

from snapd import errors, model
from snapd.catalog import db, dependents, layers, points, snapshots, volumes
from snapd.pool import layers as pools
from snapd.qcow2.checking import check, repair
from snapd.service import problems
from snapd.service.inspection import files, findings


def mend(catalog: db.Catalog, pool: pools.Pool, finding: findings.Finding, now: datetime.datetime) -> str:
    """Mend what was found and return what was done, in a few words; '' if that can't be mended.

    Raises errors.StorageFailed, errors.StorageFull.
    """
    match finding.kind:
        case findings.Kind.LAYER_WRITABLE:
            return _freeze(pool, finding.subject)
        case findings.Kind.IMAGE_LEAKS | findings.Kind.IMAGE_DAMAGED:
            return _mend_image(catalog, pool, finding.subject)
        case findings.Kind.LAYER_MISSING:
            return _tell_of_layer(catalog, finding, now)
        case findings.Kind.COPY_MISSING:
            return _tell_of_copy(catalog, pool, finding, now)
        case _:
            return ""


def freeze(pool: pools.Pool, uid: str) -> None:
    """Take the permission to write from a frozen layer's file, durably, once there are no leaks in it.

    Who could write it may have been killed, and a fold looks for leaks only in what it finds writable. The caller has
    the layer to itself. Raises errors.Corrupt, and leaves it as it is, if it has worse than leaks; errors.ImageRefused,
    errors.ImageBusy, errors.StorageFailed, errors.StorageFull.
    """
    repair.repair_leaks(pool.path(uid))
    pool.freeze(uid, durable=True)


def _freeze(pool: pools.Pool, uid: str) -> str:
    try:
        freeze(pool, uid)
    except (errors.Corrupt, errors.ImageRefused):
        return ""
    return "made read-only"


def _mend_image(catalog: db.Catalog, pool: pools.Pool, uid: str) -> str:
    if pool.is_merged(uid) or files.is_partial(catalog.reader(), pool, uid):
        # Its mode is a mark that must stay. A fold goes on with it, and leaves nothing of what is wrong.
        return ""
    layer = layers.get(catalog.reader(), uid)
    frozen = layer.state is model.LayerState.FROZEN
    path = pool.path(uid)
    if frozen:
        pool.thaw(uid)
    try:
        fixed = repair.repair(path, leaks_only=False)
        clean = check.check(path).clean
    except (errors.Corrupt, errors.ImageRefused):
        return ""
    finally:
        if frozen:
            pool.freeze(uid)
    return f"{fixed.corruptions_fixed + fixed.leaks_fixed} refcounts put right" if clean else ""


def _tell_of_layer(catalog: db.Catalog, finding: findings.Finding, now: datetime.datetime) -> str:
    problem = problems.describe(errors.Corrupt(what=f"layer {finding.subject}", problem="its file is gone"))
    with catalog.transaction() as tx:
        hit = dependents.volumes(tx.connection, finding.subject)
        for uid in hit:
            volume = volumes.by_uid(tx.connection, uid)
            assert volume is not None
            failed = dataclasses.replace(volume, state=model.VolumeState.FAILED, error=problem, updated=now)
            volumes.put(tx, failed)
        damaged = dependents.snapshots(tx.connection, finding.subject)
        for uid in damaged:
            snapshot = snapshots.by_uid(tx.connection, uid)
            assert snapshot is not None
            snapshots.put(tx, _damaged(snapshot, now))
    return f"{len(hit)} volumes are FAILED and {len(damaged)} snapshots DAMAGED now"


def _tell_of_copy(catalog: db.Catalog, pool: pools.Pool, finding: findings.Finding, now: datetime.datetime) -> str:
    with catalog.transaction() as tx:
        snapshot = snapshots.by_uid(tx.connection, finding.subject)
        assert snapshot is not None
        layer = points.get(tx.connection, snapshot.point).layer
        if layer is None or not pool.path(layer).exists():
            snapshots.put(tx, _damaged(snapshot, now))
            return "its health is DAMAGED now"
        archive = dataclasses.replace(
            snapshot.archive,
            state=model.ArchiveState.SCHEDULED,
            due=now,
            next_attempt=now,
            archived=None,
            # Its manifest may be brought back, and is looked for when it is deleted.
            attempts=1,
            error=None,
        )
        snapshots.put(tx, dataclasses.replace(snapshot, rapid=True, archive=archive, updated=now))
        return "it is still on primary storage, and is archived anew"


def _damaged(snapshot: model.Snapshot, now: datetime.datetime) -> model.Snapshot:
    """Return a snapshot of which nothing is known to be whole."""
    damage = model.Damage(((0, snapshot.size_bytes),), snapshot.size_bytes)
    return dataclasses.replace(snapshot, health=model.HealthState.DAMAGED, damage=damage, updated=now)
