"""What headers and modes say, on real files, hostile ones among them."""

import os
import pathlib

import pytest

from snapd import model
from snapd.pool import layers as pools
from snapd.qcow2.format import header
from snapd.qcow2.writing import create
from snapd.service.rebuilding import survey
from tests.unit.service.rebuilding import made

A = "aa000000-0000-4000-8000-000000000000"
B = "bb000000-0000-4000-8000-000000000000"


@pytest.fixture
def pool(tmp_path: pathlib.Path) -> pools.Pool:
    return pools.Pool(tmp_path / "pool", 0)


def _layer(uid: str, parent: str | None = None) -> model.Layer:
    return model.Layer(uid, parent, made.SIZE, model.LayerState.HEAD, made.NOW)


def test_a_layers_header_and_mode_are_read(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    pool.freeze(A)
    description = made.head(1, 77, 2, taken=2).description
    pool.create(_layer(B, A), description)
    found = survey.survey(pool)
    assert (found.layers[A].parent, found.layers[A].mode) == (None, pools.FROZEN_MODE)
    assert found.layers[A].generation == survey.UNDESCRIBED
    above = found.layers[B]
    assert (above.parent, above.size_bytes, above.mode) == (A, made.SIZE, pools.HEAD_MODE)
    assert (above.generation, above.owner) == (77, made.uid("v", 1))
    assert above.stand == (made.uid("p", 2), made.uid("l", 2))
    assert above.described() is not None
    assert found.highest_generation == 77
    assert not found.refused
    assert not found.others


@pytest.mark.parametrize("description", [b"{}", b"\xff\xfe", b"[" * 3000, b'{"version": 9}', b"null", b" "])
def test_a_description_that_is_none_of_ours_says_nothing(pool: pools.Pool, description: bytes) -> None:
    pool.create(_layer(A), description)
    assert survey.survey(pool).layers[A].generation == survey.UNDESCRIBED


@pytest.mark.parametrize(
    "name", [f"{B}.qcow2", f"../aa/{B}.qcow2", f"/pool/bb/{B}.qcow2", f"../bb/{B}.raw", f"../bb/../bb/{B}.qcow2", "x"]
)
def test_a_backing_name_of_another_form_is_never_followed(pool: pools.Pool, name: str) -> None:
    pool.create(_layer(B))
    extension = (header.POINT_EXTENSION, made.head(1, 77).description)
    create.create(pool.path(A), size_bytes=made.SIZE, backing_name=name, extensions=[extension])
    found = survey.survey(pool)
    assert list(found.layers) == [B]
    assert (found.refused[A].generation, found.refused[A].owner) == (77, made.uid("v", 1))


def test_what_is_no_layer_of_this_pool_is_told(pool: pools.Pool, tmp_path: pathlib.Path) -> None:
    pool.create(_layer(A))
    os.rename(pool.path(A), pool.root / "bb" / f"{A}.qcow2")
    pool.path(B).symlink_to(tmp_path / "elsewhere")
    os.mkfifo(pool.path("cc" + B[2:]))
    pool.path("dd" + B[2:]).write_bytes(b"QFI\xfb and no more")
    pool.staging_path(A).write_bytes(b"half an image")
    pool.temporary_path(A).write_bytes(b"half a layer")
    (pool.root / "letter").write_bytes(b"")
    found = survey.survey(pool)
    assert not found.layers
    assert {uid[:2] for uid in found.refused} == {"bb", "cc", "dd"}
    assert {other.path: other.problem for other in found.others} == {
        f"bb/{A}.qcow2": "a layer that lies in the wrong place",
        f"staging/{A}": "an image whose upload or import had not ended",
        f"aa/{A}.tmp": "a layer that was being made",
        "letter": "nothing tells what it is",
    }


def test_nothing_is_changed(pool: pools.Pool) -> None:
    pool.create(_layer(A))
    before = pool.path(A).stat()
    survey.survey(pool)
    after = pool.path(A).stat()
    assert (before.st_mtime_ns, before.st_ctime_ns, before.st_mode) == (
        after.st_mtime_ns,
        after.st_ctime_ns,
        after.st_mode,
    )
