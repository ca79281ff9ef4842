"""Bytes in and out over the wire."""

import hashlib
import queue
import random
import uuid
from collections.abc import Callable, Iterator

import google_crc32c
import grpc
import pytest

from snapd.v1 import snapshot_service_pb2, transfer_pb2
from snapd.v1 import volume_service_pb2 as volumes
from tests.integration import running

MIB = 1 << 20
CLUSTER = 1 << 16
SIZE = 200 * MIB + 512

Messages = Iterator[volumes.ImportVolumeRequest]


def _chunk(offset: int, data: bytes) -> transfer_pb2.DataChunk:
    return transfer_pb2.DataChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))


def _image(size_bytes: int = SIZE) -> dict[int, bytes]:
    """Return the data of a sparse image, by offset: a chunk in every fourth MiB, and the last sector."""
    source = random.Random(size_bytes)
    chunks = {offset: source.randbytes(MIB) for offset in range(0, size_bytes - MIB, 4 * MIB)}
    chunks[size_bytes - 512] = source.randbytes(512)
    return chunks


def _start(size_bytes: int, request_id: str = "", resume_offset: int = 0) -> volumes.ImportVolumeRequest:
    return volumes.ImportVolumeRequest(
        start=volumes.ImportVolumeRequest.Start(
            parent="environments/a",
            volume_id="v1",
            format=volumes.IMAGE_FORMAT_RAW,
            size_bytes=size_bytes,
            request_id=request_id,
            resume_offset=resume_offset,
        )
    )


def _pieces(image: dict[int, bytes], size_bytes: int, first: int = 0) -> Messages:
    """Yield an image from an offset on, without gaps."""
    position = first
    for offset, data in sorted(image.items()):
        if offset < first:
            continue
        if offset > position:
            yield volumes.ImportVolumeRequest(hole=transfer_pb2.Hole(offset=position, length=offset - position))
        yield volumes.ImportVolumeRequest(data=_chunk(offset, data))
        position = offset + len(data)
    if position < size_bytes:
        yield volumes.ImportVolumeRequest(hole=transfer_pb2.Hole(offset=position, length=size_bytes - position))


def _import(client: running.Client, image: dict[int, bytes], size_bytes: int = SIZE) -> volumes.Volume:
    def messages() -> Messages:
        yield _start(size_bytes)
        yield from _pieces(image, size_bytes)

    answers = list(client.volumes.ImportVolume(messages()))
    if answers[-1].operation:
        client.done(answers[-1].operation)
    return client.volumes.GetVolume(volumes.GetVolumeRequest(name=answers[0].volume.name)).volume


def _digest(image: dict[int, bytes]) -> dict[int, str]:
    return {offset: hashlib.sha256(data).hexdigest() for offset, data in image.items()}


def _exported(client: running.Client, source: str, start_offset: int = 0) -> dict[int, bytes]:
    """Download, check that it is in order, without gaps and whole, and return the chunks that aren't zeros."""
    request = volumes.ExportVolumeRequest(source=source, start_offset=start_offset)
    start, *pieces, end = client.volumes.ExportVolume(request)
    position, found = start_offset, {}
    sums = {"data": 0, "hole": 0}
    for piece in pieces:
        if piece.WhichOneof("message") == "data":
            assert piece.data.offset == position
            assert google_crc32c.value(piece.data.data) == piece.data.crc32c
            if any(piece.data.data):
                found[position] = piece.data.data
            length = len(piece.data.data)
        else:
            assert piece.hole.offset == position
            length = piece.hole.length
        sums[piece.WhichOneof("message") or ""] += length
        position += length
    assert position == start.start.size_bytes
    assert (end.end.data_bytes, end.end.hole_bytes) == (sums["data"], sums["hole"])
    return _joined(found)


def _joined(chunks: dict[int, bytes]) -> dict[int, bytes]:
    """Join neighbours, so that it doesn't matter where they were cut."""
    joined: dict[int, bytearray] = {}
    last = -1
    for offset, data in sorted(chunks.items()):
        if last >= 0 and last + len(joined[last]) == offset:
            joined[last] += data
        else:
            last = offset
            joined[last] = bytearray(data)
    return {offset: bytes(data) for offset, data in joined.items()}


def _refusal(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


def test_an_imported_disk_comes_out_as_it_went_in(client: running.Client) -> None:
    image = _image()
    volume = _import(client, image)
    assert (volume.state, volume.size_bytes) == (volumes.Volume.STATE_READY, SIZE)
    assert _digest(_exported(client, volume.name)) == _digest(image)


def test_an_export_can_begin_anywhere(client: running.Client) -> None:
    image = _image()
    volume = _import(client, image)
    rest = {offset: data for offset, data in image.items() if offset >= 100 * MIB}
    assert _digest(_exported(client, volume.name, 100 * MIB)) == _digest(rest)
    assert _exported(client, volume.name, SIZE) == {}
    beyond = _refusal(lambda: _exported(client, volume.name, SIZE + 512))
    assert (beyond.code(), running.reason(beyond)) == (grpc.StatusCode.OUT_OF_RANGE, "BEYOND_END")


def test_a_regular_snapshot_is_exported_as_it_was_captured(client: running.Client) -> None:
    image = _image()
    volume = _import(client, image)
    created = client.snapshots.CreateSnapshot(
        snapshot_service_pb2.CreateSnapshotRequest(
            parent="environments/a", snapshot=snapshot_service_pb2.Snapshot(source_volume=volume.name)
        )
    )
    list(client.volumes.WriteBlocks(_writes(volume.name, {0: b"\xff" * MIB}, {})))
    client.done(created.operation)
    assert _digest(_exported(client, created.snapshot.name)) == _digest(image)


def test_a_cut_upload_goes_on_where_it_was_durable(client: running.Client) -> None:
    image, request_id = _image(), str(uuid.uuid4())
    outbox: queue.SimpleQueue[volumes.ImportVolumeRequest | None] = queue.SimpleQueue()
    answers = client.volumes.ImportVolume(iter(outbox.get, None))
    outbox.put(_start(SIZE, request_id))
    first = next(answers)
    assert (first.durable_offset, first.volume.state) == (0, volumes.Volume.STATE_CREATING)
    for message in _pieces(image, SIZE):
        outbox.put(message)
        if message.WhichOneof("message") == "data" and message.data.offset >= 100 * MIB:
            break
    durable = next(answers).durable_offset
    assert 0 < durable <= 101 * MIB
    answers.cancel()

    wrong = _refusal(lambda: list(client.volumes.ImportVolume(iter([_start(SIZE, request_id, durable + MIB)]))))
    assert (wrong.code(), running.reason(wrong)) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_OFFSET")
    offset = int(running.info(wrong).metadata["durable_offset"])
    assert offset >= durable

    def rest() -> Messages:
        yield _start(SIZE, request_id, offset)
        yield from _pieces(image, SIZE, offset)

    *_, last = client.volumes.ImportVolume(rest())
    if last.operation:
        client.done(last.operation)
    assert last.volume.uid == first.volume.uid
    assert _digest(_exported(client, first.volume.name)) == _digest(image)


def test_an_upload_survives_a_kill_of_the_daemon(daemon: running.Daemon, client: running.Client) -> None:
    image, request_id = _image(), str(uuid.uuid4())

    def messages(first: int) -> Messages:
        yield _start(SIZE, request_id, first)
        yield from _pieces(image, SIZE, first)

    answers = client.volumes.ImportVolume(messages(0))
    durable = [next(answers).durable_offset, next(answers).durable_offset][1]
    daemon.kill()
    daemon.start()
    with daemon.client() as again:
        wrong = _refusal(lambda: list(again.volumes.ImportVolume(iter([_start(SIZE, request_id, 512)]))))
        offset = int(running.info(wrong).metadata["durable_offset"])
        assert offset >= durable > 0
        *_, last = again.volumes.ImportVolume(messages(offset))
        if last.operation:
            again.done(last.operation)
        assert _digest(_exported(again, last.volume.name)) == _digest(image)


def test_an_upload_that_ends_early_is_incomplete_and_says_how_far_it_came(client: running.Client) -> None:
    def messages() -> Messages:
        yield _start(4 * MIB)
        yield volumes.ImportVolumeRequest(data=_chunk(0, b"x" * MIB))

    refused = _refusal(lambda: list(client.volumes.ImportVolume(messages())))
    assert (refused.code(), running.reason(refused)) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    assert running.info(refused).metadata["size_bytes"] == str(4 * MIB)


def test_a_chunk_whose_bytes_changed_on_the_way_is_refused(client: running.Client) -> None:
    def messages() -> Messages:
        yield _start(MIB)
        yield volumes.ImportVolumeRequest(data=transfer_pb2.DataChunk(data=b"x" * MIB, crc32c=1))

    refused = _refusal(lambda: list(client.volumes.ImportVolume(messages())))
    assert (refused.code(), running.reason(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH")
    assert running.info(refused).metadata["expected_crc32c"] == "1"


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("start", []),
        ("start", [volumes.ImportVolumeRequest(data=_chunk(0, b"x"))]),
        ("message", [_start(MIB), _start(MIB)]),
        ("data", [_start(2 * MIB), volumes.ImportVolumeRequest(data=_chunk(0, b"x" * (MIB + 1)))]),
        ("length", [_start(MIB), volumes.ImportVolumeRequest(hole=transfer_pb2.Hole())]),
        ("size_bytes", [_start(513)]),
        ("size_bytes", [_start(0)]),
    ],
    ids=["nothing", "no start", "two starts", "large chunk", "empty hole", "half a sector", "no size"],
)
def test_a_stream_that_is_not_as_agreed_is_refused(
    client: running.Client, field: str, messages: list[volumes.ImportVolumeRequest]
) -> None:
    refused = _refusal(lambda: list(client.volumes.ImportVolume(iter(messages))))
    assert (refused.code(), running.info(refused).metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def _writes(name: str, data: dict[int, bytes], holes: dict[int, int]) -> Iterator[volumes.WriteBlocksRequest]:
    yield volumes.WriteBlocksRequest(start=volumes.WriteBlocksRequest.Start(name=name))
    for offset in sorted([*data, *holes]):
        if offset in data:
            yield volumes.WriteBlocksRequest(data=_chunk(offset, data[offset]))
        else:
            yield volumes.WriteBlocksRequest(hole=transfer_pb2.Hole(offset=offset, length=holes[offset]))


def test_written_blocks_replace_what_was_there_and_nothing_else(client: running.Client) -> None:
    volume = _import(client, {0: b"a" * MIB, 2 * MIB: b"b" * MIB}, 4 * MIB)
    *_, last = client.volumes.WriteBlocks(_writes(volume.name, {512: b"c" * 512}, {2 * MIB: MIB}))
    assert last.durable_offset == 3 * MIB
    expected = b"a" * 512 + b"c" * 512 + b"a" * (MIB - 1024)
    assert _exported(client, volume.name) == {0: expected}


def test_writes_are_refused_where_they_do_not_fit(client: running.Client) -> None:
    volume = _import(client, {0: b"a" * MIB}, MIB)
    beyond = _refusal(lambda: list(client.volumes.WriteBlocks(_writes(volume.name, {MIB: b"x" * 512}, {}))))
    assert (beyond.code(), running.reason(beyond)) == (grpc.StatusCode.OUT_OF_RANGE, "BEYOND_END")
    crooked = _refusal(lambda: list(client.volumes.WriteBlocks(_writes(volume.name, {1: b"x" * 512}, {}))))
    assert running.info(crooked).metadata["field"] == "offset"


def test_a_revert_brings_back_what_the_snapshot_holds(client: running.Client) -> None:
    image = {0: b"a" * MIB}
    volume = _import(client, image, 4 * MIB)
    snapshot = client.snapshots.CreateSnapshot(
        snapshot_service_pb2.CreateSnapshotRequest(
            parent="environments/a", snapshot=snapshot_service_pb2.Snapshot(source_volume=volume.name), rapid=True
        )
    ).snapshot
    list(client.volumes.WriteBlocks(_writes(volume.name, {0: b"z" * MIB}, {})))
    request = volumes.RevertVolumeRequest(name=volume.name, snapshot=snapshot.name)
    client.done(client.volumes.RevertVolume(request).operation)
    assert _exported(client, volume.name) == image


def _leak(daemon: running.Daemon) -> None:
    """Have a cluster of the only layer's file counted as used to which nothing refers."""
    (path,) = daemon.state_dir.glob("pool/*/*.qcow2")
    with path.open("r+b") as file:
        file.seek(48)
        file.seek(int.from_bytes(file.read(8)))
        block_offset = int.from_bytes(file.read(8))
        cluster = -(-path.stat().st_size // CLUSTER)
        file.seek(block_offset + 2 * cluster)
        file.write(b"\0\1")
        file.truncate((cluster + 1) * CLUSTER)


def test_a_check_tells_of_every_file_and_repairs_the_head(daemon: running.Daemon, client: running.Client) -> None:
    image = {0: b"a" * MIB}
    volume = _import(client, image, 4 * MIB)
    _leak(daemon)
    answer = volumes.CheckVolumeResponse
    (found,) = client.volumes.CheckVolume(volumes.CheckVolumeRequest(name=volume.name))
    assert (found.verdict, found.leaks, found.allocated_clusters) == (answer.VERDICT_LEAKING, 1, 16)
    (found,) = client.volumes.CheckVolume(volumes.CheckVolumeRequest(name=volume.name, repair=True))
    assert (found.verdict, found.leaks, found.leaks_fixed) == (answer.VERDICT_CLEAN, 0, 1)
    client.snapshots.CreateSnapshot(
        snapshot_service_pb2.CreateSnapshotRequest(
            parent="environments/a", snapshot=snapshot_service_pb2.Snapshot(source_volume=volume.name), rapid=True
        )
    )
    both = list(client.volumes.CheckVolume(volumes.CheckVolumeRequest(name=volume.name)))
    assert [(each.depth, each.layer_count, each.verdict) for each in both] == [
        (0, 2, answer.VERDICT_CLEAN),
        (1, 2, answer.VERDICT_CLEAN),
    ]
    assert _exported(client, volume.name) == image


def test_a_check_is_refused_in_typed_errors(client: running.Client) -> None:
    missing = volumes.CheckVolumeRequest(name="environments/a/volumes/none")
    refused = _refusal(lambda: list(client.volumes.CheckVolume(missing)))
    assert (refused.code(), running.reason(refused)) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    nameless = _refusal(lambda: list(client.volumes.CheckVolume(volumes.CheckVolumeRequest(name="v1"))))
    assert running.info(nameless).metadata["field"] == "name"
