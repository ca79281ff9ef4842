"""The algebra of block maps against a byte per unit."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapd import blockmap, errors
from snapd.blockmap import BlockMap, Kind

UNITS = 64
"""Length of the disks tried: small, so that everything meets everything."""

Model = npt.NDArray[np.int64]
"""For each unit kind * 10**6 + layer * 10**5 + host, or 0 where nothing is."""


@st.composite
def maps(draw: st.DrawFn) -> BlockMap:
    """Draw a map: runs of any kind with gaps between them, places in the file anywhere."""
    starts, lengths, kinds, hosts, layers = [], [], [], [], []
    position = draw(st.integers(0, 8))
    while position < UNITS and draw(st.booleans()):
        length = draw(st.integers(1, min(12, UNITS - position)))
        kind = draw(st.sampled_from([Kind.ZERO, Kind.DATA]))
        starts.append(position)
        lengths.append(length)
        kinds.append(kind)
        hosts.append(-1 if kind is Kind.ZERO else draw(st.integers(0, 999)))
        layers.append(draw(st.integers(0, 3)))
        position += length + draw(st.integers(0, 6))
    return BlockMap(
        np.array(starts, np.int64),
        np.array(lengths, np.int64),
        np.array(kinds, np.uint8),
        np.array(hosts, np.int64),
        np.array(layers, np.int32),
    )


def model(extents: BlockMap) -> Model:
    """Return what a map says of each unit; checks on the way that it is sorted, disjoint and without empty extents."""
    units = np.zeros(UNITS, np.int64)
    end = 0
    for start, length, kind, host, layer in zip(
        extents.start, extents.length, extents.kind, extents.host, extents.layer, strict=True
    ):
        assert start >= end
        assert length > 0
        end = int(start + length)
        place = np.full(length, 0) if host < 0 else host + np.arange(length) + 1
        units[start:end] = int(kind) * 10**6 + int(layer) * 10**5 + place
    return units


def _assert_same(extents: BlockMap, expected: Model) -> None:
    assert (model(extents) == expected).all()


@given(maps(), maps())
def test_an_overlay_shows_the_upper_map_and_through_its_gaps_the_lower(lower: BlockMap, upper: BlockMap) -> None:
    above, below = model(upper), model(lower)
    _assert_same(blockmap.overlay(lower, upper), np.where(above != 0, above, below))


@given(maps(), maps())
def test_a_difference_keeps_what_the_hole_does_not_cover(extents: BlockMap, hole: BlockMap) -> None:
    _assert_same(blockmap.difference(extents, hole), np.where(model(hole) != 0, 0, model(extents)))


@given(maps(), maps())
def test_an_intersection_keeps_what_both_cover(extents: BlockMap, cover: BlockMap) -> None:
    _assert_same(blockmap.intersection(extents, cover), np.where(model(cover) != 0, model(extents), 0))


@given(maps(), st.integers(0, UNITS), st.integers(0, UNITS))
def test_a_clip_keeps_what_lies_within(extents: BlockMap, start: int, length: int) -> None:
    expected = model(extents)
    expected[:start] = 0
    expected[start + length :] = 0
    _assert_same(blockmap.clip(extents, start, length), expected)


@given(maps())
def test_coalescing_changes_nothing_and_leaves_nothing_to_join(extents: BlockMap) -> None:
    joined = blockmap.coalesce(extents)
    _assert_same(joined, model(extents))
    assert len(blockmap.coalesce(joined)) == len(joined) <= len(extents)


@given(maps(), st.integers(1, 20))
def test_touched_blocks_are_those_that_hold_any_unit(extents: BlockMap, block_size: int) -> None:
    expected = sorted({unit // block_size for unit in np.flatnonzero(model(extents)).tolist()})
    assert blockmap.touched_blocks(extents, block_size).tolist() == expected


@given(maps(), st.integers(1, 40))
def test_windows_cut_a_map_without_losing_or_doubling_anything(extents: BlockMap, span: int) -> None:
    parts = [model(blockmap.clip(extents, start, length)) for start, length in blockmap.windows(UNITS, span)]
    assert (np.sum(parts, axis=0) == model(extents)).all()


@given(maps())
def test_totals_count_units(extents: BlockMap) -> None:
    kinds = model(extents) // 10**6
    assert extents.total() == np.count_nonzero(kinds)
    assert extents.total(Kind.ZERO) == np.count_nonzero(kinds == Kind.ZERO)


@given(maps())
def test_a_delta_comes_back_from_its_bytes(extents: BlockMap) -> None:
    decoded = blockmap.decode_delta(blockmap.encode_delta(extents))
    assert (model(decoded) // 10**6 == model(extents) // 10**6).all()
    assert (decoded.host == -1).all()
    assert len(decoded) == len(extents.without_location())


@given(maps(), st.data())
def test_damaged_bytes_are_never_taken_for_a_delta(extents: BlockMap, data: st.DataObject) -> None:
    encoded = bytearray(blockmap.encode_delta(extents))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = blockmap.decode_delta(bytes(encoded))
    except errors.Corrupt:
        return
    # Deflate has bits that mean nothing; what was read has to be what was written.
    assert (model(decoded) == model(extents.without_location())).all()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_delta_or_refused(data: bytes) -> None:
    with pytest.raises(errors.Corrupt):
        blockmap.decode_delta(data)
    with pytest.raises(errors.Corrupt):
        blockmap.decode_delta(b"DLT1" + data)


@given(maps())
def test_a_delta_cut_short_is_refused(extents: BlockMap) -> None:
    encoded = blockmap.encode_delta(extents)
    for length in range(0, len(encoded), 7):
        with pytest.raises(errors.Corrupt):
            blockmap.decode_delta(encoded[:length])
