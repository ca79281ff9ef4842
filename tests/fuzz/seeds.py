"""Writes the fuzzer's seeds anew: small images of every kind that QEMU makes, `python -m tests.fuzz.seeds`.

They are committed, so that a run begins with the same ones everywhere.
"""

import pathlib
import subprocess
import tempfile

from tests.fuzz import sparse

CORPUS = pathlib.Path(__file__).parent / "corpus"

_WRITES = ("write -P 1 0 1k", "write -P 2 40k 512", "write -z 64k 8k", "discard 512 512", "write -P 3 255k 1k")
_SNAPSHOT = ("snapshot", "-c", "one")
_KINDS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "plain": ("cluster_size=512", ()),
    "version-2": ("cluster_size=512,compat=0.10", ()),
    "lazy": ("cluster_size=1k,lazy_refcounts=on", ()),
    "subclusters": ("cluster_size=16k,extended_l2=on", ()),
    "preallocated": ("cluster_size=4k,preallocation=metadata", ()),
    **{f"refcounts-{bits}": (f"cluster_size=512,refcount_bits={bits}", ()) for bits in (1, 2, 4, 8, 32, 64)},
    "snapshots": ("cluster_size=512", (_SNAPSHOT, ("snapshot", "-c", "two"))),
    "snapshots-subclusters": ("cluster_size=16k,extended_l2=on", (_SNAPSHOT,)),
    "bitmaps": ("cluster_size=512", (("bitmap", "--add", "-g", "512", "IMAGE", "b0"),)),
}


def main() -> None:
    """Make all seeds."""
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "seed.qcow2")
        for kind, (options, changes) in _KINDS.items():
            _img("create", "-q", "-f", "qcow2", "-o", options, str(path), "256k")
            _write(path, *_WRITES[:4])
            for change in changes:
                _img(*(change if "IMAGE" in change else (*change, str(path))), image=path)
            _write(path, _WRITES[4])
            _keep(kind, path)
        raw = pathlib.Path(name, "raw")
        raw.write_bytes(b"compressible" * 2000 + bytes(30000))
        for method in ("zlib", "zstd"):
            options = f"cluster_size=4k,compression_type={method}"
            _img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, str(raw), str(path))
            _write(path, "write -P 5 8k 512")
            _keep(method, path)
        _img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", str(pathlib.Path(name, "below")), "128k")
        _img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", "below", "-F", "qcow2", str(path), "256k")
        _write(path, *_WRITES)
        _keep("overlay", path)


def _img(*arguments: str, image: pathlib.Path | None = None) -> None:
    subprocess.run(["qemu-img", *(str(image) if part == "IMAGE" else part for part in arguments)], check=True)


def _write(path: pathlib.Path, *commands: str) -> None:
    flags = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *flags, str(path)], check=True, stdout=subprocess.DEVNULL)


def _keep(name: str, path: pathlib.Path) -> None:
    file = path.read_bytes()
    if len(file) > sparse.LONGEST:
        raise ValueError(f"the image {name} of {len(file)} bytes is longer than what the fuzzer takes")
    (CORPUS / f"{name}.bin").write_bytes(sparse.pack(file))
    path.unlink()


if __name__ == "__main__":
    main()
