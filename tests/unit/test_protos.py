import importlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from snapd.v1 import (
    archive_service_pb2,
    attachment_pb2,
    environment_service_pb2,
    operation_pb2,
    snapshot_service_pb2,
    system_service_pb2,
    transfer_pb2,
    volume_service_pb2,
)

ROOT = pathlib.Path(__file__).parents[2]
PROTOS = ROOT / "protos"
BUF = pathlib.Path(sys.executable).with_name("buf")
FILES = [
    module.DESCRIPTOR
    for module in (
        archive_service_pb2,
        attachment_pb2,
        environment_service_pb2,
        operation_pb2,
        snapshot_service_pb2,
        system_service_pb2,
        transfer_pb2,
        volume_service_pb2,
    )
]
READS = ("Get", "List", "Export", "Check")
"""First words of methods that change nothing, or for which it is the same how often they are called."""


def buf(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([BUF, *arguments], cwd=ROOT, input=given, capture_output=True, check=False)


def methods() -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto, descriptor_pb2.DescriptorProto]]:
    """Yield service and method name, the method, and its request."""
    for file in FILES:
        described = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(described)
        requests = {message.name: message for message in described.message_type}
        for service in described.service:
            for method in service.method:
                yield f"{service.name}.{method.name}", method, requests[method.input_type.rpartition(".")[2]]


def fields(message: descriptor_pb2.DescriptorProto) -> set[str]:
    return {field.name for field in message.field}


def every_message(
    messages: list[descriptor_pb2.DescriptorProto],
) -> Iterator[descriptor_pb2.DescriptorProto]:
    for message in messages:
        yield message
        yield from every_message(list(message.nested_type))


def test_our_protos_are_clean_under_buf() -> None:
    ended = buf("lint", "--error-format=text")
    assert ended.returncode == 0, ended.stdout.decode()


def test_our_protos_are_formatted() -> None:
    ended = buf("format", "--diff", "--exit-code", "--path", "protos/snapd")
    assert ended.returncode == 0, ended.stdout.decode()


def test_nothing_breaks_those_who_were_built_on_the_baseline() -> None:
    # A workspace can't be compared with an image, but its image can.
    image = buf("build", "-o", "-").stdout
    ended = buf("breaking", "-", "--against", "protos/baseline.binpb", given=image)
    assert ended.returncode == 0, ended.stdout.decode()


def test_the_generated_code_is_that_of_the_protos() -> None:
    ended = buf("build", "--as-file-descriptor-set", "-o", "-#format=binpb", "--path", "protos/snapd")
    assert ended.returncode == 0, ended.stderr.decode()
    built = descriptor_pb2.FileDescriptorSet.FromString(ended.stdout)
    ours = {file.name: file for file in built.file if file.package == "snapd.v1"}
    assert set(ours) == {file.name for file in FILES}
    for file in FILES:
        generated = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(generated)
        described = ours[file.name]
        described.ClearField("source_code_info")
        for message in every_message([*generated.message_type, *described.message_type]):
            for field in message.field:
                field.ClearField("json_name")  # buf writes it out, protoc's Python leaves it away
        assert generated == described, f"{file.name}: run `python hatch_build.py`"


@pytest.mark.parametrize("name", [name for name, _, _ in methods()])
def test_every_change_takes_a_request_id(name: str) -> None:
    _, method, request = next(found for found in methods() if found[0] == name)
    if method.client_streaming:
        starts = [nested for nested in request.nested_type if nested.name == "Start"]
        assert len(starts) == 1
        # A write is the same however often it is done, so it needs none.
        assert ("request_id" in fields(starts[0])) == (method.name != "WriteBlocks")
    else:
        assert ("request_id" in fields(request)) == (not method.name.startswith(READS))


def test_every_list_is_paginated_filtered_and_ordered() -> None:
    lists = [(name, request) for name, method, request in methods() if method.name.startswith("List")]
    assert lists
    for name, request in lists:
        assert {"page_size", "page_token"} <= fields(request), name
        # What lies in the archive's store is ordered by it, and it can't filter.
        assert name.startswith("ArchiveService.") or {"filter", "order_by"} <= fields(request), name


def test_every_resource_has_what_all_resources_have() -> None:
    shared = {"name", "uid", "etag", "display_name", "labels", "create_time", "update_time"}
    for message in (environment_service_pb2.Environment, volume_service_pb2.Volume, snapshot_service_pb2.Snapshot):
        assert shared <= set(message.DESCRIPTOR.fields_by_name), message.DESCRIPTOR.full_name


def test_units_are_in_the_names_and_sizes_are_int64() -> None:
    for file in FILES:
        described = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(described)
        for message in every_message(list(described.message_type)):
            for field in message.field:
                if field.name.endswith(("_bytes", "_offset")) or field.name in {"offset", "length"}:
                    assert field.type == field.TYPE_INT64, f"{message.name}.{field.name}"
                if field.type_name == ".google.protobuf.Duration":
                    assert field.name.endswith("_duration"), f"{message.name}.{field.name}"
                if field.type_name == ".google.protobuf.Timestamp":
                    assert field.name.endswith("_time"), f"{message.name}.{field.name}"


def test_googles_protos_are_those_of_the_published_package() -> None:
    pool = descriptor_pool.Default()
    for path in sorted((PROTOS / "third_party").rglob("*.proto")):
        name = str(path.relative_to(PROTOS / "third_party"))
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        assert pool.FindFileByName(name).package == ".".join(pathlib.Path(name).parts[:-1])
