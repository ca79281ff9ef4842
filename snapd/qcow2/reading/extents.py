"""The bytes of one image's extents, in few system calls: neighbours in the file are read at once, whatever their order.

Compressed clusters are expanded on all processors when there are many; the last few of which only a part was wanted
are kept, since the rest is likely to be next. Thread-safe. Knows nothing of tables and of other files.
"""

import collections
import concurrent.futures
import dataclasses
import errno
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from snapd import blockmap, direct, errors, units
from snapd.blockmap import Int64Array, Kind
from snapd.qcow2.format.header import Header
from snapd.qcow2.reading import compressed

_VECTOR_MAX = 1024
"""Buffers that the kernel takes in one call (IOV_MAX)."""
_SPAN_MAX = 4 * units.MIB
_GAP_MAX = 64 * units.KIB
"""Compressed bytes read at once, and the unwanted ones that are read along between two clusters."""
_KEPT_BYTES = 4 * units.MIB
_SHARED_BYTES = units.MIB
"""Bytes to expand for which several threads are worth their making, 0.1 ms."""
_PROCESSORS = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True, slots=True)
class _Packed:
    """A compressed cluster and the part of it that is wanted."""

    entry: int
    offset: int
    """In the file, in bytes."""
    length: int
    """Bytes of the file up to the end of its last sector."""
    within: int
    """Offset in the cluster of the first byte that is wanted."""
    target: memoryview


class Reader:
    """Reads from one open file. Borrows the descriptors."""

    def __init__(self, fd: int, name: str, file_size: int, header: Header, direct_fd: int | None = None) -> None:
        """Take the file's size when it was opened; name is for messages. What is aligned is read by direct_fd."""
        self._fd = fd
        self._direct_fd = direct_fd
        self._name = name
        self._file_size = file_size
        self._header = header
        self._kept: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
        """Put what extents of the kinds DATA and COMPRESSED hold into a buffer that begins with the disk's `offset`.

        The end of the file within a last cluster goes on with zeros. Raises errors.Corrupt, OSError.
        """
        is_packed = extents.kind == Kind.COMPRESSED
        if is_packed.any():
            self._read_compressed(extents.take(is_packed), offset, buffer)
            extents = extents.take(~is_packed)
        if len(extents):
            self._read_data(extents.host, extents.start - offset, extents.length, buffer)

    # --- plain --------------------------------------------------------------------------------------------------------

    def _read_data(self, host: Int64Array, start: Int64Array, length: Int64Array, buffer: memoryview) -> None:
        if (host[1:] < host[:-1]).any():
            order = np.argsort(host, kind="stable")
            host, start, length = host[order], start[order], length[order]
        apart = host[1:] != host[:-1] + length[:-1]
        heads = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(apart) + 1))
        tails = np.append(heads[1:], len(host)).tolist()
        starts, ends = start.tolist(), (start + length).tolist()
        is_direct = self._direct_fd is not None and direct.fits(buffer, host, start, length)
        for head, tail, place in zip(heads.tolist(), tails, host[heads].tolist(), strict=True):
            if tail == head + 1:
                target = buffer[starts[head] : ends[head]]
                done = self._preadv((target,), place, is_direct=is_direct)
                if done < len(target):
                    self._read_rest(target[done:], place + done)
                continue
            at = place
            for low in range(head, tail, _VECTOR_MAX):
                high = min(low + _VECTOR_MAX, tail)
                targets = [buffer[starts[i] : ends[i]] for i in range(low, high)]
                at += self._read_vector(targets, at, is_direct=is_direct)

    def _preadv(self, targets: Sequence[memoryview], at: int, *, is_direct: bool) -> int:
        if is_direct and self._direct_fd is not None and sum(map(len, targets)) >= direct.LEAST:
            try:
                return os.preadv(self._direct_fd, targets, at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # The device wants it aligned to more than that.
                self._direct_fd = None
        return os.preadv(self._fd, targets, at)

    def _read_vector(self, targets: Sequence[memoryview], at: int, *, is_direct: bool) -> int:
        """Fill targets, one after the other, from offset `at` of the file, and return their length."""
        length = sum(map(len, targets))
        done = self._preadv(targets, at, is_direct=is_direct)
        if done < length:
            for target in targets:
                skip = min(done, len(target))
                done -= skip
                self._read_rest(target[skip:], at + skip)
                at += len(target)
        return length

    def _read_rest(self, target: memoryview, at: int) -> None:
        """Fill what a first read left, up to the end of the file and from there with zeros."""
        while target:
            count = os.preadv(self._fd, [target], at)
            if count == 0:
                break
            target, at = target[count:], at + count
        if target and at < self._file_size:
            raise errors.Corrupt(what=self._name, problem=f"the file was cut short at offset {at} while it was read")
        if at + len(target) > units.round_up(self._file_size, self._header.cluster_size):
            raise errors.Corrupt(what=self._name, problem=f"the file ends before the data at offset {at}")
        target[:] = bytes(len(target))

    # --- compressed ---------------------------------------------------------------------------------------------------

    def _read_compressed(self, extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
        bits, size = self._header.cluster_bits, self._header.cluster_size
        at, start = compressed.offsets(extents.host, bits), extents.start - offset
        columns = (extents.host, at, compressed.lengths(extents.host, bits), extents.start & (size - 1), start)
        wanted = []
        for entry, place, length, within, low, high in zip(
            *(column.tolist() for column in columns), (start + extents.length).tolist(), strict=True
        ):
            each = _Packed(entry, place, length, within, buffer[low:high])
            if not self._from_kept(each):
                wanted.append(each)
        wanted.sort(key=lambda each: each.offset)
        for span in _spans(wanted) if wanted else ():
            first, end = span[0].offset, max(each.offset + each.length for each in span)
            self._expand(span, memoryview(os.pread(self._fd, end - first, first)), first)

    def _expand(self, span: Sequence[_Packed], data: memoryview, first: int) -> None:
        """Expand clusters that lie in data, which was read at offset `first`."""

        def work(part: Sequence[_Packed]) -> None:
            for each in part:
                at = each.offset - first
                self._expand_one(each, data[at : at + each.length])

        share = units.divide_up(len(span), _PROCESSORS)
        if share < len(span) and len(span) * self._header.cluster_size >= _SHARED_BYTES:
            with concurrent.futures.ThreadPoolExecutor(_PROCESSORS, "expand") as threads:
                # Results are None: what is wanted of them is the first error.
                list(threads.map(work, [span[low : low + share] for low in range(0, len(span), share)]))
        else:
            work(span)

    def _expand_one(self, packed: _Packed, data: memoryview) -> None:
        size = self._header.cluster_size
        what = f"{self._name}, the compressed cluster at offset {packed.offset}"
        cluster = compressed.expand(data, size, self._header.compression_type, what)
        length = len(packed.target)
        if length == size:
            packed.target[:] = cluster
            return
        packed.target[:] = memoryview(cluster)[packed.within : packed.within + length]
        with self._lock:
            self._kept[packed.entry] = cluster
            while len(self._kept) * size > _KEPT_BYTES:
                self._kept.popitem(last=False)

    def _from_kept(self, packed: _Packed) -> bool:
        """Fill the target if the cluster was kept, and say so."""
        with self._lock:
            cluster = self._kept.get(packed.entry)
            if cluster is None:
                return False
            self._kept.move_to_end(packed.entry)
        packed.target[:] = memoryview(cluster)[packed.within : packed.within + len(packed.target)]
        return True


def _spans(clusters: Sequence[_Packed]) -> Iterator[Sequence[_Packed]]:
    """Yield groups of clusters, given by ascending offset, that are worth one read each."""
    head = 0
    for index in range(1, len(clusters) + 1):
        if index < len(clusters):
            before, each = clusters[index - 1], clusters[index]
            near = each.offset - (before.offset + before.length) <= _GAP_MAX
            if near and each.offset + each.length - clusters[head].offset <= _SPAN_MAX:
                continue
        yield clusters[head:index]
        head = index
