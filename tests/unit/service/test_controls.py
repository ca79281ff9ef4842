"""The reins of running work."""

import pytest

from snapd.copier import control as controls
from snapd.service import core


def test_work_that_tidies_up_leaves_the_reins_of_the_next_work_alone() -> None:
    registry = core.Controls()
    first, second = registry.running("revert", "volume"), registry.running("revert", "volume")
    first.__enter__()
    reins = second.__enter__()
    first.__exit__(None, None, None)
    assert registry.find("revert", "volume") is reins
    second.__exit__(None, None, None)
    assert registry.find("revert", "volume") is None


def test_work_of_different_kinds_on_one_resource_has_different_reins() -> None:
    registry = core.Controls()
    with registry.running("archive", "snapshot") as archiving, registry.running("delete_snapshot", "snapshot"):
        assert registry.find("archive", "snapshot") is archiving


def test_work_that_begins_after_the_parking_is_parked() -> None:
    registry = core.Controls()
    registry.park()
    with registry.running("archive", "snapshot") as reins, pytest.raises(controls.Stopped) as stopped:
        reins.check()
    assert stopped.value.parked
