import json
import subprocess
import sys

_PROGRAM = """
import logging, sys
import structlog
from snapd import logs
logs.configure(sys.argv[1], "info")
structlog.get_logger("ours").info("called", name="a\\x1b[2J\\nb", count=3)
logging.getLogger("theirs").warning("odd: %s", "c\\rd")
structlog.get_logger("ours").debug("left out")
try:
    raise ValueError("e\\x00f")
except ValueError:
    structlog.get_logger("ours").exception("failed")
"""


def _lines(log_format: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, log_format], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert ran.stdout == ""
    return ran.stderr.split("\n")[:-1]


def test_json_lines_hold_one_event_each_whoever_wrote_it() -> None:
    called, odd, failed = map(json.loads, _lines("json"))
    assert (called["event"], called["name"], called["count"]) == ("called", "a\x1b[2J\nb", 3)
    assert (odd["event"], odd["logger"], odd["level"]) == ("odd: c\rd", "theirs", "warning")
    assert "ValueError" in failed["exception"]


def test_no_control_character_gets_into_a_line() -> None:
    for log_format in ("json", "console"):
        assert all(line.isprintable() for line in _lines(log_format)), log_format
