"""A chain of images as the guest sees it: the top over what lies below. Chains are given, never followed from headers.

Knows how to map and read one; how chains come to be is the pool's business.
"""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from snapd import blockmap, errors, fsops, units
from snapd.blockmap import Kind
from snapd.qcow2.image import Image


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

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that the guest sees: the top's."""
        return self.images[0].size_bytes

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
        self.read_extents_into(self.block_map(offset, len(buffer)), offset, buffer)

    def read_extents_into(self, extents: blockmap.BlockMap, offset: int, buffer: memoryview) -> None:
        """Fill buffer as read_into does, by a map of this chain that covers the range and was made before.

        Raises errors.OutOfRange, errors.Corrupt.
        """
        self._require_inside(offset, len(buffer))
        target = np.frombuffer(buffer, np.uint8)
        part = blockmap.clip(extents, offset, len(buffer))
        filled = 0
        for start, length, kind, host, layer in zip(
            (part.start - offset).tolist(),
            part.length.tolist(),
            part.kind.tolist(),
            part.host.tolist(),
            part.layer.tolist(),
            strict=True,
        ):
            target[filled:start] = 0
            piece = target[start : start + length]
            if kind == Kind.DATA:
                read_data(self.images[layer], host, piece)
            elif kind == Kind.COMPRESSED:
                _read_compressed(self.images[layer], host, offset + start, piece)
            else:
                piece[:] = 0
            filled = start + length
        target[filled:] = 0

    def _require_inside(self, offset: int, length: int) -> None:
        if not 0 <= offset <= self.size_bytes - length:
            name = self.images[0].path.name
            raise errors.OutOfRange(name=name, offset=offset, length=length, size_bytes=self.size_bytes)


def read_data(image: Image, host: int, target: npt.NDArray[np.uint8]) -> None:
    """Fill target from the file at host. A last cluster that the file's end cuts short goes on with zeros."""
    done = 0
    with fsops.translated(image.path):
        while done < len(target):
            count = os.preadv(image.fileno(), [target[done:].data], host + done)
            if count == 0:
                break
            done += count
    if host + len(target) > units.round_up(image.file_size, image.cluster_size):
        raise errors.Corrupt(what=image.path.name, problem=f"the file ends before the data at offset {host}")
    target[done:] = 0


def _read_compressed(image: Image, entry: int, offset: int, target: npt.NDArray[np.uint8]) -> None:
    """Fill target with the disk's bytes from offset on, all within the compressed cluster that entry describes."""
    within = offset % image.cluster_size
    cluster = np.frombuffer(image.read_cluster(entry), np.uint8)
    target[:] = cluster[within : within + len(target)]
