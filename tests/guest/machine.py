"""A virtual machine without hardware's help (TCG), and what its guest says on its console."""

import collections
import pathlib
import subprocess
import threading
from collections.abc import Sequence
from typing import Final

from tests.guest import initramfs, parts

PATIENCE_S: Final = 120.0
"""Far more than anything here takes, on a slow machine too."""


def by_nbd(number: int, socket: str, export: str) -> list[str]:
    """Return QEMU's arguments for a disk that is exported by NBD. What is cut off is tried again for a minute."""
    server = f"server.type=unix,server.path={socket},export={export},reconnect-delay=60"
    node = f"driver=nbd,node-name=disk{number},{server}"
    return ["-blockdev", node, "-device", f"virtio-blk-pci,drive=disk{number}"]


def by_vhost_user(number: int, socket: str) -> list[str]:
    """Return QEMU's arguments for a disk that is exported by vhost-user. Who hangs up is called again each second."""
    chardev = f"socket,id=socket{number},path={socket},reconnect=1"
    return ["-chardev", chardev, "-device", f"vhost-user-blk-pci,chardev=socket{number}"]


class Machine:
    """A machine that runs until its block ends. Its disks are vda, vdb, … in their order."""

    def __init__(self, folder: pathlib.Path, disks: Sequence[Sequence[str]]) -> None:
        """Make it in a folder, with QEMU's arguments for each disk."""
        archive = folder / "initramfs"
        archive.write_bytes(initramfs.make(parts.FOLDER))
        self._command = [
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "256M"),
            # What vhost-user needs: the memory can be opened by others.
            *("-object", "memory-backend-memfd,id=memory,share=on,size=256M", "-machine", "memory-backend=memory"),
            *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
            *("-kernel", str(parts.FOLDER / "vmlinuz"), "-initrd", str(archive)),
            *("-append", f"console=ttyS0 quiet panic=-1 disk_count={len(disks)}"),
            *(argument for disk in disks for argument in disk),
        ]
        self._told = threading.Condition()
        self._ended = False
        self.log = folder / "qemu.log"
        """What QEMU itself says: of a connection that is cut, for one."""
        self.console: list[str] = []
        """What the guest says but for its writes: of a disk that fails, for one."""
        self.acknowledged: collections.Counter[str] = collections.Counter()
        """Number of the latest write that is done and flushed, by the disk."""

    def __enter__(self) -> "Machine":
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Cut the machine's power, and hear what it has said."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # The last one may have been cut off with the power.
                if line.endswith("\n"):
                    with self._told:
                        self._note(line.strip())
                        self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    def _note(self, line: str) -> None:
        match line.split():
            case ["acknowledged", disk, number]:
                self.acknowledged[disk] = int(number)
            case _:
                self.console.append(line)

    def wait(self, disk: str, more: int) -> None:
        """Wait until so many further writes to a disk are done."""
        with self._told:
            target = self.acknowledged[disk] + more
            reached = self._told.wait_for(lambda: self._ended or self.acknowledged[disk] >= target, PATIENCE_S)
            assert reached, f"{disk} came to {self.acknowledged[disk]} of {target}: {self.console}"
            assert not self._ended, f"the machine has ended: {self.console} {self.log.read_text()}"
