"""What people archive disks with today: QEMU's compressed images, restic and borg, on a folder of the same disk.

All end durable. restic and borg fsync what they store, and QEMU flushes its image at the end unless its cache mode is
left at the default, which never does; what restic restores it doesn't fsync, so that is done here, in the timed part.
Their keys and caches are in the benchmark's folder, and their passwords mean nothing.
"""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from tests.bench import rig, timing

_PASSWORD = "bench"  # noqa: S105 - it protects nothing
_CONVERT = ("qemu-img", "convert", "-t", "writeback", "-W", "-m", "16")


class Peer(Protocol):
    """A program that archives one disk. `make` comes first, and before each archive that is to be a first one."""

    name: str

    def make(self) -> None:
        """Begin with an empty archive."""
        ...

    def archive(self, disk: pathlib.Path) -> timing.Sample:
        """Archive a raw disk, durably."""
        ...

    def size_bytes(self) -> int:
        """Return what the archive takes."""
        ...

    def paths(self) -> list[pathlib.Path]:
        """Return the files and folders of the archive, and of its caches."""
        ...


class Qemu:
    """`qemu-img convert -c` with zstd, sixteen requests at a time, written in any order."""

    name = "qemu-img convert -c"

    def __init__(self, folder: pathlib.Path) -> None:
        self.image = folder / "theirs.qcow2"

    def make(self) -> None:
        self.image.unlink(missing_ok=True)

    def archive(self, disk: pathlib.Path) -> timing.Sample:
        return timing.command(
            [*_CONVERT, "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", disk, self.image]
        )

    def restore(self, target: pathlib.Path) -> timing.Sample:
        """Make a plain image of the compressed one."""
        target.unlink(missing_ok=True)
        return timing.command([*_CONVERT, "-f", "qcow2", "-O", "qcow2", self.image, target])

    def size_bytes(self) -> int:
        return self.image.stat().st_size

    def paths(self) -> list[pathlib.Path]:
        return [self.image]


class Restic:
    """`restic backup` into a repository of version 2, which compresses, with its own choice of level."""

    name = "restic backup"

    def __init__(self, folder: pathlib.Path) -> None:
        self._repository = folder / "restic"
        self._cache = folder / "restic-cache"

    def make(self) -> None:
        _empty(self._repository, self._cache)
        self._run(["init", "--repository-version", "2"])

    def archive(self, disk: pathlib.Path) -> timing.Sample:
        return timing.call(lambda: self._run(["backup", "--quiet", disk]))

    def restore(self, target: pathlib.Path) -> timing.Sample:
        """Bring the disk back below a folder."""
        if target.exists():
            shutil.rmtree(target)

        def run() -> None:
            self._run(["restore", "--quiet", "--target", target, "latest"])
            subprocess.run(["sync", *(path for path in target.rglob("*") if path.is_file())], check=True)

        return timing.call(run)

    def size_bytes(self) -> int:
        return rig.folder_bytes(self._repository)

    def paths(self) -> list[pathlib.Path]:
        return [self._repository, self._cache]

    def _run(self, arguments: Sequence[str | pathlib.Path]) -> None:
        _run(["restic", "--repo", self._repository, "--cache-dir", self._cache, *arguments], RESTIC_PASSWORD=_PASSWORD)


class Borg:
    """`borg create` with zstd level 1, names keyed and nothing encrypted, as our archive is unless it is told to be."""

    name = "borg create -C zstd,1"

    def __init__(self, folder: pathlib.Path) -> None:
        self._repository = folder / "borg"
        self._base = folder / "borg-base"

    def make(self) -> None:
        _empty(self._repository, self._base)
        self._run(["--error", "init", "--encryption", "authenticated-blake2", self._repository])

    def archive(self, disk: pathlib.Path) -> timing.Sample:
        return timing.call(lambda: self._run(["create", "-C", "zstd,1", f"{self._repository}::first", disk]))

    def size_bytes(self) -> int:
        return rig.folder_bytes(self._repository)

    def paths(self) -> list[pathlib.Path]:
        return [self._repository, self._base]

    def _run(self, arguments: Sequence[str | pathlib.Path]) -> None:
        _run(["borg", *arguments], BORG_PASSPHRASE=_PASSWORD, BORG_BASE_DIR=str(self._base))


def present(folder: pathlib.Path) -> list[Peer]:
    """Return the peers that are installed, each with an archive of its own in folder; say which are missing."""
    found: list[Peer] = []
    peers: list[tuple[str, Peer]] = [("qemu-img", Qemu(folder)), ("restic", Restic(folder)), ("borg", Borg(folder))]
    for program, peer in peers:
        if shutil.which(program) is None:
            print(f"  {program} isn't installed, and left out")
        else:
            found.append(peer)
    return found


def _empty(*folders: pathlib.Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()


def _run(command: Sequence[str | pathlib.Path], **environment: str) -> None:
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | environment
    )
