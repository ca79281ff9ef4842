import json
import pathlib
import random
import subprocess
from collections.abc import Callable, Sequence

import pytest

from snapd import units
from snapd.qcow2.reading import chain, image


class Qemu:
    """QEMU's tools as the referee of what we read and write."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def img(self, *arguments: str | pathlib.Path) -> str:
        """Run qemu-img; it has to succeed."""
        return self._run(["qemu-img", *map(str, arguments)])

    def io(self, path: pathlib.Path, *commands: str) -> None:
        """Run commands of qemu-io on an image; all have to succeed."""
        flags = [part for command in commands for part in ("-c", command)]
        output = self._run(["qemu-io", "-f", "qcow2", *flags, str(path)])
        assert "failed" not in output, output

    def create(self, path: pathlib.Path, size_bytes: int, *, backing: str | None = None, **options: str | int) -> None:
        """Make an image."""
        flags = ["-o", ",".join(f"{name}={value}" for name, value in options.items())] if options else []
        if backing is not None:
            flags += ["-b", backing, "-F", "qcow2"]
        self.img("create", "-q", "-f", "qcow2", *flags, path, str(size_bytes))

    def scatter(self, path: pathlib.Path, seed: int, count: int = 60) -> None:
        """Write, zero and discard here and there in an image, the same for the same seed and size."""
        size = int(json.loads(self.img("info", "-f", "qcow2", "--output=json", path))["virtual-size"])
        chance = random.Random(seed)
        commands = []
        for _ in range(count):
            length = chance.randrange(512, 300 * units.KIB, 512)
            offset = chance.randrange(0, size - length, 512)
            pattern = chance.randrange(1, 256)
            kinds = (f"write -P {pattern}", "write -z", "write -z -u", "discard")
            commands.append(f"{chance.choices(kinds, (8, 2, 1, 1))[0]} {offset} {length}")
        self.io(path, *commands)

    def content(self, path: pathlib.Path) -> bytes:
        """Return what a guest sees of an image and its backing files."""
        raw = self._folder / "content.raw"
        self.img("convert", "-f", "qcow2", "-O", "raw", path, raw)
        return raw.read_bytes()

    def check(self, path: pathlib.Path) -> dict[str, int]:
        """Return the numbers of qemu-img check, whatever its verdict."""
        done = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", "--output=json", str(path)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 2, 3), done.stderr
        report = json.loads(done.stdout)
        return {key: value for key, value in report.items() if isinstance(value, int)}

    def assert_clean(self, path: pathlib.Path) -> None:
        """Require that qemu-img check finds nothing."""
        report = self.check(path)
        assert report.get("leaks", 0) == 0, report
        assert report.get("corruptions", 0) == 0, report

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def qemu(tmp_path: pathlib.Path) -> Qemu:
    return Qemu(tmp_path)


@pytest.fixture
def read_whole() -> Callable[..., bytes]:
    """Return a function that reads what our reader sees of a chain of files, given from the top."""

    def read(*paths: pathlib.Path) -> bytes:
        images = [image.Image.open(path) for path in paths]
        view = chain.Chain(images)
        buffer = bytearray(view.size_bytes)
        view.read_into(0, memoryview(buffer))
        for opened in images:
            opened.close()
        return bytes(buffer)

    return read
