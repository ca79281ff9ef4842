"""The archiver's queue: who is next, that nobody starves, and that asking costs little."""

import collections
import datetime
import random

import pytest

from snapd import model, units
from snapd.catalog import db, queue, snapshots
from tests.unit.catalog import rows

NOW = rows.NOW
MINUTE = datetime.timedelta(minutes=1)


def _put(
    catalog: db.Catalog,
    uid: str,
    due: datetime.datetime,
    *,
    environment: str = "env",
    urgent: bool = False,
    size: int = 0,
) -> None:
    with catalog.transaction() as tx:
        if tx.execute("SELECT 1 FROM environments WHERE uid = ?", (environment,)).fetchone() is None:
            rows.environment(tx, environment)
        if tx.execute("SELECT 1 FROM points WHERE uid = 'P'").fetchone() is None:
            rows.point(tx, "P")
        rows.snapshot(tx, uid, "P", next_attempt=due, environment_uid=environment, urgent=urgent, estimated_bytes=size)


def _drained(catalog: db.Catalog, now: datetime.datetime) -> list[str]:
    """Take all that is due, one after the other."""
    turns: dict[str, int] = {}
    order: list[str] = []
    while (chosen := queue.choose(queue.heads(catalog.reader(), now), turns, now)) is not None:
        turns[chosen.environment_uid] = len(order)
        order.append(chosen.snapshot_uid)
        with catalog.transaction() as tx:
            tx.execute(
                "UPDATE snapshots SET archive_next_us = NULL, archive_rank_us = NULL WHERE uid = ?",
                (chosen.snapshot_uid,),
            )
    return order


def test_what_is_not_due_is_not_taken_and_its_time_is_told(catalog: db.Catalog) -> None:
    assert queue.heads(catalog.reader(), NOW) == []
    assert queue.next_time(catalog.reader(), NOW) is None
    _put(catalog, "later", NOW + 3 * MINUTE)
    _put(catalog, "soon", NOW + MINUTE)
    assert queue.heads(catalog.reader(), NOW) == []
    assert queue.next_time(catalog.reader(), NOW) == NOW + MINUTE
    assert _drained(catalog, NOW + MINUTE) == ["soon"]
    assert queue.next_time(catalog.reader(), NOW + MINUTE) == NOW + 3 * MINUTE


def test_a_large_one_is_overtaken_by_small_ones_of_the_next_minutes_only(catalog: db.Catalog) -> None:
    _put(catalog, "huge", NOW - 20 * MINUTE, size=100 * units.TIB)
    _put(catalog, "large", NOW - 20 * MINUTE, size=5 * 60 * queue.ASSUMED_RATE)
    _put(catalog, "4-minutes-later", NOW - 16 * MINUTE)
    _put(catalog, "6-minutes-later", NOW - 14 * MINUTE)
    _put(catalog, "11-minutes-later", NOW - 9 * MINUTE)
    assert _drained(catalog, NOW) == ["4-minutes-later", "large", "6-minutes-later", "huge", "11-minutes-later"]


def test_a_large_one_that_is_due_does_not_wait_for_a_small_one_that_is_not(catalog: db.Catalog) -> None:
    _put(catalog, "large", NOW, size=100 * units.TIB)
    _put(catalog, "small", NOW + MINUTE)
    assert _drained(catalog, NOW) == ["large"]


def test_what_somebody_waits_for_goes_first_for_an_hour(catalog: db.Catalog) -> None:
    _put(catalog, "due-an-hour-ago", NOW - 61 * MINUTE)
    _put(catalog, "due-for-long", NOW - 59 * MINUTE)
    _put(catalog, "asked-for", NOW, urgent=True)
    _put(catalog, "asked-for-elsewhere", NOW, environment="other", urgent=True)
    order = _drained(catalog, NOW)
    assert order[0] == "due-an-hour-ago"
    assert set(order[1:3]) == {"asked-for", "asked-for-elsewhere"}
    assert order[3] == "due-for-long"


def test_a_thousand_snapshots_of_one_environment_do_not_block_another_ones_only_one(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        rows.environment(tx, "many")
        rows.environment(tx, "one")
        rows.point(tx, "P")
        for number in range(1000):
            at = NOW - datetime.timedelta(seconds=1000 - number)
            rows.snapshot(tx, f"m{number}", "P", next_attempt=at, environment_uid="many")
        rows.snapshot(tx, "single", "P", next_attempt=NOW, environment_uid="one")
    assert "single" in _drained(catalog, NOW)[:2]


def test_environments_take_turns(catalog: db.Catalog) -> None:
    for number in range(3):
        for environment in ("a", "b", "c"):
            _put(catalog, f"{environment}{number}", NOW - MINUTE, environment=environment)
    order = _drained(catalog, NOW)
    for start in range(0, 9, 3):
        assert {uid[0] for uid in order[start : start + 3]} == {"a", "b", "c"}


def test_a_retry_is_ranked_by_its_own_time(catalog: db.Catalog) -> None:
    _put(catalog, "first", NOW)
    _put(catalog, "second", NOW + MINUTE)
    found = snapshots.by_uid(catalog.reader(), "first")
    assert found is not None
    _put(catalog, "first", NOW + 2 * MINUTE, urgent=True)
    assert queue.heads(catalog.reader(), NOW) == []
    assert _drained(catalog, NOW + MINUTE) == ["second"]
    assert _drained(catalog, NOW + 2 * MINUTE) == ["first"]


def test_what_is_being_archived_is_in_no_queue(catalog: db.Catalog) -> None:
    _put(catalog, "s", NOW)
    found = snapshots.by_uid(catalog.reader(), "s")
    assert found is not None
    assert queue.rank(found.archive) == NOW
    running = model.Archive(model.ArchiveState.ARCHIVING, NOW, None, None, 1, None, 0, estimated_bytes=units.TIB)
    assert queue.rank(running) is None


@pytest.mark.parametrize("seed", range(5))
def test_nobody_starves_whatever_comes_in(seed: int) -> None:
    """Simulate an overloaded archiver: more comes in than it can take, and yet each waits a bounded time only.

    One is taken each minute. Whatever was queued is taken after as many turns of its environment as were queued there
    before it by rank, and its environment gets a turn after all others had one.
    """
    source = random.Random(seed)
    environments = [f"e{number}" for number in range(4)]
    waiting: dict[str, dict[str, tuple[queue.Head, datetime.datetime]]] = {name: {} for name in environments}
    turns: dict[str, int] = {}
    ahead: dict[str, int] = {}
    served: collections.Counter[str] = collections.Counter()
    for turn in range(2000):
        now = NOW + turn * MINUTE
        for name in environments if turn < 600 else ():
            for _ in range(source.randrange(3) if name != "e0" else 1):
                uid = f"{name}-{turn}-{source.random()}"
                urgent = name != "e0" and source.random() < 0.8
                handicap = min(queue.LONGEST_HANDICAP, datetime.timedelta(minutes=source.expovariate(0.2)))
                # Those that may come before it: all that wait, and what comes in until it counts as waited for.
                ahead[uid] = len(waiting[name]) + 3 * 71
                waiting[name][uid] = (queue.Head(uid, name, urgent, now + handicap), now)
        heads = []
        for entries in waiting.values():
            for urgent in (True, False):
                kind = [head for head, _ in entries.values() if head.urgent is urgent]
                if kind:
                    heads.append(min(kind, key=lambda head: head.rank))
        chosen = queue.choose(heads, turns, now)
        if chosen is None:
            continue
        turns[chosen.environment_uid] = turn
        _, came = waiting[chosen.environment_uid].pop(chosen.snapshot_uid)
        served[chosen.environment_uid] += 1
        waited_turns = (now - came) / MINUTE
        assert waited_turns <= 71 + (ahead[chosen.snapshot_uid] + 1) * len(environments)
    assert min(served[name] for name in environments) >= 300


def test_asking_reads_no_table_but_the_queues_index(catalog: db.Catalog) -> None:
    values = {"environment": "env", "urgent": 1, "latest_us": 0, "now_us": 0}
    for sql, arguments, index in (
        (queue.HEAD, values, "snapshots_queue"),
        (queue.FIRST_ENVIRONMENT, {}, "snapshots_queue"),
        (queue.NEXT_ENVIRONMENT, ("env",), "snapshots_queue"),
        (queue.NEXT_TIME, (0,), "snapshots_by_next_attempt"),
        (queue.DUE_COUNT, (0,), "snapshots_by_next_attempt"),
        (queue.ANY_DUE, (0,), "snapshots_by_next_attempt"),
    ):
        steps = [row["detail"] for row in catalog.reader().execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]
        assert len(steps) == 1, steps
        assert index in steps[0], steps
        assert steps[0].startswith("SEARCH"), steps
