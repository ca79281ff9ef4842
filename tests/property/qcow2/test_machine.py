"""The engine and QEMU change the same chain of images by turns, and after each step see the same bytes, and no fault.

The bytes are also those of a model: a bytearray. Who does a step is drawn, so that each goes on from what the other
left. Every test prints its seed; `hypothesis` shrinks what fails to a few steps.
"""

import itertools
import pathlib
import random
import shutil
import tempfile
import time

import hypothesis
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from snapd import errors, units
from tests.property.qcow2 import tools

_DEEPEST = 4
_LONGEST_CLUSTERS = 24
_LONGEST = 3 * units.MIB // 2
_OPERATIONS = 10_000

ENGINE = tools.Engine()
QEMU = tools.Qemu()
TOOLS: dict[str, tools.Engine | tools.Qemu] = {"engine": ENGINE, "qemu": QEMU}

by = st.sampled_from(sorted(TOOLS))
clusters = st.integers(0, _LONGEST_CLUSTERS)
sectors = st.integers(0, 127)


@st.composite
def kinds(draw: st.DrawFn) -> tools.Kind:
    """Draw what an image is made as."""
    version = draw(st.sampled_from([3, 3, 2]))
    extended = version == 3 and draw(st.booleans())
    return tools.Kind(
        version=version,
        cluster_size=units.KIB * draw(st.sampled_from([16, 64]))
        if extended
        else draw(st.sampled_from([512, 4096, 65536])),
        refcount_bits=draw(st.sampled_from([16, 1, 2, 4, 8, 32, 64])) if version == 3 else 16,
        zstd=version == 3 and draw(st.booleans()),
        extended_l2=extended,
    )


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, bool, int, int, int]:
    """Draw a change: what, whether in clusters, and where, in clusters and sectors, before a disk's size is known."""
    action = draw(st.sampled_from(["WRITE", "WRITE", "PACK", "ZERO", "UNMAP", "DISCARD"]))
    return action, draw(st.booleans()), draw(clusters), draw(sectors), draw(st.integers(1, 20))


class Machine(RuleBasedStateMachine):
    """A chain of images, and what it has to read as."""

    operations = 0
    """How many there were in all runs."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="turns-", dir="/dev/shm"))
        self._paths: list[pathlib.Path] = []
        """The top first."""
        self._kinds: dict[pathlib.Path, tools.Kind] = {}
        self._sizes: dict[pathlib.Path, int] = {}
        self._model = bytearray()
        self._snapshots: dict[str, bytes] = {}
        self._made = 0
        self._pattern = 0

    def teardown(self) -> None:
        shutil.rmtree(self._folder)

    # --- steps --------------------------------------------------------------------------------------------------------

    @initialize(by=by, kind=kinds(), count=clusters, more=sectors)
    def create(self, by: str, kind: tools.Kind, count: int, more: int) -> None:
        self._put_on_top(by, kind, count * kind.cluster_size + more * units.SECTOR)

    @rule(by=by, wanted=st.lists(changes(), min_size=1, max_size=4))
    def change(self, by: str, wanted: list[tuple[str, bool, int, int, int]]) -> None:
        top, kind = self._paths[0], self._kinds[self._paths[0]]
        todo = []
        for action, whole, cluster, sector, count in wanted:
            unit = kind.cluster_size if whole or action == "PACK" else units.SECTOR
            offset = cluster * kind.cluster_size + (0 if unit == kind.cluster_size else sector * units.SECTOR)
            offset = offset % len(self._model) // unit * unit if self._model else 0
            length = min(count * unit, len(self._model) - offset)
            if length > 0:
                self._pattern = self._pattern % 255 + 1
                todo.append(tools.Change(action, offset, length, self._pattern))
        assume(todo)
        if by == "engine" and self._snapshots:
            with pytest.raises(errors.ImageRefused, match="internal snapshots"):
                ENGINE.change(self._paths, todo)
            return
        if by == "qemu" and any(change.action == "PACK" for change in todo):
            # QEMU doesn't compress what goes to a place that is taken; it has to be free before the first change.
            todo = [change for change in todo if change.action == "PACK"][:1]
            assume(ENGINE.is_absent(top, todo[0]))
        TOOLS[by].change(self._paths, todo)
        for change in todo:
            self._apply(change, ignore_discards=by == "qemu" and kind.version == 2 and len(self._paths) > 1)
        self._settle(len(todo), top)

    @rule(by=by, count=clusters, more=sectors)
    def resize(self, by: str, count: int, more: int) -> None:
        top, kind = self._paths[0], self._kinds[self._paths[0]]
        size = min(_LONGEST, count * kind.cluster_size + (more * units.SECTOR if by == "engine" else 0))
        if by == "qemu":
            # It leaves old bytes behind the end within a cluster, and version 2 can't hide what a backing file has.
            assume(len(self._model) % kind.cluster_size == size % kind.cluster_size == 0 and size > 0)
            assume(kind.version == 3 or not (self._snapshots or len(self._paths) > 1))
        else:
            assume(not self._snapshots)
        TOOLS[by].resize(self._paths, size)
        self._sizes[top] = size
        self._model = self._model[:size].ljust(size, b"\0")
        self._settle(1, top)

    @precondition(lambda self: len(self._paths) < _DEEPEST and not self._snapshots)
    @rule(by=by, kind=kinds(), count=clusters, more=sectors, same=st.booleans())
    def overlay(self, by: str, kind: tools.Kind, count: int, more: int, same: bool) -> None:
        size = len(self._model) if same else count * kind.cluster_size + more * units.SECTOR
        self._put_on_top(by, kind, size)

    @precondition(lambda self: len(self._paths) > 1)
    @rule(by=by, up=st.booleans(), where=st.integers(0, _DEEPEST))
    def fold(self, by: str, up: bool, where: int) -> None:
        index = where % (len(self._paths) - 1)
        assume(index > 0 or not self._snapshots)
        paths = self._paths[index:]
        child, lower = paths[:2]
        # QEMU's commit lets bytes show that the sizes hide.
        assume(up or by == "engine" or self._sizes[child] == self._sizes[lower])
        if up:
            TOOLS[by].fold_up(paths)
            lower.unlink()
        else:
            TOOLS[by].fold_down(paths)
            lower.rename(child)
            self._kinds[child] = self._kinds[lower]
        self._paths.remove(lower)
        self._settle(1, child)

    @precondition(lambda self: len(self._paths) > 1 and not self._snapshots)
    @rule(by=by)
    def pull(self, by: str) -> None:
        TOOLS[by].pull(self._paths)
        self._keep_top_only()
        self._settle(1, self._paths[0])

    @precondition(lambda self: len(self._paths) > 1 and not self._snapshots)
    @rule(by=by, kind=kinds(), compressed=st.booleans())
    def flatten(self, by: str, kind: tools.Kind, compressed: bool) -> None:
        self._made += 1
        path = self._folder / f"{self._made}.qcow2"
        TOOLS[by].flatten(self._paths, path, kind, compressed=compressed)
        self._paths.insert(0, path)
        self._kinds[path], self._sizes[path] = kind, len(self._model)
        self._keep_top_only()
        self._settle(1, path)

    @precondition(lambda self: len(self._snapshots) < 3 and self._kinds[self._paths[0]].refcount_bits >= 16)
    @rule()
    def take_snapshot(self) -> None:
        self._made += 1
        QEMU.snapshot(self._paths[0], "-c", f"s{self._made}")
        self._snapshots[f"s{self._made}"] = bytes(self._model)
        self._settle(1, self._paths[0])

    @precondition(lambda self: self._snapshots)
    @rule(which=st.integers(0, 2), flag=st.sampled_from(["-a", "-d", "-d"]))
    def use_snapshot(self, which: int, flag: str) -> None:
        name = sorted(self._snapshots)[which % len(self._snapshots)]
        QEMU.snapshot(self._paths[0], flag, name)
        if flag == "-d":
            del self._snapshots[name]
        else:
            self._model = bytearray(self._snapshots[name])
            self._sizes[self._paths[0]] = len(self._model)
        self._settle(1, self._paths[0])

    def _keep_top_only(self) -> None:
        for path in self._paths[1:]:
            path.unlink()
        del self._paths[1:]

    # --- what has to hold ---------------------------------------------------------------------------------------------

    def _put_on_top(self, by: str, kind: tools.Kind, size: int) -> None:
        size = min(size, _LONGEST)
        self._made += 1
        path = self._folder / f"{self._made}.qcow2"
        TOOLS[by].create(path, size, kind, self._paths[0] if self._paths else None)
        self._paths.insert(0, path)
        self._kinds[path], self._sizes[path] = kind, size
        self._model = self._model[:size].ljust(size, b"\0")
        self._settle(1, path)

    def _apply(self, change: tools.Change, *, ignore_discards: bool) -> None:
        first, end = change.offset, change.offset + change.length
        if change.action == "DISCARD":
            size = self._kinds[self._paths[0]].cluster_size
            first = units.round_up(first, size)
            end = end if end == len(self._model) else units.round_down(end, size)
            if ignore_discards or first >= end:
                return
        filling = change.pattern if change.action in ("WRITE", "PACK") else 0
        self._model[first:end] = bytes([filling]) * (end - first)

    def _settle(self, operations: int, changed: pathlib.Path) -> None:
        """Count operations, and compare what the two programs and the model say after them."""
        type(self).operations += operations
        verdict = ENGINE.check(changed)
        assert verdict == QEMU.check(changed)
        assert not verdict.keys() & {"leaks", "corruptions", "check-errors"}
        assert ENGINE.content(self._paths) == self._model
        assert QEMU.content(self._paths) == self._model
        assert sorted(ENGINE.snapshots(self._paths[0])) == sorted(self._snapshots)
        for name, content in self._snapshots.items():
            assert ENGINE.content(self._paths, name) == content
            # QEMU shows as much of a snapshot as the disk is long now.
            shown = min(len(content), len(self._model))
            assert QEMU.content(self._paths, name)[:shown] == content[:shown]


def _run(seed: int, examples: int) -> int:
    """Run some random sequences of steps; return how many operations they had."""
    print(f"seed {seed}")

    class Seeded(Machine):
        operations = 0

    run_state_machine_as_test(
        hypothesis.seed(seed)(Seeded),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Seeded.operations


@pytest.mark.parametrize("seed", [1, random.SystemRandom().randrange(1 << 32)], ids=["fixed", "random"])
def test_the_engine_and_qemu_take_turns(seed: int) -> None:
    assert _run(seed, examples=2) > 0


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_the_engine_and_qemu_take_turns_ten_thousand_times() -> None:
    began, done = time.monotonic(), 0
    for number in itertools.count(2):
        # Every other seed is the same in each run.
        done += _run(random.SystemRandom().randrange(1 << 32) if number % 2 else number, examples=25)
        if done >= _OPERATIONS:
            break
    print(f"{done} operations in {time.monotonic() - began:.0f} s")
