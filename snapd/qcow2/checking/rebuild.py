"""A new refcount structure for an image, made from what refers to its clusters and put in the old one's place at once.

It is written behind everything, where nothing else is; one write of the header makes it the image's, so that a kill
leaves the old one or the new one. Knows of the old one no more than the caller says. Source: qcow2 specification,
"Host cluster management".
"""

import numpy as np

from snapd import errors, fsops, units
from snapd.qcow2.checking import tally
from snapd.qcow2.format import counters, layout
from snapd.qcow2.format.header import Header


def room(header: Header, first: int) -> int:
    """Return a cluster that no structure reaches which begins at the cluster first, behind all others."""
    # Blocks for what lies before it, and for itself; a block counts 64 clusters at least, and a table names 64 blocks.
    return first + 2 * (first // counters.per_block(header.refcount_order, header.cluster_bits)) + 16


class Structure:
    """Refcount blocks and their table in the making. Give it the pages in order, then `finish` it."""

    def __init__(self, fd: int, header: Header, first: int, name: str) -> None:
        """Begin at a cluster behind all others. Borrows the descriptor, opened for writing; name is for messages."""
        self._fd = fd
        self._header = header
        self._name = name
        self._first = first
        self._order = header.refcount_order
        self._per_block = counters.per_block(header.refcount_order, header.cluster_bits)
        self._places: dict[int, int] = {}
        # The block that counts the structure's own first cluster, and what it counts before that.
        self._tail = first // self._per_block
        self._before: counters.Counters = np.zeros(first - self._tail * self._per_block, counters.dtype(self._order))

    def take(self, page: tally.Page, refcounts: tally.Numbers) -> None:
        """Write the blocks of a page, but for those that are empty.

        Raises errors.Corrupt for a refcount that has no room in the image's counters.
        """
        if page.clusters and int(refcounts.max()) > counters.maximum(self._order):
            raise errors.Corrupt(
                what=self._name, problem=f"a cluster has more references than {1 << self._order} bits count"
            )
        values = refcounts.astype(counters.dtype(self._order))
        for low in range(0, page.clusters, self._per_block):
            number = (page.first + low) // self._per_block
            block = values[low : low + self._per_block]
            if number == self._tail:
                self._before[: len(block)] = block[: len(self._before)]
            elif block.any():
                self._write(number, block)

    def finish(self) -> None:
        """Write the rest and the table, durably, and then the header's fields, durably too."""
        size, per_block = self._header.cluster_size, self._per_block
        own = len(self._places)
        while True:
            end = self._tail + units.divide_up(len(self._before) + own, per_block)
            table_clusters = units.divide_up(end * layout.ENTRY_SIZE, size)
            needed = len(self._places) + end - self._tail + table_clusters
            if needed <= own:
                break
            own = needed
        if table_clusters * size > layout.REFCOUNT_TABLE_BYTES_MAX:
            raise errors.StorageFull(path=self._name)
        values: counters.Counters = np.zeros((end - self._tail) * per_block, self._before.dtype)
        values[: len(self._before)] = self._before
        values[len(self._before) : len(self._before) + own] = 1
        for number in range(self._tail, end):
            low = (number - self._tail) * per_block
            self._write(number, values[low : low + per_block])
        table = np.zeros(table_clusters * self._header.pointers_per_cluster, ">i8")
        table[list(self._places)] = [place * size for place in self._places.values()]
        offset = (self._first + len(self._places)) * size
        fsops.pwrite(self._fd, table.tobytes(), offset)
        fsops.fdatasync(self._fd)
        fields = layout.REFCOUNT_FIELDS.pack(offset, table_clusters)
        fsops.pwrite(self._fd, fields, layout.REFCOUNT_FIELDS_AT)
        fsops.fdatasync(self._fd)

    def _write(self, number: int, values: counters.Counters) -> None:
        place = self._first + len(self._places)
        self._places[number] = place
        whole: counters.Counters = np.zeros(self._per_block, values.dtype)
        whole[: len(values)] = values
        fsops.pwrite(self._fd, counters.pack(whole, self._order), place * self._header.cluster_size)
