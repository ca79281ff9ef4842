"""What every store of the archive has to do, on each of them."""

import datetime
import errno
import os
import pathlib
import threading
import zlib
from collections.abc import Iterator

import pytest

from snapd import clock as clocks
from snapd import errors, fsops, units
from snapd import pace as paces
from snapd.archive.backends import backend, directory, memory, paced, s3
from snapd.copier import control as controls
from tests.stores import servers


@pytest.fixture(scope="session", params=["directory", "memory", "paced", "moto", "versitygw"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The kind of store, and the URL of its server if it has one."""
    if request.param not in servers.SERVERS:
        yield request.param, ""
        return
    with servers.SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as url:
        servers.make_bucket(url)
        yield request.param, url


@pytest.fixture
def store(server: tuple[str, str], tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> backend.Backend:
    kind, url = server
    if kind == "directory":
        return directory.DirectoryBackend(tmp_path / "store")
    if kind == "memory":
        return memory.MemoryBackend()
    if kind == "paced":
        # Fast enough that nobody waits long, slow enough that what is moved is cut into pieces.
        pace = paces.Pace(clocks.SystemClock(), 64 * units.MIB)
        return paced.PacedBackend(memory.MemoryBackend(), pace, controls.Control().wait)
    # Each test has the bucket to itself below a prefix.
    prefix = f"tests/{zlib.crc32(request.node.nodeid.encode()):08x}"
    return s3.S3Backend(servers.settings(url, tmp_path / "spool", prefix))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    fsops.observe(None)


def test_an_object_reads_back_whole_and_in_part(store: backend.Backend) -> None:
    store.put("a/b", [b"one", bytearray(b"two"), memoryview(b"three")])
    assert store.get("a/b") == b"onetwothree"
    assert store.get_range("a/b", 3, 3) == b"two"
    assert store.get_range("a/b", 0, 11) == b"onetwothree"
    assert store.get_range("a/b", 11, 0) == b""
    assert store.size("a/b") == 11


def test_an_object_may_be_empty(store: backend.Backend) -> None:
    store.put("empty", [])
    assert store.get("empty") == b""
    assert store.size("empty") == 0


def test_what_is_not_there_is_not_found(store: backend.Backend) -> None:
    store.put("a/b", [b"x"])
    for key in ("missing", "a", "a/c", "a/b/c"):
        assert store.size(key) is None
        assert store.delete(key) is False
    for key in ("missing", "a/c", "a/b/c"):
        with pytest.raises(errors.NotFound):
            store.get(key)
        with pytest.raises(errors.NotFound):
            store.get_range(key, 0, 1)


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (3, 1), (2, 2), (1 << 40, 1)])
def test_a_range_past_the_end_is_damage_and_never_short(store: backend.Backend, offset: int, length: int) -> None:
    store.put("key", [b"abc"])
    with pytest.raises(errors.Corrupt):
        store.get_range("key", offset, length)


def test_a_name_is_given_once(store: backend.Backend) -> None:
    store.put("key", [b"first"])
    with pytest.raises(errors.AlreadyExists):
        store.put("key", [b"second"])
    assert store.get("key") == b"first"


def test_of_many_that_create_the_same_name_one_succeeds(store: backend.Backend) -> None:
    barrier = threading.Barrier(8)
    outcomes: list[int | None] = []

    def create(number: int) -> None:
        barrier.wait()
        try:
            store.put("a/key", [bytes([number])])
            outcomes.append(number)
        except errors.AlreadyExists:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number in outcomes if number is not None]
    assert len(outcomes) == 8
    assert len(winners) == 1
    assert store.get("a/key") == bytes(winners)


def test_folders_are_the_elements_that_follow_a_prefix(store: backend.Backend) -> None:
    for key in ("hosts/a/x/1", "hosts/a/x/2", "hosts/a/y", "hosts/b/z/deep/er", "hosts/file", "hostsandmore/c/d"):
        store.put(key, [b"x"])
    assert sorted(store.folders("hosts/")) == ["a", "b"]
    assert sorted(store.folders("hosts/a/")) == ["x"]
    assert sorted(store.folders("hosts/a/x/")) == []
    assert sorted(store.folders("nowhere/")) == []
    store.delete("hosts/b/z/deep/er")
    assert sorted(store.folders("hosts/")) == ["a"]


def test_an_object_was_made_at_a_time_of_the_stores_clock(store: backend.Backend) -> None:
    before = store.now()
    store.put("a/b", [b"x"])
    made = store.modified("a/b")
    after = store.now()
    # Some tell whole seconds, and make up the time of an answer once a second.
    assert made is not None
    assert before - datetime.timedelta(seconds=2) < made < after + datetime.timedelta(seconds=2)
    assert store.modified("a/b") == made
    assert store.modified("a") is None
    assert store.modified("a/missing") is None
    assert [key for key, _ in store.list("")] == ["a/b"]


def test_an_upload_is_invisible_until_it_is_finished(store: backend.Backend) -> None:
    upload = store.upload("a/b")
    reused = bytearray(b"12")
    upload.append([reused, b"3"])
    reused[:] = b"xx"
    assert store.size("a/b") is None
    assert list(store.list("")) == []
    upload.append([b"45"])
    upload.finish()
    assert store.get("a/b") == b"12345"


def test_a_discarded_upload_leaves_nothing(store: backend.Backend) -> None:
    upload = store.upload("a/b")
    upload.append([b"123"])
    upload.discard()
    upload.discard()
    assert store.size("a/b") is None
    store.put("a/b", [b"other"])


def test_an_upload_that_comes_second_fails_and_changes_nothing(store: backend.Backend) -> None:
    upload = store.upload("key")
    upload.append([b"late"])
    store.put("key", [b"early"])
    with pytest.raises(errors.AlreadyExists):
        upload.finish()
    upload.discard()
    assert store.get("key") == b"early"


def test_a_listing_has_what_begins_with_the_prefix(store: backend.Backend) -> None:
    for key in ("a/b/one", "a/b/two", "a/bc", "a/c/one", "b"):
        store.put(key, [key.encode()])
    assert sorted(store.list("")) == [("a/b/one", 7), ("a/b/two", 7), ("a/bc", 4), ("a/c/one", 7), ("b", 1)]
    assert sorted(store.list("a/b")) == [("a/b/one", 7), ("a/b/two", 7), ("a/bc", 4)]
    assert sorted(store.list("a/b/")) == [("a/b/one", 7), ("a/b/two", 7)]
    assert sorted(store.list("a/b/t")) == [("a/b/two", 7)]
    assert list(store.list("nothing/at/all/")) == []


def test_a_deleted_object_is_gone(store: backend.Backend) -> None:
    store.put("a/b", [b"x"])
    assert store.delete("a/b") is True
    assert store.delete("a/b") is False
    assert store.size("a/b") is None
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    "key", ["", "/", "a//b", "a/", "/a", "..", "a/../b", ".a", "a/.b", "a b", "a\0", "ä", "x" * 1025]
)
def test_what_is_no_key_is_refused(store: backend.Backend, key: str) -> None:
    with pytest.raises(errors.InvalidField):
        store.upload(key)
    with pytest.raises(errors.InvalidField):
        store.put(key, [b"x"])
    with pytest.raises((errors.InvalidField, errors.NotFound)):
        store.get(key)


def test_dropping_the_cache_changes_no_byte(store: backend.Backend) -> None:
    store.put("key", [b"abc" * 100_000])
    store.drop_cache("key")
    assert store.get("key") == b"abc" * 100_000


def test_a_full_store_says_so_and_keeps_what_it_has(tmp_path: pathlib.Path) -> None:
    small = memory.MemoryBackend(capacity_bytes=10)
    small.put("one", [b"12345678"])
    with pytest.raises(errors.StorageFull):
        small.put("two", [b"123"])
    assert small.size("two") is None
    assert small.free_bytes() == 2
    assert (directory.DirectoryBackend(tmp_path).free_bytes() or 0) > 0


def test_folders_go_with_their_last_object(folder: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    store.put("a/b/c/one", [b"1"])
    store.put("a/two", [b"2"])
    store.delete("a/b/c/one")
    assert sorted(path.name for path in folder.rglob("*")) == ["a", "two"]
    store.delete("a/two")
    assert list(folder.iterdir()) == []


def test_folders_that_come_and_go_do_not_trouble_those_who_write(folder: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    failures: list[BaseException] = []

    def churn(number: int) -> None:
        try:
            for turn in range(60):
                key = f"same/folder/{number}-{turn}"
                store.put(key, [b"x"])
                assert store.delete(key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(folder.iterdir()) == []


def test_interrupted_uploads_are_swept_below_their_prefix_only(folder: pathlib.Path) -> None:
    died = directory.DirectoryBackend(folder)
    mine, other = died.upload("hosts/mine/pack"), died.upload("hosts/other/pack")
    mine.append([b"half"])
    store = directory.DirectoryBackend(folder)
    assert list(store.list("")) == []
    assert store.discard_unfinished("hosts/mine/") == 1
    assert [path.parent.name for path in folder.rglob("*.tmp")] == ["other"]
    mine.discard()
    other.discard()


def test_what_a_killed_process_linked_is_durable_before_the_next_one_relies_on_it(folder: pathlib.Path) -> None:
    directory.DirectoryBackend(folder).put("hosts/mine/packs/a", [b"1"])
    directory.DirectoryBackend(folder).put("settings", [b"2"])
    synced: list[str] = []
    fsops.observe(lambda operation: synced.append(operation.target) if operation.name == "syncdir" else None)
    directory.DirectoryBackend(folder).discard_unfinished("hosts/mine/")
    assert {str(folder), str(folder / "hosts/mine/packs")} <= set(synced)


def test_an_upload_that_a_killed_process_left_is_not_in_the_way_of_the_next_one(folder: pathlib.Path) -> None:
    # In a container the next process has the same number as the one before.
    directory.DirectoryBackend(folder).upload("a/key")
    directory.DirectoryBackend(folder).put("a/key", [b"data"])
    assert directory.DirectoryBackend(folder).get("a/key") == b"data"


def test_an_object_is_synced_before_it_has_its_name_and_its_folder_after(folder: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    seen: list[str] = []
    fsops.observe(lambda operation: seen.append(operation.name))
    store.put("a/key", [b"data"])
    assert seen[-5:] == ["pwrite", "fsync", "link", "unlink", "syncdir"]
    # The folder's own name, too, is durable before anything is put into it.
    assert seen[: seen.index("create")] == ["mkdir", "syncdir"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, errors.StorageFull), (errno.EIO, errors.ArchiveUnreachable)],
    ids=["full", "broken"],
)
@pytest.mark.parametrize("operation", ["mkdir", "create", "pwrite", "fsync", "link", "syncdir"])
def test_a_call_that_fails_becomes_a_typed_error_and_leaves_nothing_half_done(
    folder: pathlib.Path, operation: str, code: int, expected: type[errors.SnapdError]
) -> None:
    store = directory.DirectoryBackend(folder)

    def fail(announced: fsops.Operation) -> None:
        if announced.name == operation:
            raise OSError(code, os.strerror(code))

    fsops.observe(fail)
    with pytest.raises(expected):
        store.put("a/key", [b"data"])
    fsops.observe(None)
    if store.size("a/key") is not None:
        assert store.get("a/key") == b"data"
        assert operation == "syncdir", "only once it has its name may the object be there without being acknowledged"
    assert list(folder.rglob("*.tmp")) == []


def test_a_folder_that_goes_away_is_not_made_anew_and_is_used_when_it_is_back(folder: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    store.put("a/b", [b"here"])
    begun = store.upload("a/begun")
    begun.append([b"data"])
    away = folder.with_name("away")
    folder.rename(away)
    for key in ("a/c", "x/y/z"):
        with pytest.raises(errors.ArchiveUnreachable):
            store.upload(key)
    with pytest.raises(errors.ArchiveUnreachable):
        begun.finish()
    begun.discard()
    assert not folder.exists()
    # What comes in its place is another store, in which folders have to be made.
    folder.mkdir()
    store.put("a/d", [b"elsewhere"])
    assert store.get("a/d") == b"elsewhere"
    folder.rename(folder.with_name("other"))
    away.rename(folder)
    assert store.get("a/b") == b"here"
    store.put("x/y/z", [b"again"])
    assert store.get("x/y/z") == b"again"


def test_links_are_not_followed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    with pytest.raises(errors.ArchiveUnreachable):
        store.get("link")
    assert list(store.list("")) == []
    assert store.size("link") is None


def test_names_are_never_reused_between_uploads(folder: pathlib.Path) -> None:
    store = directory.DirectoryBackend(folder)
    uploads = [store.upload("same") for _ in range(3)]
    assert len(list(folder.glob(".same.*.tmp"))) == 3
    for upload in uploads:
        upload.discard()
