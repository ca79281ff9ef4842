"""Real daemons back their catalogs up into a folder and into a bucket, encrypted; what is there can be read back."""

import datetime
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from snapd.archivetool import opening
from snapd.service import catalogarea
from snapd.v1 import environment_service_pb2 as environments
from snapd.v1 import system_service_pb2 as system
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script
from tests.integration import running

HOST = "host-1"


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder whose sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="snapd-") as path:
        yield pathlib.Path(path)


def _newest_revision(catalog: pathlib.Path) -> int:
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as opened:
        return int(opened.execute("SELECT max(revision) FROM events").fetchone()[0])


def _dump(path: pathlib.Path) -> list[str]:
    with closing(sqlite3.connect(path)) as opened:
        return list(opened.iterdump())


def _info(client: running.Client) -> system.GetServerInfoResponse:
    return client.system.GetServerInfo(system.GetServerInfoRequest())


def test_what_a_daemon_backed_up_is_its_catalog(folder: pathlib.Path, archive_config: str) -> None:
    state, config = folder / "state", folder / "config.toml"
    # One after the other, so that several are made and old ones are let go.
    archive = f'[archive]\nhost = "{HOST}"\ncatalog_backup_interval = "1ms"\n{archive_config}'
    config.write_text(f'state_dir = "{state}"\nrun_dir = "{state}/run"\n[pool]\nlow_watermark = "1MiB"\n{archive}')
    daemon = running.Daemon(state, config)
    with ExitStack() as stack:
        stack.callback(daemon.kill)
        daemon.start()
        archived = stack.enter_context(opening.opened(config, None, None)).of(HOST)
        client = stack.enter_context(daemon.client())
        request = environments.CreateEnvironmentRequest(environment_id="blue", environment=environments.Environment())
        client.environments.CreateEnvironment(request)
        for number in range(8):
            volume = volumes.Volume(size_bytes=1 << 20, role=volumes.Volume.ROLE_DATA)
            wanted = volumes.CreateVolumeRequest(parent="environments/blue", volume_id=f"v{number}", volume=volume)
            client.volumes.CreateVolume(wanted)
            saved = catalogarea.name_of(_newest_revision(state / "catalog.sqlite3"))
            script.until(lambda saved=saved: saved in catalogarea.names(archived))  # type: ignore[misc]
        script.until(lambda: len(catalogarea.names(archived)) == catalogarea.KEPT)
        newest = catalogarea.look(archived, catalogarea.names(archived)[0]).created
        script.until(lambda: _info(client).catalog_backup_time.ToDatetime(datetime.UTC) == newest)
        assert not _info(client).HasField("catalog_backup_error")
        assert daemon.stop() == 0
        names = catalogarea.names(archived)
        for name in names:
            catalogarea.restore(archived, name, folder / name)
        assert _dump(folder / names[0]) == _dump(state / "catalog.sqlite3")
