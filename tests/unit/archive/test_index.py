"""The local index: a cache that may be lost, stale or damaged without harm."""

import os
import pathlib
import sqlite3

import pytest

from snapd import errors
from snapd.archive import index, layout
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, content

NAMES = [bytes([number]) * 32 for number in range(1, 5)]
PACKS = [bytes([number]) * 16 for number in range(1, 5)]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "folder" / "index.sqlite3"


def test_a_blob_is_found_in_the_packs_that_have_it_newest_first(path: pathlib.Path) -> None:
    opened = index.Index(path, "host")
    opened.add("env", index.Pack(PACKS[0], 100, index.State.PROVEN), NAMES[:3])
    opened.add("env", index.Pack(PACKS[1], 100, index.State.FOUND), NAMES[2:])
    assert opened.find("env", NAMES[0]) == [PACKS[0]]
    assert opened.find("env", NAMES[2]) == [PACKS[1], PACKS[0]]
    assert opened.find("other", NAMES[2]) == []
    opened.mark(PACKS[1], index.State.DAMAGED)
    assert opened.find("env", NAMES[2]) == [PACKS[0]]
    assert opened.damaged("env") == {PACKS[1]}
    opened.forget(PACKS[0])
    assert opened.find("env", NAMES[0]) == []
    assert opened.pack(PACKS[0]) is None
    opened.close()


def test_it_comes_back_as_it_was_left(path: pathlib.Path) -> None:
    opened = index.Index(path, "host")
    opened.adopt("uid")
    opened.add("env", index.Pack(PACKS[0], 100, index.State.PROVEN), NAMES)
    opened.close()
    opened = index.Index(path, "host")
    assert opened.repository_uid() == "uid"
    assert opened.packs("env") == {PACKS[0]: index.Pack(PACKS[0], 100, index.State.PROVEN, len(NAMES))}
    opened.adopt("uid")
    assert opened.find("env", NAMES[3]) == [PACKS[0]]
    opened.close()


def test_another_archive_or_another_host_starts_from_nothing(path: pathlib.Path) -> None:
    opened = index.Index(path, "host")
    opened.adopt("uid")
    opened.add("env", index.Pack(PACKS[0], 100, index.State.PROVEN), NAMES)
    opened.adopt("other")
    assert opened.packs("env") == {}
    assert opened.find("env", NAMES[0]) == []
    opened.add("env", index.Pack(PACKS[0], 100, index.State.PROVEN), NAMES)
    opened.close()
    opened = index.Index(path, "host-2")
    assert opened.repository_uid() is None
    assert opened.packs("env") == {}
    opened.close()


@pytest.mark.parametrize("junk", [b"", b"not a database at all" * 100, os.urandom(8192)])
def test_a_file_that_is_no_index_is_replaced(path: pathlib.Path, junk: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(junk)
    opened = index.Index(path, "host")
    opened.add("env", index.Pack(PACKS[0], 100, index.State.PROVEN), NAMES)
    assert opened.find("env", NAMES[0]) == [PACKS[0]]
    opened.close()


def test_a_lost_index_is_rebuilt_from_the_packs(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("one", blocks)
    archive.lose_index()
    assert archive.contents("one") == b"".join(blocks.values())
    assert archive.record("two", blocks).deduplicated_blocks == 8
    archive.check()


def test_damage_inside_the_index_costs_one_attempt_and_no_data(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("one", blocks)
    archive.repository.close()
    with archive.index_path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (archive.index_path.stat().st_size - 4096))
    archive.repository = archive.repository.open(archive.store, archive.index_path, archives.HOST)
    try:
        archive.record("two", blocks)
    except errors.StorageFailed:
        archive.record("two", blocks)
    assert archive.contents("two") == b"".join(blocks.values())
    archive.check()


def test_an_index_that_lies_is_believed_nothing(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("one", blocks)
    archive.record("two", {0: content("other")})
    archive.repository.close()
    with sqlite3.connect(archive.index_path) as connection:
        connection.execute("UPDATE OR REPLACE blobs SET pack = 3 - pack")
    connection.close()
    archive.repository = archive.repository.open(archive.store, archive.index_path, archives.HOST)
    statistics = archive.record("three", blocks)
    assert (statistics.new_blocks, statistics.deduplicated_blocks) == (8, 0)
    archive.check()


def test_packs_that_came_or_went_behind_its_back_are_noticed_at_the_next_start(archive: archives.Archive) -> None:
    archive.record("one", {0: content(0)})
    archive.record("two", {0: content(1)})
    one, two = archive.keys("/packs/")
    data = archive.store.get(one)
    archive.store.delete(one)
    archive.reopen()
    archive.repository.begin(ENVIRONMENT, "x", BLOCK).abort()
    known = archive.repository._access.index.packs(ENVIRONMENT)
    assert set(known) == {layout.pack_id(two)}
    archive.store.put(one, [data])
    archive.reopen()
    archive.repository.begin(ENVIRONMENT, "x", BLOCK).abort()
    known = archive.repository._access.index.packs(ENVIRONMENT)
    assert set(known) == {layout.pack_id(one), layout.pack_id(two)}
    archive.check()


def test_a_search_looks_at_the_packs_of_one_name_only(path: pathlib.Path) -> None:
    opened = index.Index(path, "host")
    steps = [row[3] for row in opened._connection.execute(f"EXPLAIN QUERY PLAN {index.FIND}", [b"", "env", 0])]
    assert [step.split()[:2] for step in steps] == [["SEARCH", "blobs"], ["SEARCH", "packs"]]
    opened.close()
