"""The script gone through with a daemon that ends somewhere on the way, until all of it is acknowledged.

Whatever ends the daemon, what was acknowledged has to be there when it is started again.
"""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Sequence

import grpc

from snapd import config, faults
from snapd.service import settings as service_settings
from snapd.v1 import environment_service_pb2
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running
from tests.unit.service import checker

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
_STILL = (volumes.Volume.STATE_READY, volumes.Volume.STATE_SNAPSHOT_IN_PROGRESS)


def configuration(folder: pathlib.Path, state_dir: pathlib.Path) -> pathlib.Path:
    """Write a configuration into a folder and return it: all in `state_dir`, and no backups of the catalog.

    Their recordings would pass the archive's points before those of snapshots do.
    """
    path = folder / "config.toml"
    path.write_text(f'state_dir = "{state_dir}"\nrun_dir = "{state_dir}/run"\narchive.catalog_backup_interval = "0s"\n')
    return path


class Trial:
    """One way through the script. Used once."""

    def __init__(self, daemon: running.Daemon, plans: Sequence[str]) -> None:
        """Start the daemon with one plan of faults after the other, and without any when they are used up."""
        self.deaths = 0
        """How often the daemon was ended by a fault."""
        self.acknowledged = 0
        """Steps that were."""
        self._daemon = daemon
        self._plans = list(plans)
        self._expected = script.Expected()

    def go_through(self, steps: Sequence[script.Step]) -> bool:
        """Go through the steps, look at everything at the end, and say whether faults struck on the way."""
        self._boot()
        for step in steps:
            self._insist(step.send, step.target)
            step.acknowledge(self._expected)
            self.acknowledged += 1
        settings = config.defaults(self._daemon.state_dir).settings
        self._insist(lambda client: script.until(lambda: _serves(client) and checker.is_settled(settings)), "")
        self._insist(lambda client: check_acknowledged(client, self._expected, ""), "")
        self._check_at_rest(settings)
        return self.deaths > 0

    def _insist(self, work: Callable[[running.Client], None], changing: str) -> None:
        while not self._done(work):
            self._boot()
            self._done(lambda client: check_acknowledged(client, self._expected, changing))

    def _boot(self) -> None:
        """Start the daemon with the next plan; if that strikes before it serves, start it with the one after it."""
        while self._plans:
            # A daemon that ends before it serves shows in one of several ways, depending on how far it came.
            with contextlib.suppress(AssertionError, BlockingIOError, grpc.RpcError):
                self._daemon.start(**{faults.VARIABLE: self._plans.pop(0)})
                return
            self._require_killed()
        self._daemon.start()

    def _done(self, work: Callable[[running.Client], None]) -> bool:
        """Work with a client; False if the daemon was killed meanwhile, and has to be started again."""
        if self._daemon.process.poll() is None:
            try:
                with self._daemon.client() as client:
                    work(client)
            except grpc.RpcError as error:
                if error.code() not in _AWAY:
                    raise
            else:
                return True
        self._require_killed()
        return False

    def _require_killed(self) -> None:
        assert self._daemon.ended() == -signal.SIGKILL, self._daemon.log.read_text()
        self.deaths += 1

    def _check_at_rest(self, settings: service_settings.Settings) -> None:
        """Stop, look at every row and file, start and stop again, and find everything as it was."""
        daemon = self._daemon
        if daemon.stop() != 0:
            # Faults may strike to the very end.
            self._require_killed()
            daemon.start()
            assert daemon.stop() == 0
        checker.check_at_rest(settings)
        before = checker.fingerprint(settings)
        daemon.start()
        assert daemon.stop() == 0
        checker.check_at_rest(settings)
        after = checker.fingerprint(settings)
        changed = {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys()}
        changed = {key: values for key, values in changed.items() if values[0] != values[1]}
        assert not changed, f"a start without anything to do changed {changed}"


def _serves(client: running.Client) -> bool:
    client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name=script.PARENT))
    return True


def check_acknowledged(
    client: running.Client, expected: script.Expected, changing: str, parent: str = script.PARENT
) -> None:
    """Everything that was acknowledged is there with its contents; beside it there is only what is being changed."""
    if changing == parent:
        return
    volume_list = client.volumes.ListVolumes(volumes.ListVolumesRequest(parent=parent)).volumes
    snapshot_list = client.snapshots.ListSnapshots(snapshots.ListSnapshotsRequest(parent=parent)).snapshots
    found = {volume.name for volume in volume_list} | {snapshot.name for snapshot in snapshot_list}
    assert found - {changing} == expected.contents.keys() - {changing}
    for volume in volume_list:
        assert volume.name == changing or volume.state in _STILL, volume
    for each in snapshot_list:
        assert each.name == changing or each.state == snapshots.Snapshot.STATE_COMPLETED, each
    shown = {volume.name: volume.display_name for volume in volume_list}
    shown |= {each.name: each.display_name for each in snapshot_list}
    environment = client.environments.GetEnvironment(environment_service_pb2.GetEnvironmentRequest(name=parent))
    shown[parent] = environment.environment.display_name
    for name, title in expected.titles.items():
        assert name == changing or shown[name] == title, f"{name} is called {shown[name]!r} and not {title!r}"
    for name, contents in expected.contents.items():
        if name != changing:
            assert _exported(client, name) == contents, f"{name} has other contents"


def _exported(client: running.Client, name: str) -> bytes:
    parts = []
    for piece in client.volumes.ExportVolume(volumes.ExportVolumeRequest(source=name)):
        if piece.WhichOneof("message") == "data":
            parts.append(piece.data.data)
        elif piece.WhichOneof("message") == "hole":
            parts.append(bytes(piece.hole.length))
    return b"".join(parts)
