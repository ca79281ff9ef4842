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

import rich.console
import rich.table


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

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.at_most is None or self.ratio <= self.at_most


def alternate(runs: int, *measures: Callable[[int], float]) -> list[list[float]]:
    """Call each measure with the number of the run, turn about and in changing order; return each one's results."""
    results: list[list[float]] = [[] for _ in measures]
    for run in range(runs):
        order = range(len(measures))
        for index in order if run % 2 == 0 else reversed(order):
            results[index].append(measures[index](run))
    return results


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def report(figures: Sequence[Figure], path: pathlib.Path) -> None:
    """Print the figures as a table, and write them as JSON."""
    table = rich.table.Table(title="Benchmarks: ours, theirs, and what was to be reached")
    for heading in ("figure", "ours", "against", "theirs", "ratio", "goal"):
        table.add_column(heading, justify="left" if heading in ("figure", "against") else "right")
    for figure in figures:
        goal = "-" if figure.at_most is None else f"<= {figure.at_most:g}"
        style = "" if figure.met else "red"
        table.add_row(
            figure.what,
            f"{figure.ours:.4g} {figure.unit}",
            figure.against,
            f"{figure.theirs:.4g} {figure.unit}",
            f"{figure.ratio:.3g}",
            goal,
            style=style,
        )
    console = rich.console.Console(width=160)
    console.print(table)
    missed = sum(not figure.met for figure in figures)
    console.print(f"{missed} of {sum(figure.at_most is not None for figure in figures)} goals missed.")
    document = {
        "machine": {"kernel": platform.release(), "python": platform.python_version()},
        "figures": [dataclasses.asdict(figure) | {"ratio": figure.ratio, "met": figure.met} for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
