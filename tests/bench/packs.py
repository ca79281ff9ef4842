"""What an archive's objects are made of, read as docs/archive-format.md has it, not with the code that wrote them."""

import dataclasses
import os
import pathlib
import struct

import numpy as np

_TRAILER = struct.Struct("<II16s32s8s")
_ROW = np.dtype(
    [("name", "V32"), ("offset", "<u4"), ("stored", "<u4"), ("length", "<u4"), ("kind", "u1"), ("zero", "V3")]
)
_BLOCK, _PAGE = 1, 2
_HEADER_BYTES = 32


@dataclasses.dataclass(slots=True)
class Footprint:
    """An archive, taken apart."""

    objects: int = 0
    packs: int = 0
    blocks: int = 0
    block_bytes: int = 0
    """Of the blocks themselves, before compression."""
    data_bytes: int = 0
    """What the blocks are stored as."""
    page_bytes: int = 0
    """What the pages are stored as."""
    index_bytes: int = 0
    """Headers, indexes and trailers of the packs."""
    document_bytes: int = 0
    """Manifests, and all other objects."""

    @property
    def metadata_bytes(self) -> int:
        """All that isn't data."""
        return self.page_bytes + self.index_bytes + self.document_bytes


def survey(folder: pathlib.Path) -> Footprint:
    """Take the archive in a folder apart, which nobody writes."""
    found = Footprint()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        found.objects += 1
        if path.parent.parent.name == "packs":
            _add_pack(found, path)
        else:
            found.document_bytes += path.stat().st_size
    return found


def _add_pack(found: Footprint, path: pathlib.Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        index_offset, count, _, _, magic = _TRAILER.unpack(os.pread(file.fileno(), _TRAILER.size, size - _TRAILER.size))
        assert magic == b"SNPACKED", path
        table = os.pread(file.fileno(), count * _ROW.itemsize, index_offset)
    rows = np.frombuffer(table, _ROW)
    blocks, pages = rows[rows["kind"] == _BLOCK], rows[rows["kind"] == _PAGE]
    assert len(blocks) + len(pages) == count, path
    found.packs += 1
    found.blocks += len(blocks)
    found.block_bytes += int(blocks["length"].sum())
    found.data_bytes += int(blocks["stored"].sum())
    found.page_bytes += int(pages["stored"].sum())
    found.index_bytes += _HEADER_BYTES + len(table) + _TRAILER.size
