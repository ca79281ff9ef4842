"""Documents of an archive that lie, although their seals are right: who writes the store can read the key beside it.

Case 60. A reader takes no more memory or time than the document's own length is worth, and never returns bytes that
don't have their name. That damage without the key is found is shown where the archive is tested.
"""

import pathlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snapd import errors, units
from snapd.archive import documents, environment, layout, names, pages
from snapd.archive.backends import directory
from snapd.copier import control, restore
from snapd.qcow2.writing import create, writer
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

SIZE = 300 * BLOCK
AREA = layout.Area(HOST, ENVIRONMENT)
OTHER = "env-2"


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> Iterator[archives.Archive]:
    """An archive in a folder with one snapshot in each of two environments."""
    opened = archives.Archive.open(directory.DirectoryBackend(tmp_path / "archive"), tmp_path / "index.sqlite3")
    opened.record("snap", {number: content(number) for number in (0, 1, 299)}, SIZE)
    opened.record("snap", {0: content("secret")}, SIZE, environment_uid=OTHER)
    yield opened
    opened.repository.close()


def forge(archive: archives.Archive, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and seal it again, as only one who has the environment's key can."""
    home = environment.load(archive.store, AREA, 1, None)
    members = documents.decode("it", archive.store.get(AREA.manifest("snap", 1)), home.hash_manifest, 1)
    change(members)
    archive.replace(AREA.manifest("snap", 1), documents.encode(members, home.hash_manifest))
    archive.reopen()


def read_all(archive: archives.Archive) -> dict[int, bytes]:
    found = archive.repository.manifest(ENVIRONMENT, "snap")
    return dict(found.read_blocks(0, found.blocks))


def root(**fields: Any) -> Callable[[dict[str, Any]], object]:
    def change(members: dict[str, Any]) -> None:
        entry = pages.decode(bytes.fromhex(members["root"]))
        members["root"] = entry._replace(**fields).encode().hex()

    return change


def member(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda members: members.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        member("size_bytes", SIZE // 2 + 17),
        member("size_bytes", 2 * SIZE * 256),
        member("size_bytes", 1 << 51),
        member("size_bytes", -1),
        member("size_bytes", 1e9),
        member("size_bytes", True),
        member("size_bytes", str(SIZE)),
        member("size_bytes", None),
        member("block_size", 0),
        member("block_size", 1),
        member("block_size", 1 << 40),
        member("block_size", 2 * BLOCK),
        member("depth", 10**9),
        member("depth", 0),
        member("packs", "A" * 25),
        member("packs", documents.base64_text(bytes(24) * 1_000)),
        member("packs", documents.base64_text(b"\xff" * 24)),
        member("packs", {}),
        member("root", "00"),
        member("root", "zz" * pages.SIZE),
        member("statistics", []),
        member("metadata", None),
        member("environment_uid", OTHER),
        member("host", "host-2"),
        member("snapshot_uid", "other"),
        member("epoch", 2),
        root(length=2**32 - 1),
        root(length=0),
        root(offset=2**32 - 1),
        root(offset=2**32 - 1, length=2**32 - 1),
        root(name=b"\1" * names.LENGTH),
        root(pack=bytes(layout.PACK_ID_LENGTH), name=b"\1" * names.LENGTH),
    ],
)
def test_a_forged_manifest_is_damage_or_shows_what_is_there_in_little_memory(
    archive: archives.Archive, change: Callable[[dict[str, Any]], object]
) -> None:
    wanted = read_all(archive)
    forge(archive, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.process_time()
    try:
        found = read_all(archive)
    except errors.Corrupt:
        found = None
    # A wrong place of the root is put right by its name; everything else is damage.
    assert found in (None, wanted)
    assert time.process_time() - began_s < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * units.KIB


def test_a_manifest_that_another_tenant_sealed_is_not_read(archive: archives.Archive) -> None:
    other = environment.load(archive.store, layout.Area(HOST, OTHER), 1, None)
    home = environment.load(archive.store, AREA, 1, None)
    members = documents.decode("it", archive.store.get(AREA.manifest("snap", 1)), home.hash_manifest, 1)
    archive.replace(AREA.manifest("snap", 1), documents.encode(members, other.hash_manifest))
    archive.reopen()
    with pytest.raises(errors.Corrupt, match="checksum"):
        read_all(archive)


def test_blocks_of_another_tenant_cannot_be_named_in_a_manifest(archive: archives.Archive) -> None:
    theirs = archive.repository.manifest(OTHER, "snap").document.root
    forge(archive, member("root", theirs.encode().hex()))
    with pytest.raises(errors.Corrupt):
        read_all(archive)


def test_a_pack_of_another_tenant_is_not_read_under_a_name_of_ones_own(archive: archives.Archive) -> None:
    theirs = archive.repository.manifest(OTHER, "snap").document.root
    stolen = archive.store.get(layout.Area(HOST, OTHER).pack(theirs.pack))
    archive.store.put(AREA.pack(theirs.pack), [stolen])
    forge(archive, member("root", theirs.encode().hex()))
    with pytest.raises(errors.Corrupt):
        read_all(archive)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 1_000_000, b'{"a":' * 200_000, b"\xff" * 1_000, b"1" * 100_000, b'{"version":1e999}'],
    ids=["empty", "object", "lists", "objects", "no text", "long number", "infinite"],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_no_document_is_damage(archive: archives.Archive, data: bytes, sealed: bool) -> None:
    if sealed:
        body = data.removesuffix(b"}")
        seal = environment.load(archive.store, AREA, 1, None).hash_manifest(body).hex().encode()
        data = body + b',"checksum":"' + seal + b'"}'
    archive.replace(AREA.manifest("snap", 1), data)
    archive.reopen()
    with pytest.raises(errors.Corrupt):
        read_all(archive)


def test_a_terabyte_where_a_document_belongs_is_damage_and_not_read(
    archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "archive" / AREA.manifest("snap", 1)
    with path.open("r+b") as file:
        file.truncate(units.TIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.Corrupt):
        read_all(archive)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * units.KIB


def test_a_thousand_million_blocks_of_zeros_take_no_time(archive: archives.Archive, tmp_path: pathlib.Path) -> None:
    def change(members: dict[str, Any]) -> None:
        members["size_bytes"] = 10**9 * BLOCK
        members["depth"] = pages.depth_for(10**9)
        members["root"] = pages.NOTHING.encode().hex()
        members["packs"] = ""

    forge(archive, change)
    began_s = time.process_time()
    assert read_all(archive) == {}
    create.create(tmp_path / "restored", size_bytes=10**9 * BLOCK)
    with writer.Writer.open(tmp_path / "restored") as target:
        restore.restore(archive.repository.manifest(ENVIRONMENT, "snap"), target, 2, control.Control())
    assert time.process_time() - began_s < 2
