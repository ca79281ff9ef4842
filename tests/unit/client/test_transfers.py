import os
import pathlib
import random

import grpc
import pytest

from snapd import client, units
from snapd.client import download, image, upload
from snapd.v1 import transfer_pb2, volume_service_pb2
from tests.unit.client import stub_memory

SIZE = 5 * units.MIB + 512
VOLUME = "environments/blue/volumes/root"
SNAPSHOT = "environments/blue/snapshots/before"


def sparse_file(path: pathlib.Path) -> bytes:
    """Write data at both ends of a file and a hole between them; return what it reads as."""
    generator = random.Random(7)
    with path.open("wb") as file:
        file.write(generator.randbytes(units.MIB + 4096))
        file.seek(SIZE - 1024)
        file.write(generator.randbytes(1024))
    return path.read_bytes()


def start() -> volume_service_pb2.ImportVolumeRequest.Start:
    return volume_service_pb2.ImportVolumeRequest.Start(
        parent="environments/blue", volume_id="root", format=volume_service_pb2.IMAGE_FORMAT_RAW
    )


def a_snapshot(memory: stub_memory.Memory, name: str = SNAPSHOT) -> bytes:
    content = random.Random(3).randbytes(units.MIB) + bytes(2 * units.MIB) + random.Random(4).randbytes(units.MIB)
    memory.resources[name] = volume_service_pb2.Volume(name=name, uid="7e0c")
    memory.contents[name] = bytearray(content)
    return content


def test_the_pieces_of_a_file_are_its_bytes_and_its_holes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "image"
    content = sparse_file(path)
    fd = os.open(path, os.O_RDONLY)
    rebuilt = bytearray()
    sent = 0
    for piece in image.pieces(fd, 0, SIZE):
        assert piece.offset == len(rebuilt)
        if isinstance(piece, transfer_pb2.Hole):
            rebuilt += bytes(piece.length)
        else:
            rebuilt += piece.data
            sent += len(piece.data)
    os.close(fd)
    assert bytes(rebuilt) == content
    assert sent < 2 * units.MIB


def test_a_file_that_ends_too_early_is_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * 1000)
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="before 4096"):
        list(image.pieces(fd, 0, 4096))
    os.close(fd)


def test_an_import_arrives_whole(connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path) -> None:
    content = sparse_file(tmp_path / "image")
    seen: list[tuple[int, int]] = []
    answer = upload.import_volume(
        connection, tmp_path / "image", start(), on_progress=lambda done, total: seen.append((done, total))
    )
    assert memory.contents[VOLUME] == content
    assert answer.volume.name == VOLUME
    assert answer.operation
    assert seen[0] == (0, SIZE)
    assert seen[-1] == (SIZE, SIZE)


def test_a_cut_import_resumes_from_what_is_durable(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = sparse_file(tmp_path / "image")
    memory.cuts.extend((units.MIB // 2, units.MIB + 1024, SIZE - 512))
    upload.import_volume(connection, tmp_path / "image", start())
    assert memory.contents[VOLUME] == content
    offsets = [request.resume_offset for request in memory.received]
    assert offsets == sorted(offsets)
    assert len(offsets) == 4
    assert len({request.request_id for request in memory.received}) == 1


def test_an_import_goes_on_where_the_daemon_says(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = sparse_file(tmp_path / "image")
    memory.resources[VOLUME] = volume_service_pb2.Volume(name=VOLUME)
    memory.contents[VOLUME] = bytearray(content[: units.MIB])
    upload.import_volume(connection, tmp_path / "image", start())
    assert memory.contents[VOLUME] == content


def test_a_refused_import_is_not_tried_again(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    sparse_file(tmp_path / "image")
    memory.failures["ImportVolume"].append(stub_memory.status(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_REFUSED"))
    with pytest.raises(client.ApiError) as caught:
        upload.import_volume(connection, tmp_path / "image", start())
    assert caught.value.reason == "IMAGE_REFUSED"
    assert len(memory.received) == 1


def test_a_write_replaces_the_beginning_of_a_volume(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = sparse_file(tmp_path / "image")
    memory.resources[VOLUME] = volume_service_pb2.Volume(name=VOLUME)
    memory.contents[VOLUME] = bytearray(b"\xff" * (SIZE + 4096))
    memory.cuts.append(units.MIB // 2)
    upload.write_blocks(connection, tmp_path / "image", VOLUME)
    assert memory.contents[VOLUME] == content + b"\xff" * 4096


def test_an_export_is_sparse_and_whole(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = a_snapshot(memory)
    found = download.export_volume(connection, SNAPSHOT, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == content
    assert found == download.Downloaded("7e0c", len(content), 2 * units.MIB)
    assert (tmp_path / "disk.raw").stat().st_blocks * 512 < len(content)


def test_a_cut_export_of_a_snapshot_resumes(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = a_snapshot(memory)
    memory.cuts.extend((units.MIB, 3 * units.MIB))
    download.export_volume(connection, SNAPSHOT, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == content
    offsets = [request.start_offset for request in memory.received]
    assert offsets == [0, units.MIB, 3 * units.MIB]


def test_a_cut_export_of_a_volume_begins_anew(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = a_snapshot(memory, VOLUME)
    memory.cuts.append(units.MIB)
    download.export_volume(connection, VOLUME, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == content
    assert [request.start_offset for request in memory.received] == [0, 0]


def test_wrong_bytes_never_become_a_file(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    a_snapshot(memory)
    memory.corrupt = True
    with pytest.raises(download.Damaged, match="offset 0 does not match its checksum"):
        download.export_volume(connection, SNAPSHOT, tmp_path / "disk.raw")
    assert [path.name for path in tmp_path.iterdir() if "disk" in path.name] == []


def test_an_export_does_not_replace_a_file_unasked(
    connection: client.Client, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    content = a_snapshot(memory)
    (tmp_path / "disk.raw").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        download.export_volume(connection, SNAPSHOT, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == b"precious"
    download.export_volume(connection, SNAPSHOT, tmp_path / "disk.raw", overwrite=True)
    assert (tmp_path / "disk.raw").read_bytes() == content
