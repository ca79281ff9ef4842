"""What a benchmark says: a figure of ours beside a peer's or a limit's, from alternating runs, and a goal.

Absolute times are never quoted alone: a machine's speed drifts, so both sides are measured in turn and the ratio of
their medians is the result.
"""

import dataclasses
import json
import pathlib
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

import rich.console
import rich.table

from tests.bench import timing

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    what: str
    ours: float
    against: str
    theirs: float
    unit: str
    at_most: float | None
    """The goal for ours / theirs; None where it is only reported."""
    cpu_ratio: float | None = None
    """Ours over theirs in time of the processors, where that was measured."""
    spread: tuple[float, float] | None = None
    """Of ours and theirs: slowest less fastest run, over the median."""

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.at_most is None or self.ratio <= self.at_most


def alternate(runs: int, *measures: Callable[[int], T]) -> list[list[T]]:
    """Call each measure with the number of the run, turn about and in changing order; return each one's results."""
    results: list[list[T]] = [[] for _ in measures]
    for run in range(runs):
        order = range(len(measures))
        for index in order if run % 2 == 0 else reversed(order):
            results[index].append(measures[index](run))
    return results


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def compared(
    what: str, ours: Sequence[timing.Sample], against: str, theirs: Sequence[timing.Sample], at_most: float | None
) -> Figure:
    """Return the figure of two sides' runs."""
    our_cpu, their_cpu = (median([sample.cpu_seconds for sample in side]) for side in (ours, theirs))
    return Figure(
        what,
        median([sample.seconds for sample in ours]),
        against,
        median([sample.seconds for sample in theirs]),
        "s",
        at_most,
        cpu_ratio=our_cpu / their_cpu,
        spread=(_spread(ours), _spread(theirs)),
    )


def _spread(samples: Sequence[timing.Sample]) -> float:
    seconds = [sample.seconds for sample in samples]
    return (max(seconds) - min(seconds)) / median(seconds)


def report(figures: Sequence[Figure], path: pathlib.Path) -> None:
    """Print the figures as a table, and write them as JSON."""
    table = rich.table.Table(title="Benchmarks: ours, theirs, and what was to be reached")
    for heading in ("figure", "ours", "against", "theirs", "ratio", "goal", "CPU ratio", "spread"):
        table.add_column(heading, justify="left" if heading in ("figure", "against") else "right")
    for figure in figures:
        table.add_row(
            figure.what,
            f"{figure.ours:.4g} {figure.unit}",
            figure.against,
            f"{figure.theirs:.4g} {figure.unit}",
            f"{figure.ratio:.3g}",
            "-" if figure.at_most is None else f"<= {figure.at_most:.3g}",
            "-" if figure.cpu_ratio is None else f"{figure.cpu_ratio:.3g}",
            "-" if figure.spread is None else " / ".join(f"{part:.0%}" for part in figure.spread),
            style="" if figure.met else "red",
        )
    console = rich.console.Console(width=200)
    console.print(table)
    missed = sum(not figure.met for figure in figures)
    console.print(f"{missed} of {sum(figure.at_most is not None for figure in figures)} goals missed.")
    document = {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "figures": [dataclasses.asdict(figure) | {"ratio": figure.ratio, "met": figure.met} for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
