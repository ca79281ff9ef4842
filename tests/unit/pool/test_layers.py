import datetime
import functools
import os
import pathlib
import stat

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from snapd import errors, fsops, model, units
from snapd.pool import layers as pools
from snapd.qcow2.format import header
from snapd.qcow2.reading import image
from snapd.qcow2.writing import writer

A = "aa000000-0000-4000-8000-000000000001"
B = "bb000000-0000-4000-8000-000000000002"
C = "cc000000-0000-4000-8000-000000000003"
NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
SIZE = units.MIB


def _layer(uid: str, parent: str | None = None, state: model.LayerState = model.LayerState.FROZEN) -> model.Layer:
    return model.Layer(uid, parent, SIZE, state, NOW)


@pytest.fixture
def pool(tmp_path: pathlib.Path) -> pools.Pool:
    """Make a pool."""
    return pools.Pool(tmp_path / "pool", 0)


def _fill(pool: pools.Pool, uid: str, offset: int, data: bytes) -> None:
    with writer.Writer.open(pool.path(uid)) as target:
        target.write(offset, data)


def test_a_layer_lies_where_its_uid_says_and_has_its_name_when_it_is_whole(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    assert pool.path(A) == pool.root / "aa" / f"{A}.qcow2"
    assert list(pool.files()) == [pool.path(A)]
    with image.Image.open(pool.path(A)) as opened:
        assert (opened.size_bytes, opened.header.backing_name) == (SIZE, None)


def test_a_layer_that_is_there_is_kept_and_a_half_made_one_replaced(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    _fill(pool, A, 0, b"x" * 512)
    pool.create(_layer(A))
    with pool.opened([_layer(A)]) as chain:
        buffer = bytearray(512)
        chain.read_into(0, memoryview(buffer))
    assert buffer == b"x" * 512
    pool.temporary_path(B).write_bytes(b"half")
    pool.create(_layer(B))
    assert set(pool.files()) == {pool.path(A), pool.path(B)}


def test_an_overlay_names_its_parent_relatively_so_that_the_pool_can_be_moved(
    pool: pools.Pool, tmp_path: pathlib.Path
) -> None:
    pool.create(_layer(A))
    pool.create(_layer(B, A), b"whose it is")
    os.rename(pool.root, tmp_path / "elsewhere")
    moved = pools.Pool(tmp_path / "elsewhere", 0)
    with image.Image.open(moved.path(B)) as opened:
        name = opened.header.backing_name
        assert (opened.header.extension(header.POINT_EXTENSION) or b"").rstrip() == b"whose it is"
    assert name is not None
    assert (moved.path(B).parent / name).resolve() == moved.path(A).resolve()
    with moved.opened([_layer(B, A), _layer(A)]) as chain:
        assert chain.size_bytes == SIZE


@pytest.mark.parametrize(
    ("uid", "parent", "size_bytes"),
    [(B, None, SIZE), (B, C, SIZE), (A, None, SIZE + 512)],
    ids=["none", "other", "size"],
)
def test_a_file_that_is_not_what_the_catalog_says_is_damage(
    pool: pools.Pool, uid: str, parent: str | None, size_bytes: int
) -> None:
    pool.create(_layer(A))
    pool.create(_layer(B, A))
    expected = model.Layer(uid, parent, size_bytes, model.LayerState.FROZEN, NOW)
    with pytest.raises(errors.Corrupt), pool.opened([expected]):
        pass


def test_a_missing_file_is_reported_unless_a_fold_took_it(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    pool.create(_layer(B, A))
    pool.remove(A)
    with pytest.raises(errors.StorageFailed), pool.opened([_layer(B, A), _layer(A)]):
        pass
    pool.remove(B)
    pool.create(_layer(B))
    folding = _layer(A, None, model.LayerState.FOLDING)
    with pool.opened([_layer(B, A), folding]) as chain:
        assert len(chain.images) == 1


def test_a_frozen_layer_is_read_only_until_it_is_thawed(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    assert not pool.is_frozen(A)
    pool.freeze(A)
    assert pool.is_frozen(A)
    assert stat.S_IMODE(pool.path(A).stat().st_mode) & 0o222 == 0
    pool.thaw(A)
    assert not pool.is_frozen(A)


def test_removing_takes_the_whole_file_and_the_half_made_one_and_may_be_repeated(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    pool.temporary_path(A).write_bytes(b"half")
    pool.staging_path(B).write_bytes(b"image")
    assert pool.staged() == {B}
    for _ in range(2):
        pool.remove(A)
        pool.remove_staging(B)
    assert list(pool.files()) == []
    assert pool.allocated_bytes(A) == 0


def test_room_is_refused_below_the_low_watermark(tmp_path: pathlib.Path) -> None:
    free = pools.Pool(tmp_path / "pool", 0).usage().free
    pool = pools.Pool(tmp_path / "pool", free // 2)
    pool.require_room()
    assert pool.has_reserve(free // 4)
    with pytest.raises(errors.PoolFull):
        pool.require_room(free)
    with pytest.raises(errors.PoolFull):
        pools.Pool(tmp_path / "pool", free * 2).require_room()
    assert not pool.has_reserve(free)


def test_strays_are_files_that_nothing_known_explains(fs: FakeFilesystem) -> None:
    pool = pools.Pool(pathlib.Path("/pool"), 0)
    known = [pool.path(A), pool.temporary_path(B), pool.staging_path(C)]
    strays = [pool.root / "notes.txt", pool.root / "aa" / "core", pool.root / "staging" / "x"]
    for path in [*known, *strays]:
        fs.create_file(path)
    assert set(pool.strays({A, B, C})) == set(strays)
    assert set(pool.strays(set())) == {*known, *strays}


def test_a_pool_is_made_once_and_opened_ever_after(fs: FakeFilesystem) -> None:
    pools.Pool(pathlib.Path("/srv/pool"), 0)
    assert len(fs.listdir("/srv/pool")) == 257
    pool = pools.Pool(pathlib.Path("/srv/pool"), 0)
    assert list(pool.files()) == []


def _note(names: list[str], operation: fsops.Operation) -> None:
    names.append(operation.name)


def test_a_layer_is_removed_durably_even_if_a_process_that_died_had_begun_with_it(pool: pools.Pool) -> None:
    # Half made, whole, and removed but for the sync: afterwards the row goes, and no file may come back.
    pool.temporary_path(A).touch()
    pool.create(_layer(B))
    for uid in (A, B, C):
        names: list[str] = []
        fsops.observe(None, functools.partial(_note, names))
        try:
            pool.remove(uid)
        finally:
            fsops.observe(None)
        assert names[-1] == "syncdir"
    assert list(pool.files()) == []


def test_a_layer_that_is_found_made_has_its_name_made_durable(pool: pools.Pool) -> None:
    # Whoever gave it the name may have died before the folder was synced.
    pool.create(_layer(A))
    names: list[str] = []
    fsops.observe(None, functools.partial(_note, names))
    try:
        pool.create(_layer(A))
        assert pool.is_made(A)
        assert not pool.is_made(B)
    finally:
        fsops.observe(None)
    assert names == ["syncdir", "syncdir"]
