"""Hosts that share a store: whoever is paused, replaced, late or reading, nothing that lives is lost.

Seeded schedules of single store operations (`schedules`). A failing seed is in the test's name or in its message;
SNAPD_FENCING_SEEDS runs so many random ones in `make torture`.
"""

import contextlib
import datetime
import os
import pathlib
import random
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures

import pytest

from snapd import errors, units
from snapd.archive import layout, pack, repository
from snapd.archive.backends import backend, memory
from snapd.archive.fencing import claim, view
from tests.unit.archive import schedules
from tests.unit.archive.archives import BLOCK, content

HOST = "host-1"
ENVIRONMENT = "env-1"
BLOCKS = 6
POOL = [content(number) for number in range(14)]
IDS = random.Random()
"""Where all ids are drawn from; each schedule seeds it."""
Disk = dict[int, int]
"""Numbers of contents in POOL by block; missing ones read as zeros."""


@pytest.fixture(autouse=True)
def one_thread_and_small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 128 * units.KIB)
    monkeypatch.setattr(futures, "ThreadPoolExecutor", schedules.Inline)
    # One thread runs at a time, so the same seed draws the same ids.
    monkeypatch.setattr(secrets, "token_bytes", IDS.randbytes)
    monkeypatch.setattr(secrets, "token_hex", lambda length: IDS.randbytes(length).hex())


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="snapd-", dir="/dev/shm") as path:
        yield pathlib.Path(path)


def bytes_of(disk: Disk) -> bytes:
    return b"".join(POOL[disk[number]] if number in disk else bytes(BLOCK) for number in range(BLOCKS))


class Truth:
    """What was acknowledged to whoever asked for it."""

    def __init__(self) -> None:
        self.disks: dict[str, Disk] = {}
        """Of every snapshot that anybody ever tried to record."""
        self.acknowledged: set[str] = set()
        self.deleting: set[str] = set()
        """Somebody asked for its deletion, whether or not that was acknowledged."""


class Owner:
    """A daemon that owns the host's prefix, or thinks so: records, deletes, collects and repacks at random."""

    def __init__(self, name: str, truth: Truth, path: pathlib.Path, seed: int, turns: int, *, adopt: bool) -> None:
        self.name = name
        self.truth = truth
        self.path = path
        self.rng = random.Random(f"{name} {seed}")
        self.turns = turns
        self.adopt = adopt
        self.lost = False
        self.mine: list[str] = []

    def __call__(self, store: backend.Backend) -> None:
        archive = repository.Repository(store, self.path, HOST, block_size=BLOCK)
        try:
            archive.connect(adopt=self.adopt)
            self.mine = [uid for uid in archive.snapshots(ENVIRONMENT) if uid not in self.truth.deleting]
            for turn in range(self.turns):
                work = self.rng.choices([self.record, self.delete, self.collect, self.repack], [5, 3, 2, 2])[0]
                work(archive, turn)
        except (errors.ArchiveClaimLost, errors.ArchiveClaimed):
            self.lost = True
        finally:
            archive.close()

    def record(self, archive: repository.Repository, turn: int) -> None:
        uid = f"{self.name}-{turn}"
        base = self.rng.choice([None, *self.mine])
        disk = dict(self.truth.disks[base]) if base else {}
        with archive.begin(ENVIRONMENT, uid, BLOCKS * BLOCK, base) as recording:
            for _ in range(self.rng.randrange(1, 5)):
                number, which = self.rng.randrange(BLOCKS), self.rng.randrange(len(POOL))
                disk[number] = which
                recording.put(number, POOL[which])
            self.truth.disks[uid] = disk
            recording.commit({})
        self.truth.acknowledged.add(uid)
        self.mine.append(uid)

    def delete(self, archive: repository.Repository, _turn: int) -> None:
        if self.mine:
            uid = self.mine.pop(self.rng.randrange(len(self.mine)))
            self.truth.deleting.add(uid)
            archive.delete_snapshot(ENVIRONMENT, uid)

    def collect(self, archive: repository.Repository, _turn: int) -> None:
        archive.upkeep.collect(ENVIRONMENT)

    def repack(self, archive: repository.Repository, _turn: int) -> None:
        archive.upkeep.repack(ENVIRONMENT)


class Reader:
    """Another host that reads what this one archived."""

    def __init__(self, truth: Truth, folder: pathlib.Path, seed: int, turns: int) -> None:
        self.truth = truth
        self.path = folder / "reader.sqlite3"
        self.rng = random.Random(f"reader {seed}")
        self.turns = turns
        self.read = 0

    def __call__(self, store: backend.Backend) -> None:
        archive = repository.Repository.open(store, self.path, "host-2", block_size=BLOCK)
        try:
            for _ in range(self.turns):
                with archive.reading(ENVIRONMENT, HOST):
                    found = archive.snapshots(ENVIRONMENT, HOST)
                    if found:
                        self._read(archive, self.rng.choice(found))
        finally:
            archive.close()

    def _read(self, archive: repository.Repository, uid: str) -> None:
        try:
            found = archive.manifest(ENVIRONMENT, uid, HOST)
        except errors.NotFound:
            assert uid in self.truth.deleting, f"{uid} is gone, and nobody deleted it"
            return
        # From here on its lease keeps all of it, whatever the owners do.
        shown = b"".join(found.read(number) for number in range(found.blocks))
        assert shown == bytes_of(self.truth.disks[uid]), f"{uid} shows other bytes"
        self.read += 1


def check_at_end(store: memory.MemoryBackend, truth: Truth, folder: pathlib.Path) -> None:
    """Adopt the prefix once more: all that was acknowledged and not deleted is there, whole, and nothing else is."""
    final = repository.Repository.open(store, folder / "final.sqlite3", HOST, block_size=BLOCK, adopt=True)
    try:
        for _ in range(2):
            believed = set(final.snapshots(ENVIRONMENT))
            assert truth.acknowledged - truth.deleting <= believed
            assert believed <= truth.disks.keys()
            for uid in believed:
                found = final.manifest(ENVIRONMENT, uid)
                shown = b"".join(found.read(number) for number in range(found.blocks))
                assert shown == bytes_of(truth.disks[uid]), f"{uid} shows other bytes"
            final.upkeep.collect()
            final.upkeep.repack()
        for uid in believed:
            final.delete_snapshot(ENVIRONMENT, uid)
        final.upkeep.collect()
        left = [key for key, _ in store.list(layout.Area(HOST, ENVIRONMENT).prefix)]
        assert [key for key in left if "/packs/" in key or "/manifests/" in key or "/tombstones/" in key] == []
    finally:
        final.close()


MOMENTS = tuple(
    re.compile(moment)
    for moment in (
        "delete .*/packs/",
        "delete .*/manifests/",
        "put .*/manifests/",
        "put .*/moves/",
        "put .*/tombstones/",
    )
)
"""Operations (see `schedules.Hooked`) that must do no harm when they come late."""


class Story:
    """Owners of one prefix that follow each other: paused, killed, started again, adopted from; and a reader."""

    def __init__(self, seed: int, folder: pathlib.Path) -> None:
        IDS.seed(seed)
        self.seed = seed
        self.folder = folder
        self.clock = schedules.Clock()
        self.store = memory.MemoryBackend(clock=self.clock)
        self.schedule = schedules.Schedule(self.store, seed)
        self.truth = Truth()
        self.owners: list[Owner] = []
        self.reader = Reader(self.truth, folder, seed, 4)

    def run(self) -> "Story":
        rng = self.schedule.rng
        try:
            present = self._begin(0, adopt=False)
            self.schedule.run(rng.randrange(20, 300))
            self.schedule.start("reader", rng.choice([0.05, 0.2, 1]), self.reader)
            for number in range(1, rng.randrange(2, 5)):
                self.schedule.run(rng.randrange(0, 300))
                self._run_to_a_moment(present)
                present = self._follow(present, number, rng.choice(["paused", "killed", "restarted"]))
            self.schedule.run()
            self.clock.advance(claim.LEASE + datetime.timedelta(days=2))
            check_at_end(self.store, self.truth, self.folder)
        except BaseException:
            print(f"seed {self.seed}:", *self.schedule.steps[-80:], sep="\n")
            raise
        return self

    def _run_to_a_moment(self, present: schedules.Process) -> None:
        """Go on until the present owner is about to do something that must not come late; more often than not."""
        moment = self.schedule.rng.choice([None, *MOMENTS])
        if moment is not None:
            self.schedule.run(400, until=lambda: present.ended or moment.match(present.next) is not None)

    def _begin(self, number: int, *, adopt: bool) -> schedules.Process:
        path = self.folder / f"owner-{number}.sqlite3"
        if self.owners and not adopt:
            path = self.owners[-1].path
        owner = Owner(f"o{number}", self.truth, path, self.seed, 10, adopt=adopt)
        self.owners.append(owner)
        return self.schedule.start(owner.name, 1, owner)

    def _follow(self, present: schedules.Process, number: int, fate: str) -> schedules.Process:
        if fate == "paused" and not present.ended:
            # It goes on never, rarely, soon, or only after the others have ended.
            present.weight = self.schedule.rng.choice([0, 0.05, 0.3, 1])
        else:
            self.schedule.kill(present)
        self.clock.advance(claim.LEASE)
        return self._begin(number, adopt=fate != "restarted")


SAMPLE = 200


@pytest.mark.parametrize("part", range(4))
def test_whatever_becomes_of_owners_nothing_that_lives_is_lost(part: int) -> None:
    lost = read = adoptions = 0
    for seed in range(part, SAMPLE, 4):
        with tempfile.TemporaryDirectory(prefix="snapd-", dir="/dev/shm") as path:
            story = Story(seed, pathlib.Path(path)).run()
        lost += sum(owner.lost for owner in story.owners)
        adoptions += sum(owner.adopt for owner in story.owners)
        read += story.reader.read
    # The schedules do what they are made for.
    assert lost > 3
    assert adoptions > 20
    assert read > 20


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_nor_in_thousands_of_schedules() -> None:
    seeds = int(os.environ.get("SNAPD_FENCING_SEEDS", "2000"))
    first = random.randrange(1 << 40)
    for seed in range(first, first + seeds):
        with tempfile.TemporaryDirectory(prefix="snapd-", dir="/dev/shm") as path:
            Story(seed, pathlib.Path(path)).run()


# --- single steps ---------------------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_while_the_first_lives_and_may_adopt_when_its_lease_is_over(
    folder: pathlib.Path,
) -> None:
    clock = schedules.Clock()
    store = memory.MemoryBackend(clock=clock)
    first = repository.Repository.open(store, folder / "first.sqlite3", HOST, block_size=BLOCK)
    for adopt in (False, True):
        with pytest.raises(errors.ArchiveClaimed) as refused:
            repository.Repository.open(store, folder / "second.sqlite3", HOST, adopt=adopt)
        assert (refused.value.host, refused.value.epoch) == (HOST, 1)
    clock.advance(claim.LEASE)
    with pytest.raises(errors.ArchiveClaimed):
        repository.Repository.open(store, folder / "second.sqlite3", HOST)
    second = repository.Repository.open(store, folder / "second.sqlite3", HOST, adopt=True)
    with pytest.raises(errors.ArchiveClaimLost):
        first.begin(ENVIRONMENT, "late", BLOCK).commit({})
    with pytest.raises(errors.ArchiveClaimLost):
        first.upkeep.collect()
    assert second.snapshots(ENVIRONMENT) == []
    first.close()
    second.close()


def test_an_owner_that_ended_can_be_adopted_from_at_once_and_goes_on_if_it_was_not(folder: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    for _ in range(3):
        first = repository.Repository.open(store, folder / "first.sqlite3", HOST, block_size=BLOCK)
        assert first.connect().claim.epoch == 1
        first.close()
    second = repository.Repository.open(store, folder / "second.sqlite3", HOST, adopt=True)
    assert second.connect().claim.epoch == 2
    second.close()
    with pytest.raises(errors.ArchiveClaimed):
        repository.Repository.open(store, folder / "first.sqlite3", HOST)
    again = repository.Repository.open(store, folder / "second.sqlite3", HOST)
    assert again.connect().claim.epoch == 2
    again.close()


def test_an_adopter_that_died_between_claim_and_seal_changes_nothing_for_readers(folder: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    first = repository.Repository.open(store, folder / "first.sqlite3", HOST, block_size=BLOCK)
    with first.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, POOL[0])
        recording.commit({})
    first.close()
    host = layout.Host(HOST)
    uid = first_uid(store, folder)
    claim.take(store, host, folder / "dead.claim", uid, adopt=True).release()
    assert view.load(store, host).epoch == 1
    reader = repository.Repository.open(store, folder / "reader.sqlite3", "host-2")
    assert reader.manifest(ENVIRONMENT, "snap", HOST).read(0) == POOL[0]
    third = repository.Repository.open(store, folder / "third.sqlite3", HOST, adopt=True)
    assert third.connect().claim.epoch == 3
    assert third.manifest(ENVIRONMENT, "snap").read(0) == POOL[0]
    assert reader.manifest(ENVIRONMENT, "snap", HOST).read(0) == POOL[0]
    third.close()
    reader.close()


def first_uid(store: backend.Backend, folder: pathlib.Path) -> str:
    other = repository.Repository.open(store, folder / "uid.sqlite3", "host-9")
    try:
        return other.connect().settings.uid
    finally:
        other.close()


def test_what_an_owner_publishes_after_it_was_replaced_is_believed_by_nobody_and_cleared_away(
    folder: pathlib.Path,
) -> None:
    store = memory.MemoryBackend()
    first = repository.Repository.open(store, folder / "first.sqlite3", HOST, block_size=BLOCK)
    recording = first.begin(ENVIRONMENT, "late", BLOCK)
    recording.put(0, POOL[0])
    first.connect().claim.release()
    second = repository.Repository.open(store, folder / "second.sqlite3", HOST, adopt=True)
    with pytest.raises(errors.ArchiveClaimLost):
        recording.commit({})
    late = [key for key, _ in store.list("") if "/manifests/" in key]
    assert len(late) == 1
    assert second.snapshots(ENVIRONMENT) == []
    with pytest.raises(errors.NotFound):
        second.manifest(ENVIRONMENT, "late")
    second.upkeep.collect()
    assert [key for key, _ in store.list("") if "/manifests/" in key or "/packs/" in key] == []
    first.close()
    second.close()


def test_a_lease_of_another_host_keeps_packs_and_not_for_ever(folder: pathlib.Path) -> None:
    clock = schedules.Clock()
    store = memory.MemoryBackend(clock=clock)
    owner = repository.Repository.open(store, folder / "owner.sqlite3", HOST, block_size=BLOCK)
    reader = repository.Repository.open(store, folder / "reader.sqlite3", "host-2")
    with owner.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, POOL[0])
        recording.commit({})
    with reader.reading(ENVIRONMENT, HOST):
        found = reader.manifest(ENVIRONMENT, "snap", HOST)
        owner.delete_snapshot(ENVIRONMENT, "snap")
        collected = owner.upkeep.collect(ENVIRONMENT)
        assert (collected.packs_deleted, collected.packs_postponed) == (0, 1)
        assert found.read(0) == POOL[0]
        clock.advance(datetime.timedelta(days=1))
        assert owner.upkeep.collect(ENVIRONMENT).packs_deleted == 1
    owner.close()
    reader.close()


def test_packs_stay_while_a_request_of_an_earlier_process_may_yet_arrive(folder: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    store.settling = datetime.timedelta(hours=1)
    owner = repository.Repository.open(store, folder / "owner.sqlite3", HOST, block_size=BLOCK)
    with owner.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, POOL[0])
        recording.commit({})
    owner.delete_snapshot(ENVIRONMENT, "snap")
    collected = owner.upkeep.collect()
    assert (collected.packs_deleted, collected.packs_postponed) == (0, 1)
    assert owner.upkeep.repack().packs_moved == 0
    owner.close()


def test_no_tombstone_outlives_what_it_names(folder: pathlib.Path) -> None:
    store = memory.MemoryBackend()
    owner = repository.Repository.open(store, folder / "owner.sqlite3", HOST, block_size=BLOCK)
    with owner.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, POOL[0])
        recording.commit({})
    area = layout.Area(HOST, ENVIRONMENT)
    pack_key = next(key for key, _ in store.list(area.packs))
    owner.delete_snapshot(ENVIRONMENT, "snap")
    assert [key for key, _ in store.list(area.tombstones)] == []
    owner.upkeep.collect()
    assert store.size(pack_key) is None
    assert [key for key, _ in store.list(area.tombstones)] == []
    owner.close()


# --- late requests, one by one ----------------------------------------------------------------------------------------


class Late:
    """An owner that is stopped before one operation; another adopts the prefix; then that operation takes effect."""

    def __init__(self, folder: pathlib.Path) -> None:
        IDS.seed(0)
        self.folder = folder
        self.store = memory.MemoryBackend(clock=schedules.Clock())
        self.schedule = schedules.Schedule(self.store, 0)

    def begin(self, work: Callable[[repository.Repository], object], moment: str) -> schedules.Process:
        """Let the first owner work up to an operation that matches `moment`."""

        def owner(store: backend.Backend) -> None:
            archive = repository.Repository.open(store, self.folder / "first.sqlite3", HOST, block_size=BLOCK)
            try:
                work(archive)
            finally:
                # As if it had ended cleanly: its lease isn't what is tried here.
                archive.close()

        process = self.schedule.start("first", 1, owner)
        self.schedule.run(until=lambda: process.ended or re.match(moment, process.next) is not None)
        assert not process.ended, f"{moment} never came"
        for key, _ in list(self.store.list(layout.Host(HOST).renewals)):
            self.store.delete(key)
        return process

    def adopt(self) -> repository.Repository:
        return repository.Repository.open(self.store, self.folder / "second.sqlite3", HOST, adopt=True)

    def finish(self, process: schedules.Process) -> None:
        """Let the first owner go on to its end."""
        with contextlib.suppress(errors.ArchiveClaimLost):
            self.schedule.run(until=lambda: process.ended)
            self.schedule.run()


@pytest.fixture
def late(folder: pathlib.Path) -> Late:
    return Late(folder)


def record(archive: repository.Repository, uid: str, *contents: int, base: str | None = None) -> None:
    with archive.begin(ENVIRONMENT, uid, BLOCKS * BLOCK, base) as recording:
        for number, which in enumerate(contents):
            recording.put(number, POOL[which])
        recording.commit({})


def test_a_pack_whose_removal_may_come_late_is_no_hit_for_the_adopter(late: Late) -> None:
    def work(archive: repository.Repository) -> None:
        record(archive, "gone", 0, 1)
        archive.delete_snapshot(ENVIRONMENT, "gone")
        archive.upkeep.collect()

    process = late.begin(work, "delete .*/packs/")
    second = late.adopt()
    record(second, "new", 0, 1)
    late.finish(process)
    assert second.manifest(ENVIRONMENT, "new").read(0) == POOL[0]
    assert second.manifest(ENVIRONMENT, "new").read(1) == POOL[1]
    second.close()


def test_a_snapshot_whose_removal_may_come_late_is_not_taken_over(late: Late) -> None:
    def work(archive: repository.Repository) -> None:
        record(archive, "kept", 2)
        record(archive, "gone", 0, 1)
        archive.delete_snapshot(ENVIRONMENT, "gone")

    process = late.begin(work, "delete .*/manifests/")
    second = late.adopt()
    assert second.snapshots(ENVIRONMENT) == ["kept"]
    late.finish(process)
    assert second.snapshots(ENVIRONMENT) == ["kept"]
    second.close()


def test_a_removal_that_was_begun_too_late_takes_nothing_from_the_adopter_nor_from_the_next(
    late: Late, folder: pathlib.Path
) -> None:
    def work(archive: repository.Repository) -> None:
        record(archive, "snap", 0, 1)
        archive.delete_snapshot(ENVIRONMENT, "snap")

    process = late.begin(work, "put .*/tombstones/")
    second = late.adopt()
    late.finish(process)
    assert second.manifest(ENVIRONMENT, "snap").read(0) == POOL[0]
    second.close()
    third = repository.Repository.open(late.store, folder / "third.sqlite3", HOST, adopt=True)
    assert third.manifest(ENVIRONMENT, "snap").read(0) == POOL[0]
    third.upkeep.collect()
    assert third.manifest(ENVIRONMENT, "snap").read(0) == POOL[0]
    assert [key for key, _ in late.store.list("") if "/tombstones/" in key] == []
    third.close()


def test_moves_that_come_late_are_not_believed(late: Late) -> None:
    def work(archive: repository.Repository) -> None:
        record(archive, "old", 0, 1, 2, 3, 4)
        record(archive, "kept", 0, base=None)
        archive.delete_snapshot(ENVIRONMENT, "old")
        archive.upkeep.repack()

    process = late.begin(work, "put .*/moves/")
    second = late.adopt()
    # What the first one took for dead is alive again.
    record(second, "again", 0, 1, 2, 3, 4)
    late.finish(process)
    assert [key for key, _ in late.store.list("") if "/moves/" in key] != []
    second.close()
    second = repository.Repository.open(late.store, late.folder / "second.sqlite3", HOST)
    second.upkeep.collect()
    second.upkeep.repack()
    for number in range(5):
        assert second.manifest(ENVIRONMENT, "again").read(number) == POOL[number]
    assert second.manifest(ENVIRONMENT, "kept").read(0) == POOL[0]
    second.close()


def test_an_environment_whose_removal_comes_late_keeps_the_adopters_key(late: Late) -> None:
    def work(archive: repository.Repository) -> None:
        record(archive, "snap", 0)
        archive.delete_snapshot(ENVIRONMENT, "snap")
        archive.delete_environment(ENVIRONMENT)

    process = late.begin(work, "delete .*/keys/")
    second = late.adopt()
    record(second, "new", 0)
    late.finish(process)
    second.close()
    second = repository.Repository.open(late.store, late.folder / "second.sqlite3", HOST)
    assert second.manifest(ENVIRONMENT, "new").read(0) == POOL[0]
    second.close()
