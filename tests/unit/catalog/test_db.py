import contextlib
import pathlib
import shutil
import sqlite3
import threading

import pytest

from snapd import errors, model
from snapd.catalog import db, events, migrations, queue, snapshots
from tests.unit.catalog import rows


def test_a_new_database_has_the_newest_schema(catalog: db.Catalog) -> None:
    assert catalog.reader().execute("PRAGMA user_version").fetchone()[0] == len(migrations.STEPS)
    assert catalog.reader().execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_each_step_of_the_schema_is_run_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalog.sqlite3"
    first = db.Catalog(path)
    with first.transaction() as tx:
        rows.environment(tx)
    first.close()
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, "ALTER TABLE environments ADD COLUMN colour TEXT;"))
    for _ in range(2):
        again = db.Catalog(path)
        assert again.reader().execute("SELECT colour, id FROM environments").fetchone()["id"] == "env"
        again.close()


def test_what_waited_under_the_first_schema_is_in_the_queue_of_the_newest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite3"
    monkeypatch.setattr(migrations, "STEPS", migrations.STEPS[:1])
    first = db.Catalog(path)
    due_us = db.to_us(rows.NOW)
    with first.transaction() as tx:
        rows.environment(tx)
        rows.point(tx, "P")
        for uid, state, next_us in (
            ("regular", "IN_PROGRESS", due_us),
            ("rapid", "COMPLETED", due_us),
            ("done", "COMPLETED", None),
        ):
            tx.execute(
                "INSERT INTO snapshots VALUES (:uid, 'env', :uid, '', '{}', 'v', 'v', 'P', 512, :state, NULL, 1, 1,"
                " NULL, 'SCHEDULED', :next_us, :next_us, NULL, 0, NULL, 0, 'OK', 0, 0, 0, 1)",
                {"uid": uid, "state": state, "next_us": next_us},
            )
    first.close()
    monkeypatch.undo()
    newest = db.Catalog(path)
    heads = queue.heads(newest.reader(), rows.NOW)
    assert [(head.snapshot_uid, head.urgent, head.rank) for head in heads] == [
        ("regular", True, rows.NOW),
        ("rapid", False, rows.NOW),
    ]
    found = snapshots.by_uid(newest.reader(), "done")
    assert found is not None
    assert found.archive.figures == model.ArchiveFigures()
    newest.close()


def test_a_step_that_fails_leaves_the_schema_before_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalog.sqlite3"
    db.Catalog(path).close()
    bad = "CREATE TABLE half (a TEXT); INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, bad))
    with pytest.raises(errors.StorageFailed):
        db.Catalog(path)
    monkeypatch.undo()
    catalog = db.Catalog(path)
    assert not catalog.reader().execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall()
    catalog.close()


def test_a_database_of_a_newer_release_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    db.Catalog(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(errors.SchemaTooNew) as refused:
        db.Catalog(path)
    assert (refused.value.found, refused.value.known) == (99, len(migrations.STEPS))


def test_what_is_no_database_is_called_corrupt(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(errors.Corrupt):
        db.Catalog(path)


def test_a_transaction_that_fails_leaves_nothing(catalog: db.Catalog) -> None:
    heard: list[int] = []
    catalog.subscribe(heard.append)
    with pytest.raises(sqlite3.IntegrityError), catalog.transaction() as tx:
        _two_of_one_id(tx)
    assert catalog.reader().execute("SELECT count(*) FROM environments").fetchone()[0] == 0
    assert heard == []


def _two_of_one_id(tx: db.Transaction) -> None:
    rows.environment(tx)
    tx.execute("UPDATE environments SET uid = 'another'")
    rows.environment(tx)


def test_listeners_hear_of_the_newest_revision_after_the_commit(catalog: db.Catalog) -> None:
    heard: list[tuple[int, int]] = []

    def listen(revision: int) -> None:
        heard.append((revision, catalog.reader().execute("SELECT max(revision) FROM events").fetchone()[0]))

    catalog.subscribe(listen)
    with catalog.transaction() as tx:
        rows.environment(tx)
        rows.volume(tx, "v")
    with catalog.transaction():
        pass
    assert heard == [(2, 2)]


def test_readers_can_not_write_and_see_what_was_committed_before_they_ask(catalog: db.Catalog) -> None:
    reader = catalog.reader()
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM environments")
    with catalog.transaction() as tx:
        rows.environment(tx)
        assert reader.execute("SELECT count(*) FROM environments").fetchone()[0] == 0
    assert reader.execute("SELECT count(*) FROM environments").fetchone()[0] == 1


def test_every_thread_reads_by_a_connection_of_its_own(catalog: db.Catalog) -> None:
    connections = [catalog.reader(), catalog.reader()]
    thread = threading.Thread(target=lambda: connections.append(catalog.reader()))
    thread.start()
    thread.join()
    assert connections[0] is connections[1] is not connections[2]


def test_what_others_refer_to_can_not_be_removed(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        rows.environment(tx)
        rows.volume(tx, "v")
    with pytest.raises(sqlite3.IntegrityError), catalog.transaction() as tx:
        tx.execute("DELETE FROM environments")


def test_times_survive_to_the_microsecond() -> None:
    moment = rows.NOW.replace(microsecond=123457)
    assert db.from_us(db.to_us(moment)) == moment
    assert db.optional_time(db.optional_us(None)) is None
    assert db.optional_time(db.optional_us(moment)) == moment


def test_old_events_are_forgotten_but_never_the_newest(catalog: db.Catalog) -> None:
    with catalog.transaction() as tx:
        for number in range(5):
            events.append(tx, "volume", str(number), "env", number)
        assert events.trim(tx, rows.NOW) == 4
        assert events.append(tx, "volume", "5", "env", 5) == 6


def test_who_only_reads_finds_what_was_there_before_a_transaction_that_was_cut_off(tmp_path: pathlib.Path) -> None:
    path, cut = tmp_path / "whole.sqlite3", tmp_path / "cut.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        # A database is made without a write-ahead log. So small a cache has the file changed within the transaction.
        writer.executescript("PRAGMA cache_size = 1; CREATE TABLE rows (data); INSERT INTO rows VALUES ('kept');")
        writer.execute("BEGIN")
        writer.executemany("INSERT INTO rows VALUES (zeroblob(?))", [(4096,)] * 20)
        for end in ("", "-journal"):
            shutil.copy(f"{path}{end}", f"{cut}{end}")
        writer.execute("ROLLBACK")
    with db.opened_to_read(cut) as reader:
        assert [tuple(row) for row in reader.execute("SELECT data FROM rows")] == [("kept",)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM rows")
