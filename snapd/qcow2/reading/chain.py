"""A chain of images as the guest sees it: the top over what lies below. Chains are given, never followed from headers.

Knows how to map and read one; how chains come to be is the pool's business.
"""

import collections
import threading
from collections.abc import Sequence

import numpy as np

from snapd import blockmap, errors
from snapd.blockmap import Kind
from snapd.qcow2.reading.image import Image

_WINDOW_CLUSTERS = 1024
_WINDOWS_KEPT = 4
"""Maps kept for readers of small pieces: reading the tables anew for each takes longer than reading its bytes."""


class Chain:
    """Images from the top downwards. Borrowed: closing them stays with whoever opened them. Thread-safe.

    Sizes may differ: below a layer nothing shines through beyond that layer's end, so what a disk lost when it shrank
    doesn't come back when it grows.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        """Take at least one image, the top first."""
        if not images:
            raise ValueError("a chain needs an image")
        self.images = tuple(images)
        self._span = min(_WINDOW_CLUSTERS * min(image.cluster_size for image in images), blockmap.WINDOW)
        self._windows: collections.OrderedDict[int, blockmap.BlockMap] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that the guest sees: the top's."""
        return self.images[0].size_bytes

    @property
    def window_span(self) -> int:
        """Bytes of the disk that may be mapped at a time: fewer if its extents can be small."""
        return min(image.window_span for image in self.images)

    def block_map(self, start: int, length: int) -> blockmap.BlockMap:
        """Return the extents of [start, start + length), cut at the disk's end; layer says which image holds each.

        What is absent reads as zeros. Raises errors.Corrupt.
        """
        seen = blockmap.empty()
        end = start + length
        for number, image in enumerate(self.images):
            end = min(end, image.size_bytes)
            if end <= start:
                break
            seen = blockmap.overlay(image.block_map(start, end - start).on_layer(number), seen)
            if seen.total() == length:
                break
        return seen

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the disk's bytes from offset on. Raises errors.OutOfRange, errors.Corrupt."""
        self._require_inside(offset, len(buffer))
        if len(buffer) >= self._span:
            self.read_extents_into(self.block_map(offset, len(buffer)), offset, buffer)
            return
        while buffer:
            number = offset // self._span
            count = min(len(buffer), (number + 1) * self._span - offset)
            try:
                extents = self._window(number)
            except errors.Corrupt:
                # Damage elsewhere in the window keeps nobody from reading here.
                extents = self.block_map(offset, count)
            self.read_extents_into(extents, offset, buffer[:count])
            offset, buffer = offset + count, buffer[count:]

    def read_extents_into(self, extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
        """Fill buffer as read_into does, by a map of this chain that covers the range and was made before.

        Raises errors.OutOfRange, errors.Corrupt.
        """
        self._require_inside(offset, len(buffer))
        part = blockmap.clip(extents, offset, len(buffer))
        if (part.kind == Kind.ZERO).any():
            part = part.take(part.kind != Kind.ZERO)
        _clear_around(part, offset, buffer)
        layers = np.unique(part.layer).tolist()
        for layer in layers:
            own = part if len(layers) == 1 else part.take(part.layer == layer)
            self.images[layer].read_extents_into(own, offset, buffer)

    def _window(self, number: int) -> blockmap.BlockMap:
        """Return the map of a window of the disk; the last few are kept, for readers of small pieces."""
        with self._lock:
            if number in self._windows:
                self._windows.move_to_end(number)
                return self._windows[number]
        extents = self.block_map(number * self._span, self._span)
        with self._lock:
            self._windows[number] = extents
            while len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return extents

    def _require_inside(self, offset: int, length: int) -> None:
        if not 0 <= offset <= self.size_bytes - length:
            name = self.images[0].path.name
            raise errors.OutOfRange(name=name, offset=offset, length=length, size_bytes=self.size_bytes)


def _clear_around(extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
    """Set to zero what no extent covers of a buffer that begins at the disk's `offset`."""
    low = np.concatenate((np.zeros(1, np.int64), extents.end - offset))
    high = np.concatenate((extents.start - offset, np.array([len(buffer)], np.int64)))
    holes = np.flatnonzero(low < high)
    target = np.frombuffer(buffer, np.uint8)
    for start, end in zip(low[holes].tolist(), high[holes].tolist(), strict=True):
        target[start:end] = 0
