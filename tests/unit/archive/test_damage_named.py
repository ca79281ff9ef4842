"""After a scrub, `damage` names just what can't be read: which snapshots, and which bytes of them."""

import datetime
import itertools
import pathlib
import random
from collections.abc import Iterator

import pytest

from snapd import errors, units
from snapd.archive import layout, names, pack, sealing
from snapd.archive.backends import memory
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

AREA = layout.Area(HOST, ENVIRONMENT)
TOMORROW = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
BLOCKS = 300
SIZE = BLOCKS * BLOCK - 77
"""Two levels of pages, and a short last block."""

Ranges = tuple[tuple[int, int], ...]


class Story:
    """An archive of some snapshots, what they have to hold, and what happens to it."""

    def __init__(self, archive: archives.Archive, *, moved: bool) -> None:
        self.archive = archive
        blocks = {number: content(number) for number in [*range(24), *range(250, 262), 298]}
        blocks[299] = content("end", BLOCK - 77)
        archive.record("base", blocks, SIZE)
        changes = {number: content(("new", number)) for number in blocks if number % 7 and number < 299}
        archive.record("next", changes, SIZE, base="base")
        other = {number: content(("other", number)) for number in range(100, 110)} | {7: content(7)}
        archive.record("other", other, SIZE)
        archive.record("zeros", {}, SIZE)
        self.disks = {"base": blocks, "next": blocks | changes, "other": other, "zeros": {}}
        if moved:
            archive.repository.delete_snapshot(ENVIRONMENT, "base")
            del self.disks["base"]
            assert archive.repository.upkeep.repack().packs_moved

    def packs(self) -> list[str]:
        return self.archive.keys(f"{ENVIRONMENT}/packs/")

    def rows(self, key: str) -> tuple[pack.Row, ...]:
        home = self.archive.repository.manifest(ENVIRONMENT, "next")._blobs.home
        pack_id = layout.pack_id(key)
        assert pack_id is not None
        return pack.read_index(self.archive.store, home, pack_id).rows

    def flip(self, key: str, kind: names.Kind, rng: random.Random) -> bool:
        """Flip a bit of some blob of a kind in a pack, if it has one."""
        rows = [row for row in self.rows(key) if row.kind == kind]
        if rows:
            row = rng.choice(rows)
            self.archive.damage(key, rng.randrange(row.offset, row.offset + row.stored_length))
        return bool(rows)

    def scrub(self) -> set[bytes]:
        """Scrub all and return the packs that have a problem."""
        found = self.archive.repository.upkeep.scrub(ENVIRONMENT, TOMORROW, lambda: None)
        return {one.pack_id for one in found if one.problem}

    def named(self) -> dict[str, Ranges]:
        return {one.snapshot_uid: one.ranges for one in self.archive.repository.upkeep.damage(ENVIRONMENT)}

    def lost(self) -> dict[str, Ranges]:
        """Read every block of every snapshot: what isn't as it has to be must be refused. Returns the ranges lost."""
        result: dict[str, Ranges] = {}
        for uid, blocks in self.disks.items():
            found = self.archive.repository.manifest(ENVIRONMENT, uid)
            bad = []
            for number in range(found.blocks):
                expected = blocks.get(number, bytes(found.block_length(number)))
                try:
                    assert found.read(number) == expected
                except errors.Corrupt:
                    bad.append(number)
            if bad:
                result[uid] = joined(bad)
        return result


def joined(numbers: list[int]) -> Ranges:
    ranges = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        start, end = members[0] * BLOCK, min((members[-1] + 1) * BLOCK, SIZE)
        ranges.append((start, end - start))
    return tuple(ranges)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET", 192 * units.KIB)


@pytest.fixture(params=["plain", "encrypted"])
def any_archive(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[archives.Archive]:
    keyring = sealing.Keyring([b"k" * 32]) if request.param == "encrypted" else None
    opened = archives.Archive.open(memory.MemoryBackend(), tmp_path / "index.sqlite3", keyring)
    yield opened
    opened.repository.close()


@pytest.mark.parametrize("moved", [False, True], ids=["in-place", "moved"])
def test_of_a_whole_archive_nothing_is_named(any_archive: archives.Archive, moved: bool) -> None:
    story = Story(any_archive, moved=moved)
    assert story.scrub() == set()
    assert story.named() == story.lost() == {}
    any_archive.lose_index()
    assert story.named() == {}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("moved", [False, True], ids=["in-place", "moved"])
@pytest.mark.parametrize("harm", ["block", "page", "missing", "short", "index"])
def test_damage_names_the_blocks_that_cannot_be_read_and_no_others(
    any_archive: archives.Archive, harm: str, moved: bool, restarted: bool
) -> None:
    story = Story(any_archive, moved=moved)
    rng = random.Random(f"{harm} {moved}")
    # Blocks lie in the first packs, pages in the last ones; where a pack of the moved kind is hit, so much the better.
    chosen = rng.sample(story.packs(), len(story.packs()))
    hit = 0
    for key in chosen:
        if harm == "block":
            hit += story.flip(key, names.Kind.BLOCK, rng)
        elif harm == "page":
            hit += story.flip(key, names.Kind.PAGE, rng)
        else:
            data = any_archive.store.get(key)
            any_archive.store.delete(key)
            if harm == "short":
                any_archive.store.put(key, [data[: rng.randrange(len(data))]])
            elif harm == "index":
                any_archive.store.put(key, [data[:-70] + bytes([data[-70] ^ 1]) + data[-69:]])
            hit += 1
        if hit == 3:
            break
    assert hit
    if restarted:
        any_archive.reopen()
    problems = story.scrub()
    assert problems or (harm == "missing" and restarted)
    named = story.named()
    # What the scrub marked must not be what makes the blocks unreadable.
    any_archive.lose_index()
    assert named == story.lost()
    assert named or harm == "index"
    assert "zeros" not in named
    assert story.named() == named or harm in {"block", "page"}, "a new index knows only what is missing or cut short"


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_damaged_is_named_and_the_rest_can_be_restored(any_archive: archives.Archive, seed: int) -> None:
    rng = random.Random(seed)
    story = Story(any_archive, moved=seed % 2 == 1)
    for key in rng.sample(story.packs(), rng.randrange(1, 5)):
        data = any_archive.store.get(key)
        harm = rng.choice(["flip", "missing", "short", "longer", "zeros"])
        if harm == "flip":
            any_archive.damage(key, rng.randrange(len(data)))
            continue
        any_archive.store.delete(key)
        if harm == "short":
            any_archive.store.put(key, [data[: rng.randrange(len(data))]])
        elif harm == "longer":
            any_archive.store.put(key, [data + bytes(rng.randrange(1, 5000))])
        elif harm == "zeros":
            start = rng.randrange(len(data))
            any_archive.store.put(key, [data[:start] + bytes(len(data) - start)])
    if rng.random() < 0.5:
        any_archive.reopen()
    story.scrub()
    named = story.named()
    any_archive.lose_index()
    assert named == story.lost(), f"seed {seed}"


def test_damage_that_was_recorded_anew_is_no_longer_named(any_archive: archives.Archive) -> None:
    story = Story(any_archive, moved=True)
    rng = random.Random(1)
    assert all(story.flip(key, names.Kind.BLOCK, rng) for key in story.packs()[:2])
    story.scrub()
    assert story.named()
    for uid in ("next", "other"):
        any_archive.record(f"{uid}-again", story.disks[uid], SIZE)
    assert story.named() == story.lost() == {}
