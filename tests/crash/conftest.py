"""The script that every crash test goes through."""

import subprocess

import pytest

from tests.crash import script


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[script.Step]:
    """Give the script."""
    folder = tmp_path_factory.mktemp("image")
    raw, image = folder / "disk.raw", folder / "disk.qcow2"
    data = script.noise(script.SIZE)
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True)
    return script.script(image.read_bytes(), data)
