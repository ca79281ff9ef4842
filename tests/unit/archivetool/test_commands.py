"""`snapd-storage archive`: listing, checking and restoring without a daemon, beside one, and after it is gone."""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from snapd import errors
from snapd.__main__ import main
from snapd.archive import layout, repository, sealing
from snapd.archive.backends import directory
from snapd.service import catalogarea, core
from tests.unit.archive import archives
from tests.unit.archive.archives import BLOCK, ENVIRONMENT, HOST, content

SIZE = 20 * BLOCK + 512
PLACE = f"{HOST}/{ENVIRONMENT}/snap"


def run(*arguments: str | pathlib.Path) -> Result:
    return CliRunner().invoke(main, ["archive", *map(str, arguments)])


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> Iterator[archives.Archive]:
    """An archive in a folder, whose owner is still there."""
    store = directory.DirectoryBackend(tmp_path / "archive")
    opened = archives.Archive.open(store, tmp_path / "index.sqlite3")
    opened.record("snap", {number: content(number) for number in (0, 3, 4, 19)}, SIZE)
    yield opened
    opened.repository.close()


@pytest.fixture
def folder(tmp_path: pathlib.Path, archive: archives.Archive) -> pathlib.Path:
    """The folder of that archive."""
    assert archive.store is not None
    return tmp_path / "archive"


def test_what_is_archived_is_listed(folder: pathlib.Path) -> None:
    ended = run("list", "--archive", folder, "--output", "json")
    assert ended.exit_code == 0, ended.output
    (row,) = json.loads(ended.output)
    assert (row["host"], row["environment_uid"], row["snapshot_uid"]) == (HOST, ENVIRONMENT, "snap")
    assert row["size_bytes"] == SIZE
    assert PLACE in run("list", "--archive", folder).output


def test_a_backup_of_the_catalog_is_listed_as_one(folder: pathlib.Path, archive: archives.Archive) -> None:
    metadata = {"revision": "12", "created": "2026-03-01T12:00:00+00:00", "schema": "6"}
    with archive.repository.begin(core.CATALOG_AREA, catalogarea.name_of(12), 0) as recording:
        recording.commit(metadata)
    listed = run("list", "--archive", folder).output.splitlines()
    (line,) = [line for line in listed if "/catalog/" in line]
    assert line.startswith(f"{HOST}/catalog/backup-00000000000000000012  (the host's catalog)  revision 12, ")
    rows = json.loads(run("list", "--archive", folder, "--output", "json").output)
    (row,) = [row for row in rows if row["environment_uid"] == core.CATALOG_AREA]
    assert row["revision"] == "12"


def test_a_disk_comes_back_as_raw_and_as_qcow2(
    folder: pathlib.Path, archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    assert run("restore", "--archive", folder, PLACE, raw).exit_code == 0
    assert raw.read_bytes() == archive.contents("snap")
    assert raw.stat().st_blocks * 512 < SIZE, "zeros take no space"
    name = f"hosts/{HOST}/environments/{ENVIRONMENT}/snapshots/snap"
    assert run("restore", "--archive", folder, name, image, "--format", "qcow2").exit_code == 0
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image], check=True, capture_output=True)
    # The owner's prefix is as it was: nothing was claimed, no lease is left.
    assert archive.keys("/leases/") == []
    archive.repository.connect().claim.require()


def test_a_file_that_is_there_is_left_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    ended = run("restore", "--archive", folder, PLACE, path)
    assert ended.exit_code == 1
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["snap", "a/b", "a/b/c/d", f"{HOST}/{ENVIRONMENT}/other", "../../etc", "//"])
def test_what_is_not_there_is_told_and_leaves_no_file(folder: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    ended = run("restore", "--archive", folder, name, tmp_path / "disk.raw")
    assert ended.exit_code in (1, 2), ended.output
    assert not isinstance(ended.exception, (KeyError, ValueError, TypeError))
    assert not (tmp_path / "disk.raw").exists()


def test_damage_is_named_and_the_rest_is_saved(
    folder: pathlib.Path, archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    assert run("verify", "--archive", folder).exit_code == 0
    whole = archive.contents("snap")
    entry = archive.repository.manifest(ENVIRONMENT, "snap").entries(3, 1)[0]
    pack = layout.Area(HOST, ENVIRONMENT).pack(entry["pack"].tobytes())
    archive.damage(pack, int(entry["offset"]) + 100)
    ended = run("verify", "--archive", folder)
    assert ended.exit_code == 2
    assert f"{PLACE}: lost: {3 * BLOCK}+{BLOCK}" in ended.output
    refused = run("restore", "--archive", folder, PLACE, tmp_path / "disk.raw")
    assert refused.exit_code == 1
    assert not (tmp_path / "disk.raw").exists()
    salvaged = run("restore", "--archive", folder, PLACE, tmp_path / "disk.raw", "--salvage")
    assert salvaged.exit_code == 2
    assert f"lost: {BLOCK} bytes at {3 * BLOCK}" in salvaged.output
    saved = (tmp_path / "disk.raw").read_bytes()
    assert saved == whole[: 3 * BLOCK] + bytes(BLOCK) + whole[4 * BLOCK :]


def test_a_daemon_adopts_what_another_one_left_and_not_while_that_one_lives(
    folder: pathlib.Path, archive: archives.Archive, tmp_path: pathlib.Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}/new"\n[archive]\npath = "{folder}"\nhost = "{HOST}"\n')
    refused = run("adopt", "--config", config, "--yes")
    assert refused.exit_code == 1
    assert "another daemon writes the archive" in refused.output
    archive.repository.connect().claim.release()
    adopted = run("adopt", "--config", config, "--yes")
    assert adopted.exit_code == 0, adopted.output
    assert "epoch 2" in adopted.output
    with pytest.raises(errors.ArchiveClaimLost):
        archive.record("late", {0: content(0)})
    new = repository.Repository.open(archive.store, tmp_path / "new" / "archive-index.sqlite3", HOST)
    assert new.snapshots(ENVIRONMENT) == ["snap"]
    new.close()


def test_an_encrypted_archive_needs_its_keys(tmp_path: pathlib.Path) -> None:
    key = os.urandom(32)
    keys = tmp_path / "keys"
    keys.write_text(f"# the newest first\n{os.urandom(32).hex()}\n{key.hex()}\n")
    folder = tmp_path / "archive"
    opened = repository.Repository.open(
        directory.DirectoryBackend(folder),
        tmp_path / "index.sqlite3",
        HOST,
        block_size=BLOCK,
        keyring=sealing.Keyring([key]),
    )
    with opened.begin(ENVIRONMENT, "snap", BLOCK) as recording:
        recording.put(0, content(0))
        recording.commit({"snapshot_id": "secret-name"})
    opened.close()
    without = run("list", "--archive", folder)
    assert without.exit_code == 0
    assert PLACE in without.output
    assert "secret-name" not in without.output
    assert "secret-name" in run("list", "--archive", folder, "--key-file", keys).output
    assert run("restore", "--archive", folder, PLACE, tmp_path / "disk.raw").exit_code == 1
    assert run("restore", "--archive", folder, PLACE, tmp_path / "disk.raw", "--key-file", keys).exit_code == 0
    assert (tmp_path / "disk.raw").read_bytes() == content(0)
