"""The text of docs/steps.md: the steps of everything that takes more than one, from the modules that take them.

A module's docstring tells the steps in lines of three columns: which step, what it does, and the points at which a kill
between this step and the next is tried.
"""

import ast
import dataclasses
import pathlib
import re

from snapd import fsops

ROOT = pathlib.Path(fsops.__file__).parent
MODULES = (
    *sorted(f"service/intents/{path.name}" for path in (ROOT / "service" / "intents").glob("[!_]*.py")),
    "service/attaching/revival.py",
    "service/heads.py",
    "service/backups.py",
    "archive/fencing/claim.py",
    "archive/recording.py",
    "archive/collection.py",
    "archive/repacking.py",
)
HEAD = """\
# Steps and where they are interrupted

Made from the docstrings of modules in `snapd/service/` and `snapd/archive/` by `make docs`.

Everything that takes more than one step, step by step. At each *point* the daemon is killed, and the power of its disk
is cut, in the tests ([Reliability](reliability.md)); the points of a step lie behind it, or within it. What an intent
is and how it is recovered is told in [Points, layers and intents](points-and-layers.md).
"""

_LINE = re.compile(r" *(intent|upload|step \d|commit|undo|paused) {2,}(.*)")
_POINTS = re.compile(r"(.*?)(?:\s{2,}points? |\s{8,}|^\s*)((?:[a-z_0-9]+\.[a-z_0-9-]+(?:, |,|))+)$")
_MORE = re.compile(r" {10,}\S.*")


@dataclasses.dataclass(slots=True)
class Step:
    """A line of a list."""

    name: str
    text: str
    points: list[str]


def steps(module: str) -> list[Step]:
    """Return the steps that a module's docstring tells; the module is a path below the package."""
    found: list[Step] = []
    open_step = False
    for line in _docstring(module).splitlines():
        begins = _LINE.fullmatch(line)
        if begins:
            found.append(Step(begins[1], "", []))
        open_step = bool(begins) or (open_step and _MORE.fullmatch(line) is not None)
        if open_step:
            text, points = _columns(begins[2] if begins else line)
            found[-1].text = f"{found[-1].text} {text}".strip()
            found[-1].points += points
    return found


def _columns(line: str) -> tuple[str, list[str]]:
    told = _POINTS.fullmatch(line)
    if told is None:
        return line.strip(), []
    return told[1].strip(), [point.strip() for point in told[2].split(",") if point.strip()]


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_section(module) for module in MODULES)


def _section(module: str) -> str:
    title = _docstring(module).partition("\n")[0].rstrip(".")
    rows = "".join(
        f"| {step.name} | {step.text} | {'<br>'.join(f'`{point}`' for point in step.points)} |\n"
        for step in steps(module)
    )
    return f"\n## {title}\n\n`snapd/{module}`\n\n| | | points |\n|---|---|---|\n{rows}"


def _docstring(module: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert text is not None
    return text
