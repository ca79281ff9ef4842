"""Documents whose checksums are right and whose content is hostile: typed errors, in bounded time and memory."""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from snapd import errors
from snapd.archive import documents, environment, layout, manifest, moves, names, packtable, session
from snapd.archive.backends import memory
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import leases, tombstones
from snapd.archive.fencing import view as views
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

AREA = layout.Area(HOST, ENVIRONMENT)
OWNER = layout.Host(HOST)
KEY = b"k" * 32
HOME = environment.Environment(AREA, KEY, None)
VIEW = views.View(OWNER, 1, {})
LONGEST_S = 20.0
"""Of the processor: far more than anything here takes, and far less than what grows with a square."""

VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.sampled_from([0, 1, -1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, 1 << 64])
    | strategies.floats()
    | strategies.text(max_size=40)
    | strategies.sampled_from(["", "00000001.00000001", "../../x", "a/b", "none", "AES-256-GCM", "AAAA", "ff" * 56]),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(max_size=9), inner),
    max_leaves=8,
)


def sealed(kind: names.Kind, members: documents.Json, key: bytes | None = None) -> bytes:
    """A document, however odd; json.dumps writes more than `documents.encode` does."""
    body = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()[:-1]
    digest = names.plain(kind, body) if key is None else names.keyed(key, kind, body)
    return body + b',"checksum":"' + digest.hex().encode() + b'"}'


def read(kind: names.Kind, store: memory.MemoryBackend, folder: pathlib.Path) -> object:
    """Read the one document of a kind that is in the store, as whoever reads it does."""
    if kind is names.Kind.REPOSITORY:
        return session.load(store, "")
    if kind is names.Kind.CLAIM:
        return claims.take(store, OWNER, folder / "index.claim", "ab" * 16, adopt=False)
    if kind is names.Kind.SEAL:
        return views.adopt(store, OWNER, 1)
    if kind is names.Kind.ENVIRONMENT:
        return environment.load(store, AREA, 1, None)
    if kind is names.Kind.MANIFEST:
        return manifest.decode(HOME, "snap", 1, store.get(AREA.manifest("snap", 1)))
    if kind is names.Kind.MOVES:
        return moves.Moves(store, HOME, lambda: VIEW, lambda: None).reload()
    if kind is names.Kind.TOMBSTONE:
        return tombstones.named(store, AREA, [key for key, _ in store.list(AREA.tombstones)])
    return leases.is_read(store, AREA)


MINE = {"version": 1, "host": HOST, "epoch": 1, "environment_uid": ENVIRONMENT}
DOCUMENTS: dict[names.Kind, tuple[str, dict[str, documents.Json]]] = {
    names.Kind.REPOSITORY: (
        layout.REPOSITORY,
        {
            "version": 1,
            "format": "snapd-archive",
            "uid": "ab" * 16,
            "block_size": BLOCK,
            "required_to_read": [],
            "required_to_write": [],
        },
    ),
    names.Kind.CLAIM: (OWNER.claim(1), MINE | {"token": "cd" * 32}),
    names.Kind.SEAL: (
        OWNER.seal(1),
        MINE | {"environments": {ENVIRONMENT: {"manifests": {"snap": 1}, "moves": "", "tombstones": []}}},
    ),
    names.Kind.ENVIRONMENT: (AREA.record(1), MINE | {"key": {"wrapping": "none", "bytes": "A" * 43 + "="}}),
    names.Kind.MANIFEST: (
        AREA.manifest("snap", 1),
        MINE
        | {
            "snapshot_uid": "snap",
            "size_bytes": 9 * BLOCK,
            "block_size": BLOCK,
            "depth": 1,
            "root": "ab" * 56,
            "packs": documents.base64_text(packtable.encode({b"p" * 16: 1}, {b"p" * 16: 100})),
            "statistics": dataclasses.asdict(manifest.Statistics()),
            "metadata": {},
        },
    ),
    names.Kind.MOVES: (AREA.move(1, 1), MINE | {"number": 1, "moves": "A" * 42 + "8="}),
    names.Kind.TOMBSTONE: (AREA.tombstone(1, "0" * 16), {"version": 1, "keys": ["packs/00/" + "0" * 32]}),
    names.Kind.LEASE: (layout.Host("host-2").leases + "0" * 32, MINE),
}
KEYED = {names.Kind.MANIFEST, names.Kind.MOVES}


def store_with(kind: names.Kind, members: documents.Json) -> memory.MemoryBackend:
    store = memory.MemoryBackend()
    store.put(DOCUMENTS[kind][0], [sealed(kind, members, KEY if kind in KEYED else None)])
    return store


@pytest.mark.parametrize("kind", DOCUMENTS)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(data=strategies.data())
def test_whatever_a_document_says_is_read_or_refused_by_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, kind: names.Kind, data: strategies.DataObject
) -> None:
    members = dict(DOCUMENTS[kind][1])
    place = members
    name = data.draw(strategies.sampled_from(sorted(place)))
    # Members that hold members are changed inside as well.
    while isinstance(place[name], dict) and place[name] and data.draw(strategies.booleans()):
        place[name] = dict(place[name])
        place = place[name]
        name = data.draw(strategies.sampled_from(sorted(place)))
    place[name] = data.draw(VALUES)
    if data.draw(strategies.booleans()):
        place[data.draw(strategies.text(max_size=9))] = data.draw(VALUES)
    with contextlib.suppress(errors.SnapdError):
        read(kind, store_with(kind, members), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize(
    "body",
    [
        b"[1",
        b'"a"',
        b"{",
        b'{"version":1,"a":' + b"[" * 100_000,
        b'{"version":' + b"9" * 100_000,
        b'{"version":1e999',
        b'{"version":NaN',
        b'{"version":true',
        b'{"version":"1"',
        b'{"version":2',
        b'{"version":1,"host":"\xff\xfe"',
        b'{"version":1,"host":"\\ud800","epoch":1,"keys":["\\ud800"]',
        b'\xef\xbb\xbf{"version":1',
        b"\xff\xfe{\x00",
    ],
)
def test_what_is_no_document_is_refused_whatever_its_checksum(
    tmp_path: pathlib.Path, kind: names.Kind, body: bytes
) -> None:
    key = KEY if kind in KEYED else None
    digest = names.plain(kind, body) if key is None else names.keyed(key, kind, body)
    store = memory.MemoryBackend()
    store.put(DOCUMENTS[kind][0], [body + b',"checksum":"' + digest.hex().encode() + b'"}'])
    if kind is names.Kind.LEASE:
        # Somebody reads something.
        assert isinstance(read(kind, store, tmp_path), bool)
        return
    with contextlib.suppress(errors.SnapdError):
        found = read(kind, store, tmp_path)
        assert kind is names.Kind.TOMBSTONE, f"{found!r} was read"


def test_the_documents_that_these_tests_change_can_be_read(tmp_path: pathlib.Path) -> None:
    for kind, (_, members) in DOCUMENTS.items():
        if kind is names.Kind.CLAIM:
            # It is somebody else's, who has shown no sign of life.
            assert claims.take(store_with(kind, members), OWNER, tmp_path / "claim", "ab" * 16, adopt=True).epoch == 2
        else:
            assert read(kind, store_with(kind, members), tmp_path) is not None


@pytest.fixture
def quick() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < LONGEST_S


def moves_document(rows: bytes) -> memory.MemoryBackend:
    members = DOCUMENTS[names.Kind.MOVES][1] | {"moves": documents.base64_text(rows)}
    return store_with(names.Kind.MOVES, members)


def row(source: int, target: int) -> bytes:
    return source.to_bytes(16, "big") + target.to_bytes(16, "big")


@pytest.mark.usefixtures("quick")
def test_a_million_moves_are_read_and_too_many_of_one_pack_are_refused(tmp_path: pathlib.Path) -> None:
    million = np.zeros((1_000_000, 4), ">u8")
    million[:, 1] = million[:, 3] = np.arange(len(million))
    found = read(names.Kind.MOVES, moves_document(million.tobytes()), tmp_path)
    assert isinstance(found, dict)
    assert len(found) == len(million)
    # No pack holds so many blobs, and each missing target would cost a request for each blob that is read.
    with pytest.raises(errors.Corrupt):
        read(names.Kind.MOVES, moves_document(b"".join(row(7, number) for number in range(65_536))), tmp_path)


@pytest.mark.parametrize(
    "rows", [row(1, 2)[:-1], row(2, 1) + row(1, 2), row(1, 2) + row(1, 2), row(1, 3) + row(1, 2), b"x"]
)
def test_moves_that_are_not_in_order_are_refused(tmp_path: pathlib.Path, rows: bytes) -> None:
    with pytest.raises(errors.Corrupt):
        read(names.Kind.MOVES, moves_document(rows), tmp_path)


def pack_ids(archive: archives.Archive) -> list[bytes]:
    return [found for key in archive.keys(f"{ENVIRONMENT}/packs/") if (found := layout.pack_id(key)) is not None]


def publish(archive: archives.Archive, table: moves.Table) -> None:
    """Publish a table of moves as only who has the key can."""
    archive.repository.manifest(ENVIRONMENT, "snap")._blobs.moves.publish(table, 1)
    archive.reopen()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", ["itself", "circle", "nowhere", "both", "many"])
def test_moves_that_lead_in_circles_or_nowhere_hide_nothing_that_is_there(
    archive: archives.Archive, shape: str
) -> None:
    blocks = {number: content(number) for number in range(8)}
    archive.record("snap", blocks)
    (old,) = pack_ids(archive)
    gone, other = b"g" * 16, b"h" * 16
    tables: dict[str, dict[bytes, tuple[bytes, ...]]] = {
        "itself": {old: (old,)},
        "circle": {old: (gone,), gone: (old,)},
        "nowhere": {old: (gone,)},
        "both": {old: tuple(sorted((gone, old)))},
        "many": {old: tuple(sorted(layout.text(number).encode() * 2 for number in range(1, 300)))} | {other: (gone,)},
    }
    publish(archive, tables[shape])
    assert archive.contents("snap") == b"".join(blocks.values())
    for _ in range(2):
        archive.repository.upkeep.repack()
        archive.repository.upkeep.collect()
        assert archive.contents("snap") == b"".join(blocks.values())
    archive.reopen()
    assert archive.contents("snap") == b"".join(blocks.values())
    assert archive.repository.upkeep.damage(ENVIRONMENT) == []


def test_moves_after_which_none_can_follow_end_repacking_by_a_typed_error(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    found = archive.repository.manifest(ENVIRONMENT, "snap")._blobs.moves
    members = DOCUMENTS[names.Kind.MOVES][1] | {"number": layout.LARGEST_EPOCH, "moves": ""}
    archive.store.put(AREA.move(1, layout.LARGEST_EPOCH), [documents.encode(members, found._hash)])
    with pytest.raises(errors.Corrupt):
        found.publish({}, 1)


def put_seal(archive: archives.Archive, epoch: int, **changes: documents.Json) -> None:
    members = MINE | {"epoch": epoch, "environments": {}} | changes
    archive.store.put(OWNER.seal(epoch), [sealed(names.Kind.SEAL, members)])


@pytest.mark.parametrize("epoch", [2, 9, layout.LARGEST_EPOCH])
def test_an_owner_does_not_record_below_a_seal_that_is_newer_than_its_claim(
    archive: archives.Archive, epoch: int
) -> None:
    archive.record("snap", {0: content(0)})
    put_seal(archive, epoch)
    with pytest.raises(errors.Corrupt, match="seal"):
        archive.reopen()


@pytest.mark.parametrize(
    "environments",
    [
        [],
        {ENVIRONMENT: []},
        {ENVIRONMENT: {}},
        {ENVIRONMENT: {"manifests": [], "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": -1}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": 0}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": "1"}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": 1.0}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": True}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {"snap": 1 << 32}, "moves": "", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {}, "moves": None, "tombstones": []}},
        {ENVIRONMENT: {"manifests": {}, "moves": "../manifests/snap.00000001", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {}, "moves": "00000000.00000001", "tombstones": []}},
        {ENVIRONMENT: {"manifests": {}, "moves": "", "tombstones": None}},
        {ENVIRONMENT: {"manifests": {}, "moves": "", "tombstones": [1]}},
    ],
)
def test_seals_that_name_what_cannot_be_are_refused(archive: archives.Archive, environments: documents.Json) -> None:
    put_seal(archive, 1, environments=environments)
    with pytest.raises(errors.Corrupt):
        archive.reopen()


@pytest.mark.usefixtures("quick")
def test_a_seal_that_names_a_million_manifests_is_read(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    manifests = {f"snap-{number}": 1 for number in range(1_000_000)}
    put_seal(archive, 1, environments={ENVIRONMENT: {"manifests": manifests, "moves": "", "tombstones": []}})
    archive.reopen()
    assert archive.repository.snapshots(ENVIRONMENT) == ["snap"]
    with pytest.raises(errors.NotFound):
        archive.repository.manifest(ENVIRONMENT, "snap-7")
    archive.check()


def test_a_claim_of_the_last_epoch_ends_ours_and_cannot_be_adopted(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    archive.record("snap", {0: content(0)})
    epoch = layout.LARGEST_EPOCH
    archive.store.put(OWNER.claim(epoch), [sealed(names.Kind.CLAIM, MINE | {"epoch": epoch, "token": "cd" * 32})])
    with pytest.raises(errors.ArchiveClaimLost):
        archive.repository.connect().claim.require()
    archive.repository.close()
    before = archive.keys()
    with pytest.raises(errors.Corrupt, match="claim"):
        archives.Archive.open(archive.store, tmp_path / "adopter.sqlite3", adopt=True)
    assert archive.keys() == before
    # A claim without a seal changes nothing for who reads.
    other = archive.repository.open(archive.store, tmp_path / "reader.sqlite3", "host-2")
    assert other.manifest(ENVIRONMENT, "snap", HOST).read(0) == content(0)
    other.close()


def test_an_epoch_of_zero_is_none(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    archive.store.put(OWNER.claim(0), [sealed(names.Kind.CLAIM, MINE | {"epoch": 0, "token": "cd" * 32})])
    archive.store.put(AREA.manifest("zero", 0), [archive.store.get(AREA.manifest("snap", 1))])
    archive.reopen()
    assert archive.repository.snapshots(ENVIRONMENT) == ["snap"]
    assert archive.repository.hosts() == [HOST]
    archive.check()


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "", ".", "a\ud800", "x" * 2000, "packs//x"])
def test_a_tombstone_that_names_no_key_ends_a_collection_by_a_typed_error(archive: archives.Archive, key: str) -> None:
    archive.record("snap", {0: content(0)})
    document = sealed(names.Kind.TOMBSTONE, {"version": 1, "keys": [key]})
    archive.store.put(AREA.tombstone(1, "0" * 16), [document])
    archive.reopen()
    with contextlib.suppress(errors.SnapdError):
        archive.repository.upkeep.collect()
    archive.check()


def test_a_block_size_that_is_no_power_of_two_is_refused(archive: archives.Archive) -> None:
    members = DOCUMENTS[names.Kind.REPOSITORY][1] | {"block_size": BLOCK + 1}
    archive.replace(layout.REPOSITORY, sealed(names.Kind.REPOSITORY, members))
    with pytest.raises(errors.Corrupt, match="power of two"):
        archive.reopen()
