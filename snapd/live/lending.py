"""Files lent to another account by POSIX access lists: to it alone, each by itself, and by their owner's right.

An access list is an extended attribute: a version and entries of tag, permissions and id (linux/posix_acl_xattr.h).
The mask bounds what the named entries give, and `chmod` sets it: taking the permission to write from a file's group
takes it from everybody to whom the file is lent.
"""

import dataclasses
import errno
import os
import pathlib
import stat
import struct

from snapd import fsops

READ = 4
WRITE = 2
SEARCH = 1
"""Of a folder: to go through it to a name that one knows, which isn't to list it."""

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_SUPPORTED = 2
_UNNAMED = 0xFFFFFFFF

_USER_OWNER = 0x01
_USER = 0x02
_GROUP_OWNER = 0x04
_GROUP = 0x08
_MASK = 0x10
_OTHER = 0x20


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class _Entry:
    tag: int
    id: int
    permissions: int


def lend(path: pathlib.Path, uid: int, permissions: int) -> None:
    """Give an account permissions on a file, in the place of those that it was given before.

    Raises errors.StorageFailed, also where the file system has no access lists.
    """
    with fsops.translated(path):
        others = [entry for entry in _read(path) if not _is_of(entry, uid)]
        _write(path, [*others, _Entry(_USER, uid, permissions)])


def take_back(path: pathlib.Path, uid: int) -> None:
    """Take all that an account was given on a file, if the file is there. Raises errors.StorageFailed."""
    with fsops.translated(path):
        try:
            entries = _read(path)
        except FileNotFoundError:
            return
        if any(_is_of(entry, uid) for entry in entries):
            _write(path, [entry for entry in entries if not _is_of(entry, uid)])


def lent(path: pathlib.Path, uid: int) -> int:
    """Return the permissions that an account was given on a file, as far as the mask lets them through."""
    entries = _read(path)
    masks = [entry.permissions for entry in entries if entry.tag == _MASK]
    given = [entry.permissions for entry in entries if _is_of(entry, uid)]
    return given[0] & masks[0] if given and masks else 0


def is_supported(folder: pathlib.Path) -> bool:
    """Say whether the file system of a folder has access lists."""
    try:
        os.getxattr(folder, _ATTRIBUTE)
    except OSError as error:
        return error.errno == errno.ENODATA
    return True


def _is_of(entry: _Entry, uid: int) -> bool:
    return entry.tag == _USER and entry.id == uid


def _read(path: pathlib.Path) -> list[_Entry]:
    """Return the access list of a file, without its mask if nobody is named; one is made of the mode if it has none."""
    try:
        data = os.getxattr(path, _ATTRIBUTE, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = os.stat(path, follow_symlinks=False).st_mode
        return [
            _Entry(_USER_OWNER, _UNNAMED, mode >> 6 & 7),
            _Entry(_GROUP_OWNER, _UNNAMED, mode >> 3 & 7),
            _Entry(_OTHER, _UNNAMED, mode & 7),
        ]
    if _VERSION.unpack_from(data)[0] != _SUPPORTED:
        raise OSError(errno.EINVAL, "its access list has a version that isn't known")
    return [_Entry(tag, who, permissions) for tag, permissions, who in _ENTRY.iter_unpack(data[_VERSION.size :])]


def _write(path: pathlib.Path, entries: list[_Entry]) -> None:
    bounded = [entry for entry in entries if entry.tag in (_USER, _GROUP_OWNER, _GROUP)]
    unbounded = [entry for entry in entries if entry.tag in (_USER_OWNER, _OTHER)]
    # A file that its owner may not write is lent to nobody for writing.
    mask = 0
    for entry in bounded:
        mask |= entry.permissions
    if not stat.S_ISDIR(os.stat(path).st_mode):
        mask &= next(entry.permissions for entry in unbounded if entry.tag == _USER_OWNER)
    data = _VERSION.pack(_SUPPORTED)
    for entry in sorted([*bounded, *unbounded, _Entry(_MASK, _UNNAMED, mask)]):
        data += _ENTRY.pack(entry.tag, entry.permissions, entry.id)
    fsops.set_attribute(path, _ATTRIBUTE, data)
