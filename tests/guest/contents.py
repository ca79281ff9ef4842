"""What a guest's disk may hold: the first of its writes, all of them up to one."""

from tests.guest.initramfs import BLOCK, BLOCKS


def require_prefix(content: bytes, least: int) -> int:
    """Assert that a disk holds the first writes, whole and nothing else, `least` or more; return how many."""
    numbers = [int(content[at : at + BLOCK].strip(b"\0") or b"0") for at in range(0, BLOCKS * BLOCK, BLOCK)]
    last = max(numbers)
    assert last >= least
    for block, number in enumerate(numbers):
        # The latest of the writes up to the last one that went to this block.
        expected = last - (last - 1 - block) % BLOCKS
        assert number == max(0, expected), f"block {block} of a disk with {last} writes"
        written = b"%0*d" % (BLOCK, number) if number else bytes(BLOCK)
        assert content[block * BLOCK : (block + 1) * BLOCK] == written
    assert not any(content[BLOCKS * BLOCK :])
    return last
