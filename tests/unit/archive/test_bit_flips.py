"""Every kind of object, damaged in every way: it is found, by a typed error, or it makes no difference."""

import dataclasses
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snapd import errors, units
from snapd.archive import codec, documents, environment, layout, manifest, names, pack, sealing, session
from snapd.archive import moves as moving
from snapd.archive.backends import memory
from snapd.archive.fencing import claim as claims
from snapd.archive.fencing import leases, tombstones
from snapd.archive.fencing import view as views
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

SEED = 20261126
AREA = layout.Area(HOST, ENVIRONMENT)
OWNER = layout.Host(HOST)
SMALL = 4096
"""Bytes of an object up to which every position is tried."""


@dataclasses.dataclass
class Image:
    """A store as two owners left it, one after the other."""

    objects: dict[str, bytes]
    claim_path: pathlib.Path
    index_path: pathlib.Path
    keyring: sealing.Keyring | None
    home: environment.Environment
    view: views.View
    disks: dict[str, bytes]

    def store(self, changes: dict[str, bytes] | None = None) -> memory.MemoryBackend:
        """A store with these objects, of which some are others."""
        store = memory.MemoryBackend()
        store._objects = self.objects | (changes or {})
        store._times = dict.fromkeys(store._objects, store.now())
        return store

    def key(self, part: str) -> str:
        """The key that contains `part`; the first one."""
        return min(key for key in self.objects if part in key)


def build(folder: pathlib.Path, keyring: sealing.Keyring | None) -> Image:
    store = memory.MemoryBackend()
    first = archives.Archive.open(store, folder / "index.sqlite3", keyring)
    blocks = {number: content(number) for number in range(16)}
    first.record("base", blocks, 16 * BLOCK)
    changes = {number: content(("new", number)) for number in range(1, 16)} | {15: bytes(BLOCK)}
    first.record("moved", changes, 16 * BLOCK, base="base")
    first.record("small", {0: content("small", 100)}, 100)
    first.record("snap", {0: content("other")}, environment_uid="env-2")
    first.repository.delete_snapshot(ENVIRONMENT, "base")
    assert first.repository.upkeep.repack().packs_moved
    first.repository.close()
    second = archives.Archive.open(store, folder / "adopter.sqlite3", keyring, adopt=True)
    second.record("new", {3: content(("new", 3)), 4: content("newest")}, 5 * BLOCK)
    home = second.repository.manifest(ENVIRONMENT, "moved")._blobs.home
    view = second.repository.connect().view
    disks = {uid: second.contents(uid) for uid in second.repository.snapshots(ENVIRONMENT)}
    second.repository.close()
    leases.Lease(store, layout.Host("host-2"), AREA)
    keys = {"version": 1, "keys": ["packs/00/" + "0" * 32]}
    store.put(AREA.tombstone(2, "0" * 16), [documents.encode(keys, sealer(names.Kind.TOMBSTONE))])
    return Image(dict(store._objects), folder / "adopter.claim", folder / "copy.sqlite3", keyring, home, view, disks)


def sealer(kind: names.Kind) -> documents.Seal:
    return lambda body: names.plain(kind, body)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    keyring = sealing.Keyring([b"k" * 32]) if request.param == "encrypted" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "TARGET", 128 * units.KIB)
        yield build(tmp_path_factory.mktemp(request.param), keyring)


Reader = Callable[[Image, memory.MemoryBackend], Any]


def read_claim(image: Image, store: memory.MemoryBackend) -> int:
    uid = session.load(store, "").uid
    return claims.take(store, OWNER, image.claim_path, uid, adopt=False).epoch


def read_manifest(image: Image, store: memory.MemoryBackend) -> manifest.Document:
    key = image.view.manifests(store, AREA)[0]["moved"]
    return manifest.decode(image.home, "moved", manifest.epoch_of(key), documents.fetch(store, key, "manifest"))


def read_moves(image: Image, store: memory.MemoryBackend) -> moving.Table:
    return moving.Moves(store, image.home, lambda: image.view, lambda: None).reload()


KINDS: dict[str, tuple[str, Reader]] = {
    "settings": ("repository.json", lambda _, store: session.load(store, "")),
    "claim": ("epochs/00000002", read_claim),
    "seal": ("epochs/00000002.seal", lambda _, store: views.load(store, OWNER)),
    "record": (f"{ENVIRONMENT}/keys/00000002", lambda image, store: environment.load(store, AREA, 2, image.keyring)),
    "manifest": ("/manifests/moved.", read_manifest),
    "moves": ("/moves/", read_moves),
    "tombstone": (
        "/tombstones/",
        lambda _, store: tombstones.named(store, AREA, [key for key, _ in store.list(AREA.tombstones)]),
    ),
}


def flips(data: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Position, bit, and the bytes with that bit flipped: all of a small object, of a larger one a sample."""
    rng = random.Random(f"{SEED} {name}")
    length = len(data)
    every = range(length) if length <= SMALL else [*range(80), *range(length - 400, length)]
    chosen = [(position, bit) for position in every for bit in range(8)]
    chosen += [(rng.randrange(length), rng.randrange(8)) for _ in range(500)] if length > SMALL else []
    for position, bit in chosen:
        yield position, bit, data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def assert_found(what: str, read: Callable[..., object], *arguments: object) -> None:
    """Damage is found, and by the error that says so."""
    try:
        read(*arguments)
    except errors.Corrupt:
        return
    pytest.fail(f"seed {SEED}: {what} makes no difference")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_a_document_is_always_found(image: Image, kind: str) -> None:
    part, read = KINDS[kind]
    key = image.key(part)
    read(image, image.store())
    for position, bit, data in flips(image.objects[key], kind):
        assert_found(f"bit {bit} of byte {position} of {key}", read, image, image.store({key: data}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_another_length_is_always_found(image: Image, kind: str) -> None:
    part, read = KINDS[kind]
    key = image.key(part)
    pristine = image.objects[key]
    cut = [pristine[:length] for length in range(len(pristine))]
    longer = [pristine + more for more in (b"\0", b" ", b"\n", b"}", pristine)]
    around = [b" " + pristine, pristine[1:], b"", bytes(len(pristine)), b"{}", b"\xff\xfe" + pristine]
    for data in cut + longer + around:
        assert_found(f"{kind}: {data!r}", read, image, image.store({key: data}))


def test_a_damaged_lease_counts(image: Image) -> None:
    key = image.key("/leases/")
    pristine = image.objects[key]
    other = layout.Area(HOST, "env-2")
    assert leases.is_read(image.store(), AREA)
    assert not leases.is_read(image.store(), other)
    cut = [pristine[:length] for length in range(len(pristine))]
    for data in [*cut, pristine + b"\0", *(data for _, _, data in flips(pristine, "lease"))]:
        # Nobody knows what it was for.
        assert leases.is_read(image.store({key: data}), AREA)
        assert leases.is_read(image.store({key: data}), other)


def small_pack(image: Image) -> bytes:
    """The pack of the snapshot of 100 bytes: it has a block and a page."""
    document = manifest.decode(image.home, "small", 1, image.objects[AREA.manifest("small", 1)])
    return document.root.pack


def large_pack(image: Image) -> bytes:
    found = max((key for key in image.objects if key.startswith(AREA.packs)), key=lambda key: len(image.objects[key]))
    pack_id = layout.pack_id(found)
    assert pack_id is not None
    return pack_id


def check_pack(image: Image, proof: str, pack_id: bytes, data: bytes | None = None) -> pack.Index:
    key = AREA.pack(pack_id)
    store = image.store({} if data is None else {key: data})
    if proof == "prove":
        return pack.prove(store, image.home, pack_id, len(image.objects[key]))
    return pack.verify(store, image.home, pack_id, codec.Codec(1), len(image.objects[key]))


@pytest.mark.parametrize("proof", ["prove", "verify"])
def test_a_flipped_bit_in_a_pack_is_always_found_by_a_proof(image: Image, proof: str) -> None:
    for pack_id in (small_pack(image), large_pack(image)):
        pristine = image.objects[AREA.pack(pack_id)]
        assert check_pack(image, proof, pack_id).rows
        for position, bit, data in flips(pristine, proof):
            where = f"bit {bit} of byte {position} of {len(pristine)}"
            assert_found(where, check_pack, image, proof, pack_id, data)


@pytest.mark.parametrize("proof", ["prove", "verify"])
def test_a_pack_of_another_length_or_another_one_is_always_found_by_a_proof(image: Image, proof: str) -> None:
    pack_id, other = small_pack(image), large_pack(image)
    pristine = image.objects[AREA.pack(pack_id)]
    elsewhere = image.objects[image.key("env-2/packs/")]
    for data in (
        *(pristine[:length] for length in range(len(pristine))),
        pristine + b"\0",
        pristine + pristine,
        pristine[:-64] + bytes(48) + pristine[-64:],
        image.objects[AREA.pack(other)],
        elsewhere,
        elsewhere[:16] + pack_id + elsewhere[32:],
        bytes(len(pristine)),
    ):
        assert_found(f"a pack of {len(data)} bytes", check_pack, image, proof, pack_id, data)


def read_disks(image: Image, store: memory.MemoryBackend) -> dict[str, bytes | str]:
    """Every snapshot's bytes, or the reason why they can't be had, as a fresh process sees it."""
    for suffix in ("", "-wal", "-shm"):
        image.index_path.with_name(image.index_path.name + suffix).unlink(missing_ok=True)
    image.index_path.with_name("copy.claim").write_bytes(image.claim_path.read_bytes())
    opened = archives.Archive.open(store, image.index_path, image.keyring)
    shown: dict[str, bytes | str] = {}
    try:
        for uid in image.disks:
            try:
                shown[uid] = opened.contents(uid)
            except errors.Corrupt as error:
                shown[uid] = error.reason
    finally:
        opened.repository.close()
    return shown


def test_a_damaged_pack_never_shows_other_bytes(image: Image) -> None:
    rng, damaged = random.Random(SEED), 0
    keys = [key for key in image.objects if key.startswith(AREA.packs)]
    for turn in range(40):
        key = rng.choice(keys)
        data = image.objects[key]
        start, end = int.from_bytes(data[-64:-60], "little"), len(data)
        low, high = [(0, 32), (32, start), (32, start), (start, end - 64), (end - 64, end)][turn % 5]
        position = rng.randrange(low, high)
        cut = turn % 6 == 5
        bit = rng.randrange(8)
        changed = data[:position] + (b"" if cut else bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
        shown = read_disks(image, image.store({key: changed}))
        for uid, disk in image.disks.items():
            assert shown[uid] in (disk, "CORRUPT"), f"seed {SEED}: {uid} with byte {position} of {key}, cut: {cut}"
        damaged += shown != image.disks
    assert damaged > 10


def swaps(image: Image) -> Iterator[tuple[str, str, bytes]]:
    """Kind, key, and another valid object of that kind."""
    objects = image.objects
    yield "claim", OWNER.claim(2), objects[OWNER.claim(1)]
    yield "claim", OWNER.claim(2), reseal(names.Kind.CLAIM, objects[OWNER.claim(2)], host="host-2")
    yield "seal", OWNER.seal(2), reseal(names.Kind.SEAL, objects[OWNER.seal(2)], epoch=1)
    yield "seal", OWNER.seal(2), reseal(names.Kind.SEAL, objects[OWNER.seal(2)], host="host-2")
    yield "record", AREA.record(2), objects[AREA.record(1)]
    yield "record", AREA.record(2), objects[layout.Area(HOST, "env-2").record(2)]
    yield "record", AREA.record(2), reseal(names.Kind.ENVIRONMENT, objects[AREA.record(2)], host="host-2")
    for other in (AREA.manifest("new", 2), AREA.manifest("small", 1), layout.Area(HOST, "env-2").manifest("snap", 1)):
        yield "manifest", AREA.manifest("moved", 1), objects[other]
    yield "moves", image.key("/moves/"), objects[AREA.manifest("moved", 1)]
    for home in (
        dataclasses.replace(image.home, area=layout.Area("host-2", ENVIRONMENT)),
        dataclasses.replace(image.home, area=layout.Area(HOST, "env-2")),
    ):
        document = read_manifest(image, image.store())
        yield "manifest", AREA.manifest("moved", 1), manifest.encode(home, document)
        yield "moves", image.key("/moves/"), moves_of(image, home, 1, 1)
    document = dataclasses.replace(read_manifest(image, image.store()), epoch=2)
    yield "manifest", AREA.manifest("moved", 1), manifest.encode(image.home, document)
    yield "moves", image.key("/moves/"), moves_of(image, image.home, 1, 2)
    yield "moves", image.key("/moves/"), moves_of(image, image.home, 2, 1)


def reseal(kind: names.Kind, data: bytes, **changes: documents.Json) -> bytes:
    members = documents.decode("object", data, sealer(kind), 1)
    return documents.encode(members | changes, sealer(kind))


def moves_of(image: Image, home: environment.Environment, epoch: int, number: int) -> bytes:
    members = {
        "version": 1,
        "environment_uid": home.area.environment_uid,
        "host": home.area.host,
        "epoch": epoch,
        "number": number,
        "moves": "",
    }
    return documents.encode(members, lambda body: names.keyed(image.home.key, names.Kind.MOVES, body))


def test_an_object_is_refused_in_the_place_of_another_of_its_kind(image: Image) -> None:
    for kind, key, data in swaps(image):
        assert key in image.objects
        assert_found(key, KINDS[kind][1], image, image.store({key: data}))


def test_the_settings_of_another_archive_are_not_taken_for_ours(image: Image, tmp_path: pathlib.Path) -> None:
    other = archives.Archive.open(memory.MemoryBackend(), tmp_path / "other.sqlite3", image.keyring)
    settings = other.store.get(layout.REPOSITORY)
    other.repository.close()
    with pytest.raises(errors.ArchiveClaimed):
        read_disks(image, image.store({layout.REPOSITORY: settings}))


def test_false_places_and_lengths_in_a_manifest_change_nothing_or_are_refused(
    image: Image, tmp_path: pathlib.Path
) -> None:
    document = read_manifest(image, image.store())
    opened = archives.Archive.open(image.store(), tmp_path / "index.sqlite3", image.keyring, adopt=True)
    environment_blobs = opened.repository.manifest(ENVIRONMENT, "moved")._blobs
    expected = image.disks["moved"]
    for change in (
        {"offset": 0}, {"offset": (1 << 32) - 1}, {"length": 0}, {"length": 1}, {"length": (1 << 32) - 1},
        {"length": document.root.length + 1}, {"pack": bytes(16)}, {"pack": b"\xff" * 16},
    ):  # fmt: skip
        root = document.root._replace(**change)
        found = manifest.Manifest(environment_blobs, dataclasses.replace(document, root=root))
        try:
            assert b"".join(found.read(number) for number in range(found.blocks)) == expected
        except errors.Corrupt:
            assert "pack" in change, f"{change} could have been put right by name"
    for size_bytes in (0, 1, 14 * BLOCK + 1, 16 * BLOCK + 1, 256 * BLOCK, 256 * BLOCK + 1, 1 << 50):
        data = manifest.encode(image.home, dataclasses.replace(document, size_bytes=size_bytes))
        found = manifest.Manifest(environment_blobs, manifest.decode(image.home, "moved", 1, data))
        for number in {0, min(14, found.blocks - 1), found.blocks - 1} if found.blocks else ():
            try:
                block = found.read(number)
            except errors.Corrupt:
                continue
            start = number * BLOCK
            assert block == expected[start : start + BLOCK] or (block == bytes(len(block)) and start >= 14 * BLOCK)
    opened.repository.close()
