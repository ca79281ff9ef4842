"""`snapd-storage fsck` and `rebuild-catalog` while a guest writes on without a daemon."""

import json
import pathlib
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from snapd import errors
from snapd.__main__ import main
from snapd.catalog import copying
from tests import storagedaemons
from tests.unit.service import guests
from tests.unit.service import world as worlds


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[worlds.World]:
    with storagedaemons.folder() as exports:
        world = worlds.World(tmp_path, exports)
        (tmp_path / "config.toml").write_text(
            f'state_dir = "{tmp_path}"\n[archive]\nhost = "{world.settings.host}"\n[live]\nexports = "{exports}"\n'
        )
        world.start()
        world.environment()
        world.volume("v")
        try:
            yield world
        finally:
            world.stop()


def _run(world: worlds.World, command: str, *arguments: str) -> Result:
    config = world.settings.catalog_path.with_name("config.toml")
    return CliRunner().invoke(main, [command, "--config", str(config), "--json", *arguments])


def test_a_head_that_a_guest_writes_is_not_looked_into(world: worlds.World) -> None:
    with guests.guest(guests.attach(world)) as guest:
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        world.snapshot("s", "v", rapid=True)
        world.stop()
        assert guest.write(guests.BLOCK, b"b" * guests.BLOCK) == 0
        ended = _run(world, "fsck", "--repair")
        assert (ended.exit_code, json.loads(ended.stdout)["findings"]) == (0, [])
        assert guest.read(0, 2 * guests.BLOCK) == b"a" * guests.BLOCK + b"b" * guests.BLOCK
        world.start()
    guests.detach(world)
    world.check()


def test_a_rebuilt_catalog_knows_no_attachment_and_the_locks_keep_everybody_out(
    world: worlds.World, tmp_path: pathlib.Path
) -> None:
    with guests.guest(guests.attach(world)) as guest:
        world.stop()
        copying.copy(world.settings.catalog_path, tmp_path / "backup.sqlite3")
        for path in tmp_path.glob("catalog.sqlite3*"):
            path.unlink()
        ended = _run(world, "rebuild-catalog", "--backup", str(tmp_path / "backup.sqlite3"))
        assert ended.exit_code == 0, ended.output
        world.start()
        assert guests.shown(world) is None
        assert not world.rows("SELECT 1 FROM attachments UNION ALL SELECT 1 FROM storage_daemons")
        with pytest.raises(errors.ImageBusy):
            world.write("v", 0, bytes(512))
        with pytest.raises(errors.ImageBusy):
            guests.attach(world)
        # What serves the guest was told to nobody to be ended, and is only reported.
        assert guest.write(0, b"a" * guests.BLOCK) == 0
        guests.kill(world)
    with guests.guest(guests.attach(world)) as guest:
        assert guest.read(0, guests.BLOCK) == b"a" * guests.BLOCK
