"""The format as docs/archive-format.md states it: a second reader, made from that page alone, reads what we write."""

import base64
import json
import os
import struct

import pytest
import zstandard
from blake3 import blake3

from snapd import errors, units
from snapd.archive import documents, pack
from snapd.archive.backends import backend
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content


def unseal(data: bytes, kind: int, key: bytes | None) -> dict[str, documents.Json]:
    body, _, rest = data.rpartition(b',"checksum":')
    covered = body + bytes([kind])
    assert json.loads(rest.removesuffix(b"}")) == (blake3(covered, key=key) if key else blake3(covered)).hexdigest()
    members = json.loads(data)
    assert isinstance(members, dict)
    return members


class SecondReader:
    """Reads one snapshot with nothing of ours but the store's objects."""

    def __init__(self, store: backend.Backend, snapshot_uid: str) -> None:
        self.store = store
        self.prefix = f"hosts/{HOST}/environments/{ENVIRONMENT}"
        repository = unseal(store.get("repository.json"), 0x52, None)
        assert (repository["format"], repository["version"]) == ("snapd-archive", 1)
        record = unseal(store.get(f"{self.prefix}/keys/00000001"), 0x45, None)
        assert record["key"]["wrapping"] == "none"
        self.key = base64.b64decode(record["key"]["bytes"])
        self.manifest = unseal(store.get(f"{self.prefix}/manifests/{snapshot_uid}.00000001"), 0x4D, self.key)

    def blob(self, kind: int, entry: bytes) -> bytes:
        name, pack_id, offset, length = struct.unpack("<32s16sII", entry)
        key = f"{self.prefix}/packs/{pack_id[:1].hex()}/{pack_id.hex()}"
        stored = self.store.get(key)[offset : offset + length]
        data: bytes = stored[1:] if stored[0] == 0 else zstandard.decompress(stored[1:])
        assert blake3(data + bytes([kind]), key=self.key).digest() == name
        return data

    def disk(self) -> bytes:
        size_bytes, block_size = self.manifest["size_bytes"], self.manifest["block_size"]
        found = bytearray(size_bytes)

        def visit(level: int, number: int, entry: bytes) -> None:
            if entry[:32] == bytes(32):
                return
            if level < 0:
                block = self.blob(1, entry)
                found[number * block_size : number * block_size + len(block)] = block
                return
            page = self.blob(2, entry)
            assert len(page) == 14_336
            for position in range(256):
                visit(level - 1, number * 256 + position, page[position * 56 : position * 56 + 56])

        visit(self.manifest["depth"] - 1, 0, bytes.fromhex(self.manifest["root"]))
        assert len(found) == size_bytes
        return bytes(found)

    def check_packs(self) -> None:
        table = base64.b64decode(self.manifest["packs"])
        for pack_id, references, length in struct.iter_unpack("<16sII", table):
            assert references > 0
            data = self.store.get(f"{self.prefix}/packs/{pack_id[:1].hex()}/{pack_id.hex()}")
            assert len(data) == length
            assert data[:16] == b"SNPACK" + struct.pack("<HII", 1, 0, 1)
            assert data[16:32] == pack_id
            index_offset, count, body_hash = struct.unpack("<II16s", data[-64:-40])
            assert body_hash == blake3(data[:index_offset] + b"\x42", key=self.key).digest()[:16]
            covered = data[:32] + data[index_offset:-40] + b"\x50"
            assert data[-40:] == blake3(covered, key=self.key).digest() + b"SNPACKED"
            position = 32
            for name, offset, stored, plain, kind in struct.iter_unpack("<32sIIIB3x", data[index_offset:-64]):
                assert offset == position
                entry = struct.pack("<32s16sII", name, pack_id, offset, stored)
                assert len(self.blob(kind, entry)) == plain
                position += stored
                count -= 1
            assert (position, count) == (index_offset, 0)


def test_a_reader_made_from_the_documentation_reads_what_we_write(
    archive_on_disk: archives.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "TARGET", 256 * units.KIB)
    size_bytes = 600 * BLOCK + 99
    blocks = {number: content(number) for number in range(0, 600, 50)}
    blocks |= {600: content(600, 99), 7: os.urandom(BLOCK)}
    archive_on_disk.record("base", blocks, size_bytes)
    archive_on_disk.record("snap", {50: content("new")}, size_bytes, base="base")
    for uid in ("base", "snap"):
        reader = SecondReader(archive_on_disk.store, uid)
        assert reader.disk() == archive_on_disk.contents(uid)
        reader.check_packs()


def test_an_archive_keeps_the_block_size_it_was_made_with(archive: archives.Archive) -> None:
    archive.reopen()
    assert archive.repository.block_size == BLOCK


@pytest.mark.parametrize("block_size", [0, 1, 32 * units.KIB, 65537, 100_000, 8 * units.MIB])
def test_a_block_size_outside_the_format_is_refused(archive: archives.Archive, block_size: int) -> None:
    with pytest.raises(errors.InvalidField):
        archive.repository.open(archive.store, archive.index_path, HOST, block_size=block_size)


@pytest.mark.parametrize("member", ["version", "required_to_read", "required_to_write"])
def test_an_archive_of_a_later_format_is_refused(archive: archives.Archive, member: str) -> None:
    members = unseal(archive.store.get("repository.json"), 0x52, None)
    del members["checksum"]
    members[member] = 2 if member == "version" else ["later"]
    later = documents.encode(members, lambda body: bytes(blake3(body + b"\x52").digest()))
    archive.replace("repository.json", later)
    with pytest.raises(errors.SchemaTooNew):
        archive.reopen()


def test_members_that_are_not_known_are_ignored(archive: archives.Archive) -> None:
    members = unseal(archive.store.get("repository.json"), 0x52, None)
    del members["checksum"]
    members["motto"] = "later"
    archive.replace("repository.json", documents.encode(members, lambda body: bytes(blake3(body + b"\x52").digest())))
    archive.reopen()
    archive.record("snap", {0: content(0)})


def test_another_host_reads_what_this_one_wrote_and_deletes_none_of_it(archive: archives.Archive) -> None:
    archive.record("snap", {0: content(0)})
    other = archive.repository.open(archive.store, archive.index_path.with_name("other.sqlite3"), "host-2")
    try:
        assert other.hosts() == [HOST, "host-2"]
        assert other.environments(HOST) == [ENVIRONMENT]
        assert other.snapshots(ENVIRONMENT, HOST) == ["snap"]
        assert other.manifest(ENVIRONMENT, "snap", HOST).read(0) == content(0)
        assert other.environments() == []
        assert other.delete_snapshot(ENVIRONMENT, "snap") is False
        assert other.upkeep.collect().packs_deleted == 0
    finally:
        other.close()
    archive.check()
