"""The catalog and the pool's files: each layer has its file, each file its layer, and they say the same of it.

May be asked beside a daemon that runs: a row is there before its file and after it, and what seems wrong is looked at
once more before it is told.
"""

import sqlite3
from collections.abc import Callable, Iterator

from snapd import errors, model
from snapd.catalog import attachments, db, dependents, journal, layers, snapshots, volumes
from snapd.pool import layers as pools
from snapd.qcow2.checking import check
from snapd.qcow2.reading import image
from snapd.service import names
from snapd.service.inspection import findings

_WITH_FILE = (model.LayerState.HEAD, model.LayerState.FROZEN)


def strays(read: db.Reader, pool: pools.Pool) -> Iterator[findings.Finding]:
    """Yield the files of the pool that nothing explains."""
    # The files come first: the row of one that has come since is there already.
    there = list(pool.files())
    connection = read()
    known = (
        layers.uids(connection)
        | {row.volume_uid for row in journal.uploads(connection)}
        | {intent.subject for intent in journal.intents(connection)}
    )
    for path in pool.strays(known, there):
        if path.exists():
            name = str(path.relative_to(pool.root))
            yield findings.Finding(findings.Kind.FILE_UNEXPLAINED, name, f"nothing explains the file {name}")


def missing(read: db.Reader, pool: pools.Pool, check_stop: Callable[[], None]) -> Iterator[findings.Finding]:
    """Yield the layers whose files are gone, and the frozen ones that could be written. `check_stop` may raise."""
    for uid in sorted(layers.uids(read())):
        check_stop()
        layer = layers.find(read(), uid)
        if layer is None or layer.state not in _WITH_FILE:
            continue
        if not pool.path(uid).exists():
            if _is_as_before(read, layer):
                problem = f"the file of layer {uid} is gone"
                yield _finding(read, findings.Kind.LAYER_MISSING, uid, problem)
        elif _is_writable(read, pool, layer) and _is_at_rest(read, layer):
            yield findings.Finding(findings.Kind.LAYER_WRITABLE, uid, f"layer {uid} is frozen, and its file isn't")


def damaged(read: db.Reader, pool: pools.Pool, check_stop: Callable[[], None]) -> Iterator[findings.Finding]:
    """Yield what is wrong inside layers' files: headers that aren't the catalog's, damaged tables, leaks.

    It reads all tables of all files. Only for who has the pool to himself. `check_stop` may raise.
    """
    for uid in sorted(layers.uids(read())):
        check_stop()
        layer = layers.find(read(), uid)
        if layer is None or layer.state not in _WITH_FILE or _is_written(read, uid):
            continue
        if pool.path(uid).exists():
            yield from _look_inside(read, pool, layer)


def _is_written(read: db.Reader, uid: str) -> bool:
    """Say whether a storage daemon, which may outlive the daemon, may have a head open: its file is stale then."""
    attachment = attachments.of_head(read(), uid)
    return attachment is not None and attachment.state is not model.AttachmentState.CRASHED


def _look_inside(read: db.Reader, pool: pools.Pool, layer: model.Layer) -> Iterator[findings.Finding]:
    path, uid = pool.path(layer.uid), layer.uid
    try:
        with image.Image.open(path) as opened:
            backing, size_bytes = opened.header.backing_name, opened.size_bytes
        report = check.check(path)
    except (errors.Corrupt, errors.ImageRefused) as error:
        yield _finding(read, findings.Kind.IMAGE_DAMAGED, uid, f"layer {uid} can't be read: {error.problem}")
        return
    expected = pool.backing_name(layer.parent)
    # A fold under way may have put it elsewhere already; it is finished at the next start.
    if (size_bytes, backing) != (layer.size_bytes, expected) and not _folding_parent(read, layer):
        problem = (
            f"layer {uid} has {size_bytes} bytes on {backing} by its header, and {layer.size_bytes} on {expected}"
            " by the catalog"
        )
        yield _finding(read, findings.Kind.LAYER_DIFFERS, uid, problem)
    if report.corruptions or report.check_errors:
        problem = f"layer {uid} has {report.corruptions + report.check_errors} errors in its tables or refcounts"
        yield _finding(read, findings.Kind.IMAGE_DAMAGED, uid, problem)
    elif report.leaks:
        problem = f"layer {uid} has {report.leaks} leaked clusters"
        yield findings.Finding(findings.Kind.IMAGE_LEAKS, uid, problem)


def _is_writable(read: db.Reader, pool: pools.Pool, layer: model.Layer) -> bool:
    return layer.state is model.LayerState.FROZEN and not (
        pool.is_frozen(layer.uid) or is_partial(read(), pool, layer.uid)
    )


def is_partial(connection: sqlite3.Connection, pool: pools.Pool, uid: str) -> bool:
    """Say whether a frozen layer's file says that it may hold some of its child's data, which must go on to be said.

    A rebuild of the catalog finds such a layer; it shows no point, and is folded again.
    """
    if pool.mode(uid) != pools.MERGING_MODE:
        return False
    above = [child.uid for child in layers.children(connection, uid) if child.state is model.LayerState.FROZEN]
    return any(pool.path(each).exists() and pool.mode(each) != pools.FROZEN_MODE for each in above)


def _is_as_before(read: db.Reader, layer: model.Layer) -> bool:
    return layers.find(read(), layer.uid) == layer


def _is_at_rest(read: db.Reader, layer: model.Layer) -> bool:
    """Say whether a layer is as it was and no open intent has anything to do with it."""
    return _is_as_before(read, layer) and not any(
        layer.uid in (intent.subject, *intent.payload.values()) for intent in journal.intents(read())
    )


def _folding_parent(read: db.Reader, layer: model.Layer) -> bool:
    below = None if layer.parent is None else layers.find(read(), layer.parent)
    return below is not None and below.state is model.LayerState.FOLDING


def _finding(read: db.Reader, kind: findings.Kind, uid: str, problem: str) -> findings.Finding:
    connection = read()
    hit_volumes = (volumes.by_uid(connection, each) for each in dependents.volumes(connection, uid))
    hit_snapshots = (snapshots.by_uid(connection, each) for each in dependents.snapshots(connection, uid))
    affected = [names.volume(each.environment, each.id) for each in hit_volumes if each is not None]
    affected += [names.snapshot(each.environment, each.id) for each in hit_snapshots if each is not None]
    return findings.Finding(kind, uid, problem, tuple(sorted(affected)))
