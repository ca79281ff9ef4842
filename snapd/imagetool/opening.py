"""Opens the images that a command line names: one file, the files of a chain, or a chain by the names in its headers.

A name in a header was written by whoever made the image. It is followed only if the user asks, and then only to a plain
name in the folder of the image that has it, whose format the header states; so it never leads to another folder, to a
device or to the network. Never probes a format.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from snapd import errors
from snapd.qcow2.reading.image import Image

DEPTH_MAX = 200
"""Images of one chain: more is a loop in disguise, or a mistake."""


@contextlib.contextmanager
def chain(paths: Sequence[pathlib.Path], *, follow: bool, locked: bool) -> Iterator[list[Image]]:
    """Open the files of a chain, the top first, and if `follow` those that the last one's header leads to.

    Not `locked` is for images that somebody writes meanwhile. Raises errors.ImageRefused for what is no image, for a
    name that isn't followed, and for loops, errors.ImageBusy, errors.StorageFailed, and each names its file.
    """
    with contextlib.ExitStack() as stack:
        images: list[Image] = []
        seen: set[tuple[int, int]] = set()
        waiting = list(paths)
        while waiting:
            image = stack.enter_context(one(waiting.pop(0), locked=locked))
            status = os.fstat(image.fileno())
            if (status.st_dev, status.st_ino) in seen:
                raise errors.ImageRefused(problem=f"{image.path} comes twice in its chain")
            if len(images) == DEPTH_MAX:
                raise errors.ImageRefused(problem=f"a chain of more than {DEPTH_MAX} images")
            seen.add((status.st_dev, status.st_ino))
            images.append(image)
            if follow and not waiting and image.header.backing_name is not None:
                waiting.append(_neighbour(image))
        yield images


@contextlib.contextmanager
def one(path: pathlib.Path, *, locked: bool) -> Iterator[Image]:
    """Open one image. Raises what `chain` raises."""
    try:
        image = Image.open(path, locked=locked)
    except errors.ImageRefused as error:
        raise errors.ImageRefused(problem=f"{path}: {error.problem}") from error
    with image:
        yield image


def _neighbour(image: Image) -> pathlib.Path:
    """Return the path of the backing file that an image's header names, if it may be followed."""
    name = image.header.backing_name or ""
    if name != os.path.basename(name) or name in ("", ".", "..") or ":" in name:
        raise errors.ImageRefused(problem=f"{image.path} names {name!r}, which is no plain name in its own folder")
    if image.header.backing_format != "qcow2":
        raise errors.ImageRefused(problem=f"{image.path} doesn't say that its backing file {name!r} is qcow2")
    return image.path.parent / name
