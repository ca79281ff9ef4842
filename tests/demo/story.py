"""The main job from an empty host to an empty host, chapter by chapter.

It owns what is done and what has to hold. How it is told is the narrator's, what is on the disk the disk's.
"""

import pathlib
import threading

from snapd import client, clock, units
from snapd.client import waiting
from snapd.v1 import snapshot_service_pb2, system_service_pb2, volume_service_pb2
from tests.demo import disk as disks
from tests.demo import narrator
from tests.integration import running

ENVIRONMENT = "demo"
RETENTION_S = 5
_PATIENCE_S = 120.0
_PARENT = f"environments/{ENVIRONMENT}"
_VOLUME = f"{_PARENT}/volumes/root"

Snapshot = snapshot_service_pb2.Snapshot
Volume = volume_service_pb2.Volume


class Story:
    """One run, with the digests of the moments that were captured."""

    def __init__(
        self, tell: narrator.Narrator, daemon: running.Daemon, connection: client.Client, work: pathlib.Path
    ) -> None:
        self._tell = tell
        self._daemon = daemon
        self._client = connection
        self._work = work
        self._contents = work / "contents.raw"
        """What the volume is to hold, kept beside it and changed as a guest would."""
        self._digests: dict[str, str] = {}
        """The digest of the contents at the moment of each snapshot, by its id."""

    def run(self, image: pathlib.Path | None) -> None:
        """Run all chapters. Raises Failed, or errors.ApiError, at the first thing that doesn't hold."""
        self._prepare(image)
        self._start()
        self._import()
        self._take_rapid_snapshot()
        self._use_it_at_once()
        self._change("after the upgrade")
        self._watch_it_become_regular()
        self._take_regular_snapshot()
        self._change("after a bad release")
        self._kill_the_daemon()
        self._change("a day later")
        self._take_snapshot_to_keep()
        self._clone_each()
        self._revert_to_each()
        self._meet_an_error()
        self._delete_everything()
        self._stop()

    # --- before -------------------------------------------------------------------------------------------------------

    def _prepare(self, image: pathlib.Path | None) -> None:
        tell = self._tell
        tell.chapter("A disk")
        if image is not None:
            self._disk = disks.given(image)
            tell.say(
                f"Yours: {image}, {self._disk.format}, {units.format_size(image.stat().st_size)} long. It is only read."
            )
            return
        tell.say("An ext4 file system, filled with files of this host ...")
        with tell.timed("making the disk image"):
            self._disk = disks.make(self._work, "as installed")
        status = self._disk.image.stat()
        used, size = units.format_size(status.st_blocks * 512), units.format_size(status.st_size)
        tell.holds(status.st_size >= units.GIB, f"{self._disk.image}: {size} long, {used} of it data")

    def _start(self) -> None:
        tell, daemon = self._tell, self._daemon
        tell.chapter("A daemon, with nothing but a folder of its own")
        tell.say(f"snapd-storage serve --state-dir {self._work / 'state'}")
        with tell.timed("starting the daemon"):
            daemon.start()
        info = self._client.system.GetServerInfo(system_service_pb2.GetServerInfoRequest())
        tell.holds(bool(info.version), f"it serves, version {info.version}, pid {daemon.process.pid}")
        tell.say("A second one on the same folder would be a disaster, so it refuses to start:")
        tell.command("snapd-storage", "serve", "--state-dir", str(self._work / "state"), fails_with=1)

    def _import(self) -> None:
        tell = self._tell
        tell.chapter("An environment, and a root volume from the disk image")
        tell.command("snapvol", "environment", "create", ENVIRONMENT, shown=False)
        with tell.timed("importing the image"):
            image = str(self._disk.image)
            words = ("import", image, "root", "--format", self._disk.format, "--role", "root", "--instance", "vm-1")
            volume = tell.answer("volume", *words)
        tell.holds(volume["state"] == "STATE_READY", "the volume is READY")
        (layer,) = self._layers()
        if disks.referee("check", "-q", "-U", str(layer)):
            tell.holds(True, "qemu-img check finds no fault with its qcow2 layer")
            disks.referee("compare", "-q", "-U", "-f", self._disk.format, "-F", "qcow2", image, str(layer))
            tell.holds(True, "qemu-img compare finds the image and the layer identical")

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _take_rapid_snapshot(self) -> None:
        tell = self._tell
        tell.chapter("A rapid snapshot: usable at once")
        retention = f"{RETENTION_S}s"
        with tell.timed("taking a rapid snapshot, snapvol's own start included"):
            answer = tell.answer("snapshot", "create", "root", "installed", "--rapid", "--retention", retention)
        tell.holds(answer["state"] == "STATE_COMPLETED" and answer["rapid"], "the answer itself says COMPLETED, rapid")
        self._export("installed", self._contents)
        self._digests["installed"] = disks.digest(self._contents)
        tell.say(f"Its contents: {self._disk.describe(self._contents)}; SHA-256 {self._digests['installed'][:16]}…")
        if self._disk.format == "raw":
            tell.holds(disks.digest(self._disk.image) == self._digests["installed"], "that is the image, byte for byte")

    def _use_it_at_once(self) -> None:
        with self._tell.timed("cloning it from primary storage"):
            self._tell.command("snapvol", "volume", "clone", "installed", "early-clone", shown=False)
        self._expect_clone("early-clone", "installed")

    def _change(self, note: str) -> None:
        tell = self._tell
        tell.chapter(f"The guest changes its disk: {note}")
        self._disk.change(self._contents, note)
        with tell.timed(f"writing the volume {note}"):
            tell.command("snapvol", "volume", "write", "root", str(self._contents), "--yes", shown=False)
        tell.say(f"The volume now holds: {self._disk.describe(self._contents)}")

    def _watch_it_become_regular(self) -> None:
        tell = self._tell
        tell.chapter(f"The archiver makes the rapid snapshot regular by itself, {RETENTION_S} s after its capture")
        tell.command("snapvol", "snapshot", "wait", "installed", "--archived", shown=False)
        found = self._snapshot("installed")
        archived = (found.archive.archive_time.ToDatetime() - found.capture_time.ToDatetime()).total_seconds()
        tell.holds(not found.rapid and found.archive.state == Snapshot.Archive.STATE_ARCHIVED, "it is regular now")
        tell.holds(archived >= RETENTION_S, f"archived {archived:.1f} s after its capture, and nobody asked for it")
        self._show_snapshots()

    def _take_regular_snapshot(self) -> None:
        tell = self._tell
        tell.chapter("A regular snapshot, by the Python client: states that tell the truth")
        created = self._begin_regular("upgraded")
        with tell.timed("archiving the second snapshot, which shares most of its blocks"):
            waiting.wait(self._client, created.operation)
        found = self._snapshot("upgraded")
        tell.holds(found.state == Snapshot.STATE_COMPLETED, "the snapshot is COMPLETED once its archive copy is proven")
        tell.holds(self._volume().state == Volume.STATE_READY, "the volume is READY")
        stored = units.format_size(found.archive.stored_bytes)
        tell.say(f"Of {units.format_size(found.size_bytes)}, {stored} had to be stored anew.")

    def _begin_regular(self, name: str) -> snapshot_service_pb2.CreateSnapshotResponse:
        """Take a regular snapshot and look at what it and its volume say of themselves meanwhile.

        That is no race: a capture takes milliseconds, and the archiving of what has been written takes far longer than
        the next call.
        """
        request = snapshot_service_pb2.CreateSnapshotRequest(
            parent=_PARENT, snapshot_id=name, snapshot=Snapshot(source_volume=_VOLUME)
        )
        self._digests[name] = disks.digest(self._contents)
        begun_s = clock.monotonic_s()
        created = self._client.snapshots.CreateSnapshot(request)
        volume = self._volume()
        self._tell.took(f"capturing '{name}'", clock.monotonic_s() - begun_s)
        self._tell.holds(created.snapshot.state == Snapshot.STATE_IN_PROGRESS, "the snapshot answers IN_PROGRESS")
        self._tell.holds(volume.state == Volume.STATE_SNAPSHOT_IN_PROGRESS, "its volume says SNAPSHOT_IN_PROGRESS")
        return created

    def _kill_the_daemon(self) -> None:
        tell = self._tell
        tell.chapter("kill -9 in the middle of a regular snapshot")
        self._begin_regular("broken")
        self._daemon.kill()
        tell.say("The daemon is dead. It is started again, and nobody tells it what to do ...")
        with tell.timed("recovering from the kill"):
            self._daemon.start()
        with tell.timed("finishing the killed archiving"):
            tell.command("snapvol", "snapshot", "wait", "broken", shown=False)
        tell.holds(self._snapshot("broken").state == Snapshot.STATE_COMPLETED, "the snapshot is COMPLETED")

    def _take_snapshot_to_keep(self) -> None:
        tell = self._tell
        tell.chapter("Another rapid snapshot, which stays on primary storage for a day")
        self._digests["recent"] = disks.digest(self._contents)
        tell.command("snapvol", "snapshot", "create", "root", "recent", "--rapid", shown=False)
        self._show_snapshots()

    # --- what snapshots are for ---------------------------------------------------------------------------------------

    def _clone_each(self) -> None:
        self._tell.chapter("A new volume from each snapshot")
        for name in self._digests:
            with self._tell.timed(f"cloning '{name}'"):
                self._tell.command("snapvol", "volume", "clone", name, f"{name}-clone", shown=False)
            self._expect_clone(f"{name}-clone", name)

    def _expect_clone(self, volume: str, snapshot: str) -> None:
        self._expect(volume, snapshot)
        self._tell.command("snapvol", "volume", "delete", volume, "--yes", shown=False)

    def _revert_to_each(self) -> None:
        self._tell.chapter("The volume goes back, and forth again: any snapshot, not only the latest")
        for name in self._digests:
            with self._tell.timed(f"reverting to '{name}'"):
                self._tell.command("snapvol", "volume", "revert", "root", name, "--yes", shown=False)
            self._expect("root", name)
        self._show_snapshots()

    def _expect(self, volume: str, snapshot: str) -> None:
        """Compare a volume's contents with those at a snapshot's moment."""
        exported = self._work / "exported.raw"
        self._export(volume, exported, "--volume")
        same = disks.digest(exported) == self._digests[snapshot]
        self._tell.holds(same, f"{volume} holds what root held when '{snapshot}' was taken, by its SHA-256")
        self._tell.say(f"On it: {self._disk.describe(exported)}")
        exported.unlink()

    # --- after --------------------------------------------------------------------------------------------------------

    def _meet_an_error(self) -> None:
        self._tell.chapter("A mistake, as its author sees it")
        self._tell.command("snapvol", "environment", "delete", ENVIRONMENT, "--yes", fails_with=4)

    def _delete_everything(self) -> None:
        tell = self._tell
        tell.chapter("Everything is deleted, and nothing stays")
        layers = self._layers()
        if all(disks.referee("check", "-q", "-U", str(layer)) for layer in layers):
            tell.holds(True, f"before that, qemu-img check finds no fault with the {len(layers)} layers")
        self._show_capacity()
        with tell.timed("deleting everything"):
            tell.command("snapvol", "volume", "delete", "root", "--yes", shown=False)
            for name in self._digests:
                tell.command("snapvol", "snapshot", "delete", name, "--yes", shown=False)
            tell.command("snapvol", "environment", "delete", ENVIRONMENT, "--yes", shown=False)
        with tell.timed("until pool and archive hold nothing of it"):
            self._await_emptiness()
        tell.holds(not self._layers(), "the pool holds no layer")
        tell.holds(not self._archived(), "the archive holds nothing of it, only backups of the catalog")
        self._show_capacity()

    def _await_emptiness(self) -> None:
        """Wait for the keeper, who collects garbage in the background. Raises Failed if it doesn't."""
        pause = threading.Event()
        end_s = clock.monotonic_s() + _PATIENCE_S
        while left := self._layers() + self._archived():
            if clock.monotonic_s() >= end_s:
                raise narrator.Failed(f"after {_PATIENCE_S:.0f} s there still are {', '.join(map(str, left[:5]))}")
            pause.wait(0.1)

    def _stop(self) -> None:
        tell = self._tell
        tell.chapter("The daemon stops in order")
        with tell.timed("stopping the daemon"):
            status = self._daemon.stop()
        tell.holds(status == 0, "its exit status is 0")
        tell.say("What took how long:")
        tell.durations()

    # --- looking ------------------------------------------------------------------------------------------------------

    def _export(self, source: str, path: pathlib.Path, *options: str) -> None:
        self._tell.command("snapvol", "volume", "export", source, str(path), *options, shown=False)

    def _show_snapshots(self) -> None:
        self._tell.command("snapvol", "snapshot", "list")

    def _show_capacity(self) -> None:
        found = self._client.system.GetCapacity(system_service_pb2.GetCapacityRequest())
        pool, archive = units.format_size(found.pool.used_bytes), units.format_size(found.archive.stored_bytes)
        self._tell.say(f"The pool has {pool} in use, the archive {archive}.")

    def _snapshot(self, name: str) -> Snapshot:
        request = snapshot_service_pb2.GetSnapshotRequest(name=f"{_PARENT}/snapshots/{name}")
        return self._client.snapshots.GetSnapshot(request).snapshot

    def _volume(self) -> Volume:
        return self._client.volumes.GetVolume(volume_service_pb2.GetVolumeRequest(name=_VOLUME)).volume

    def _layers(self) -> list[pathlib.Path]:
        return sorted((self._work / "state" / "pool").rglob("*.qcow2"))

    def _archived(self) -> list[pathlib.Path]:
        """Return what the archive holds of environments; the backups of the catalog stay."""
        hosts = self._work / "state" / "archive" / "hosts" / "local" / "environments"
        return sorted(path for path in hosts.rglob("*") if path.is_file() and "catalog" not in path.parts)
