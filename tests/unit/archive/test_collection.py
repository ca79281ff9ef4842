"""Collections: nothing that lives is lost, everything that is dead goes, whatever happens beside them."""

import itertools
import pathlib
import random
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent import futures

import pytest

from snapd import errors, fsops, units
from snapd.archive import collection, layout, pack, pins, recording
from snapd.archive.backends import memory
from tests.unit.archive import archives, schedules
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)


def test_deleting_a_snapshot_frees_what_only_it_used(archive: archives.Archive) -> None:
    archive.record("base", {number: content(number) for number in range(16)}, 16 * BLOCK)
    archive.record("next", {number: content(("new", number)) for number in range(8)}, 16 * BLOCK, base="base")
    before = archive.repository.stored_bytes(ENVIRONMENT)
    assert archive.repository.upkeep.collect().packs_deleted == 0
    assert archive.repository.delete_snapshot(ENVIRONMENT, "base") is True
    assert archive.repository.delete_snapshot(ENVIRONMENT, "base") is False
    collected = archive.repository.upkeep.collect(ENVIRONMENT)
    assert collected.packs_deleted > 0
    assert collected.packs_kept > 0
    assert archive.repository.stored_bytes(ENVIRONMENT) <= before - collected.bytes_freed
    archive.check()


def test_after_all_snapshots_only_the_records_are_left(archive_on_disk: archives.Archive) -> None:
    for uid in ("one", "two"):
        archive_on_disk.record(uid, {number: content((uid, number)) for number in range(8)})
        archive_on_disk.record(uid, {0: content(uid)}, environment_uid="env-2")
    with pytest.raises(errors.EnvironmentNotEmpty):
        archive_on_disk.repository.delete_environment(ENVIRONMENT)
    for uid in ("one", "two"):
        archive_on_disk.repository.delete_snapshot(ENVIRONMENT, uid)
    archive_on_disk.repository.upkeep.collect()
    assert archive_on_disk.keys(f"{ENVIRONMENT}/") == [layout.Area(HOST, ENVIRONMENT).record(1)]
    assert archive_on_disk.repository.environments() == [ENVIRONMENT, "env-2"]
    archive_on_disk.repository.delete_environment(ENVIRONMENT)
    archive_on_disk.repository.delete_environment(ENVIRONMENT)
    assert archive_on_disk.repository.environments() == ["env-2"]
    archive_on_disk.check("env-2")


def test_an_environment_can_be_made_again_after_it_was_deleted(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    archive.repository.delete_environment(ENVIRONMENT)
    assert archive.keys("/environments/") == []
    assert archive.record("snap", {0: content(0)}).new_blocks == 1
    archive.check()


def test_an_environment_that_is_recorded_into_is_not_deleted(archive: archives.Archive) -> None:
    with archive.repository.begin(ENVIRONMENT, "snap", BLOCK) as running:
        running.put(0, content(0))
        with pytest.raises(errors.EnvironmentNotEmpty):
            archive.repository.delete_environment(ENVIRONMENT)
        running.commit({})
    archive.check()


def test_what_a_recording_wrote_found_or_inherited_outlives_a_collection(archive: archives.Archive) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("base", blocks)
    archive.record("other", {number: content(("other", number)) for number in range(8)})
    with archive.repository.begin(ENVIRONMENT, "next", 12 * BLOCK, "base") as running:
        running.put(8, content(("other", 0)))
        for number in range(9, 12):
            running.put(number, content(("new", number)))
        for uid in ("base", "other"):
            archive.repository.delete_snapshot(ENVIRONMENT, uid)
        archive.repository.upkeep.collect()
        running.commit({})
    archive.check()
    assert archive.contents("next")[: 8 * BLOCK] == b"".join(blocks.values())


def test_a_manifest_published_during_a_collection_keeps_its_packs(archive: archives.Archive) -> None:
    running = archive.repository.begin(ENVIRONMENT, "snap", 8 * BLOCK)
    for number in range(8):
        running.put(number, content(number))

    def publish(operation: fsops.Operation) -> None:
        if operation.target == "archive.collect-listed":
            running.commit({})

    fsops.observe(publish)
    collected = archive.repository.upkeep.collect()
    fsops.observe(None)
    assert collected.packs_deleted == 0
    assert collected.packs_kept > 0
    archive.check()
    # The pins are gone with that collection: the next one takes them by the manifest alone.
    archive.repository.delete_snapshot(ENVIRONMENT, "snap")
    archive.repository.upkeep.collect()
    assert archive.keys("/packs/") == []


def test_a_manifest_that_cannot_be_read_stops_the_collection_of_its_environment(archive: archives.Archive) -> None:
    archive.record("bad", {0: content(0)})
    archive.record("gone", {0: content(0)}, environment_uid="env-2")
    archive.repository.delete_snapshot("env-2", "gone")
    archive.damage(archive.keys("/manifests/bad.")[0], 100)
    before = archive.keys(f"{ENVIRONMENT}/packs/")
    with pytest.raises(errors.Corrupt):
        archive.repository.upkeep.collect()
    assert archive.keys(f"{ENVIRONMENT}/packs/") == before
    assert archive.keys("env-2/packs/") == []
    archive.repository.delete_snapshot(ENVIRONMENT, "bad")
    archive.repository.upkeep.collect()
    assert archive.keys("/packs/") == []


@pytest.mark.parametrize("where", ["archive.collect-listed", "archive.collect-forgotten", "archive.collect-deleted"])
def test_a_collection_that_dies_is_finished_by_the_next(archive: archives.Archive, where: str) -> None:
    archive.record("dead", {number: content(number) for number in range(8)})
    archive.record("live", {number: content(number + 4) for number in range(8)})
    archive.repository.delete_snapshot(ENVIRONMENT, "dead")

    def die(operation: fsops.Operation) -> None:
        if operation.target == where:
            raise OSError(5, "dead")

    fsops.observe(die)
    with pytest.raises(errors.ArchiveUnreachable):
        archive.repository.upkeep.collect()
    fsops.observe(None)
    archive.reopen()
    archive.record("more", {number: content(number) for number in range(8)})
    archive.repository.upkeep.collect()
    archive.check()
    for uid in ("live", "more"):
        archive.repository.delete_snapshot(ENVIRONMENT, uid)
    archive.repository.upkeep.collect()
    assert archive.keys("/packs/") == []


def test_a_pin_given_back_during_a_collection_counts_until_all_have_ended() -> None:
    pinned = pins.Pins()
    pinned.pin([b"a", b"b"])
    pinned.pin([b"a"])
    with pinned.collecting():
        with pinned.collecting():
            pinned.unpin([b"a", b"b"])
            pinned.unpin([b"a"])
        assert pinned.is_pinned(b"a")
        assert pinned.is_pinned(b"b")
    assert not pinned.is_pinned(b"a")
    assert not pinned.is_pinned(b"b")


def test_sums_of_collections_add_up() -> None:
    assert collection.Collected(1, 2, 3, 4, 5).plus(collection.Collected(10, 20, 30, 40, 50)) == collection.Collected(
        11, 22, 33, 44, 55
    )


class Interleaving:
    """Recordings, deletions, collections and repacking in a random order.

    Everything else also happens before each operation of collections and repacking on the store, at random.
    """

    def __init__(self, folder: pathlib.Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cutting_in = False
        store = schedules.Hooked(memory.MemoryBackend(), self.cut_in)
        self.archive = archives.Archive.open(store, folder / "index.sqlite3")
        self.disks: dict[str, dict[int, bytes]] = {}
        self.running: list[tuple[str, dict[int, bytes], recording.Recording]] = []
        self.names = (f"snap-{number}" for number in itertools.count())
        self.moved = self.deleted = 0

    def cut_in(self, _operation: str) -> None:
        if self.cutting_in and self.rng.random() < 0.12:
            self.cutting_in = False
            try:
                self.step()
            finally:
                self.cutting_in = True

    def step(self) -> None:
        self.rng.choice([self.begin, self.put, self.put, self.commit, self.abort, self.delete])()

    def begin(self) -> None:
        if len(self.running) < 3:
            base = self.rng.choice([None, *self.disks])
            uid = next(self.names)
            begun = self.archive.repository.begin(ENVIRONMENT, uid, 12 * BLOCK, base)
            self.running.append((uid, dict(self.disks[base]) if base else {}, begun))

    def put(self) -> None:
        for _, disk, running in self.running:
            for _ in range(self.rng.randrange(4)):
                number = self.rng.randrange(12)
                disk[number] = POOL[self.rng.randrange(len(POOL))]
                running.put(number, disk[number])

    def commit(self) -> None:
        if self.running:
            uid, disk, running = self.running.pop(self.rng.randrange(len(self.running)))
            running.commit({})
            self.disks[uid] = disk

    def abort(self) -> None:
        if self.running and self.rng.random() < 0.3:
            self.running.pop()[2].abort()

    def delete(self) -> None:
        if self.disks:
            uid = self.rng.choice(list(self.disks))
            del self.disks[uid]
            assert self.archive.repository.delete_snapshot(ENVIRONMENT, uid)

    def tidy(self) -> None:
        upkeep = self.archive.repository.upkeep
        # What is read once for each process is read by now: locks are held then, and a cut would be into one's own.
        self.archive.repository.begin(ENVIRONMENT, "none", BLOCK).abort()
        self.cutting_in = True
        try:
            done = self.rng.choice([upkeep.collect, upkeep.repack])(ENVIRONMENT)
        finally:
            self.cutting_in = False
        self.moved += done.packs_moved
        self.deleted += done.packs_deleted

    def check(self) -> None:
        assert self.archive.repository.snapshots(ENVIRONMENT) == sorted(self.disks)
        for uid, disk in self.disks.items():
            expected = b"".join(disk.get(number, bytes(BLOCK)) for number in range(12))
            found = self.archive.repository.manifest(ENVIRONMENT, uid)
            assert b"".join(found.read(number) for number in range(12)) == expected

    def run(self) -> "Interleaving":
        """Go through it, and find nothing left in the end."""
        for turn in range(60):
            self.step()
            if turn % 3 == 2:
                self.tidy()
            if turn % 20 == 19:
                self.check()
            if turn % 30 == 29 and not self.running:
                self.archive.reopen()
        while self.running:
            self.commit()
        self.check()
        self.archive.check()
        for uid in self.disks:
            self.archive.repository.delete_snapshot(ENVIRONMENT, uid)
        self.archive.repository.upkeep.collect()
        left = self.archive.keys("/packs/")
        self.archive.repository.close()
        assert left == []
        return self


POOL = [content(number) for number in range(30)]


def interleave(seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Run schedules and return how many packs were moved, and deleted."""
    # In the caller's thread: a cut into somebody else's would not be an order that a seed chose.
    monkeypatch.setattr(futures, "ThreadPoolExecutor", schedules.Inline)
    moved = deleted = 0
    for seed in seeds:
        try:
            with tempfile.TemporaryDirectory(prefix="snapd-", dir="/dev/shm") as path:
                story = Interleaving(pathlib.Path(path), seed).run()
        except BaseException:
            print(f"seed {seed}")
            raise
        moved += story.moved
        deleted += story.deleted
    return moved, deleted


@pytest.mark.parametrize("part", range(8))
def test_whatever_happens_during_collections_and_repacking_nothing_live_is_lost(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, deleted = interleave(range(part, 2000, 8), monkeypatch)
    # The schedules do what they are made for.
    assert moved > 50
    assert deleted > 500


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_nor_in_thousands_of_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    first = random.randrange(1 << 40)
    interleave(range(first, first + 4000), monkeypatch)


def test_recordings_and_collections_in_threads_leave_every_snapshot_whole(archive_on_disk: archives.Archive) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not stop.is_set():
                archive_on_disk.repository.upkeep.collect()
        except BaseException as error:
            failures.append(error)

    def record(worker: int) -> None:
        try:
            rng = random.Random(worker)
            base = None
            for turn in range(12):
                uid = f"snap-{worker}-{turn}"
                blocks = {rng.randrange(12): content(rng.randrange(40)) for _ in range(6)}
                archive_on_disk.record(uid, blocks, 12 * BLOCK, base)
                if base is not None:
                    archive_on_disk.repository.delete_snapshot(ENVIRONMENT, base)
                base = uid
        except BaseException as error:
            failures.append(error)

    collector = threading.Thread(target=collect)
    recorders = [threading.Thread(target=record, args=(worker,)) for worker in range(2)]
    for thread in (collector, *recorders):
        thread.start()
    for thread in recorders:
        thread.join()
    stop.set()
    collector.join()
    assert failures == []
    assert archive_on_disk.repository.snapshots(ENVIRONMENT) == ["snap-0-11", "snap-1-11"]
    archive_on_disk.check()


class _Interrupting(memory.MemoryBackend):
    """Has something happen before the first read of a pack."""

    def __init__(self) -> None:
        super().__init__()
        self.interruption: Callable[[], None] | None = None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = super().get_range(key, offset, length)
        if "/packs/" in key and self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            interruption()
        return data


def test_a_pack_that_is_found_while_it_is_being_collected_is_no_hit(tmp_path: pathlib.Path) -> None:
    store = _Interrupting()
    archive = archives.Archive.open(store, tmp_path / "index.sqlite3")
    archive.record("before", {0: content(0)})
    archive.repository.delete_snapshot(ENVIRONMENT, "before")
    # What was noted of the pack is lost, as in a power cut, so that it is found by a listing and read.
    archive.lose_index()
    forgotten, go_on = threading.Event(), threading.Event()

    def hold(operation: fsops.Operation) -> None:
        if operation.target == "archive.collect-forgotten":
            forgotten.set()
            assert go_on.wait(60)

    with futures.ThreadPoolExecutor(1) as executor:
        collecting: list[futures.Future[collection.Collected]] = []

        def begin_to_collect() -> None:
            collecting.append(executor.submit(archive.repository.upkeep.collect, ENVIRONMENT))
            assert forgotten.wait(60)

        store.interruption = begin_to_collect
        fsops.observe(hold)
        try:
            archive.record("after", {0: content(0)})
        finally:
            go_on.set()
            fsops.observe(None)
        assert collecting[0].result().packs_deleted == 1
    assert archive.contents("after").startswith(content(0))
    archive.check()
    archive.repository.close()
