import numpy as np

from snapd import blockmap, units
from snapd.blockmap import Kind


def test_a_single_extent_of_nothing_is_the_empty_map() -> None:
    assert len(blockmap.single(5, 0, Kind.DATA)) == 0
    assert blockmap.empty().total() == 0


def test_neighbours_are_joined_only_where_the_file_goes_on_too() -> None:
    def pair(host: int) -> blockmap.BlockMap:
        one, other = blockmap.single(0, 10, Kind.DATA, 100), blockmap.single(10, 10, Kind.DATA, host)
        return blockmap.overlay(one, other)

    assert pair(110).length.tolist() == [20]
    assert pair(500).host.tolist() == [100, 500]


def test_compressed_clusters_are_never_joined_and_keep_their_place_when_cut() -> None:
    one, other = blockmap.single(0, 10, Kind.COMPRESSED, 7), blockmap.single(10, 10, Kind.COMPRESSED, 17)
    both = blockmap.overlay(one, other)
    assert both.host.tolist() == [7, 17]
    part = blockmap.clip(both, 5, 10)
    assert (part.start.tolist(), part.length.tolist(), part.host.tolist()) == ([5, 10], [5, 5], [7, 17])


def test_a_hole_of_zeros_hides_what_lies_below() -> None:
    seen = blockmap.overlay(blockmap.single(0, 30, Kind.DATA, 0), blockmap.single(10, 10, Kind.ZERO))
    assert seen.kind.tolist() == [Kind.DATA, Kind.ZERO, Kind.DATA]
    assert seen.host.tolist() == [0, -1, 20]


def test_offsets_of_the_largest_disks_stay_whole_numbers() -> None:
    far = (1 << 62) - units.MIB
    extents = blockmap.overlay(blockmap.single(0, 512, Kind.DATA, 0), blockmap.single(far, units.MIB, Kind.DATA, far))
    assert extents.end.dtype == np.int64
    assert int(extents.end[-1]) == 1 << 62
    decoded = blockmap.decode_delta(blockmap.encode_delta(extents))
    assert decoded.start.tolist() == [0, far]


def test_layers_are_attributed_and_forgotten() -> None:
    extents = blockmap.single(0, 10, Kind.DATA, 4).on_layer(3)
    assert extents.layer.tolist() == [3]
    assert extents.without_location().layer.tolist() == [0]
