"""The host's clock is set back, or forward, while the service runs and while it doesn't."""

import datetime
import errno
import random
from collections.abc import Callable

import pytest

from snapd import clock as clocks
from snapd import model
from snapd.archive import index, scrub
from snapd.catalog import db
from snapd.service import uploads
from snapd.service.volumes import VolumeSpec
from tests.unit.service import faults
from tests.unit.service import world as worlds

NOISE = random.Random(7).randbytes(4 * worlds.CLUSTER)
YEAR = datetime.timedelta(days=365)
DAY = datetime.timedelta(days=1)
MINUTE = datetime.timedelta(minutes=1)
IMAGE = VolumeSpec("", {}, model.VolumeRole.ROOT, "", 0, "")

SetBack = Callable[[datetime.timedelta], None]


@pytest.fixture(params=["while it runs", "while it is down"])
def set_back(request: pytest.FixtureRequest, world: worlds.World) -> SetBack:
    """Give a function that sets the clock back, with the service running or stopped meanwhile."""

    def back(span: datetime.timedelta) -> None:
        if request.param == "while it is down":
            world.stop()
            world.clock.advance(-span)
            world.start()
        else:
            world.clock.advance(-span)

    return back


def _volume(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, NOISE)


def _begin_import(world: worlds.World) -> uploads.ImportUpload:
    request = worlds.request("ImportVolume")
    return world.service.transfers.begin_import(request, "e", "i", IMAGE, model.ImageFormat.RAW, worlds.SIZE, 0)


def test_a_span_is_over_at_its_end_and_before_its_beginning() -> None:
    span = clocks.span(clocks.ManualClock(worlds.START), MINUTE)
    moments = (-MINUTE, datetime.timedelta(0), MINUTE / 2, MINUTE, 2 * MINUTE)
    assert [span.is_over(worlds.START + moment) for moment in moments] == [True, False, False, True, True]
    assert not clocks.Span(worlds.START, None).is_over(worlds.START + YEAR)


def test_what_was_captured_while_the_clock_was_ahead_is_archived_after_its_retention(
    world: worlds.World, set_back: SetBack
) -> None:
    world.pass_time(days=365)
    _volume(world)
    world.snapshot("short", "v", rapid=True, retention=datetime.timedelta(hours=2))
    world.snapshot("usual", "v", rapid=True)
    set_back(YEAR)
    now = world.clock.now()
    world.until(lambda: world.get_snapshot("usual").archive.due == now + DAY)
    assert world.get_snapshot("short").archive.due == now + datetime.timedelta(hours=2)
    assert world.get_snapshot("short").captured == now + YEAR
    world.pass_time(hours=2)
    world.until(lambda: not world.get_snapshot("short").rapid)
    assert world.get_snapshot("usual").rapid
    world.restart()
    assert world.get_snapshot("usual").archive.due == now + DAY, "it isn't cut again"
    world.pass_time(hours=22)
    world.until(lambda: not world.get_snapshot("usual").rapid)


def test_a_regular_snapshot_is_not_left_in_progress(world: worlds.World, set_back: SetBack) -> None:
    _volume(world)
    world.service.work.pause(worlds.request("PauseWork", ""), (model.Worker.ARCHIVER,), "", None)
    world.snapshot("s", "v", rapid=False)
    world.snapshot("asked", "v", rapid=True)
    world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "asked", "")
    set_back(YEAR)
    world.service.work.resume(worlds.request("ResumeWork", ""), ())
    world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)
    world.until(lambda: not world.get_snapshot("asked").rapid)


def test_what_failed_is_tried_again_soon(world: worlds.World, set_back: SetBack) -> None:
    _volume(world)
    with faults.observing(faults.fail(errno.EIO, "create", under="/archive/")):
        world.snapshot("s", "v", rapid=False)
        world.until(lambda: world.get_snapshot("s").archive.error is not None)
    set_back(YEAR)
    world.until(lambda: world.get_snapshot("s").state is model.SnapshotState.COMPLETED)


def test_what_waits_by_the_rule_is_left_alone(world: worlds.World, set_back: SetBack) -> None:
    _volume(world)
    snapshot = world.snapshot("s", "v", rapid=True)
    world.pass_time(hours=3)
    with world.catalog() as connection:
        before = connection.execute("SELECT max(revision) FROM events").fetchone()[0]
    set_back(datetime.timedelta(hours=2))
    world.restart()
    assert world.get_snapshot("s") == snapshot
    with world.catalog() as connection:
        assert connection.execute("SELECT max(revision) FROM events").fetchone()[0] == before


def test_a_snapshot_whose_run_was_cancelled_waits_for_its_due_time(world: worlds.World, set_back: SetBack) -> None:
    _volume(world)
    world.snapshot("s", "v", rapid=True)
    held = faults.Held("archive_run.before_commit")
    with faults.observing(held):
        _, operation = world.service.snapshots.archive(worlds.request("ArchiveSnapshot"), "e", "s", "")
        held.reach()
        world.service.operations.cancel("e", operation.id)
        held.go_on()
        world.ended(operation)
    world.until(world.idle)
    cancelled = world.get_snapshot("s")
    assert (cancelled.rapid, cancelled.archive.next_attempt) == (True, cancelled.archive.due)
    world.pass_time(hours=3)
    set_back(datetime.timedelta(hours=2))
    world.restart()
    assert world.get_snapshot("s") == cancelled
    world.pass_time(hours=23)
    world.until(lambda: world.get_snapshot("s").archive.state is model.ArchiveState.ARCHIVED)


def test_a_pause_lasts_as_long_as_it_was_to(world: worlds.World, set_back: SetBack) -> None:
    world.service.work.pause(worlds.request("PauseWork", ""), (), "", datetime.timedelta(hours=1))
    set_back(YEAR)

    def until() -> datetime.datetime | None:
        pause = world.service.work.states()[0].pause
        return None if pause is None else pause.until

    world.until(lambda: until() == world.clock.now() + datetime.timedelta(hours=1))
    world.pass_time(hours=1)
    assert [state.pause for state in world.service.work.states()] == [None, None]
    _volume(world)
    world.archived("s", "v")
    world.delete_volume("v")
    world.delete_snapshot("s")
    (row,) = world.rows("SELECT uid FROM environments")
    world.until(lambda: not world.archive_files(f"hosts/host-1/environments/{row['uid']}/packs"))


def test_an_upload_that_nobody_continues_expires(world: worlds.World, set_back: SetBack) -> None:
    _begin_import(world).close()
    set_back(YEAR)
    latest_us = db.to_us(world.clock.now() + world.settings.upload_expiry)
    world.until(lambda: bool(world.rows("SELECT 1 FROM uploads WHERE expires_us <= ?", latest_us)))
    world.pass_time(hours=1)
    # The keeper's round may have come a moment before that.
    world.pass_time(minutes=10)
    world.until(lambda: not world.rows("SELECT 1 FROM volumes"))


def test_packs_that_were_checked_in_the_future_are_checked_again() -> None:
    now = worlds.START
    packs = [
        index.Pack(bytes([number] * 16), 100, index.State.PROVEN, 1, checked)
        for number, checked in enumerate((now - DAY, now + YEAR, now))
    ]
    due = scrub.due_evenly(packs, now, 30 * DAY, datetime.timedelta(minutes=10))
    assert [one.pack_id[0] for one in due] == [1]


def test_the_archive_is_scrubbed_on_after_the_clock_was_set_back(world: worlds.World, set_back: SetBack) -> None:
    _volume(world)
    world.archived("s", "v")
    world.pass_time(days=31)
    world.until(lambda: world.get_snapshot("s").archive.checked is not None)
    set_back(YEAR)
    world.pass_time(minutes=10)

    def was_checked() -> bool:
        checked = world.get_snapshot("s").archive.checked
        return checked is not None and checked <= world.clock.now()

    world.until(was_checked)


def test_a_clock_that_is_set_forward_ends_waits_and_nothing_else(world: worlds.World) -> None:
    _volume(world)
    world.snapshot("s", "v", rapid=True)
    before = world.snapshot_bytes("s")
    world.clock.advance(YEAR)
    world.until(lambda: not world.get_snapshot("s").rapid)
    world.clock.advance(-YEAR)
    assert world.snapshot_bytes("s") == before
    world.snapshot("t", "v", rapid=True)
    world.pass_time(days=1)
    world.until(lambda: not world.get_snapshot("t").rapid)


def test_an_upload_under_way_survives_a_clock_that_is_set_forward(world: worlds.World) -> None:
    with _begin_import(world) as upload:
        upload.data(0, NOISE)
        world.clock.advance(YEAR)
        world.service.transfers.expire_uploads()
        upload.hole(len(NOISE), worlds.SIZE - len(NOISE))
        upload.finish()
    assert world.volume_bytes("i") == NOISE + bytes(worlds.SIZE - len(NOISE))
