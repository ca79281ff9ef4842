"""The layers of a volume as they are told."""

import threading

import pytest

from snapd import errors, model
from tests.unit.service import world as worlds


def test_a_chain_tells_of_its_layers_their_snapshots_and_who_else_stands_on_them(world: worlds.World) -> None:
    world.volume("v")
    world.write("v", 0, b"a" * worlds.CLUSTER)
    world.snapshot("first", "v", rapid=True)
    world.write("v", 0, b"b" * worlds.CLUSTER)
    world.snapshot("second", "v", rapid=True)
    clones = [world.clone(f"clone-{number}", "first").id for number in range(2)]
    world.snapshot("of-a-clone", "clone-0", rapid=True)
    head, upper, lower = world.service.chains.of_volume("e", "v")
    states = [link.layer.state for link in (head, upper, lower)]
    assert states == [model.LayerState.HEAD, model.LayerState.FROZEN, model.LayerState.FROZEN]
    assert [link.snapshots for link in (head, upper, lower)] == [
        (),
        ("environments/e/snapshots/second",),
        ("environments/e/snapshots/first",),
    ]
    assert (head.volumes, upper.volumes) == ((), ())
    assert sorted(lower.volumes) == sorted(f"environments/e/volumes/{clone}" for clone in clones)
    assert (head.volume_count, upper.volume_count, lower.volume_count) == (0, 0, 2)
    assert lower.allocated_bytes == world.layer_path(lower.layer.uid).stat().st_blocks * 512
    # Seen from a clone with a snapshot of its own, the same layer is one further down, and others stand on it.
    *_, below = world.service.chains.of_volume("e", "clone-0")
    assert below.layer.uid == lower.layer.uid
    assert set(below.volumes) == {"environments/e/volumes/v", "environments/e/volumes/clone-1"}


def test_a_thousand_clones_are_counted_and_some_are_named(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapd.service.chains.MOST_VOLUMES", 3)
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    for number in range(5):
        world.clone(f"clone-{number}", "s")
    link = world.service.chains.of_volume("e", "v")[-1]
    assert (len(link.volumes), link.volume_count) == (3, 5)


def test_there_is_no_chain_of_a_volume_that_is_not_there(world: worlds.World) -> None:
    world.volume("v")
    with pytest.raises(errors.NotFound):
        world.service.chains.of_volume("e", "none")


def test_a_chain_that_is_told_was_the_volumes_at_one_moment(world: worlds.World) -> None:
    world.volume("v")
    world.snapshot("s", "v", rapid=True)
    done = threading.Event()
    seen: set[model.LayerState] = set()

    def look() -> None:
        while not done.is_set():
            seen.update(link.layer.state for link in world.service.chains.of_volume("e", "v"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            world.revert("v", "s")
    finally:
        done.set()
        looking.join()
    # Not the head that a revert has just let go of.
    assert seen == {model.LayerState.HEAD, model.LayerState.FROZEN}
