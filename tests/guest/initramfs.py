"""The file system that the guest boots from, in memory: busybox, drivers, and a script that writes to its disks.

An archive of the kind `newc` (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
"""

import pathlib
import stat
from collections.abc import Mapping
from typing import Final

from tests.guest import parts

BLOCK: Final = 4096
"""Bytes of a write: its number in decimal, with zeros before it."""
BLOCKS: Final = 256
"""Blocks of a disk that are written, one after the other and then again."""

_SCRIPT: Final = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in {" ".join(pathlib.Path(module).name for module in parts.MODULES)}; do
  insmod /$module.ko
done
disks=
# The kernel hands over what it doesn't know on its command line. A disk appears a moment after its driver.
while [ "$(echo $disks | wc -w)" != "$disk_count" ]; do
  disks=$(ls /dev | grep '^vd')
done
number=0
while :; do
  number=$((number + 1))
  for disk in $disks; do
    printf '%0{BLOCK}d' $number |
      dd of=/dev/$disk bs={BLOCK} seek=$(((number - 1) % {BLOCKS})) conv=notrunc,fsync 2>/said &&
      echo "acknowledged $disk $number" || echo "failed $disk $number" $(cat /said)
  done
done
"""


def make(folder: pathlib.Path) -> bytes:
    """Return the archive, of the parts in a folder."""
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(("bin", "dev", "proc", "sys"), (stat.S_IFDIR | 493, b""))
    files["bin/busybox"] = (stat.S_IFREG | 0o755, (folder / "busybox").read_bytes())
    files["init"] = (stat.S_IFREG | 0o755, _SCRIPT.encode())
    for module in parts.MODULES:
        name = f"{pathlib.Path(module).name}.ko"
        files[name] = (stat.S_IFREG | 0o644, (folder / name).read_bytes())
    return _archive(files)


def _archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return files, given by their names as (mode, bytes), as one archive."""
    made = bytearray()
    for inode, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        # Inode, mode, uid, gid, links, time, length, two devices of two numbers each, length of the name, checksum.
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += bytes(-len(made) % 4) + data
        made += bytes(-len(made) % 4)
    return bytes(made)
