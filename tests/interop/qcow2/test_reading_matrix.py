"""What QEMU writes is what we read, over all that an image can be: each pair of properties, and as torture all of them.

Every image of a chain is written here and there by qemu-io (data, compressed clusters, zeros, discards) and compared
with what `qemu-img convert` makes of it.
"""

import itertools
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from snapd import units

Qemu = Any  # the fixture's class, which tests can't import

SIZE = 9 * units.MIB + 3 * 512


class Case(NamedTuple):
    """Properties of an image."""

    compat: str
    cluster_size: int
    refcount_bits: int
    compression: str
    extended_l2: str
    depth: int

    @property
    def possible(self) -> bool:
        """Say whether QEMU makes such images."""
        if self.extended_l2 == "on" and (self.compat == "0.10" or self.cluster_size < 16384):
            return False
        return self.compat == "1.1" or (self.refcount_bits == 16 and self.compression != "zstd")

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


def every_case() -> list[Case]:
    properties = (
        ("0.10", "1.1"),
        (512, 4096, 16384, 65536, 2 * units.MIB),
        (1, 2, 4, 8, 16, 32, 64),
        ("none", "zlib", "zstd"),
        ("off", "on"),
        (1, 3),
    )
    return [case for row in itertools.product(*properties) if (case := Case(*row)).possible]


def pairwise(cases: list[Case]) -> Iterator[Case]:
    """Yield some of the cases, in which any two values are together that are so in any case."""

    def pairs(case: Case) -> set[tuple[tuple[int, object], ...]]:
        return set(itertools.combinations(enumerate(case), 2))

    missing = set().union(*map(pairs, cases))
    while missing:
        best = max(cases, key=lambda case: len(missing & pairs(case)))
        missing -= pairs(best)
        yield best


SAMPLE = list(pairwise(every_case()))
REST = [case for case in every_case() if case not in SAMPLE]


def compressed_writes(case: Case, number: int) -> list[str]:
    """Return qemu-io commands that write compressed clusters, and something over one of them."""
    if case.compression == "none":
        return []
    chance = random.Random(number)
    length = max(case.cluster_size, 16384)
    places = chance.sample(range(SIZE // length), min(6, SIZE // length))
    commands = [f"write -c -P {200 + number + at % 40} {at * length} {length}" for at in places]
    return [*commands, f"write -P 9 {places[0] * length + 512} 1024"]


def compare(folder: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], case: Case) -> None:
    paths: list[pathlib.Path] = []
    for number in range(case.depth):
        # Sizes differ up and down the chain.
        path, size = folder / f"{number}.qcow2", SIZE - (units.MIB, 0, 5 * units.MIB)[number]
        options: dict[str, str | int] = {
            "compat": case.compat,
            "cluster_size": case.cluster_size,
            "refcount_bits": case.refcount_bits,
            "extended_l2": case.extended_l2,
        }
        if case.compression != "none":
            options["compression_type"] = case.compression
        qemu.create(path, SIZE, backing=paths[0].name if paths else None, **options)
        qemu.io(path, *compressed_writes(case, number))
        qemu.scatter(path, seed=number, count=20)
        if size != SIZE:
            qemu.img("resize", "-q", "-f", "qcow2", "--shrink", path, size)
        paths.insert(0, path)
    assert read_whole(*paths) == qemu.content(paths[0])


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_any_two_properties_together(
    tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], case: Case
) -> None:
    compare(tmp_path, qemu, read_whole, case)


@pytest.mark.torture
@pytest.mark.parametrize("case", REST, ids=lambda case: case.name)
def test_all_other_properties(tmp_path: pathlib.Path, qemu: Qemu, read_whole: Callable[..., bytes], case: Case) -> None:
    compare(tmp_path, qemu, read_whole, case)
