"""Generates snapd/v1 from protos/ when the package is built or installed; run by hand, it does so in a checkout.

It owns which plugins of protoc run and with which options. It must not know what the protos say. Google's protos under
protos/third_party are only read: at run time their Python comes from googleapis-common-protos.
"""

import os
import pathlib
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = pathlib.Path("snapd/v1")


def generate(root: pathlib.Path) -> None:
    """Run protoc on our protos, with type stubs for messages and for synchronous and asyncio gRPC stubs.

    What an earlier run left of protos that are gone is removed. Raises subprocess.CalledProcessError if protoc fails.
    """
    protos = root / "protos"
    for stale in (root / PACKAGE).glob("*_pb2*"):
        stale.unlink()
    inputs = sorted(str(path.relative_to(protos)) for path in (protos / PACKAGE).glob("*.proto"))
    command = [
        sys.executable,
        *("-m", "grpc_tools.protoc"),
        *(f"--proto_path={protos}", f"--proto_path={protos / 'third_party'}"),
        *(f"--python_out={root}", f"--mypy_out=quiet:{root}"),
        *(f"--grpc_python_out={root}", f"--mypy_grpc_out=quiet:{root}"),
        *inputs,
    ]
    # The plugins lie beside the interpreter, also in an environment that nobody has activated.
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})  # noqa: S603 (protoc, on our own files)


class ProtobufBuildHook(BuildHookInterface[Any]):
    """Hatchling's hook: generates before files are collected, so that wheel and editable install have them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        generate(pathlib.Path(self.root))

    def clean(self, versions: list[str]) -> None:  # noqa: ARG002 (hatchling's signature)
        for generated in (pathlib.Path(self.root) / PACKAGE).glob("*_pb2*"):
            generated.unlink()


if __name__ == "__main__":
    generate(pathlib.Path(__file__).parent)
