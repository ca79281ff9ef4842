import pathlib
import random

import grpc
import pytest

from snapd import units
from snapd.v1 import attachment_pb2, system_service_pb2, volume_service_pb2
from tests.unit.cli.conftest import Snapvol
from tests.unit.client import stub_memory


def test_an_environment_is_made_shown_changed_and_deleted(snapvol: Snapvol) -> None:
    made = snapvol("environment", "create", "blue", "--label", "team=a", "--retention", "1h30m", "-o", "json")
    assert made.json == {"name": "environments/blue", "labels": {"team": "a"}, "retention_duration": "5400s"}
    changed = snapvol("environment", "update", "blue", "--label", "tier=1", "--remove-label", "team", "-o", "json")
    assert changed.json["labels"] == {"tier": "1"}
    shown = snapvol("environment", "show", "blue")
    assert "1h30m" in shown.out
    assert "tier=1" in shown.out
    assert snapvol("environment", "delete", "blue", "--yes").code == 0
    assert snapvol("environment", "list", "-o", "json").json == []


def test_a_volume_is_made_with_what_was_said(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    options = ("--role", "root", "--instance", "vm-7", "--label", "team=a", "--display-name", "Boot disk")
    made = snapvol("volume", "create", "root", "--size", "10MiB", *options, "--output", "json")
    assert made.code == 0
    assert made.json == {
        "name": "environments/blue/volumes/root",
        "display_name": "Boot disk",
        "labels": {"team": "a"},
        "role": "ROLE_ROOT",
        "instance": "vm-7",
        "size_bytes": str(10 * units.MIB),
        "state": "STATE_READY",
    }
    waited = [request for request in memory.received if type(request).__name__ == "WaitOperationRequest"]
    assert len(waited) == 1


def test_a_volume_is_made_of_what_a_host_has_archived(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    full = "hosts/host-7/environments/e1/snapshots/s1"
    for place in ("host-7/e1/s1", full):
        assert snapvol("volume", "create", "saved", "--from-archive", place).code == 0
        asked = [found for found in memory.received if type(found).__name__ == "CreateVolumeRequest"][-1]
        assert (asked.volume.source_archived_snapshot, asked.volume.size_bytes) == (full, 0)
    assert snapvol("volume", "create", "saved", "--from-archive", "host-7/s1").code == 2
    assert snapvol("volume", "create", "saved", "--from-archive", full, "--size", "1M").code == 2
    assert snapvol("volume", "create", "saved").code == 2


def test_without_waiting_the_operation_is_named(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    made = snapvol("volume", "create", "root", "--size", "1M", "--no-wait")
    assert "environments/blue/operations/op-0 goes on" in made.err
    assert not any(type(request).__name__ == "WaitOperationRequest" for request in memory.received)


def test_a_list_is_a_table_over_all_pages(snapvol: Snapvol) -> None:
    for name in ("a", "b", "c"):
        snapvol("volume", "create", name, "--size", "1M")
    lines = snapvol("volume", "list").out.splitlines()
    assert lines[0].split() == [
        "VOLUME",
        "STATE",
        "ROLE",
        "SIZE",
        "EXCLUSIVE",
        "SHARED",
        "INSTANCE",
        "ATTACHMENT",
        "CREATED",
        "RECOVERED",
    ]
    assert [line.split()[:3] for line in lines[1:]] == [[name, "READY", "DATA"] for name in "abc"]
    assert len(snapvol("volume", "list", "--limit", "2", "--output", "json").json) == 2


def test_a_volume_is_attached_limited_and_detached(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    attached = snapvol("volume", "attach", "root", "--volatile-cache", "--iops", "500", "-o", "json")
    assert attached.json["attachment"]["nbd"] == {"socket": "/run/nbd.sock", "export": "disk"}
    asked = memory.received[-1]
    assert (asked.way, asked.read_only, asked.volatile_cache, asked.limits.iops) == (1, False, True, 500)
    assert snapvol("volume", "attach", "root", "--way", "vhost-user-blk").code == 0
    assert memory.received[-1].way == attachment_pb2.Attachment.WAY_VHOST_USER_BLK
    assert "ATTACHED" in snapvol("volume", "list").out.splitlines()[1].split()
    limited = snapvol("volume", "limits", "root", "--bandwidth", "10M", "-o", "json")
    assert limited.json["attachment"]["limits"] == {"bytes_per_second": str(10 * units.MIB)}
    assert snapvol("volume", "detach", "root", "--force").code != 0, "nobody said yes"
    assert "is detached" in snapvol("volume", "detach", "root", "--force", "--yes").err
    assert memory.received[-1].force


def test_a_snapshot_is_attached_and_detached(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    snapvol("snapshot", "create", "root", "s", "--rapid")
    attached = snapvol("snapshot", "attach", "s", "--bandwidth", "1M", "-o", "json")
    assert attached.json["attachment"] == {"state": "STATE_ATTACHED", "read_only": True}
    assert memory.received[-1].limits.bytes_per_second == units.MIB
    assert "is detached" in snapvol("snapshot", "detach", "s").err


def test_a_snapshot_is_taken_reverted_to_and_cloned(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    taken = snapvol("snapshot", "create", "root", "before", "--rapid", "--retention", "0s", "-o", "json")
    assert taken.json["name"] == "environments/blue/snapshots/before"
    assert taken.json["rapid"] is True
    assert snapvol("volume", "revert", "root", "before", "--yes").code == 0
    assert memory.received[-3].snapshot == "environments/blue/snapshots/before"
    cloned = snapvol("volume", "clone", "before", "copy", "-o", "json")
    assert cloned.json["source_snapshot"] == "environments/blue/snapshots/before"
    assert cloned.json["size_bytes"] == str(units.MIB)


def test_a_regular_snapshot_is_waited_for_and_a_list_of_one_volumes_is_filtered(
    snapvol: Snapvol, memory: stub_memory.Memory
) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    memory.turns = 2
    assert snapvol("snapshot", "create", "root", "kept").code == 0
    assert snapvol("snapshot", "wait", "kept").code == 0
    assert snapvol("snapshot", "archive", "kept").code == 0
    snapvol("snapshot", "list", "--volume", "root", "--filter", "rapid = false")
    assert memory.received[-1].filter == 'rapid = false AND volume = "root"'


def test_full_names_need_no_environment(snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAPVOL_ENVIRONMENT")
    assert snapvol("volume", "create", "environments/green/volumes/root", "--size", "1M").code == 0
    assert snapvol("volume", "show", "root").code == 2
    assert snapvol("volume", "show", "root", "--environment", "green").code == 0
    assert snapvol("snapshot", "create", "environments/green/volumes/root", "--rapid").code == 0
    assert snapvol("volume", "show", "environments/green/snapshots/x").code == 2


def test_operations_are_listed_shown_and_cancelled(snapvol: Snapvol) -> None:
    snapvol("volume", "create", "root", "--size", "1M", "--no-wait")
    assert "CreateVolume" in snapvol("operation", "list").out
    assert snapvol("operation", "show", "op-0", "-o", "json").json["name"] == "environments/blue/operations/op-0"
    assert snapvol("operation", "cancel", "op-0").code == 0
    assert "failed" in snapvol("operation", "show", "op-0").out


def test_the_system_tells_its_version_and_its_room(snapvol: Snapvol) -> None:
    assert "archive.directory" in snapvol("system", "info").out
    assert "60.0 GiB" in snapvol("system", "capacity").out


def test_an_environment_tells_what_it_takes(snapvol: Snapvol) -> None:
    snapvol("environment", "create", "blue")
    shown = snapvol("environment", "usage").out
    assert "3.0 GiB" in shown
    assert "10.00 : 1" in shown
    assert "10.00 : 1" in snapvol("environment", "show", "blue").out
    assert snapvol("environment", "show", "blue", "-o", "json").json == {"name": "environments/blue"}
    told = snapvol("environment", "usage", "blue", "-o", "json").json
    assert told["archive"]["logical_bytes"] == str(10 * units.GIB)
    assert snapvol("environment", "usage", "none").code == 3


def test_a_snapshot_tells_what_archiving_it_took(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    snapvol("snapshot", "create", "root", "kept")
    assert "amplification" not in snapvol("snapshot", "show", "kept").out
    archive = memory.resources["environments/blue/snapshots/kept"].archive
    archive.changed_bytes, archive.stored_bytes, archive.deduplicated_bytes = 8 * units.MIB, 2 * units.MIB, units.MIB
    shown = snapvol("snapshot", "show", "kept").out
    assert "8.0 MiB" in shown
    assert "0.25 : 1" in shown
    assert snapvol("snapshot", "show", "kept", "-o", "json").json["archive"]["deduplicated_bytes"] == str(units.MIB)


def test_what_was_found_at_the_start_is_shown(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    report = memory.recovery
    assert "being compared still" in snapvol("system", "recovery").err
    report.pool_compare_time.GetCurrentTime()
    report.archive_compare_time.GetCurrentTime()
    quiet = snapvol("system", "recovery")
    assert (quiet.code, quiet.out) == (0, "")
    assert quiet.err.splitlines() == ["No change was half done.", "Catalog, pool and archive agree."]
    report.changes.add(kind="fold", outcome=system_service_pb2.RecoveredChange.OUTCOME_FINISHED)
    problem = "the file of layer x is gone"
    report.findings.add(
        kind=system_service_pb2.Finding.KIND_LAYER_MISSING, problem=problem, affected=["environments/e/volumes/v"]
    )
    report.finding_count = 7
    told = snapvol("system", "recovery")
    assert told.out.splitlines()[1].split() == ["fold", "finished"]
    assert told.out.splitlines()[3].split() == ["LAYER_MISSING", *problem.split(), "environments/e/volumes/v"]
    assert "6 more were found" in told.err
    assert snapvol("system", "recovery", "-o", "json").json["finding_count"] == "7"


def test_the_archive_is_checked_and_tidied_up(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    scrubbed = snapvol("archive", "scrub", "--environment", "blue")
    assert (scrubbed.code, memory.received[0].parent) == (0, "environments/blue")
    assert scrubbed.out.splitlines()[1].split() == ["1.0", "MiB", "3", "0"]
    collected = snapvol("archive", "collect", "--environment", "", "-o", "json")
    assert collected.json == [{"deleted_pack_count": "2", "freed_bytes": "1048576"}]
    assert any(getattr(request, "parent", "") == "environments/-" for request in memory.received)
    assert "goes on" in snapvol("archive", "scrub", "--no-wait").err
    snapvol("volume", "create", "root", "--size", "10MiB")
    snapvol("snapshot", "create", "root", "s")
    assert "is whole" in snapvol("snapshot", "verify", "s").err
    refused = stub_memory.status(grpc.StatusCode.DATA_LOSS, "SNAPSHOT_DAMAGED", "s is damaged")
    memory.failures["VerifySnapshot"].append(refused)
    assert snapvol("snapshot", "verify", "s").code != 0


def test_the_background_work_is_paused_and_resumed(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    paused = snapvol("system", "pause", "archiver", "--for", "2h", "--reason", "backup of the host")
    assert paused.code == 0
    request = memory.received[-1]
    assert (list(request.workers), request.reason) == ([system_service_pb2.WORKER_ARCHIVER], "backup of the host")
    assert request.pause_duration.seconds == 7200
    lines = [line.split() for line in snapvol("system", "status").out.splitlines()]
    assert lines[1][:2] == ["archiver", "paused"]
    assert lines[2][:3] == ["keeper", "on", "1"]
    assert "backup of the host" in snapvol("system", "info").out
    assert snapvol("system", "pause").code == 0
    assert not list(memory.received[-1].workers)
    resumed = snapvol("system", "resume", "keeper", "archiver", "-o", "json")
    assert [state["worker"] for state in resumed.json] == ["WORKER_ARCHIVER", "WORKER_KEEPER"]
    assert not any("paused" in state for state in resumed.json)
    assert snapvol("system", "pause", "scrubber").code == 2
    assert snapvol("system", "pause", "--for", "0s").code == 2


def test_an_import_that_broke_is_continued_by_its_request_id(
    snapvol: Snapvol, memory: stub_memory.Memory, tmp_path: pathlib.Path
) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(random.Random(5).randbytes(3 * units.MIB))
    memory.refused_at = 2 * units.MIB
    broken = snapvol("volume", "import", str(image), "root", "--format", "raw")
    assert broken.code == 7
    request_id = broken.err.partition("--request-id ")[2].split()[0]
    memory.refused_at = None
    memory.received.clear()
    assert snapvol("volume", "import", str(image), "root", "-f", "raw", "--request-id", request_id).code == 0
    assert memory.contents["environments/blue/volumes/root"] == image.read_bytes()
    starts = [found for found in memory.received if type(found).__name__ == "Start"]
    assert [(found.resume_offset, found.request_id) for found in starts] == [
        (0, request_id),
        (2 * units.MIB, request_id),
    ]


def test_a_file_comes_back_as_it_went(snapvol: Snapvol, memory: stub_memory.Memory, tmp_path: pathlib.Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(b"boot" * 1024 + bytes(units.MIB))
    assert snapvol("volume", "import", str(image), "root", "--format", "raw").code == 0
    snapvol("snapshot", "create", "root", "before", "--rapid")
    assert snapvol("volume", "export", "before", str(tmp_path / "out.raw")).code == 0
    assert (tmp_path / "out.raw").read_bytes() == image.read_bytes()
    again = snapvol("volume", "export", "before", str(tmp_path / "out.raw"))
    assert again.code == 1
    assert "--force" in again.err
    image.write_bytes(b"data" * 128)
    assert snapvol("volume", "write", "root", str(image), "--yes").code == 0
    assert memory.contents["environments/blue/volumes/root"].startswith(b"data" * 128 + b"boot")
    assert snapvol("volume", "export", "--volume", "root", str(tmp_path / "out.raw"), "--force").code == 0
    assert (tmp_path / "out.raw").read_bytes().startswith(b"data")


def test_a_check_shows_every_file_and_fails_on_damage(snapvol: Snapvol, memory: stub_memory.Memory) -> None:
    snapvol("volume", "create", "root", "--size", "1M")
    answer = volume_service_pb2.CheckVolumeResponse
    memory.verdicts = [answer.VERDICT_CLEAN, answer.VERDICT_LEAKING]
    shown = snapvol("volume", "check", "root")
    assert shown.code == 0
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["DEPTH", "VERDICT"],
        ["0", "CLEAN"],
        ["1", "LEAKING"],
    ]
    memory.verdicts = [answer.VERDICT_CORRUPT]
    damaged = snapvol("volume", "check", "root", "-o", "json")
    assert damaged.code == 6
    assert damaged.json == [{"layer_count": 1, "verdict": "VERDICT_CORRUPT", "total_clusters": "16"}]
    assert "environments/blue/volumes/root is damaged" in damaged.err
    repaired = snapvol("volume", "check", "root", "--repair", "-o", "json")
    assert (repaired.code, repaired.json[0]["leaks_fixed"]) == (0, "3")
    assert snapvol("volume", "check", "none").code == 3


def test_a_chain_is_drawn_with_its_snapshots_and_who_else_stands_on_it(snapvol: Snapvol) -> None:
    snapvol("volume", "create", "root", "--size", "1G")
    drawn = snapvol("volume", "chain", "root")
    assert drawn.code == 0
    heading, head, below = drawn.out.splitlines()
    assert heading.split() == ["LAYER", "SIZE", "ALLOCATED", "CREATED", "SNAPSHOTS", "ALSO", "UNDER"]
    assert head.split() == ["●", "0", "HEAD", "1.0", "GiB", "1.0", "MiB"]
    assert below.split()[:7] == ["├", "1", "FROZEN", "1.0", "GiB", "3.0", "MiB"]
    assert below.endswith("clone-0, clone-1, clone-2, 2 more")
    assert snapvol("volume", "chain", "root", "-o", "json").json[1]["volume_count"] == 5
    assert snapvol("volume", "chain", "none").code == 3
