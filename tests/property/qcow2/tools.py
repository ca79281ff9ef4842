"""The two programs that are driven side by side: the engine and QEMU's tools, each doing the same things to files."""

import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack

from snapd.qcow2.checking import check
from snapd.qcow2.reading import chain, image
from snapd.qcow2.writing import create, flatten, fold, writer


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What an image is made as."""

    version: int
    cluster_size: int
    refcount_bits: int
    zstd: bool
    extended_l2: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change to a disk. Offset and length are bytes, whole sectors; whole clusters for PACK."""

    action: str
    """WRITE, PACK (write compressed), ZERO, UNMAP (write zeroes, giving the space back) or DISCARD."""
    offset: int
    length: int
    pattern: int
    """The byte that is written."""


Paths = Sequence[pathlib.Path]
"""Images that stand on each other, the top first."""


class Engine:
    """What this project does."""

    def create(self, path: pathlib.Path, size_bytes: int, kind: Kind, backing: pathlib.Path | None) -> None:
        """Make an empty image."""
        create.create(
            path,
            size_bytes=size_bytes,
            cluster_size=kind.cluster_size,
            version=kind.version,
            refcount_bits=kind.refcount_bits,
            compression="zstd" if kind.zstd else "deflate",
            extended_l2=kind.extended_l2,
            backing_name=None if backing is None else backing.name,
        )

    def change(self, paths: Paths, changes: Sequence[Change]) -> None:
        """Change the top's disk, flushing now and then."""
        with ExitStack() as stack:
            target = stack.enter_context(writer.Writer.open(paths[0], _opened(stack, paths[1:])))
            for change in changes:
                data = bytes([change.pattern]) * change.length
                match change.action:
                    case "WRITE":
                        target.write(change.offset, data)
                    case "PACK":
                        target.write_compressed(change.offset, data)
                    case "ZERO" | "UNMAP":
                        target.write_zeroes(change.offset, change.length)
                    case "DISCARD":
                        target.discard(change.offset, change.length)
                if change.pattern % 3 == 0:
                    target.flush()
            target.close()

    def resize(self, paths: Paths, size_bytes: int) -> None:
        """Give the top's disk another size."""
        with ExitStack() as stack:
            target = stack.enter_context(writer.Writer.open(paths[0], _opened(stack, paths[1:])))
            target.resize(size_bytes, force=True)
            target.close()

    def fold_up(self, paths: Paths) -> None:
        """Have the first hold what it shows of the second, and stand on the third."""
        with ExitStack() as stack:
            lower = stack.enter_context(image.Image.open(paths[1]))
            fold.fold_up(lower, paths[0], _opened(stack, paths[2:]))
        create.set_backing_name(paths[0], paths[2].name if len(paths) > 2 else None)

    def fold_down(self, paths: Paths) -> None:
        """Have the second hold what the first has."""
        with ExitStack() as stack:
            child = stack.enter_context(image.Image.open(paths[0]))
            fold.fold_down(child, paths[1], _opened(stack, paths[2:]))

    def pull(self, paths: Paths) -> None:
        """Have the first hold what it shows of all others."""
        with ExitStack() as stack:
            beneath = _opened(stack, paths[1:])
            assert beneath is not None
            flatten.pull(paths[0], beneath)

    def flatten(self, paths: Paths, path: pathlib.Path, kind: Kind, *, compressed: bool) -> None:
        """Make an image of what the first shows."""
        with ExitStack() as stack:
            source = _opened(stack, paths)
            assert source is not None
            self.create(path, source.size_bytes, kind, None)
            target = stack.enter_context(writer.Writer.open(path))
            flatten.flatten(source, target, compressed=compressed)

    def content(self, paths: Paths, snapshot: str | None = None) -> bytes:
        """Return what the guest sees, now or in an internal snapshot of the top."""
        with ExitStack() as stack:
            images = [stack.enter_context(image.Image.open(path)) for path in paths]
            if snapshot is not None:
                images[0] = stack.enter_context(images[0].of_snapshot(snapshot))
            view = chain.Chain(images)
            buffer = bytearray(view.size_bytes)
            view.read_into(0, memoryview(buffer))
            return bytes(buffer)

    def snapshots(self, path: pathlib.Path) -> list[str]:
        """Return the names of an image's internal snapshots."""
        with image.Image.open(path) as opened:
            return [snapshot.name for snapshot in opened.snapshots()]

    def is_absent(self, path: pathlib.Path, change: Change) -> bool:
        """Say whether an image has nothing where a change goes."""
        with image.Image.open(path) as opened:
            return len(opened.block_map(change.offset, change.length)) == 0

    def check(self, path: pathlib.Path) -> dict[str, int]:
        """Return the numbers of a check that aren't zero, by QEMU's names."""
        report = check.check(path)
        names = {"image_end_bytes": "image-end-offset"}
        values = dataclasses.asdict(report).items()
        return {names.get(name, name.replace("_", "-")): value for name, value in values if value}


def _opened(stack: ExitStack, paths: Paths) -> chain.Chain | None:
    images = [stack.enter_context(image.Image.open(path)) for path in paths]
    return chain.Chain(images) if images else None


class Qemu:
    """What QEMU's tools do."""

    def create(self, path: pathlib.Path, size_bytes: int, kind: Kind, backing: pathlib.Path | None) -> None:
        """Make an empty image."""
        below = [] if backing is None else ["-b", backing.name, "-F", "qcow2"]
        self.img("create", "-q", "-f", "qcow2", "-o", _options(kind), *below, path, size_bytes)

    def change(self, paths: Paths, changes: Sequence[Change]) -> None:
        """Change the top's disk, all in one process."""
        words = {
            "WRITE": "write -P {0.pattern}",
            "PACK": "write -c -P {0.pattern}",
            "ZERO": "write -z",
            "UNMAP": "write -z -u",
            "DISCARD": "discard",
        }
        commands = [f"{words[change.action].format(change)} {change.offset} {change.length}" for change in changes]
        flags = [part for command in commands for part in ("-c", command)]
        output = _run(["qemu-io", "-f", "qcow2", "-d", "unmap", *flags, str(paths[0])])
        assert "failed" not in output.lower(), f"{commands}: {output}"

    def resize(self, paths: Paths, size_bytes: int) -> None:
        """Give the top's disk another size."""
        self.img("resize", "-q", "--shrink", "-f", "qcow2", paths[0], size_bytes)

    def fold_up(self, paths: Paths) -> None:
        """Have the first hold what it shows of the second, and stand on the third."""
        below = ["-b", paths[2].name, "-F", "qcow2"] if len(paths) > 2 else ["-b", ""]
        self.img("rebase", "-q", "-f", "qcow2", *below, paths[0])

    def fold_down(self, paths: Paths) -> None:
        """Have the second hold what the first has."""
        self.img("commit", "-q", "-d", "-f", "qcow2", paths[0])

    def pull(self, paths: Paths) -> None:
        """Have the first hold what it shows of all others."""
        self.img("rebase", "-q", "-f", "qcow2", "-b", "", paths[0])

    def flatten(self, paths: Paths, path: pathlib.Path, kind: Kind, *, compressed: bool) -> None:
        """Make an image of what the first shows."""
        flags = ["-c"] if compressed else []
        self.img("convert", "-f", "qcow2", "-O", "qcow2", *flags, "-o", _options(kind), paths[0], path)

    def content(self, paths: Paths, snapshot: str | None = None) -> bytes:
        """Return what the guest sees, now or in an internal snapshot of the top."""
        raw = paths[0].with_name("content.raw")
        chosen = [] if snapshot is None else ["-l", f"snapshot.name={snapshot}"]
        self.img("convert", "-f", "qcow2", "-O", "raw", *chosen, paths[0], raw)
        return raw.read_bytes()

    def snapshot(self, path: pathlib.Path, flag: str, name: str) -> None:
        """Create (-c), apply (-a) or delete (-d) an internal snapshot."""
        self.img("snapshot", "-q", flag, name, path)

    def check(self, path: pathlib.Path) -> dict[str, int]:
        """Return the numbers of a check that aren't zero."""
        found = json.loads(self.img("check", "-f", "qcow2", "--output=json", path))
        return {name: value for name, value in found.items() if isinstance(value, int) and value}

    def img(self, *arguments: str | int | pathlib.Path) -> str:
        """Run qemu-img; it has to succeed."""
        return _run(["qemu-img", *map(str, arguments)])


def _options(kind: Kind) -> str:
    options = [f"cluster_size={kind.cluster_size}", f"compat={'1.1' if kind.version == 3 else '0.10'}"]
    if kind.version == 3:
        options.append(f"refcount_bits={kind.refcount_bits}")
        options.append(f"compression_type={'zstd' if kind.zstd else 'zlib'}")
        options.append(f"extended_l2={'on' if kind.extended_l2 else 'off'}")
    return ",".join(options)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
