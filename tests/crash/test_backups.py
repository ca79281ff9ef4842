"""The daemon is killed while it backs its catalog up; the next one makes the backup, and nothing is left over."""

import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing

import grpc
import pytest

from snapd import config, faults
from snapd.archive import repository as repositories
from snapd.archive.backends import directory
from snapd.service import catalogarea
from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import system_service_pb2 as system
from tests.crash import script
from tests.integration import running

PLACES = (
    "backup.copied",
    "archive.pack-finished",
    "archive.before-proof",
    "archive.after-proof",
    "archive.before-manifest",
    "archive.after-manifest",
)


@pytest.fixture
def daemon() -> Iterator[running.Daemon]:
    """Give a daemon that is yet to be started."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as folder:
        daemon = running.Daemon(pathlib.Path(folder, "state"))
        try:
            yield daemon
        finally:
            daemon.kill()


def _make_environment(client: running.Client) -> None:
    request = environments.CreateEnvironmentRequest(environment_id="a", environment=environments.Environment())
    try:
        client.environments.CreateEnvironment(request)
    except grpc.RpcError:
        # The backup may have begun, and ended the daemon, before the answer was sent.
        return


def _has_backup(client: running.Client) -> bool:
    return client.system.GetServerInfo(system.GetServerInfoRequest()).HasField("catalog_backup_time")


def _dump(path: pathlib.Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("place", PLACES)
def test_a_backup_that_is_killed_is_made_by_the_next_daemon(daemon: running.Daemon, place: str) -> None:
    daemon.start(**{faults.VARIABLE: f"kill@{place}"})
    with daemon.client() as client:
        _make_environment(client)
    assert daemon.ended() == -9
    daemon.start()
    with daemon.client() as client:
        script.until(lambda: _has_backup(client))
    assert daemon.stop() == 0
    settings = config.defaults(daemon.state_dir).settings
    store = directory.DirectoryBackend(settings.archive_path)
    reader = repositories.Repository(store, daemon.state_dir / "other-index", settings.host)
    try:
        (name,) = catalogarea.names(reader)
        back = daemon.state_dir / "back"
        catalogarea.restore(reader, name, back)
    finally:
        reader.close()
    assert _dump(back) == _dump(settings.catalog_path)
    assert not list(daemon.state_dir.glob("catalog.sqlite3.backup*"))
