import pathlib
import socket

import pytest
import structlog

from snapd import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_state_reaches_whoever_started_the_daemon(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    address = f"{tmp_path}/notify" if kind == "path" else f"@snapd-storage-test{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.send(notify.READY)
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_has_gone_away_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    with structlog.testing.capture_logs() as logged:
        notify.send(notify.STOPPING)
    assert [line["state"] for line in logged] == ["STOPPING=1"]


def test_nothing_is_sent_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notify.send(notify.READY)
    assert notify.watchdog_interval_s() is None


def test_the_watchdog_is_fed_twice_in_its_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert notify.watchdog_interval_s() == 15.0
