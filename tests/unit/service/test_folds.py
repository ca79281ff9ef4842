"""Folds: contents stay as they are, whatever fails, goes or is read meanwhile."""

import contextlib
import dataclasses
import errno
import random
import threading

import pytest

from snapd import errors, fsops
from snapd.qcow2.format import header
from snapd.qcow2.reading import image
from snapd.service import descriptions
from tests.unit.service import faults
from tests.unit.service import world as worlds

CLUSTER = worlds.CLUSTER
NOISE = random.Random(1).randbytes(8 * CLUSTER)


def _two_to_fold(world: worlds.World, *, up: bool) -> None:
    """Make two frozen layers of which the lower is to be folded, with little in it if the fold is to go up."""
    world.volume("v")
    world.write("v", 0, NOISE[:CLUSTER] if up else NOISE)
    world.snapshot("low", "v", rapid=True)
    world.write("v", 2 * CLUSTER, NOISE if up else NOISE[: CLUSTER // 2])
    world.snapshot("high", "v", rapid=True)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_fold_leaves_the_contents_as_they_were(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    world.delete_snapshot("low")
    world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before == world.volume_bytes("v")


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("point", ["fold.copied", "fold.relinked", "fold.before_commit", "fold.committed"])
def test_a_fold_that_failed_is_finished_in_a_later_round(world: worlds.World, up: bool, point: str) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    with faults.observing(faults.fail_at_point(errno.EIO, point)):
        world.delete_snapshot("low")
        world.until(lambda: bool(world.rows("SELECT 1 FROM intents WHERE kind = 'fold'")) or world.depth("v") == 2)
        assert world.snapshot_bytes("high") == before
        world.pass_time(minutes=6)
        world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_fold_without_room_leaves_no_leaks_once_it_is_finished(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    before = world.snapshot_bytes("high")
    failed = threading.Event()

    def strike(operation: fsops.Operation) -> None:
        if threading.current_thread().name == "keeper" and operation.name == "fdatasync":
            failed.set()
            raise faults.error(errno.ENOSPC)

    with faults.observing(strike):
        world.delete_snapshot("low")
        assert failed.wait(faults.PATIENCE_S)
        assert world.snapshot_bytes("high") == before
    world.pass_time(minutes=6)
    world.until(lambda: world.depth("v") == 2)
    assert world.snapshot_bytes("high") == before


def test_what_goes_while_its_fold_waits_is_let_go_to_the_bottom(world: worlds.World) -> None:
    _two_to_fold(world, up=True)
    world.write("v", 0, NOISE[:512])
    world.snapshot("top", "v", rapid=True)
    with faults.observing(faults.fail_at_point(errno.EIO, "fold.copied")):
        world.delete_snapshot("high")
        world.until(lambda: bool(world.rows("SELECT 1 FROM intents WHERE kind = 'fold'")))
        with contextlib.suppress(errors.NotFound):
            world.delete_snapshot("top")
        world.delete_volume("v")
        world.delete_snapshot("low")
    world.pass_time(minutes=6)
    world.until(lambda: not world.rows("SELECT 1 FROM layers"))


def test_a_fold_is_put_off_while_somebody_reads(world: worlds.World) -> None:
    _two_to_fold(world, up=False)
    export = world.service.transfers.export_snapshot("e", "high")
    before = worlds.contents(world.service.transfers.export_snapshot("e", "high"))
    world.delete_snapshot("low")
    pieces = export.pieces(0)
    first = next(pieces)
    assert world.depth("v") == 3
    rest = b"".join(bytes(piece.length) if piece.data is None else piece.data for piece in [first, *pieces])
    export.close()
    assert rest == before
    world.until(lambda: world.depth("v") == 2)


def test_what_is_free_again_before_it_is_put_off_is_tried_at_once(world: worlds.World) -> None:
    core = world.service._core
    world.service.work.pause(worlds.request("PauseWork", ""), (), "", None)
    with core.pins.reading(["a", "packs/e"]):
        core.postpone(["a"], layer="a")
        assert core.hints.take() == (set(), set())
        core.postpone(["b"], layer="b")
        assert core.hints.take() == ({"a", "b"}, set())
    core.postpone(["packs/e"], environment="e")
    assert core.hints.take() == (set(), {"e"})


def _modes(world: worlds.World) -> dict[str, int]:
    """Return the modes of the layers' files, the lowest layer first."""
    rows = world.rows("SELECT uid FROM layers ORDER BY created_us, rowid")
    paths = [world.layer_path(row["uid"]) for row in rows]
    return {path.stem: path.stat().st_mode & 0o777 for path in paths if path.exists()}


@pytest.mark.parametrize(("up", "modes"), [(True, [0o440, 0o650]), (False, [0o600, 0o400])], ids=["up", "down"])
def test_the_modes_of_a_fold_say_what_shows_its_own_contents_still(
    world: worlds.World, up: bool, modes: list[int]
) -> None:
    _two_to_fold(world, up=up)
    with faults.observing(faults.fail_at_point(errno.EIO, "fold.copied")):
        world.delete_snapshot("low")
        world.until(lambda: bool(world.rows("SELECT 1 FROM layers WHERE state = 'FOLDING'")))
        world.until(lambda: list(_modes(world).values())[:2] == modes)
    world.pass_time(minutes=6)
    world.until(lambda: world.depth("v") == 2)
    world.until(world.idle)
    assert list(_modes(world).values()) == [0o440, 0o640]


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_modes_are_durable_before_a_fold_writes_anything(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    made: list[str] = []

    def note(operation: fsops.Operation) -> None:
        if threading.current_thread().name == "keeper" and operation.name in ("chmod", "fsync", "pwrite", "copy"):
            made.append(f"chmod {operation.length:o}" if operation.name == "chmod" else operation.name)

    with faults.observing(note):
        world.delete_snapshot("low")
        world.until(lambda: world.depth("v") == 2)
    marks = ["chmod 650", "fsync"] if up else ["chmod 400", "fsync", "chmod 600", "fsync"]
    begin = made.index(marks[0])
    assert made[begin : begin + len(marks)] == marks
    assert not {"pwrite", "copy"} & set(made[:begin])


def _said(world: worlds.World, uid: str) -> descriptions.Head:
    with image.Image.open(world.layer_path(uid)) as opened:
        return descriptions.decode_head(opened.header.extension(header.POINT_EXTENSION) or b"")


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_what_headers_say_outlives_a_fold(world: worlds.World, up: bool) -> None:
    _two_to_fold(world, up=up)
    low, high = (
        world.rows("SELECT p.layer FROM snapshots s JOIN points p ON p.uid = s.point WHERE s.id = ?", name)[0]["layer"]
        for name in ("low", "high")
    )
    below, above = _said(world, low), _said(world, high)
    assert above.taken is not None
    world.delete_snapshot("low")
    world.until(lambda: world.depth("v") == 2)
    world.until(world.idle)
    said = _said(world, high)
    assert said == dataclasses.replace(above, stand=below.stand, taken=below.taken)


def test_a_frozen_layer_says_so_before_what_stands_on_it_is_removed(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    (row,) = world.rows("SELECT layer FROM points")
    path = world.layer_path(row["layer"])
    head = world.layer_path(world.get_volume("v").head_layer or "")
    # As a kill left it between the capture's commit and the change of the mode.
    path.chmod(0o640)
    made: list[tuple[str, str]] = []
    with faults.observing(lambda operation: made.append((operation.name, operation.target))):
        world.delete_volume("v")
    assert path.stat().st_mode & 0o777 == 0o440
    sealed = made.index(("chmod", str(path)))
    assert made[sealed + 1][0] == "fsync"
    assert sealed < made.index(("unlink", str(head)))
