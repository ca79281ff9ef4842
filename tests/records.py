"""What a session of tests did to daemons, added up and written down: `pytest --record FILE.json`.

A test that ends daemons tells of each trial by a property of its report; so it also works with several workers.
"""

import collections
import json
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Final

import pytest

PROPERTY: Final = "trial"
"""Name of the property: cause (how the daemon was to end), moment, disk, deaths, acknowledged, methods."""

_KINDS: Final = (
    ("wrong_bytes", "has other contents"),
    ("stuck", "what was waited for did not come"),
    ("lost_acknowledged", "found - {changing}"),
)
"""How a failure of a trial is counted, by what its text says; others are counted as others."""


def about() -> dict[str, str]:
    """Return of what, and on what, a run is."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "snapd"], capture_output=True, text=True, check=False)
    return {
        "commit": commit + ("+" if changed.stdout.strip() else ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


class Record:
    """The pytest plugin."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._began_s = time.monotonic()
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._deaths: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._moments: dict[str, set[str]] = collections.defaultdict(set)
        self._methods: set[str] = set()
        self._totals: collections.Counter[str] = collections.Counter()
        self._failures: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test's end."""
        if report.when != "call" and report.outcome != "failed":
            if report.outcome == "skipped":
                self._outcomes["skipped"] += 1
            return
        self._outcomes[report.outcome] += 1
        for name, trial in report.user_properties:
            if name == PROPERTY and isinstance(trial, Mapping):
                self._add(trial)
        if report.outcome == "failed":
            self._failures.append(report.nodeid)
            text = str(report.longrepr)
            self._totals[next((kind for kind, sign in _KINDS if sign in text), "others")] += 1

    def _add(self, trial: Mapping[str, Any]) -> None:
        self._totals["trials"] += 1
        self._totals["acknowledged"] += trial["acknowledged"]
        self._deaths[trial["cause"]][trial["disk"]] += trial["deaths"]
        if trial["deaths"]:
            self._moments[trial["cause"]].add(trial["moment"])
        self._methods.update(trial["methods"])

    def pytest_sessionfinish(self) -> None:
        """Write it all down."""
        record = {
            **about(),
            "duration_s": round(time.monotonic() - self._began_s, 1),
            "tests": dict(sorted(self._outcomes.items())),
            "trials": self._totals["trials"],
            "acknowledged": self._totals["acknowledged"],
            "methods": sorted(self._methods),
            "moments": {cause: len(when) for cause, when in sorted(self._moments.items())},
            "deaths": {cause: dict(sorted(where.items())) for cause, where in sorted(self._deaths.items())},
            **{kind: self._totals[kind] for kind, _ in _KINDS},
            "other_failures": self._totals["others"],
            "failures": sorted(self._failures),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(record, indent=2) + "\n")
