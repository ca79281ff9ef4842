"""python -m tests.simulation: run seeds, stop at the first that fails, make it small, and keep a record.

--seeds N --start S      seeds S to S + N - 1; without --seeds until the minutes are over
--minutes M              begin no new seed after that many minutes
--record FILE.json       write what was run, and what came of it
--no-shrink              print a plan that fails as it is
--lose                   lose the catalog between lives, and rebuild it
"""

import argparse
import json
import os
import pathlib
import sys
import time

from tests import records
from tests.simulation import farm, run

_HASH_SEED = "PYTHONHASHSEED"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the service.")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--lose", action="store_true")
    options = parser.parse_args()
    if os.environ.get(_HASH_SEED) != "0":
        # The order of sets of strings is part of a run.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | {_HASH_SEED: "0"}
        )
    began_s = time.monotonic()
    figures, failure, seed = run.Figures(), None, options.start
    while failure is None and (not options.seeds or seed < options.start + options.seeds):
        if options.minutes and time.monotonic() - began_s > options.minutes * 60:
            break
        if not options.seeds and not options.minutes and seed > options.start:
            break
        outcome = farm.run_seed(seed, small=not options.no_shrink, kind=farm.LOSING if options.lose else farm.ORDINARY)
        figures.add(outcome.figures)
        failure = outcome.failure
        if failure is not None:
            print(f"seed {seed}: {failure}\n{outcome.story}", flush=True)
        seed += 1
    duration_s = time.monotonic() - began_s
    print(
        f"{seed - options.start} seeds, {figures.simulated_s / 3600:.0f} h simulated in {duration_s:.0f} s", flush=True
    )
    if options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        found = _record(figures, options.start, seed - options.start, duration_s, failure)
        options.record.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if failure is None else 1


def _record(figures: run.Figures, first: int, count: int, duration_s: float, failure: str | None) -> dict[str, object]:
    kind = "" if failure is None else failure.partition(":")[0]
    return {
        **records.about(),
        "first_seed": first,
        "seeds": count,
        "duration_s": round(duration_s, 1),
        "simulated_hours": round(figures.simulated_s / 3600, 1),
        "operations": figures.operations,
        "acknowledged": figures.acknowledged,
        "kills": figures.kills,
        "power_cuts": figures.power_cuts,
        "faults": dict(sorted(figures.faults.items())),
        "lost_acknowledged": int(kind == "Lost"),
        "wrong_bytes": int(kind == "WrongBytes"),
        "stuck": int(kind in ("Stuck", "Deadlock")),
        "failure": failure,
    }


if __name__ == "__main__":
    sys.exit(main())
