"""Mutations that know what an image is made of: most change one field of a header or a table into a plausible value.

Random bytes are refused for their magic number; a fuzzer gets further by pointing an L2 entry at a refcount block.
Understands just enough of the format to find the tables, and believes what it finds.
"""

import random
from collections.abc import Callable

from tests.fuzz import sparse

Place = tuple[int, int]
"""Offset in the file and bytes of a number, big-endian."""

_HEADER: tuple[Place, ...] = (
    (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8),
    (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1),
)  # fmt: skip
_FLAGS = (1 << 63, 1 << 62, 1, 1 << 61, 1 << 56, 1 << 32, 1 << 31)
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_BITMAPS_EXTENSION = 0x23852875


def mutate(data: bytes, longest: int, seed: int, generic: Callable[[bytes, int], bytes]) -> bytes:
    """Return a changed copy of data, at most longest bytes long; generic changes bytes without knowing of images."""
    chance = random.Random(seed)
    if chance.random() < 0.1:
        return generic(data, longest)
    file = sparse.unpack(data)
    if len(file) < _Image.SHORTEST:
        return generic(data, longest)
    image = _Image(file, chance)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        image.change()
    changed = sparse.pack(image.file)
    return changed if len(changed) <= longest else data


class _Image:
    """A file that is being changed."""

    SHORTEST = 512
    """Bytes of a file that is worth it."""

    def __init__(self, file: bytearray, chance: random.Random) -> None:
        self.file = file
        self.chance = chance
        self.cluster = 1 << min(max(self.number((20, 4)), 9), 17)

    def number(self, place: Place) -> int:
        """Return the number at a place; beyond the file's end there are zeros."""
        offset, width = place
        return int.from_bytes(self.file[offset : offset + width].ljust(width, b"\0"))

    def put(self, place: Place, value: int) -> None:
        offset, width = place
        if 0 <= offset <= len(self.file) - width:
            self.file[offset : offset + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width)

    def change(self) -> None:
        """Change one thing."""
        ways: tuple[tuple[int, Callable[[], None]], ...] = (
            (4, lambda: self.vary(self.chance.choice(_HEADER))),
            (2, lambda: self.vary((self.chance.randrange(100, 512, 4), self.chance.choice((1, 2, 4, 8))))),
            (4, lambda: self.vary(self.entry((40, 8), self.number((36, 4))))),
            (9, lambda: self.vary(self.second((40, 8), self.number((36, 4)), 8))),
            (2, lambda: self.vary(self.entry((48, 8), self.cluster // 8))),
            (5, lambda: self.vary(self.second((48, 8), self.cluster // 8, self.chance.choice((1, 2, 8))))),
            (4, lambda: self.vary(self.in_table(self.number((64, 8))))),
            (3, lambda: self.vary(self.in_table(self.number((self.directory(), 8))))),
            (2, self.copy_cluster),
            (1, self.resize),
        )
        self.chance.choices([way for _, way in ways], [weight for weight, _ in ways])[0]()

    def entry(self, pointer: Place, count: int) -> Place:
        """Return an entry, of 8 bytes, of the table that a place points to; more often one that is used."""
        table = self.number(pointer)
        places = [(table + 8 * index, 8) for index in range(min(count, 2048)) if table + 8 * index < len(self.file)]
        used = [place for place in places if self.number(place)]
        if used and self.chance.random() < 0.8:
            places = used
        return self.chance.choice(places) if places else (self.chance.randrange(len(self.file)), 8)

    def second(self, pointer: Place, count: int, width: int) -> Place:
        """Return an entry of a table of the second level."""
        table = self.number(self.entry(pointer, count)) & _OFFSET_MASK
        places = [(at, width) for at in range(table, min(table + self.cluster, len(self.file)), width)]
        if self.chance.random() < 0.7:
            places = [place for place in places if self.number(place)] or places
        return self.chance.choice(places) if places else (self.chance.randrange(len(self.file)), width)

    def in_table(self, table: int) -> Place:
        """Return a number of the snapshot table or the bitmap directory, which have fields of several widths."""
        return table + self.chance.randrange(0, 256, 2), self.chance.choice((1, 2, 4, 8))

    def directory(self) -> int:
        """Return where the offset of the bitmap directory stands."""
        at = 104 if self.number((100, 4)) < 104 else self.number((100, 4))
        while at < min(len(self.file), 4096) and (kind := self.number((at, 4))):
            if kind == _BITMAPS_EXTENSION:
                return at + 24
            at += 8 + (self.number((at + 4, 4)) + 7 & ~7)
        return 120

    def vary(self, place: Place) -> None:
        """Put another value where one is."""
        old = self.number(place)
        bits = 8 * place[1]
        clusters = len(self.file) // self.cluster + 2
        cluster = self.chance.randrange(clusters) * self.cluster
        self.put(place, self.chance.choice((
            old + self.chance.choice((-1, 1)),
            old ^ 1 << self.chance.randrange(bits),
            old ^ self.chance.choice(_FLAGS),
            old + self.chance.choice((-1, 1)) * self.cluster,
            old & ~_OFFSET_MASK | cluster,
            cluster | 1 << 63,
            1 << 62 | self.chance.randrange(len(self.file)) | self.chance.randrange(4) << self.compressed_shift(),
            self.number((place[0] + self.chance.choice((-8, 8)), place[1])),
            1 << self.chance.randrange(bits),
            self.chance.choice((0, 1, 2, 3, 6, 7, 16, 40, 64, 512, 65536)),
            (1 << bits) - 1,
            self.chance.getrandbits(bits),
            len(self.file),
        )))  # fmt: skip

    def compressed_shift(self) -> int:
        """Return where the number of sectors begins in a compressed entry (specification, "Cluster mapping")."""
        return 62 - (self.cluster.bit_length() - 1 - 8)

    def copy_cluster(self) -> None:
        """Have a cluster, or a part, look like another one."""
        size = self.chance.choice((8, 64, 512, self.cluster))
        source, target = (self.chance.randrange(0, len(self.file), size) for _ in range(2))
        piece = self.file[source : source + size]
        self.file[target : target + len(piece)] = piece
        del self.file[sparse.LONGEST :]

    def resize(self) -> None:
        """Cut the file off, or lengthen it."""
        by = self.chance.choice((1, 512, self.cluster)) * self.chance.choice((-3, -1, 1, 3))
        size = min(max(len(self.file) + by, self.SHORTEST), sparse.LONGEST)
        del self.file[size:]
        self.file.extend(bytes(size - len(self.file)))
