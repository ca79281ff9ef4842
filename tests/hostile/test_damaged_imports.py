"""Damaged images, sent to a service: refused while the sender waits, or failed where it takes unpacking to see it."""

import os

import pytest

from snapd import errors, model
from tests.hostile import imports
from tests.hostile.surgery import COPIED, Patient
from tests.unit.service import world as worlds


def test_an_image_with_a_bad_table_is_refused_and_leaves_nothing(world: worlds.World, patient: Patient) -> None:
    patient.set_l2(COPIED | patient.l1)
    with pytest.raises(errors.ImageRefused, match=r"it is damaged: .*; repair it with `qemu-img check -r all`"):
        imports.send(world, patient.path.read_bytes(), imports.QCOW2)
    imports.assert_nothing_is_left(world)


def test_an_image_that_turns_out_to_be_damaged_fails_its_volume(world: worlds.World, patient: Patient) -> None:
    patient.set_compressed(b"\xff" * 2048)
    problem = world.ended(imports.send(world, patient.path.read_bytes(), imports.QCOW2)).error
    assert problem is not None
    assert problem.reason == "CORRUPT"
    assert world.get_volume("v").state is model.VolumeState.FAILED
    assert not os.listdir(world.settings.pool_path / "staging")
    world.delete_volume("v")
