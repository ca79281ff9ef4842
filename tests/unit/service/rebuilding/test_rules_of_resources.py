"""The rules of docs/disaster-recovery.md for snapshots, volumes and names, one by one, on small made-up cases."""

import datetime

from snapd import model
from snapd.pool import layers as pools
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import naming
from tests.unit.service.rebuilding import made

HEAD = model.LayerState.HEAD
FROZEN = model.LayerState.FROZEN
ARCHIVED = model.ArchiveState.ARCHIVED
DAY = datetime.timedelta(days=1)

# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_was_archived_since_is_archived() -> None:
    joined = made.join(made.PAIR, made.PAIR_FILES, [made.copy(1)])
    found = joined.snapshot(1)
    assert found.archive.state is ARCHIVED
    assert (found.state, found.rapid, found.recovered) == (model.SnapshotState.COMPLETED, False, False)


def test_a_snapshot_that_the_archive_has_lost_is_archived_again_from_its_layer() -> None:
    base = made.base(
        volumes=[made.volume(1, head=2, point=1)],
        snapshots=[made.snapshot(1, archive=ARCHIVED)],
        points=[made.point(1, layer=1)],
        layers=[made.layer(1), made.layer(2, 1, HEAD)],
    )
    found = made.join(base, made.PAIR_FILES).snapshot(1)
    assert found.archive.state is model.ArchiveState.SCHEDULED
    assert found.archive.next_attempt is not None
    assert (found.rapid, found.recovered) == (True, True)


def test_a_manifest_that_can_not_be_read_does_not_cost_the_layer() -> None:
    found = made.join(made.PAIR, made.PAIR_FILES, [made.copy(1, problem="damaged")])
    assert found.snapshot(1).archive.state is model.ArchiveState.SCHEDULED
    assert found.point(1).layer == made.uid("l", 1)


def test_a_snapshot_with_neither_is_failed_and_not_rapid() -> None:
    for archive in (ARCHIVED, model.ArchiveState.SCHEDULED):
        base = made.base(snapshots=[made.snapshot(1, archive=archive)], points=[made.point(1)])
        joined = made.join(base)
        found = joined.snapshot(1)
        assert (found.state, found.health) == (model.SnapshotState.FAILED, model.HealthState.DAMAGED)
        assert found.archive.state is model.ArchiveState.FAILED
        assert (found.rapid, found.recovered, found.archive.next_attempt) == (False, True, None)
        assert found.error is not None
        assert found.error.reason == "CATALOG_REBUILT"
        assert len(joined.report.lost) == 1


def test_without_the_archive_the_backup_is_believed_about_it() -> None:
    base = made.base(
        snapshots=[made.snapshot(1, archive=ARCHIVED), made.snapshot(2)], points=[made.point(1), made.point(2)]
    )
    joined = made.join(base, archived=None)
    assert joined.snapshot(1).archive.state is ARCHIVED
    assert not joined.snapshot(1).recovered
    assert joined.snapshot(2).state is model.SnapshotState.FAILED


def test_what_may_have_been_archived_since_the_backup_counts_as_tried() -> None:
    """Else its deletion wouldn't look for its manifest while the archive is away."""
    joined = made.join(made.PAIR, [*made.PAIR_FILES, made.head(3, 120, 2, taken=2)])
    assert [joined.snapshot(number).archive.attempts for number in (1, 2)] == [1, 1]


def test_a_snapshot_that_was_being_deleted_is_failed_and_keeps_its_layer() -> None:
    base = made.base(
        snapshots=[made.snapshot(1, state=model.SnapshotState.DESTROYING)],
        points=[made.point(1, layer=1)],
        layers=[made.layer(1)],
    )
    joined = made.join(base, [made.file(1)])
    found = joined.snapshot(1)
    assert (found.state, found.health) == (model.SnapshotState.FAILED, model.HealthState.OK)
    assert joined.point(1).layer == made.uid("l", 1)
    archived = made.join(base, [made.file(1)], [made.copy(1)]).snapshot(1)
    assert (archived.state, archived.archive.state) == (model.SnapshotState.FAILED, ARCHIVED)


def test_a_snapshot_that_only_its_manifest_knows_is_made() -> None:
    joined = made.join(made.base(), archived=[made.copy(4, snapshot_id="kept")])
    found = joined.snapshot(4)
    assert (found.id, found.archive.state, found.recovered) == ("kept", ARCHIVED, True)
    assert joined.point(4).layer is None


def test_a_snapshot_of_a_header_without_its_contents_is_not_made() -> None:
    files = [made.file(1), made.head(3, 120, 1, point=9, taken=9, stands_on=8)]
    assert made.join(made.PAIR, files).ids == ["s1"]


def test_a_snapshot_that_was_deleted_before_the_backup_stays_so_though_a_fold_wrote_its_name_anew() -> None:
    base = made.base(layers=[made.layer(1)], points=[made.point(1, layer=1)])
    old, late = (made.head(3, 120, 1, taken=1, captured=made.NOW + after) for after in (-DAY, DAY))
    assert made.join(base, [made.file(1), old]).ids == []
    assert made.join(base, [made.file(1), late]).ids == ["s1"]


def test_of_three_with_one_name_the_newest_with_contents_has_it() -> None:
    def wanted(digit: int, days: int, *, with_contents: bool) -> naming.Wanted:
        return naming.Wanted(made.uid("s", digit), "e", "x", with_contents, made.NOW + days * DAY)

    settled = naming.settle(
        [
            wanted(1, 0, with_contents=True),
            wanted(2, -1, with_contents=True),
            wanted(3, 1, with_contents=False),
        ]
    )
    assert settled[made.uid("s", 1)] == "x"
    assert len(set(settled.values())) == 3
    two = naming.settle([wanted(1, -1, with_contents=True), wanted(2, 0, with_contents=True)])
    assert two[made.uid("s", 2)] == "x"
    assert naming.settle([wanted(2, -1, with_contents=True), wanted(1, 0, with_contents=True)])[made.uid("s", 1)] == "x"


def test_a_frozen_layer_that_nothing_names_becomes_a_snapshot() -> None:
    for above in ([], [made.head(9, 130, 8, volume=2, point=8)], [made.file(9, 8)]):
        joined = made.join(made.base(), [made.head(8, 120, mode=pools.FROZEN_MODE, volume_id="gone"), *above])
        (found,) = joined.rows.snapshots
        assert found.id == f"recovered-{found.uid[:8]}"
        assert (found.volume, found.recovered) == ("gone", True)
        assert found.state is model.SnapshotState.COMPLETED
        (point,) = (row for row in joined.rows.points if row.uid == found.point)
        assert point.layer == made.uid("l", 8)
        again = made.join(made.base(), [made.head(8, 120, mode=pools.FROZEN_MODE, volume_id="gone"), *above])
        assert again.rows == joined.rows


def test_the_backups_head_that_was_frozen_since_and_has_no_name_becomes_a_snapshot() -> None:
    joined = made.join(made.PAIR, [made.file(1), made.head(2, 50, 1, mode=pools.FROZEN_MODE)])
    assert len(joined.rows.snapshots) == 2
    assert joined.layers == {1: FROZEN, 2: FROZEN}


def test_a_layer_whose_snapshot_was_deleted_before_the_backup_becomes_none() -> None:
    base = made.base(
        volumes=[made.volume(1, head=2, point=1)],
        points=[made.point(1, layer=1)],
        layers=[made.layer(1), made.layer(2, 1, HEAD)],
    )
    assert made.join(base, made.PAIR_FILES).ids == []


# --- volumes under way ------------------------------------------------------------------------------------------------


def test_a_volume_that_was_being_made_is_ready_if_its_head_is_there_and_failed_otherwise() -> None:
    base = made.base(
        volumes=[made.volume(1, head=None, state=model.VolumeState.CREATING)],
        layers=[made.layer(1, state=model.LayerState.CREATING)],
    )
    assert made.join(base, [made.head(1, 90)]).volume(1).state is model.VolumeState.READY
    failed = made.join(base).volume(1)
    assert failed.state is model.VolumeState.FAILED
    assert failed.error is not None
    assert failed.error.reason == "CATALOG_REBUILT"


def test_a_volume_that_was_being_reverted_has_the_later_head() -> None:
    base = made.base(
        volumes=[made.volume(1, head=2, point=1, state=model.VolumeState.REVERTING)],
        snapshots=[made.snapshot(1)],
        points=[made.point(1, layer=1)],
        layers=[made.layer(1), made.layer(2, 1, HEAD), made.layer(3, 1, model.LayerState.CREATING)],
    )
    assert made.join(base, made.PAIR_FILES).volume(1).head_layer == made.uid("l", 2)
    both = made.join(base, [*made.PAIR_FILES, made.head(3, 90, 1)])
    assert both.volume(1).head_layer == made.uid("l", 3)
    assert both.volume(1).recovered
    assert both.left == [2]


def test_a_volume_that_was_being_deleted_is_failed_and_keeps_its_head() -> None:
    base = made.base(
        volumes=[made.volume(1, head=1, state=model.VolumeState.DESTROYING)], layers=[made.layer(1, state=HEAD)]
    )
    found = made.join(base, [made.head(1, 50)]).volume(1)
    assert (found.state, found.head_layer) == (model.VolumeState.FAILED, made.uid("l", 1))


# --- names ------------------------------------------------------------------------------------------------------------


def test_of_two_with_one_name_the_one_with_contents_has_it_then_the_newer_one() -> None:
    base = made.base(snapshots=[made.snapshot(1, id_="x")], points=[made.point(1)])
    joined = made.join(base, archived=[made.copy(4, snapshot_id="x")])
    assert joined.snapshot(4).id == "x"
    assert joined.snapshot(1).id == f"x-{made.uid('s', 1)[:8]}"
    assert joined.marked() == {"x", joined.snapshot(1).id}
    older = made.NOW - datetime.timedelta(days=1)
    base = made.base(snapshots=[made.snapshot(1, id_="x", created=older, archive=ARCHIVED)], points=[made.point(1)])
    both = made.join(base, archived=[made.copy(4, snapshot_id="x"), made.copy(1, known=True)])
    assert both.snapshot(4).id == "x"
    assert both.snapshot(1).recovered


def test_a_volume_that_was_made_anew_under_its_name_keeps_it() -> None:
    joined = made.join(made.PAIR, [made.file(1), made.head(5, 120, volume=5, volume_id="v1")])
    assert joined.volume(5).id == "v1"
    assert joined.volume(1).id == f"v1-{made.uid('v', 1)[:8]}"


def test_without_a_backup_everything_is_made_of_headers_and_manifests() -> None:
    joined = made.join(bases.EMPTY, [made.head(1, 10), made.head(2, 20, 1, taken=1)], [made.copy(4)])
    (environment,) = joined.rows.environments
    assert (environment.id, environment.uid) == ("e", made.uid("e", 1))
    assert joined.ids == ["s1", "s4"]
    assert joined.marked() == {"v1", "s1", "s4"}
