"""Which layers are needed, which go together, and which can be folded."""

import pytest

from snapd import model
from snapd.catalog import db, layers, points
from tests.unit.catalog import rows

State = model.LayerState


@pytest.fixture
def chain(catalog: db.Catalog) -> db.Catalog:
    """Make the chain L1, L2, L3 under the head H of the volume `v`, a point for each, and a rapid snapshot of P2."""
    with catalog.transaction() as tx:
        rows.environment(tx)
        rows.layer(tx, "L1")
        rows.layer(tx, "L2", "L1")
        rows.layer(tx, "L3", "L2")
        rows.layer(tx, "H", "L3", State.HEAD)
        rows.point(tx, "P1", None, "L1", recorded=True)
        rows.point(tx, "P2", "P1", "L2", recorded=True)
        rows.point(tx, "P3", "P2", "L3", recorded=True)
        rows.volume(tx, "v", "H", "P3")
        rows.snapshot(tx, "S2", "P2")
    return catalog


def _states(catalog: db.Catalog) -> dict[str, str]:
    return {row["uid"]: row["state"] for row in catalog.reader().execute("SELECT uid, state FROM layers")}


def _points(catalog: db.Catalog) -> dict[str, str | None]:
    return {row["uid"]: row["layer"] for row in catalog.reader().execute("SELECT uid, layer FROM points")}


def _delete_volume(tx: db.Transaction) -> str | None:
    tx.execute("DELETE FROM volumes")
    kept = layers.doom_unneeded(tx, "H")
    points.forget_unused(tx, "P3")
    return kept


def test_a_chain_is_listed_from_the_top(chain: db.Catalog) -> None:
    assert [layer.uid for layer in layers.chain(chain.reader(), "H")] == ["H", "L3", "L2", "L1"]
    assert layers.chain(chain.reader(), "none") == []


def test_what_a_deleted_volume_stood_on_goes_down_to_what_a_snapshot_needs(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        assert _delete_volume(tx) == "L2"
    assert _states(chain) == {"H": "DOOMED", "L3": "DOOMED", "L2": "FROZEN", "L1": "FROZEN"}
    # P3 has nobody any more; P1 is what P2's history stands on.
    assert _points(chain) == {"P1": "L1", "P2": "L2"}


def test_an_archived_snapshot_needs_no_layer(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        rows.snapshot(tx, "S2", "P2", archived=True)
        assert _delete_volume(tx) is None
    assert set(_states(chain).values()) == {"DOOMED"}
    assert _points(chain) == {"P1": None, "P2": None}


def test_a_layer_with_a_head_on_it_stays(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        assert layers.doom_unneeded(tx, "L3") == "L3"
        assert layers.doom_unneeded(tx, "H") == "H"
        assert layers.doom_unneeded(tx, None) is None
    assert "DOOMED" not in _states(chain).values()


@pytest.mark.parametrize("state", [State.CREATING, State.FOLDING])
def test_a_layer_of_an_open_intent_ends_the_walk(chain: db.Catalog, state: State) -> None:
    with chain.transaction() as tx:
        tx.execute("DELETE FROM snapshots")
        layers.set_state(tx, "L2", state)
        assert _delete_volume(tx) == "L2"
    assert _states(chain)["L1"] == "FROZEN"


def test_rows_go_after_those_that_stand_on_them(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        tx.execute("DELETE FROM snapshots")
        _delete_volume(tx)
        assert not layers.remove(tx, "L1")
        assert [layers.remove(tx, uid) for uid in ("H", "L3", "L2", "L1")] == [True] * 4
        assert not layers.remove(tx, "L1")
    assert _states(chain) == {}


def test_a_layer_that_is_not_doomed_is_never_removed(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        assert not layers.remove(tx, "H")


def test_a_hidden_layer_can_be_folded_into_the_only_frozen_one_on_it(chain: db.Catalog) -> None:
    reader = chain.reader()
    assert layers.foldable(reader, "L1") == ("L1", "L2")
    assert layers.foldable(reader, "L2") is None, "a rapid snapshot needs it"
    assert layers.foldable(reader, "L3") is None, "only a head stands on it"
    assert layers.foldable(reader, "none") is None


def test_a_layer_on_which_two_stand_is_not_folded(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        rows.layer(tx, "clone", "L1", State.CREATING)
    assert layers.foldable(chain.reader(), "L1") is None


def test_nothing_is_folded_over_a_fold_that_has_yet_to_be_finished(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        tx.execute("DELETE FROM snapshots")
        assert layers.foldable(tx.connection, "L2") == ("L2", "L3")
        layers.set_state(tx, "L1", State.FOLDING)
        assert layers.foldable(tx.connection, "L1") is None
        assert layers.foldable(tx.connection, "L2") is None


def test_what_would_go_with_a_layer_is_told_from_what_would_stay(chain: db.Catalog) -> None:
    reader = chain.reader()
    assert layers.is_only_under(reader, "H", "H")
    assert layers.is_only_under(reader, "L3", "H")
    assert not layers.is_only_under(reader, "L2", "H")
    assert not layers.is_only_under(reader, "L2", "L2"), "layers stand on it"


def test_points_are_forgotten_down_to_what_something_refers_to(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        tx.execute("UPDATE points SET layer = NULL")
        tx.execute("DELETE FROM volumes")
        points.forget_unused(tx, "P3")
        points.forget_unused(tx, "P3")
        points.forget_unused(tx, None)
    assert list(_points(chain)) == ["P1", "P2"]


def test_a_point_that_only_another_one_follows_can_be_merged(chain: db.Catalog) -> None:
    with chain.transaction() as tx:
        assert points.mergeable(tx.connection) == []
        tx.execute("UPDATE points SET layer = NULL")
        assert points.mergeable(tx.connection) == [("P1", "P2")]
        tx.execute("DELETE FROM snapshots")
        assert sorted(points.mergeable(tx.connection)) == [("P1", "P2"), ("P2", "P3")]
        rows.point(tx, "P2b", "P2", recorded=True)
        assert points.mergeable(tx.connection) == [("P1", "P2")]
        tx.execute("UPDATE points SET delta_recorded = 0 WHERE uid = 'P2'")
        assert points.mergeable(tx.connection) == []


def test_history_is_told_newest_first(chain: db.Catalog) -> None:
    assert [point.uid for point in points.ancestors(chain.reader(), "P3")] == ["P3", "P2", "P1"]
    assert points.layer_of(chain.reader(), "P3") == "L3"
    assert points.layer_of(chain.reader(), "none") is None
    assert points.is_followed(chain.reader(), "P3"), "a head stands on it"
