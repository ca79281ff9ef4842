"""A small real gRPC server on a unix socket that keeps a few resources in memory, for tests of the client and snapvol.

It answers as the protos say, without a pool, an archive or a catalog behind it. A test can look at what arrived, have
the next call of a method stub_memory.fail, and cut streams in the middle.
"""

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2, timestamp_pb2

from snapd import units
from snapd.v1 import (
    attachment_pb2,
    environment_service_pb2,
    environment_service_pb2_grpc,
    operation_pb2,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    volume_service_pb2_grpc,
)
from tests.unit.client import stub_memory, stub_volumes


class _Environments(environment_service_pb2_grpc.EnvironmentServiceServicer):
    def __init__(self, memory: stub_memory.Memory) -> None:
        self._memory = memory

    def CreateEnvironment(self, request: Any, context: Any) -> Any:
        self._memory.begin("CreateEnvironment", request, context)
        environment = environment_service_pb2.Environment()
        environment.CopyFrom(request.environment)
        environment.name = f"environments/{request.environment_id}"
        self._memory.resources[environment.name] = environment
        return environment_service_pb2.CreateEnvironmentResponse(environment=environment)

    def GetEnvironment(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetEnvironment", request, context)
        return environment_service_pb2.GetEnvironmentResponse(environment=self._memory.find(request.name, context))

    def GetEnvironmentUsage(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetEnvironmentUsage", request, context)
        self._memory.find(request.name, context)
        usage = environment_service_pb2.EnvironmentUsage(
            name=request.name,
            volume_count=2,
            primary=environment_service_pb2.EnvironmentUsage.Primary(exclusive_bytes=3 << 30),
            archive=environment_service_pb2.EnvironmentUsage.Archive(
                reachable=True, stored_bytes=1 << 30, logical_bytes=10 << 30
            ),
        )
        return environment_service_pb2.GetEnvironmentUsageResponse(usage=usage)

    def ListEnvironments(self, request: Any, context: Any) -> Any:
        self._memory.begin("ListEnvironments", request, context)
        found, token = self._memory.page(request, "environments")
        return environment_service_pb2.ListEnvironmentsResponse(environments=found, next_page_token=token)

    def UpdateEnvironment(self, request: Any, context: Any) -> Any:
        self._memory.begin("UpdateEnvironment", request, context)
        environment = self._memory.find(request.environment.name, context)
        request.update_mask.MergeMessage(request.environment, environment, True, True)
        return environment_service_pb2.UpdateEnvironmentResponse(environment=environment)

    def DeleteEnvironment(self, request: Any, context: Any) -> Any:
        self._memory.begin("DeleteEnvironment", request, context)
        del self._memory.resources[self._memory.find(request.name, context).name]
        return environment_service_pb2.DeleteEnvironmentResponse()


class _Snapshots(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    def __init__(self, memory: stub_memory.Memory) -> None:
        self._memory = memory

    def CreateSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("CreateSnapshot", request, context)
        volume = self._memory.find(request.snapshot.source_volume, context)
        snapshot = snapshot_service_pb2.Snapshot()
        snapshot.CopyFrom(request.snapshot)
        snapshot.name = f"{request.parent}/snapshots/{request.snapshot_id or 'generated'}"
        snapshot.uid = "7e0c"
        snapshot.rapid = snapshot.requested_rapid = request.rapid
        snapshot.size_bytes = volume.size_bytes
        snapshot.state = snapshot_service_pb2.Snapshot.STATE_COMPLETED
        self._memory.resources[snapshot.name] = snapshot
        self._memory.contents[snapshot.name] = bytearray(self._memory.contents[volume.name])
        method = "snapd.v1.SnapshotService/CreateSnapshot"
        operation = "" if request.rapid else self._memory.operation(method, snapshot.name, snapshot)
        return snapshot_service_pb2.CreateSnapshotResponse(snapshot=snapshot, operation=operation)

    def GetSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetSnapshot", request, context)
        return snapshot_service_pb2.GetSnapshotResponse(snapshot=self._memory.find(request.name, context))

    def AttachSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("AttachSnapshot", request, context)
        snapshot = self._memory.find(request.name, context)
        snapshot.attachment.state = attachment_pb2.Attachment.STATE_ATTACHED
        snapshot.attachment.read_only = True
        operation = self._memory.operation("snapd.v1.SnapshotService/AttachSnapshot", snapshot.name, snapshot)
        return snapshot_service_pb2.AttachSnapshotResponse(snapshot=snapshot, operation=operation)

    def DetachSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("DetachSnapshot", request, context)
        snapshot = self._memory.find(request.name, context)
        snapshot.ClearField("attachment")
        operation = self._memory.operation("snapd.v1.SnapshotService/DetachSnapshot", snapshot.name, snapshot)
        return snapshot_service_pb2.DetachSnapshotResponse(snapshot=snapshot, operation=operation)

    def ListSnapshots(self, request: Any, context: Any) -> Any:
        self._memory.begin("ListSnapshots", request, context)
        found, token = self._memory.page(request, "snapshots")
        return snapshot_service_pb2.ListSnapshotsResponse(snapshots=found, next_page_token=token)

    def UpdateSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("UpdateSnapshot", request, context)
        snapshot = self._memory.find(request.snapshot.name, context)
        request.update_mask.MergeMessage(request.snapshot, snapshot, True, True)
        return snapshot_service_pb2.UpdateSnapshotResponse(snapshot=snapshot)

    def DeleteSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("DeleteSnapshot", request, context)
        snapshot = self._memory.find(request.name, context)
        del self._memory.resources[snapshot.name]
        return snapshot_service_pb2.DeleteSnapshotResponse(snapshot=snapshot)

    def ArchiveSnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("ArchiveSnapshot", request, context)
        snapshot = self._memory.find(request.name, context)
        operation = self._memory.operation("snapd.v1.SnapshotService/ArchiveSnapshot", snapshot.name, snapshot)
        return snapshot_service_pb2.ArchiveSnapshotResponse(snapshot=snapshot, operation=operation)

    def VerifySnapshot(self, request: Any, context: Any) -> Any:
        self._memory.begin("VerifySnapshot", request, context)
        snapshot = self._memory.find(request.name, context)
        operation = self._memory.operation("snapd.v1.SnapshotService/VerifySnapshot", snapshot.name, snapshot)
        return snapshot_service_pb2.VerifySnapshotResponse(snapshot=snapshot, operation=operation)


class _System(system_service_pb2_grpc.SystemServiceServicer):
    def __init__(self, memory: stub_memory.Memory) -> None:
        self._memory = memory

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetServerInfo", request, context)
        return system_service_pb2.GetServerInfoResponse(
            version="0.1.0",
            capabilities=["archive.directory"],
            work=self._work(),
            catalog_backup_time=timestamp_pb2.Timestamp(seconds=1_772_366_400),
        )

    def _work(self) -> list[Any]:
        return [
            self._memory.paused.get(worker, system_service_pb2.WorkState(worker=worker, running_count=1))
            for worker in system_service_pb2.Worker.values()[1:]
        ]

    def Scrub(self, request: Any, context: Any) -> Any:
        self._memory.begin("Scrub", request, context)
        result = system_service_pb2.ScrubResult(pack_count=3, checked_bytes=units.MIB)
        operation = self._memory.operation("snapd.v1.SystemService/Scrub", "environments/blue", result)
        return system_service_pb2.ScrubResponse(operations=[operation])

    def Collect(self, request: Any, context: Any) -> Any:
        self._memory.begin("Collect", request, context)
        result = system_service_pb2.CollectResult(deleted_pack_count=2, freed_bytes=units.MIB)
        operation = self._memory.operation("snapd.v1.SystemService/Collect", "environments/blue", result)
        return system_service_pb2.CollectResponse(operations=[operation])

    def GetRecoveryReport(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetRecoveryReport", request, context)
        return self._memory.recovery

    def PauseWork(self, request: Any, context: Any) -> Any:
        self._memory.begin("PauseWork", request, context)
        for worker in request.workers or system_service_pb2.Worker.values()[1:]:
            self._memory.paused[worker] = system_service_pb2.WorkState(
                worker=worker, paused=True, reason=request.reason, paused_by="local"
            )
        return system_service_pb2.PauseWorkResponse(work=self._work())

    def ResumeWork(self, request: Any, context: Any) -> Any:
        self._memory.begin("ResumeWork", request, context)
        for worker in request.workers or system_service_pb2.Worker.values()[1:]:
            self._memory.paused.pop(worker, None)
        return system_service_pb2.ResumeWorkResponse(work=self._work())

    def GetCapacity(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetCapacity", request, context)
        pool = system_service_pb2.PoolCapacity(total_bytes=100 << 30, free_bytes=60 << 30, used_bytes=40 << 30)
        return system_service_pb2.GetCapacityResponse(pool=pool)


class _Operations(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc] # published without types
    def __init__(self, memory: stub_memory.Memory) -> None:
        self._memory = memory

    def GetOperation(self, request: Any, context: Any) -> Any:
        self._memory.begin("GetOperation", request, context)
        return self._memory.find(request.name, context)

    def WaitOperation(self, request: Any, context: Any) -> Any:
        self._memory.begin("WaitOperation", request, context)
        operation = self._memory.find(request.name, context)
        metadata = operation_pb2.OperationMetadata()
        operation.metadata.Unpack(metadata)
        if metadata.bytes_done >= self._memory.turns:
            operation.done = True
        else:
            metadata.bytes_done += 1
            operation.metadata.Pack(metadata)
        return operation

    def ListOperations(self, request: Any, context: Any) -> Any:
        self._memory.begin("ListOperations", request, context)
        names = sorted(name for name in self._memory.resources if name.startswith(f"{request.name}/operations/"))
        return operations_pb2.ListOperationsResponse(operations=[self._memory.resources[name] for name in names])

    def CancelOperation(self, request: Any, context: Any) -> Any:
        self._memory.begin("CancelOperation", request, context)
        operation = self._memory.find(request.name, context)
        operation.error.CopyFrom(stub_memory.status(grpc.StatusCode.CANCELLED, "OPERATION_CANCELLED"))
        operation.done = True
        return empty_pb2.Empty()


@contextlib.contextmanager
def served(path: pathlib.Path, memory: stub_memory.Memory) -> Iterator[None]:
    """Serve memory at a socket's path for the length of a block."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    environment_service_pb2_grpc.add_EnvironmentServiceServicer_to_server(_Environments(memory), server)
    volume_service_pb2_grpc.add_VolumeServiceServicer_to_server(stub_volumes.Volumes(memory), server)
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(_Snapshots(memory), server)
    system_service_pb2_grpc.add_SystemServiceServicer_to_server(_System(memory), server)
    operations_pb2_grpc.add_OperationsServicer_to_server(_Operations(memory), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
