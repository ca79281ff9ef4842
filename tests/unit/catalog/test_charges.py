"""Which layers are charged to which environment."""

import dataclasses

from snapd import model
from snapd.catalog import charges, db, layers, snapshots
from tests.unit.catalog import rows


def _head(tx: db.Transaction, volume: str, head: str, parent: str | None, environment: str) -> None:
    rows.layer(tx, head, parent, model.LayerState.HEAD)
    rows.volume(tx, volume, head, environment_uid=environment)


def test_a_layer_is_charged_to_whoever_depends_on_it(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        for uid in ("env", "other", "empty"):
            rows.environment(tx, uid)
        # L1 <- L2 <- L3 <- H of "env"; clones of "other" stand on L1 and L2, and a snapshot of "env" keeps A alone.
        rows.layer(tx, "L1")
        rows.layer(tx, "L2", "L1")
        rows.layer(tx, "L3", "L2")
        rows.layer(tx, "A")
        _head(tx, "v", "H", "L3", "env")
        _head(tx, "c", "C", "L2", "other")
        _head(tx, "d", "D", "L1", "other")
        _head(tx, "x", "X", None, "other")
        rows.point(tx, "P", None, "A")
        rows.snapshot(tx, "S", "P")
    reader = catalog.reader()
    assert charges.layers(reader, "env") == {"H": False, "L3": False, "L2": True, "L1": True, "A": False}
    assert charges.layers(reader, "other") == {"C": False, "D": False, "X": False, "L2": True, "L1": True}
    assert charges.layers(reader, "empty") == {}


def test_a_snapshot_of_another_environment_shares_a_layer_until_it_is_archived(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        rows.environment(tx)
        rows.environment(tx, "other")
        rows.layer(tx, "L1")
        _head(tx, "v", "H", "L1", "env")
        rows.point(tx, "P", None, "L1")
        taken = rows.snapshot(tx, "S", "P", environment_uid="other")
    assert charges.layers(catalog.reader(), "env") == {"H": False, "L1": True}
    assert charges.layers(catalog.reader(), "other") == {"L1": True}
    with catalog.transaction() as tx:
        archive = dataclasses.replace(taken.archive, state=model.ArchiveState.ARCHIVED)
        snapshots.put(tx, dataclasses.replace(taken, archive=archive))
    assert charges.layers(catalog.reader(), "env") == {"H": False, "L1": False}
    assert charges.layers(catalog.reader(), "other") == {}


def test_what_an_environment_holds_is_added_up(catalog: db.Catalog) -> None:
    figures = model.ArchiveFigures(changed=7, read=6, zero=1, deduplicated=2, new=4)
    with catalog.transaction() as tx:
        rows.environment(tx)
        rows.environment(tx, "other")
        rows.volume(tx, "v")
        rows.volume(tx, "w", size_bytes=512)
        rows.volume(tx, "x", environment_uid="other")
        rows.point(tx, "P")
        rows.snapshot(tx, "rapid", "P")
        for uid in ("a", "b"):
            taken = rows.snapshot(tx, uid, "P", archived=True)
            archive = dataclasses.replace(taken.archive, figures=figures)
            snapshots.put(tx, dataclasses.replace(taken, archive=archive))
    held = charges.contents(catalog.reader(), "env")
    assert (held.volumes, held.provisioned_bytes) == (2, rows.SIZE + 512)
    assert (held.snapshots, held.archived, held.logical_bytes) == (3, 2, 2 * rows.SIZE)
    assert held.figures == model.ArchiveFigures(changed=14, read=12, zero=2, deduplicated=4, new=8)
    nothing = charges.contents(catalog.reader(), "none")
    assert nothing == charges.Contents(0, 0, 0, 0, 0, model.ArchiveFigures())


def test_what_a_run_will_read_ends_at_what_is_archived_by_then(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        rows.environment(tx)
        for uid, parent in (("L1", None), ("L2", "L1"), ("L3", "L2"), ("L4", "L3")):
            rows.layer(tx, uid, parent)
        for number in (1, 2, 3, 4):
            rows.point(tx, f"P{number}", None, f"L{number}")
        rows.snapshot(tx, "first", "P1", archived=True)
        rows.snapshot(tx, "third", "P3", next_attempt=rows.NOW)
    reader = catalog.reader()
    later = rows.NOW.replace(hour=13)
    earlier = rows.NOW.replace(hour=11)
    assert layers.to_archive(reader, "L4", "env", later) == ["L4"]
    assert layers.to_archive(reader, "L4", "env", earlier) == ["L4", "L3", "L2"]
    assert layers.to_archive(reader, "L1", "env", later) == ["L1"]
    assert layers.to_archive(reader, "L2", "other", later) == ["L2", "L1"]
