"""An archive to test on: small blocks, small disks, and ways to look at it from outside."""

import dataclasses
import pathlib
import random
from collections.abc import Mapping

from snapd import units
from snapd.archive import layout, manifest, pages, repository, sealing
from snapd.archive.backends import backend

BLOCK = 64 * units.KIB
HOST = "host-1"
ENVIRONMENT = "env-1"


def content(seed: object, length: int = BLOCK) -> bytes:
    """Return bytes that compress to about half, the same ones for the same seed."""
    return random.Random(repr(seed)).randbytes(length // 2) + bytes(length - length // 2)


@dataclasses.dataclass
class Archive:
    """A store, and the repository that is open on it."""

    store: backend.Backend
    index_path: pathlib.Path
    repository: repository.Repository
    keyring: sealing.Keyring | None = None

    @classmethod
    def open(
        cls,
        store: backend.Backend,
        index_path: pathlib.Path,
        keyring: sealing.Keyring | None = None,
        *,
        adopt: bool = False,
    ) -> "Archive":
        opened = repository.Repository.open(store, index_path, HOST, block_size=BLOCK, keyring=keyring, adopt=adopt)
        return cls(store, index_path, opened, keyring)

    def reopen(self) -> None:
        """Close, and open again as the next process would."""
        self.repository.close()
        self.repository = repository.Repository.open(self.store, self.index_path, HOST, keyring=self.keyring)

    def lose_index(self) -> None:
        """Close, delete the index, and open again."""
        self.repository.close()
        for path in self.index_path.parent.glob(self.index_path.name + "*"):
            path.unlink()
        self.repository = repository.Repository.open(self.store, self.index_path, HOST, keyring=self.keyring)

    def record(
        self,
        snapshot_uid: str,
        blocks: Mapping[int, bytes],
        size_bytes: int = 8 * BLOCK,
        base: str | None = None,
        environment_uid: str = ENVIRONMENT,
    ) -> manifest.Statistics:
        """Record a snapshot whose other blocks are the base's, or zeros."""
        with self.repository.begin(environment_uid, snapshot_uid, size_bytes, base) as recording:
            for number, data in blocks.items():
                recording.put(number, data)
            return recording.commit({})

    def contents(self, snapshot_uid: str, environment_uid: str = ENVIRONMENT) -> bytes:
        """Return a snapshot's disk, read block by block and in runs, which must agree."""
        found = self.repository.manifest(environment_uid, snapshot_uid)
        single = b"".join(found.read(number) for number in range(found.blocks))
        runs = dict(found.read_blocks(0, found.blocks))
        joined = b"".join(runs.get(number, bytes(found.block_length(number))) for number in range(found.blocks))
        assert joined == single, "reading in runs differs from reading block by block"
        return single

    def keys(self, part: str = "") -> list[str]:
        """Return the keys of the store that contain `part`, sorted."""
        return sorted(key for key, _ in self.store.list("") if part in key)

    def damage(self, key: str, position: int) -> None:
        """Flip one bit of an object."""
        data = bytearray(self.store.get(key))
        data[position] ^= 1 << (position % 8)
        self.replace(key, bytes(data))

    def replace(self, key: str, data: bytes) -> None:
        """Put other bytes in an object's place."""
        self.store.delete(key)
        self.store.put(key, [data])

    def check(self, environment_uid: str = ENVIRONMENT) -> None:
        """Check every invariant that can be checked from outside: tables are exact, and each block verifies."""
        for uid in self.repository.snapshots(environment_uid):
            found = self.repository.manifest(environment_uid, uid)
            assert walk(found) == found.document.packs.references
            area = layout.Area(HOST, environment_uid)
            for pack_id, size_bytes in found.document.packs.sizes.items():
                moved = found._blobs.moves.targets(pack_id)
                assert moved or self.store.size(area.pack(pack_id)) == size_bytes
                assert all(self.store.size(area.pack(target)) for target in moved)
            for number in range(found.blocks):
                found.read(number)


def walk(found: manifest.Manifest) -> dict[bytes, int]:
    """Return how many entries of a snapshot's tree refer to each pack, by reading all of it."""
    counts: dict[bytes, int] = {}

    def visit(level: int, entry: pages.Entry) -> None:
        if entry.is_nothing:
            return
        counts[entry.pack] = counts.get(entry.pack, 0) + 1
        if level >= 0:
            page = found.page(entry)
            for position in range(pages.FANOUT):
                visit(level - 1, pages.decode(page, position))

    visit(pages.depth_for(found.blocks) - 1, found.document.root)
    return counts
