"""A second reader of archives, made from docs/archive-format.md alone. It must know nothing of `snapd`."""

from __future__ import annotations

import base64
import collections
import functools
import json
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import blake3
import zstandard
from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

BLOCK, PAGE, ENTRIES, PAGE_BYTES = 0x01, 0x02, 256, 256 * 56
NAME, NUMBER = "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "[0-9a-f]{8}"
CONTEXT = "snapd-storage archive 1: "


class BrokenError(Exception):
    """The archive isn't what the page says."""


class Objects(Protocol):
    """A store, as far as a reader needs one. Keys are those of the page."""

    def get(self, key: str) -> bytes: ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]: ...


def need(condition: object, what: str) -> None:
    """Refuse what the page doesn't allow."""
    if not condition:
        raise BrokenError(what)


def digest(data: bytes, kind: int, key: bytes | None = None) -> bytes:
    """The hash of bytes and their kind byte: keyed, or plain."""
    hasher = blake3.blake3(data, key=key) if key is not None else blake3.blake3(data)
    return bytes(hasher.update(bytes([kind])).digest())


def document(data: bytes, kind: int, key: bytes | None = None) -> dict[str, Any]:
    """The members of a document, its checksum and form checked."""
    need(len(data) <= 64 << 20, "a document is too long")
    body, mark, tail = data.rpartition(b',"checksum":')
    need(mark and tail == b'"%s"}' % digest(body, kind, key).hex().encode(), "a document's checksum is wrong")
    try:
        members = json.loads((body + b"}").decode("ascii"))
    except ValueError as error:
        raise BrokenError("a document is no JSON") from error
    need(isinstance(members, dict) and members.get("version") == 1, "a document has an unknown version")
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    need(canonical == body + b"}", "a document isn't in the one form that it may have")
    return dict(members)


class Keys:
    """The repository's keys, by their ids."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = {blake3.blake3(key, derive_key_context=CONTEXT + "key id").digest(4): key for key in keys}

    def open(self, key_id: bytes, salt: bytes, context: str, nonce: int, text: bytes, associated: bytes) -> bytes:
        """What a ciphertext hides."""
        need(key_id in self.keys, "the key of this archive is not at hand")
        derived = blake3.blake3(self.keys[key_id] + salt, derive_key_context=CONTEXT + context).digest()
        try:
            return aead.AESGCM(derived).decrypt(nonce.to_bytes(12, "little"), text, associated)
        except (exceptions.InvalidTag, ValueError) as error:
            raise BrokenError("a ciphertext was changed") from error

    def open_document(self, sealed: bytes, associated: str) -> bytes:
        """What key id, salt and ciphertext hide."""
        return self.open(sealed[:4], sealed[4:20], "document", 0, sealed[20:], associated.encode())


class Pack:
    """A pack whose every byte was checked, and its index."""

    def __init__(self, data: bytes, pack_id: bytes, key: bytes) -> None:
        need(96 <= len(data) <= 64 << 20, "a pack's length can't be")
        self.data = data
        magic, version, flags, _, name = struct.unpack("<6sHII16s", data[:32])
        need((magic, version, flags, name) == (b"SNPACK", 1, 0, pack_id), "a pack's header is wrong")
        start, count, body, checksum, end = struct.unpack("<II16s32s8s", data[-64:])
        need(end == b"SNPACKED" and start >= 32 and start + 48 * count + 64 == len(data), "a pack's trailer is wrong")
        need(count <= 65535 and body == digest(data[:start], 0x42, key)[:16], "a pack's body is damaged")
        need(checksum == digest(data[:32] + data[start:-40], 0x50, key), "a pack's index is damaged")
        self.rows: dict[tuple[bytes, int], tuple[int, int, int]] = {}
        position = 32
        for name, offset, stored, length, kind, zero in struct.iter_unpack("<32sIIIB3s", data[start:-64]):
            need(offset == position and stored and zero == bytes(3), "a pack's index doesn't tile it")
            need(kind in {BLOCK, PAGE} or kind >= 0x80, "a pack holds what nobody knows")
            self.rows[name, kind] = offset, stored, length
            position += stored
        need(position == start and len(self.rows) == count, "a pack's index doesn't tile it")


class Archive:
    """An archive, as somebody sees it who has nothing but the page, the store and the keys."""

    def __init__(self, store: Objects, keys: Sequence[bytes] = ()) -> None:
        self.store, self.keys = store, Keys(keys)
        self.settings = document(store.get("repository.json"), 0x52)
        need(self.settings["format"] == "snapd-archive", "this is no archive")
        need(set(self.settings["required_to_read"]) <= {"sealed"}, "this archive needs another reader")
        self.encrypted = "sealed" in self.settings["required_to_read"]
        self.block_size: int = self.settings["block_size"]
        need(self.block_size in {1 << bits for bits in range(16, 23)}, "no block has this size")

    def names(self, prefix: str, pattern: str) -> list[tuple[str, ...]]:
        """What the keys below a prefix are called, in order; others aren't meant for us."""
        matches = (re.fullmatch(pattern, key[len(prefix) :]) for key, _ in self.store.list(prefix))
        return sorted(match.groups() for match in matches if match)

    def hosts(self) -> list[str]:
        """Who has claimed a prefix."""
        return sorted({host for (host,) in self.names("hosts/", rf"({NAME})/epochs/{NUMBER}")})

    def present(self, host: str) -> tuple[int, dict[str, Any]]:
        """The present epoch of a host, and the environments that its seal names."""
        prefix = f"hosts/{host}/epochs/"
        seals = [name for (name,) in self.names(prefix, rf"({NUMBER}\.seal)")]
        names = seals[-1:] or [name for (name,) in self.names(prefix, f"({NUMBER})")]
        need(names, "nobody claimed this host")
        members = document(self.store.get(prefix + names[0]), 0x53 if seals else 0x43)
        need((members["host"], members["epoch"]) == (host, int(names[0][:8], 16)), "a claim or a seal is another one's")
        return members["epoch"], dict(members.get("environments", {}))

    def environments(self, host: str) -> list[str]:
        """The environments of a host that exist."""
        pattern = f"({NAME})/keys/{self.present(host)[0]:08x}"
        return [name for (name,) in self.names(f"hosts/{host}/environments/", pattern)]

    def snapshots(self, host: str, environment: str) -> list[str]:
        """The snapshots of an environment that count."""
        return sorted(Environment(self, host, environment).manifests)

    def read(self, host: str, environment: str, snapshot: str) -> bytes:
        """A whole disk; for one that fits into memory."""
        disk = Disk(Environment(self, host, environment), snapshot)
        data = bytearray(disk.size)
        for number, block in disk.blocks():
            data[number * self.block_size : number * self.block_size + len(block)] = block
        return bytes(data)


class Environment:
    """One environment: its key, which manifests count, and where its packs are."""

    def __init__(self, archive: Archive, host: str, name: str) -> None:
        self.archive, self.host, self.name = archive, host, name
        self.prefix = f"hosts/{host}/environments/{name}/"
        self.epoch, sealed = archive.present(host)
        record = document(archive.store.get(f"{self.prefix}keys/{self.epoch:08x}"), 0x45)
        need(self.is_ours(record) and record["epoch"] == self.epoch, "an environment's record is somebody else's")
        self.key = self.unwrap(record["key"])
        old = sealed.get(name, {"manifests": {}, "moves": ""})
        self.manifests: dict[str, int] = {}
        for snapshot, number in archive.names(self.prefix + "manifests/", rf"({NAME})\.({NUMBER})"):
            epoch = int(number, 16)
            if epoch == self.epoch or old["manifests"].get(snapshot) == epoch:
                self.manifests[snapshot] = max(epoch, self.manifests.get(snapshot, 0))
        self.packs = {
            bytes.fromhex(key[-32:]): size
            for key, size in archive.store.list(self.prefix + "packs/")
            if re.fullmatch(r"([0-9a-f]{2})/\1[0-9a-f]{30}", key[len(self.prefix) + 6 :])
        }
        self.moves = self.read_moves(old["moves"])
        self.pack = functools.lru_cache(4)(self.read_pack)

    def is_ours(self, members: dict[str, Any]) -> bool:
        """Whether a document was made for this environment."""
        return (members["host"], members["environment_uid"]) == (self.host, self.name)

    def unwrap(self, key: dict[str, str]) -> bytes:
        """The environment's key, out of its record."""
        plain, encrypted = base64.b64decode(key["bytes"], validate=True), self.archive.encrypted
        need(key["wrapping"] == ("AES-256-GCM" if encrypted else "none"), "a key is wrapped otherwise")
        plain = self.archive.keys.open_document(plain, self.prefix + "keys/") if encrypted else plain
        need(len(plain) == 32, "a key has another length")
        return plain

    def read_moves(self, sealed: str) -> dict[bytes, list[bytes]]:
        """Where the blobs of emptied packs went."""
        moves: dict[bytes, list[bytes]] = {}
        own = self.archive.names(self.prefix + "moves/", rf"({self.epoch:08x}\.{NUMBER})")
        if not own and not sealed:
            return moves
        self.moves_key = self.prefix + "moves/" + (own[-1][0] if own else sealed)
        members = document(self.archive.store.get(self.moves_key), 0x4F, self.key)
        name = f"{members['epoch']:08x}.{members['number']:08x}"
        need(self.is_ours(members) and self.moves_key.endswith(f"/{name}"), "moves are somebody else's")
        rows = list(struct.iter_unpack("<16s16s", base64.b64decode(members["moves"], validate=True)))
        need(rows == sorted(set(rows)), "moves aren't in order")
        for source, target in rows:
            moves.setdefault(source, []).append(target)
        return moves

    def read_pack(self, pack_id: bytes) -> Pack:
        """A pack of this environment, checked."""
        key = f"{self.prefix}packs/{pack_id.hex()[:2]}/{pack_id.hex()}"
        return Pack(self.archive.store.get(key), pack_id, self.key)

    def blob(self, entry: bytes, kind: int, length: int) -> bytes:
        """What an entry refers to, wherever it is by now."""
        name, pack_id, offset, stored = struct.unpack("<32s16sII", entry)
        if pack_id in self.packs:
            pack = self.pack(pack_id)
            need(pack.rows.get((name, kind)) == (offset, stored, length), "a page and a pack disagree")
            return self.decode(pack, pack_id, name, kind)
        ahead, seen = collections.deque([pack_id]), {pack_id}
        while ahead:
            for target in self.moves.get(ahead.popleft(), []):
                if target in self.packs and (name, kind) in self.pack(target).rows:
                    need(self.pack(target).rows[name, kind][2] == length, "a page and a pack disagree")
                    return self.decode(self.pack(target), target, name, kind)
                if target not in seen:
                    seen.add(target)
                    ahead.append(target)
        raise BrokenError(f"pack {pack_id.hex()} is gone")

    def decode(self, pack: Pack, pack_id: bytes, name: bytes, kind: int) -> bytes:
        """The bytes of a blob, checked by its name."""
        offset, stored, length = pack.rows[name, kind]
        coded = pack.data[offset : offset + stored]
        if self.archive.encrypted:
            need(coded[0] == 0x10, "a blob of an encrypted archive isn't sealed")
            coded = self.archive.keys.open(coded[1:5], pack_id, "pack", offset, coded[5:], bytes([kind]) + name)
        need(coded[:1] in {b"\x00", b"\x01"}, "a blob has an unknown encoding")
        data = inflate(coded[1:], length) if coded[0] else coded[1:]
        need(len(data) == length and digest(data, kind, self.key) == name, "a blob is damaged")
        return data


class Disk:
    """A snapshot of a disk."""

    def __init__(self, environment: Environment, snapshot: str) -> None:
        need(snapshot in environment.manifests, "there is no such snapshot")
        self.environment, epoch = environment, environment.manifests[snapshot]
        key = f"{environment.prefix}manifests/{snapshot}.{epoch:08x}"
        data = environment.archive.store.get(key)
        if environment.archive.encrypted:
            outer = document(data, 0x4D, environment.key)
            data = environment.archive.keys.open_document(base64.b64decode(outer["sealed"], validate=True), key)
        members = document(data, 0x4D, environment.key)
        need(environment.is_ours(members), "a manifest is somebody else's")
        need((members["snapshot_uid"], members["epoch"]) == (snapshot, epoch), "a manifest is another one's")
        need(members["block_size"] == environment.archive.block_size, "a manifest has blocks of another size")
        self.size, self.block_size = int(members["size_bytes"]), int(members["block_size"])
        self.count = -(-self.size // self.block_size)
        self.depth = next(depth for depth in range(1, 9) if ENTRIES**depth >= self.count)
        self.root = bytes.fromhex(members["root"])
        table = list(struct.iter_unpack("<16sII", base64.b64decode(members["packs"], validate=True)))
        self.table = {pack_id: count for pack_id, count, _ in table}
        need([row[0] for row in table] == sorted(self.table), "a pack table isn't in order")
        need(members["depth"] == self.depth and len(self.root) == 56, "a manifest's depth or root is wrong")
        for pack_id, _, length in table:
            need(environment.packs.get(pack_id, length) == length, "a pack has another length than its table says")

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """The blocks that aren't zero, with their numbers; at the end, whether the pack table is right."""
        self.references: collections.Counter[bytes] = collections.Counter()
        yield from self.below(self.root, self.depth, 0)
        need(self.references == self.table, "a pack table counts otherwise than its tree")

    def below(self, entry: bytes, height: int, number: int) -> Iterator[tuple[int, bytes]]:
        """The blocks below the entry for page (or block, at height 0) `number`."""
        if entry == bytes(56):
            return
        need(entry[:32] != bytes(32), "an entry has a place but no name")
        need(number * ENTRIES**height < max(self.count, 1), "a page goes on after the disk's end")
        self.references[entry[32:48]] += 1
        if height == 0:
            length = min(self.block_size, self.size - number * self.block_size)
            yield number, self.environment.blob(entry, BLOCK, length)
            return
        page = self.environment.blob(entry, PAGE, PAGE_BYTES)
        need(any(page), "a page of zeros was stored")
        for index in range(ENTRIES):
            yield from self.below(page[index * 56 : (index + 1) * 56], height - 1, number * ENTRIES + index)


def inflate(frame: bytes, length: int) -> bytes:
    """Open a zstd frame that says that it has `length` bytes."""
    try:
        head = zstandard.get_frame_parameters(frame)
        need(head.content_size == length and not head.dict_id, "a frame has another length, or a dictionary")
        decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()
        data = decoder.decompress(frame)
    except zstandard.ZstdError as error:
        raise BrokenError("a frame is damaged") from error
    need(decoder.eof and not decoder.unused_data, "something follows a frame, or it is cut")
    return data
