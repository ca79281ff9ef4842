"""Sizes and the arithmetic of alignment. Knows nothing else."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SECTOR = 512
"""Bytes of the smallest unit in which a disk can be addressed."""


def round_down(value: int, granule: int) -> int:
    """Return the largest multiple of granule that is at most value."""
    return value - value % granule


def round_up(value: int, granule: int) -> int:
    """Return the smallest multiple of granule that is at least value."""
    return value + -value % granule


def divide_up(value: int, granule: int) -> int:
    """Return how many granules it takes to hold value."""
    return -(-value // granule)


def format_size(size_bytes: float) -> str:
    """Return a size as people write it: '512 B', '1.5 GiB'."""
    if size_bytes < KIB:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= KIB
        if size_bytes < KIB:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / KIB:.1f} TiB"
