"""What the guest of the tests is made of: Debian's kernel for virtual machines and its static busybox.

Both are fetched as packages and only unpacked; nothing is installed. `python -m tests.guest.parts FOLDER` does it once.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Final

FOLDER: Final = pathlib.Path(__file__).parents[2] / ".venv" / "guest"
"""Where set-up puts them."""

_KERNELS: Final = "linux-image-cloud-amd64"
"""The package that depends on the present kernel."""
_BUSYBOX: Final = "busybox-static"
MODULES: Final = (
    *("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev"),
    *("virtio/virtio_pci", "block/virtio_blk"),
)
"""Drivers that it loads, in this order."""


def missing(folder: pathlib.Path) -> str:
    """Return why there can be no guest, or ''."""
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 isn't installed"
    if not (folder / "vmlinuz").is_file():
        return f"{folder} has no kernel: .ci/setup fetches it where apt-get is at hand"
    return ""


def fetch(folder: pathlib.Path) -> None:
    """Fetch what a guest is made of into a folder. Raises subprocess.CalledProcessError, FileNotFoundError."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        unpacked = pathlib.Path(made)
        # apt's own account can't write here, and apt would say that it goes without.
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", _kernel(), _BUSYBOX, cwd=unpacked)
        for package in unpacked.glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), "files", cwd=unpacked)
        files = unpacked / "files"
        kept = unpacked / "kept"
        kept.mkdir()
        (kernel,) = files.glob("boot/vmlinuz-*")
        (drivers,) = files.glob("lib/modules/*/kernel/drivers")
        for module in MODULES:
            shutil.copy(drivers / f"{module}.ko", kept)
        shutil.copy(files / "bin" / "busybox", kept)
        shutil.copy(kernel, kept / "vmlinuz")
        kept.rename(folder)


def _kernel() -> str:
    """Return the package of the present kernel."""
    depends = subprocess.run(("apt-cache", "depends", _KERNELS), capture_output=True, text=True, check=False).stdout
    if not depends and os.geteuid() == 0:
        # A new system has no lists of packages yet.
        _run("apt-get", "-qq", "update")
        depends = _run("apt-cache", "depends", _KERNELS)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise FileNotFoundError(f"no package called {_KERNELS} is known")
    return found[1]


def _run(*command: str, cwd: pathlib.Path | None = None) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


if __name__ == "__main__":
    try:
        fetch(pathlib.Path(sys.argv[1]))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"the guest of the tests can't be fetched: {error}")
