"""Folds: a layer goes away, and a neighbour's file receives what of it still shows.

Both ways leave the chain's contents as they were at every moment, so a fold that was killed is simply run again. The
headers' backing names are not touched; switching them is the pool's step after the fold.
"""

import pathlib

from snapd import blockmap
from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import transfer, writer


def fold_up(lower: image.Image, child_path: pathlib.Path, beneath: chain.Chain | None) -> int:
    """Have the child hold what it shows of `lower`, so that it can stand on `beneath` instead; flushed.

    Returns the bytes of data that were copied. Raises errors.Corrupt before anything is written if one of the files
    isn't sound, and what `writer.Writer.write` and `image.Image.block_map` raise.
    """
    below = chain.Chain([lower, *(beneath.images if beneath else ())])
    copied = 0
    # The child is mapped while it is written, but each window before anything of that window is.
    with writer.Writer.open(child_path, below) as target, image.Image.open(child_path, locked=False) as child:
        check.require_sound(lower)
        check.require_sound(child)
        visible = min(lower.size_bytes, child.size_bytes)
        for start, length in blockmap.windows(visible):
            missing = blockmap.difference(lower.block_map(start, length), child.block_map(start, length))
            copied += transfer.transfer(missing, below, target)
        if beneath is not None:
            # Between the end of `lower` and the child's nothing shows now; `beneath` must not begin to.
            target.hide_backing(visible, max(0, min(beneath.size_bytes, child.size_bytes) - visible))
    return copied


def fold_down(child: image.Image, lower_path: pathlib.Path, beneath: chain.Chain | None) -> int:
    """Have the lower file take the child's data and size, so that it can stand in the child's place; flushed.

    `beneath` is what lies below the lower file. Returns the bytes of data that were copied. Raises errors.Corrupt
    before anything is written if one of the files isn't sound, and what `writer.Writer.write`, `writer.Writer.resize`
    and `image.Image.block_map` raise.
    """
    copied = 0
    with writer.Writer.open(lower_path, beneath) as target:
        with image.Image.open(lower_path, locked=False) as lower:
            check.require_sound(lower)
        check.require_sound(child)
        # Growing writes zeros over what `beneath` holds there; shrinking drops what the child doesn't show.
        target.resize(child.size_bytes, force=True)
        for start, length in blockmap.windows(child.size_bytes):
            copied += transfer.transfer(child.block_map(start, length), chain.Chain([child]), target)
    return copied
