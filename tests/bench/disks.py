"""Raw disks with real files on them: what compresses and repeats as people's data do."""

import os
import pathlib


def write_files(path: pathlib.Path, data_bytes: int, size_bytes: int) -> int:
    """Fill the start of a raw disk with the host's own files, end to end, and return how many bytes that are.

    At most data_bytes; the files come again and again if there are too few.
    """
    written = 0
    with path.open("wb") as disk:
        while written < data_bytes:
            before = written
            for folder, folders, names in os.walk("/usr"):
                folders.sort()
                for name in sorted(names):
                    file = pathlib.Path(folder, name)
                    if written < data_bytes and not file.is_symlink() and file.is_file():
                        written += disk.write(file.read_bytes()[: data_bytes - written])
            assert written > before, "there are no files to fill a disk with"
        disk.truncate(size_bytes)
    return written
