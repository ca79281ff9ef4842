"""Fuzz the qcow2 engine: `python -m tests.fuzz.run [--seconds N] [--seed N]`, or `make fuzz`.

Begins with the seeds of tests/fuzz/corpus and with what earlier runs reached, kept in var/fuzz/corpus. Inputs that
break a promise go to var/fuzz/findings, the smallest of each kind; once that is mended, they belong into
tests/fuzz/regressions. Exits with 1 if there are any.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
WORK = pathlib.Path("var/fuzz")
INPUT_BYTES_MAX = 8192
SECONDS_PER_INPUT = 20
MEMORY_MIB = 1024
_ENDED_BY_INPUT = (70, 71, 77)
"""libFuzzer's exit statuses for an input that took too long, or too much memory, or crashed."""
INPUTS_PER_PROCESS = 5_000
"""atheris loses the buffer of each mutation; so a process ends before that comes near the limit of memory."""


def main() -> int:
    """Run for the time that was asked for, also past inputs that end the process."""
    parser = argparse.ArgumentParser(description="Fuzz the qcow2 engine.")
    parser.add_argument("--seconds", type=int, default=300, help="for how long (default 300)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--work", type=pathlib.Path, default=WORK, help=f"where corpus and findings go ({WORK})")
    wanted = parser.parse_args()
    findings, corpus = wanted.work / "findings", wanted.work / "corpus"
    for folder in (findings, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wanted.seconds
    seed = wanted.seed
    while (left := round(end - time.monotonic())) > 0:
        print(f"fuzzing for {left} s with seed {seed}", flush=True)
        flags = [
            f"-seed={seed}",
            f"-max_total_time={left}",
            f"-runs={INPUTS_PER_PROCESS}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
            "-len_control=0",
            "-mutate_depth=3",
        ]
        folders = [corpus, *(folder for folder in (HERE / "corpus", HERE / "regressions") if folder.is_dir())]
        command = [sys.executable, "-m", "tests.fuzz.target", *flags, *map(str, [*folders, findings])]
        status = subprocess.run(command, check=False).returncode
        if status not in (0, *_ENDED_BY_INPUT):
            return status
        seed += 1
    found = sorted(path.name for path in findings.iterdir())
    print(f"findings in {findings}: {', '.join(found) or 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
