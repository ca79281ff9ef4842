import datetime
import pathlib

import pytest

from snapd import config, errors, units
from snapd.service.settings import LiveSettings


def _load(folder: pathlib.Path, text: str) -> config.Config:
    path = folder / "config.toml"
    path.write_text(text)
    return config.load(path)


def _refusal(folder: pathlib.Path, text: str) -> tuple[int, str]:
    with pytest.raises(errors.ConfigInvalid) as refused:
        _load(folder, text)
    assert refused.value.path == str(folder / "config.toml")
    return refused.value.line, refused.value.problem


def test_an_empty_file_gives_the_defaults(tmp_path: pathlib.Path) -> None:
    assert _load(tmp_path, "") == config.defaults()
    assert config.defaults().state_dir == pathlib.Path("/var/lib/snapd-storage")
    assert config.defaults().listeners[0].path == pathlib.Path("/run/snapd-storage/snapd-storage.sock")


def test_a_state_directory_holds_everything_even_the_socket(tmp_path: pathlib.Path) -> None:
    chosen = config.defaults(tmp_path)
    places = (
        chosen.settings.pool_path,
        chosen.settings.archive_path,
        chosen.settings.catalog_path,
        chosen.settings.index_path,
        chosen.settings.live.exports_path,
        chosen.listeners[0].path,
    )
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_every_value_of_a_full_file_is_taken_over(tmp_path: pathlib.Path) -> None:
    chosen = _load(
        tmp_path,
        """
        state_dir = "/srv/state"
        run_dir = "/srv/run"
        [[listener]]
        identity = "agent"
        group = "kvm"
        [[listener]]
        path = "/srv/ops.sock"
        identity = "operator"
        mode = "0600"
        [pool]
        path = "/srv/pool"
        low_watermark = "5GiB"
        copy_threads = 3
        max_chain_depth = 16
        upload_expiry = "2h"
        [snapshots]
        default_retention = "90m"
        [archive]
        path = "/srv/archive"
        host = "host-7"
        block_size = "1MiB"
        compression_level = 3
        [archiver]
        workers = 5
        workers_per_environment = 3
        bandwidth = "20MiB/s"
        scrub_bandwidth = "1GiB/s"
        retry_initial = "500ms"
        retry_longest = "2d"
        [log]
        format = "console"
        level = "debug"
        [live]
        exports = "/srv/exports"
        program = "/opt/qemu/qemu-storage-daemon"
        group = "root"
        [limits]
        unary_calls = 10
        streams = 2
        waits = 20
        connections = 30
        message_size = "8MiB"
        """,
    )
    assert chosen.listeners == (
        config.Listener(path=pathlib.Path("/srv/run/snapd-storage.sock"), identity="agent", group="kvm", mode=0o660),
        config.Listener(path=pathlib.Path("/srv/ops.sock"), identity="operator", group="", mode=0o600),
    )
    settings = chosen.settings
    assert settings.catalog_path == pathlib.Path("/srv/state/catalog.sqlite3")
    assert (settings.pool_path, settings.archive_path) == (pathlib.Path("/srv/pool"), pathlib.Path("/srv/archive"))
    assert (settings.low_watermark_bytes, settings.block_size) == (5 * units.GIB, units.MIB)
    assert (settings.copy_threads, settings.max_chain_depth, settings.archive_workers) == (3, 16, 5)
    assert settings.archive_workers_per_environment == 3
    assert (settings.archive_bytes_per_second, settings.scrub_bytes_per_second) == (20 * units.MIB, units.GIB)
    assert settings.upload_expiry == datetime.timedelta(hours=2)
    assert settings.default_retention == datetime.timedelta(minutes=90)
    assert (settings.host, settings.compression_level) == ("host-7", 3)
    assert settings.retry_initial == datetime.timedelta(milliseconds=500)
    assert settings.retry_longest == datetime.timedelta(days=2)
    assert settings.live == LiveSettings(
        exports_path=pathlib.Path("/srv/exports"), program="/opt/qemu/qemu-storage-daemon", clients_gid=0
    )
    assert (chosen.log_format, chosen.log_level) == ("console", "debug")
    assert (chosen.unary_calls, chosen.streams, chosen.waits, chosen.connections) == (10, 2, 20, 30)
    assert chosen.message_bytes == 8 * units.MIB


def test_a_watermark_in_percent_is_a_part_of_the_pools_file_system(tmp_path: pathlib.Path) -> None:
    half = _load(tmp_path, f'[pool]\npath = "{tmp_path}/not/there/yet"\nlow_watermark = "50%"').settings
    tenth = _load(tmp_path, f'[pool]\npath = "{tmp_path}"\nlow_watermark = "10%"').settings
    assert half.low_watermark_bytes == pytest.approx(5 * tenth.low_watermark_bytes)
    assert tenth.low_watermark_bytes > 0


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[pool]\n\npath = 'here'", 3, "pool.path: must be an absolute path"),
        ("[pool]\nlow_watermark = 5", 2, "pool.low_watermark: must be a size"),
        ("[pool]\nlow_watermark = '5GB'", 2, "pool.low_watermark: must be a size"),
        ("pool.max_chain_depth = true", 1, "pool.max_chain_depth: must be a whole number from 2 to 200"),
        ("[archive]\nblock_size = '300KiB'", 2, "archive.block_size: must be a power of two"),
        ("[archive]\nblock_size = '8MiB'", 2, "archive.block_size: must be a size from 64.0 KiB to 4.0 MiB"),
        ("[archive]\nhost = '../x'", 2, "archive.host: must be lower-case letters"),
        ("[archiver]\nbandwidth = '20MiB'", 2, 'archiver.bandwidth: must be "unlimited" or a rate from 64.0 KiB/s on'),
        ("[archiver]\nbandwidth = '1KiB/s'", 2, "archiver.bandwidth: must be"),
        ("[archiver]\nbandwidth = '2000TiB/s'", 2, "archiver.bandwidth: must be"),
        ("[archiver]\nbandwidth = 0", 2, "archiver.bandwidth: must be"),
        ("[snapshots]\ndefault_retention = '1 year'", 2, "snapshots.default_retention: must be a time"),
        (f"[snapshots]\ndefault_retention = '{10**30}d'", 2, "snapshots.default_retention: must be a time"),
        ("[live]\nlauncher = 'systemd'", 1, "live.account: must be set"),
        ("[live]\nlauncher = 'docker'", 2, "live.launcher: must be one of direct, systemd"),
        ("[live]\naccount = 'no-such-account-here'", 2, "live.account: there is no account no-such-account-here"),
        ("[live]\ngroup = 'no-such-group-here'", 2, "live.group: there is no group no-such-group-here"),
        ("[live]\nprogram = 'qemu; rm'", 2, "live.program: must be the name of a program, or its path"),
        ("[live]\nexports = 'here'", 2, "live.exports: must be an absolute path"),
        ("[log]\n# a comment\nformat = 'xml'", 3, "log.format: must be one of json, console"),
        ("[snapshots]\ndefault_retenton = '1h'", 2, "did you mean snapshots.default_retention?"),
        ("[archive]\nworkers = 2", 2, "archive.workers: no such key; did you mean archiver.workers?"),
        ("[[listener]]\nidentity = 'a'\n[[listener]]\npth = '/x'", 4, "listener.pth: no such key; did you mean"),
        ("[[listener]]\n[[listener]]\nmode = '660'", 3, 'listener.mode: must be like "0660"'),
        ("[[listener]]\npath='/a'\n[[listener]]\npath='/a'", 4, "listener.path: another listener has this path"),
        ("[listener]\npath = '/a'", 1, "must be a table of an array: write [[listener]]"),
        ("[pool]\npath = ", 2, "this is not TOML"),
        ("[pool\n", 1, "this is not TOML"),
    ],
)
def test_a_mistake_is_answered_with_its_line_and_the_reason(
    tmp_path: pathlib.Path, text: str, line: int, problem: str
) -> None:
    found_line, found_problem = _refusal(tmp_path, text)
    assert problem in found_problem
    assert found_line == line


def test_a_missing_file_is_a_refusal_with_its_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigInvalid, match="No such file"):
        config.load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused_at_the_line_of_the_bad_byte(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# one\n# \xff\n")
    with pytest.raises(errors.ConfigInvalid) as refused:
        config.load(path)
    assert (refused.value.line, refused.value.problem) == (2, "this is not UTF-8 text")


def _documented() -> str:
    text = (pathlib.Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    return text.split("```toml\n")[1].split("```")[0]


def test_the_documented_file_is_what_holds_without_a_file(tmp_path: pathlib.Path) -> None:
    assert _load(tmp_path, _documented()) == config.defaults()


def test_every_key_is_documented() -> None:
    table, documented = "", set()
    for line in _documented().splitlines():
        if line.startswith("["):
            table = f"{line.strip('[]')}."
        elif " = " in line:
            documented.add(f"{table}{line.lstrip('#').split(' = ')[0]}")
    assert documented == set(config.known_keys())


def test_a_file_of_keys_is_its_owners_alone_and_may_be_a_credential(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "archive.keys"
    text = f'[archive]\nhost = "a"\nkey_file = "{keys}"\n'
    assert "No such file" in _refusal(tmp_path, text)[1]
    keys.write_text("ab" * 32)
    for mode in (0o640, 0o604, 0o620):
        keys.chmod(mode)
        line, problem = _refusal(tmp_path, text)
        assert line == 3
        assert "others than its owner" in problem
    keys.chmod(0o600)
    assert _load(tmp_path, text).settings.key_file == keys
    credential = '[archive]\nkey_file = "archive.keys"\n'
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "systemd gave none" in _refusal(tmp_path, credential)[1]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert _load(tmp_path, credential).settings.key_file == keys
