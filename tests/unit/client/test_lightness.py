"""The client and the command line are for machines that have nothing of the daemon."""

import subprocess
import sys

HEAVY = ("numpy", "zstandard", "blake3", "structlog", "grpc_health", "grpc_reflection")

PROGRAM = f"""
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} belongs to the daemon")

sys.meta_path.insert(0, Refusal())
import snapd.client.download, snapd.client.pages, snapd.client.upload, snapd.client.waiting
from snapd.cli import main
sys.exit(main.main(["--help"]))
"""


def test_client_and_command_line_need_nothing_of_the_daemon() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Usage: snapvol" in ended.stdout
