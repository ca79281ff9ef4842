"""The rules of docs/disaster-recovery.md for layers, heads, chains and points, one by one, on small made-up cases."""

import datetime

from snapd import model
from snapd.pool import layers as pools
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import survey
from tests.unit.service.rebuilding import made

HEAD = model.LayerState.HEAD
FROZEN = model.LayerState.FROZEN
ARCHIVED = model.ArchiveState.ARCHIVED
DAY = datetime.timedelta(days=1)

# --- layers and heads -------------------------------------------------------------------------------------------------


def test_what_the_backup_and_the_files_agree_on_is_as_it_was_and_not_marked() -> None:
    joined = made.join(made.PAIR, made.PAIR_FILES)
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
    joined = made.join(made.PAIR, [*made.PAIR_FILES, made.file(7)])
    assert joined.layers == {1: FROZEN, 2: HEAD}
    assert joined.left == [7]


def test_a_capture_since_the_backup_moves_the_head_and_makes_its_snapshot() -> None:
    joined = made.join(made.PAIR, [*made.PAIR_FILES, made.head(3, 120, 2, taken=2)])
    assert joined.layers == {1: FROZEN, 2: FROZEN, 3: HEAD}
    assert joined.volume(1).head_layer == made.uid("l", 3)
    assert joined.volume(1).parent_point == made.uid("p", 2)
    assert joined.snapshot(2).state is model.SnapshotState.COMPLETED
    assert joined.point(2).layer == made.uid("l", 2)
    assert joined.point(2).parent == made.uid("p", 1)
    assert joined.marked() == {"s2"}


def test_a_regular_snapshot_that_only_a_header_knows_goes_on_to_be_archived() -> None:
    joined = made.join(made.PAIR, [*made.PAIR_FILES, made.head(3, 120, 2, taken=2, rapid=False)])
    taken = joined.snapshot(2)
    assert taken.state is model.SnapshotState.IN_PROGRESS
    assert (taken.archive.state, taken.archive.urgent) == (model.ArchiveState.SCHEDULED, True)
    assert taken.archive.next_attempt is not None


def test_a_head_that_is_frozen_is_none_and_its_volume_is_failed() -> None:
    for files in (
        [made.file(1), made.head(2, 50, 1, mode=pools.FROZEN_MODE)],
        [*made.PAIR_FILES, made.head(3, 120, 2, volume=2)],
    ):
        joined = made.join(made.PAIR, files)
        volume = joined.volume(1)
        assert (volume.state, volume.head_layer, volume.parent_point) == (model.VolumeState.FAILED, None, None)
        assert volume.error is not None
        assert volume.error.reason == "CATALOG_REBUILT"
        assert volume.recovered
        assert [entry.name for entry in joined.report.lost] == ["environments/e/volumes/v1"]
        assert joined.snapshot(1).state is model.SnapshotState.COMPLETED


def test_a_volume_whose_head_is_gone_is_failed_and_its_snapshots_stay() -> None:
    joined = made.join(made.PAIR, [made.file(1)])
    assert joined.volume(1).state is model.VolumeState.FAILED
    assert joined.snapshot(1).state is model.SnapshotState.COMPLETED
    assert joined.layers == {1: FROZEN}


def test_a_volume_that_only_its_header_knows_is_made() -> None:
    joined = made.join(made.base(), [made.head(5, 120, volume=5, volume_id="mine")])
    volume = joined.volume(5)
    assert (volume.id, volume.state, volume.recovered) == ("mine", model.VolumeState.READY, True)
    assert joined.layers == {5: HEAD}


def test_of_two_possible_heads_the_later_is_taken_and_the_other_one_left_alone_and_told() -> None:
    joined = made.join(made.PAIR, [*made.PAIR_FILES, made.head(3, 120, 1)])
    assert joined.volume(1).head_layer == made.uid("l", 3)
    assert joined.volume(1).recovered
    assert joined.left == [2]
    assert joined.layers == {1: FROZEN, 3: HEAD}


def test_a_later_head_that_can_not_be_used_is_not_replaced_by_an_earlier_one() -> None:
    broken = survey.Refused(made.uid("l", 3), "it is damaged", 120, made.uid("v", 1))
    joined = made.join(made.PAIR, made.PAIR_FILES, refused=[broken])
    assert joined.volume(1).state is model.VolumeState.FAILED
    assert joined.left == [2, 3]


def test_a_file_that_an_earlier_rebuild_left_alone_is_no_head_and_no_snapshot() -> None:
    """It is older than the backup, which doesn't know it."""
    files = [made.file(1), made.head(7, 60, 1, taken=7), made.head(8, 61, mode=pools.FROZEN_MODE)]
    joined = made.join(made.PAIR, files)
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
    joined = made.join(made.PAIR, [made.file(1, size_bytes=512), made.head(2, 50, 1)])
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
