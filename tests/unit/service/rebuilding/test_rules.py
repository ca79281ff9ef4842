"""The rules of docs/disaster-recovery.md, one by one, on small made-up cases."""

import datetime

from snapd import model
from snapd.pool import layers as pools
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import naming, survey
from tests.unit.service.rebuilding import made

HEAD = model.LayerState.HEAD
FROZEN = model.LayerState.FROZEN
ARCHIVED = model.ArchiveState.ARCHIVED
DAY = datetime.timedelta(days=1)

# A volume whose head 2 stands on the snapshot 1, as a backup has it.
PAIR = made.base(
    volumes=[made.volume(1, head=2, point=1)],
    snapshots=[made.snapshot(1)],
    points=[made.point(1, layer=1)],
    layers=[made.layer(1), made.layer(2, 1, HEAD)],
)
PAIR_FILES = [made.file(1), made.head(2, 50, 1, taken=1)]


# --- layers and heads -------------------------------------------------------------------------------------------------


def test_what_the_backup_and_the_files_agree_on_is_as_it_was_and_not_marked() -> None:
    joined = made.join(PAIR, PAIR_FILES)
    assert joined.layers == {1: FROZEN, 2: HEAD}
    assert joined.volume(1).head_layer == made.uid("l", 2)
    assert joined.volume(1).state is model.VolumeState.READY
    assert joined.snapshot(1).state is model.SnapshotState.COMPLETED
    assert joined.point(1).layer == made.uid("l", 1)
    assert joined.report.is_sure
    assert not joined.report.left


def test_parent_and_size_of_a_layer_are_those_of_its_header() -> None:
    base = made.base(volumes=[made.volume(1, head=3)], layers=[made.layer(2), made.layer(3, 2, HEAD)])
    joined = made.join(base, [made.file(1, size_bytes=512), made.head(3, 50, 1)])
    assert {row.uid: (row.parent, row.size_bytes) for row in joined.rows.layers} == {
        made.uid("l", 1): (None, 512),
        made.uid("l", 3): (made.uid("l", 1), made.SIZE),
    }


def test_a_file_on_which_nothing_depends_is_no_row_and_is_told() -> None:
    joined = made.join(PAIR, [*PAIR_FILES, made.file(7)])
    assert joined.layers == {1: FROZEN, 2: HEAD}
    assert joined.left == [7]


def test_a_capture_since_the_backup_moves_the_head_and_makes_its_snapshot() -> None:
    joined = made.join(PAIR, [*PAIR_FILES, made.head(3, 120, 2, taken=2)])
    assert joined.layers == {1: FROZEN, 2: FROZEN, 3: HEAD}
    assert joined.volume(1).head_layer == made.uid("l", 3)
    assert joined.volume(1).parent_point == made.uid("p", 2)
    assert joined.snapshot(2).state is model.SnapshotState.COMPLETED
    assert joined.point(2).layer == made.uid("l", 2)
    assert joined.point(2).parent == made.uid("p", 1)
    assert joined.marked() == {"s2"}


def test_a_regular_snapshot_that_only_a_header_knows_goes_on_to_be_archived() -> None:
    joined = made.join(PAIR, [*PAIR_FILES, made.head(3, 120, 2, taken=2, rapid=False)])
    taken = joined.snapshot(2)
    assert taken.state is model.SnapshotState.IN_PROGRESS
    assert (taken.archive.state, taken.archive.urgent) == (model.ArchiveState.SCHEDULED, True)
    assert taken.archive.next_attempt is not None


def test_a_head_that_is_frozen_is_none_and_its_volume_is_failed() -> None:
    for files in (
        [made.file(1), made.head(2, 50, 1, mode=pools.FROZEN_MODE)],
        [*PAIR_FILES, made.head(3, 120, 2, volume=2)],
    ):
        joined = made.join(PAIR, files)
        volume = joined.volume(1)
        assert (volume.state, volume.head_layer, volume.parent_point) == (model.VolumeState.FAILED, None, None)
        assert volume.error is not None
        assert volume.error.reason == "CATALOG_REBUILT"
        assert volume.recovered
        assert [entry.name for entry in joined.report.lost] == ["environments/e/volumes/v1"]
        assert joined.snapshot(1).state is model.SnapshotState.COMPLETED


def test_a_volume_whose_head_is_gone_is_failed_and_its_snapshots_stay() -> None:
    joined = made.join(PAIR, [made.file(1)])
    assert joined.volume(1).state is model.VolumeState.FAILED
    assert joined.snapshot(1).state is model.SnapshotState.COMPLETED
    assert joined.layers == {1: FROZEN}


def test_a_volume_that_only_its_header_knows_is_made() -> None:
    joined = made.join(made.base(), [made.head(5, 120, volume=5, volume_id="mine")])
    volume = joined.volume(5)
    assert (volume.id, volume.state, volume.recovered) == ("mine", model.VolumeState.READY, True)
    assert joined.layers == {5: HEAD}


def test_of_two_possible_heads_the_later_is_taken_and_the_other_one_left_alone_and_told() -> None:
    joined = made.join(PAIR, [*PAIR_FILES, made.head(3, 120, 1)])
    assert joined.volume(1).head_layer == made.uid("l", 3)
    assert joined.volume(1).recovered
    assert joined.left == [2]
    assert joined.layers == {1: FROZEN, 3: HEAD}


def test_a_later_head_that_can_not_be_used_is_not_replaced_by_an_earlier_one() -> None:
    broken = survey.Refused(made.uid("l", 3), "it is damaged", 120, made.uid("v", 1))
    joined = made.join(PAIR, PAIR_FILES, refused=[broken])
    assert joined.volume(1).state is model.VolumeState.FAILED
    assert joined.left == [2, 3]


def test_a_file_that_an_earlier_rebuild_left_alone_is_no_head_and_no_snapshot() -> None:
    """It is older than the backup, which doesn't know it."""
    files = [made.file(1), made.head(7, 60, 1, taken=7), made.head(8, 61, mode=pools.FROZEN_MODE)]
    joined = made.join(PAIR, files)
    assert joined.volume(1).state is model.VolumeState.FAILED
    assert joined.ids == ["s1"]
    assert joined.left == [7, 8]


def test_a_layer_that_was_frozen_when_the_backup_was_made_is_never_a_head() -> None:
    """A fold may have it writable at the moment of the death, and its volume be deleted."""
    for mode in (pools.HEAD_MODE, pools.FILLING_MODE, pools.MERGING_MODE):
        base = made.base(snapshots=[made.snapshot(1)], points=[made.point(1, layer=1)], layers=[made.layer(1)])
        joined = made.join(base, [made.head(1, 40, mode=mode)])
        assert joined.layers == {1: FROZEN}
        assert not joined.rows.volumes
        assert joined.snapshot(1).state is model.SnapshotState.COMPLETED


def test_a_layer_into_which_a_fold_copied_is_no_head_without_a_backup_either() -> None:
    joined = made.join(bases.EMPTY, [made.head(1, 40, mode=pools.FILLING_MODE)])
    assert joined.layers == {1: FROZEN}
    assert not joined.rows.volumes
    assert len(joined.rows.snapshots) == 1


# --- chains -----------------------------------------------------------------------------------------------------------


def test_loops_and_what_stands_on_them_or_on_nothing_is_not_used() -> None:
    pool = survey.sort(
        [
            made.file(1, 2),
            made.file(2, 1),
            made.file(3, 2),
            made.file(4, 9),
            made.file(5, 4),
            made.file(6),
            made.file(7, 6),
        ],
        [survey.Refused(made.uid("l", 9), "no qcow2")],
    )
    assert sorted(pool.layers) == [made.uid("l", 6), made.uid("l", 7)]
    assert sorted(pool.refused) == [made.uid("l", digit) for digit in (1, 2, 3, 4, 5, 9)]
    assert pool.children == {made.uid("l", 6): (made.uid("l", 7),)}
    assert "loop" in pool.refused[made.uid("l", 3)].problem
    assert made.uid("l", 4) not in pool.refused[made.uid("l", 4)].problem


def test_a_chain_of_many_thousands_is_followed_without_recursion() -> None:
    files = [made.file(digit, digit - 1 if digit else None) for digit in range(20_000)]
    assert len(survey.sort(files, ()).layers) == 20_000
    assert not survey.sort([*files[1:], made.file(0, 19_999)], ()).layers


# --- points -----------------------------------------------------------------------------------------------------------


def test_a_layer_that_may_hold_its_childs_data_shows_nothing() -> None:
    base = made.base(
        snapshots=[made.snapshot(1), made.snapshot(2)],
        points=[made.point(1, layer=1), made.point(2, 1, layer=2)],
        layers=[made.layer(1), made.layer(2, 1)],
    )
    for mode in (pools.MERGED_MODE, pools.FILLING_MODE):
        joined = made.join(base, [made.file(1, mode=pools.MERGING_MODE), made.file(2, 1, mode=mode)])
        assert joined.snapshot(1).state is model.SnapshotState.FAILED
        assert joined.snapshot(1).health is model.HealthState.DAMAGED
        assert joined.snapshot(2).state is model.SnapshotState.COMPLETED
        assert joined.layers == {1: FROZEN, 2: FROZEN}
        assert joined.point(1).layer is None


def test_a_layer_that_a_fold_has_just_renamed_is_whole() -> None:
    base = made.base(
        volumes=[made.volume(1, head=3, point=2)],
        snapshots=[made.snapshot(2)],
        points=[made.point(2, layer=2)],
        layers=[made.layer(2), made.layer(3, 2, HEAD)],
    )
    for above in ([], [made.head(3, 50, 2)], [made.head(4, 120, 2, mode=pools.FROZEN_MODE, taken=2)]):
        joined = made.join(base, [made.head(2, 10, mode=pools.MERGING_MODE), *above])
        assert joined.snapshot(2).state is model.SnapshotState.COMPLETED
        assert joined.point(2).layer == made.uid("l", 2)


def test_a_point_that_was_restored_since_stands_on_what_its_new_layer_stands_on() -> None:
    """The allocation of the restored layer is no delta to the point before."""
    base = made.base(
        snapshots=[made.snapshot(1, archive=ARCHIVED), made.snapshot(2, archive=ARCHIVED)],
        points=[made.point(1, layer=1), made.point(2, 1, layer=2)],
        layers=[made.layer(1), made.layer(2, 1)],
    )
    archived = [made.copy(1, known=True), made.copy(2, known=True)]
    joined = made.join(base, [made.file(8), made.head(9, 120, 8, volume=2, point=2)], archived)
    assert joined.point(2).layer == made.uid("l", 8)
    assert joined.point(2).parent is None
    kept = made.join(base, [made.file(1), made.file(2, 1), made.head(9, 120, 2, volume=2)], archived)
    assert kept.point(2).parent == made.uid("p", 1)


def test_a_recorded_delta_keeps_its_parent_whatever_shows_the_point() -> None:
    base = made.base(
        snapshots=[made.snapshot(1, archive=ARCHIVED), made.snapshot(2, archive=ARCHIVED)],
        points=[made.point(1), made.point(2, 1, recorded=True)],
    )
    files = [made.file(8), made.head(9, 120, 8, volume=2, point=2)]
    joined = made.join(base, files, [made.copy(1, known=True), made.copy(2, known=True)])
    assert joined.point(2).parent == made.uid("p", 1)
    assert joined.point(2).delta_recorded


def test_a_new_point_above_a_layer_that_shows_none_has_no_parent() -> None:
    files = [
        made.file(1, mode=pools.MERGING_MODE),
        made.head(2, 120, 1, mode=pools.MERGED_MODE),
        made.head(3, 130, 2, taken=2),
    ]
    joined = made.join(made.base(), files)
    assert joined.point(2).parent is None


def test_a_layer_of_another_size_than_its_point_does_not_show_it() -> None:
    joined = made.join(PAIR, [made.file(1, size_bytes=512), made.head(2, 50, 1)])
    assert joined.snapshot(1).state is model.SnapshotState.FAILED
    assert joined.point(1).layer is None


def test_points_that_nothing_needs_any_more_are_gone() -> None:
    base = made.base(points=[made.point(1), made.point(2, 1), made.point(3, 2, layer=3)], layers=[made.layer(3)])
    assert not made.join(base).rows.points


def test_points_that_damaged_evidence_puts_into_a_circle_are_cut() -> None:
    base = made.base(
        snapshots=[made.snapshot(1), made.snapshot(2)],
        points=[made.point(1, 2, layer=1), made.point(2, 1, layer=2)],
        layers=[made.layer(1), made.layer(2)],
    )
    joined = made.join(base, [made.file(1), made.file(2)])
    assert sorted(row.parent is None for row in joined.rows.points) == [False, True]


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_was_archived_since_is_archived() -> None:
    joined = made.join(PAIR, PAIR_FILES, [made.copy(1)])
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
    found = made.join(base, PAIR_FILES).snapshot(1)
    assert found.archive.state is model.ArchiveState.SCHEDULED
    assert found.archive.next_attempt is not None
    assert (found.rapid, found.recovered) == (True, True)


def test_a_manifest_that_can_not_be_read_does_not_cost_the_layer() -> None:
    found = made.join(PAIR, PAIR_FILES, [made.copy(1, problem="damaged")])
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
    joined = made.join(PAIR, [*PAIR_FILES, made.head(3, 120, 2, taken=2)])
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
    assert made.join(PAIR, files).ids == ["s1"]


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
    joined = made.join(PAIR, [made.file(1), made.head(2, 50, 1, mode=pools.FROZEN_MODE)])
    assert len(joined.rows.snapshots) == 2
    assert joined.layers == {1: FROZEN, 2: FROZEN}


def test_a_layer_whose_snapshot_was_deleted_before_the_backup_becomes_none() -> None:
    base = made.base(
        volumes=[made.volume(1, head=2, point=1)],
        points=[made.point(1, layer=1)],
        layers=[made.layer(1), made.layer(2, 1, HEAD)],
    )
    assert made.join(base, PAIR_FILES).ids == []


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
    assert made.join(base, PAIR_FILES).volume(1).head_layer == made.uid("l", 2)
    both = made.join(base, [*PAIR_FILES, made.head(3, 90, 1)])
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
    joined = made.join(PAIR, [made.file(1), made.head(5, 120, volume=5, volume_id="v1")])
    assert joined.volume(5).id == "v1"
    assert joined.volume(1).id == f"v1-{made.uid('v', 1)[:8]}"


def test_without_a_backup_everything_is_made_of_headers_and_manifests() -> None:
    joined = made.join(bases.EMPTY, [made.head(1, 10), made.head(2, 20, 1, taken=1)], [made.copy(4)])
    (environment,) = joined.rows.environments
    assert (environment.id, environment.uid) == ("e", made.uid("e", 1))
    assert joined.ids == ["s1", "s4"]
    assert joined.marked() == {"v1", "s1", "s4"}
