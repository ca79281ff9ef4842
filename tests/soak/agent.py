"""A client that lives in an environment of its own and does what clients do, at random, for as long as it is let.

It repeats each request until it has an answer, whatever happens to the daemon meanwhile, and knows from the answers
what has to be there. It owns its model; what is done to the daemon is the tormentor's.
"""

import random
import threading
from collections.abc import Callable
from typing import Final

import grpc

from snapd import units
from snapd.v1 import snapshot_service_pb2 as snapshots
from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import script, trial
from tests.integration import running
from tests.soak import stage as stages

SIZE: Final = 2 * units.MIB

_MOST_VOLUMES: Final = 4
_MOST_SNAPSHOTS: Final = 8
_AWAY: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
_PAUSE_S: Final = 0.1
"""Until something that was refused is tried again."""
_REFUSED: Final = frozenset({"POOL_FULL", "STORAGE_FULL", "CHAIN_DEPTH", "ARCHIVE_UNREACHABLE", "WRONG_STATE"})
"""Reasons for which a request may be refused, or end, under what the tormentor does; nothing has changed then."""


class Agent:
    """One client. It runs in a thread of its own."""

    def __init__(self, name: str, seed: int, stage: stages.Stage) -> None:
        self.parent = f"environments/{name}"
        self.expected = script.Expected()
        self.counts: dict[str, int] = {}
        """How often it did what, and how often that was refused."""
        self.failure: BaseException | None = None
        self.story: list[str] = []
        """What it did last."""
        self._random = random.Random(seed)
        self._stage = stage
        self._number = 0
        self._taken_of: dict[str, str] = {}
        """Of which volume each snapshot was taken."""
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, after the stage was closed."""
        self._thread.join()

    def check(self, client: running.Client) -> None:
        """Compare all that there is with what has to be there. Raises AssertionError."""
        trial.check_acknowledged(client, self.expected, "", self.parent)

    def _run(self) -> None:
        try:
            self._do(script.environment(self.parent), "environment")
            while self._stage.goes_on():
                step, what = self._next()
                self._do(step, what)
        except stages.Closed:
            pass
        except BaseException as error:
            # Told by whoever looks after all of them, who must not wait for this one for ever.
            self.failure = error
            self._stage.close()

    # --- doing --------------------------------------------------------------------------------------------------------

    def _do(self, step: script.Step, what: str) -> None:
        """Do a step until there is an answer, and note what it was."""
        self.story = [*self.story[-19:], what]
        kind = what.split(maxsplit=1)[0]
        while True:
            try:
                with self._stage.client() as client:
                    step.send(client)
            except script.Failed as error:
                if error.reason not in _REFUSED:
                    raise
                self._count(f"{kind} failed")
                if kind in ("delete", "forget"):
                    # It says that it has FAILED, and that it can be deleted again.
                    self._until_answered(lambda client: _delete(client, step.target))
                    step.acknowledge(self.expected)
                else:
                    self._clear_away(step.target)
                return
            except grpc.RpcError as error:
                if running.reason(error) in _REFUSED:
                    self._count(f"{kind} refused")
                    self._clear_away(step.target)
                    return
                if error.code() not in _AWAY:
                    raise
                self._count("repeated")
                self._stage.wait_for_daemon()
                continue
            step.acknowledge(self.expected)
            self._count(kind)
            return

    def _clear_away(self, target: str) -> None:
        """Remove what a step that didn't succeed may have left of something new."""
        if target and target not in self.expected.contents:
            self._until_answered(lambda client: _delete(client, target))

    def _until_answered(self, call: Callable[[running.Client], None]) -> None:
        while True:
            try:
                with self._stage.client() as client:
                    call(client)
                return
            except script.Failed as error:
                if error.reason not in _REFUSED:
                    raise
                self._stage.wait(_PAUSE_S)
            except grpc.RpcError as error:
                if running.reason(error) in _REFUSED:
                    self._stage.wait(_PAUSE_S)
                elif error.code() in _AWAY:
                    self._stage.wait_for_daemon()
                else:
                    raise

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[script.Step, str]:
        """Return something to do, and a few words for it."""
        chance, parent = self._random, self.parent
        volume_ids, snapshot_ids = self._ids("volumes"), self._ids("snapshots")
        kinds = ["import"] if len(volume_ids) < _MOST_VOLUMES else []
        kinds += ["write"] * 4 + ["rapid"] * 3 + ["regular"] if volume_ids else []
        kinds += ["clone", "revert", "archive", "forget"] if snapshot_ids and volume_ids else []
        if len(volume_ids) >= _MOST_VOLUMES:
            kinds += ["delete"] * 3
        if len(snapshot_ids) >= _MOST_SNAPSHOTS:
            kinds = ["forget"]
        kind = chance.choice(kinds)
        volume_id = chance.choice(volume_ids) if volume_ids else ""
        snapshot_id = chance.choice(snapshot_ids) if snapshot_ids else ""
        own = [each for each in snapshot_ids if self._taken_of[each] == volume_id]
        match kind:
            case "import":
                data = chance.randbytes(SIZE // 4).ljust(SIZE, b"\0")
                new = self._new("v")
                return script.import_volume(new, data, data, parent=parent), f"import {new}"
            case "write":
                length = chance.choice((512, 4096, script.CLUSTER, 5 * script.CLUSTER))
                offset = chance.randrange((SIZE - length) // 512) * 512
                words = f"write {volume_id} {length} at {offset}"
                return script.write(volume_id, offset, chance.randbytes(length), parent=parent), words
            case "rapid" | "regular":
                new, rapid = self._new("s"), kind == "rapid"
                retention_s = chance.choice((0, 2, 3600)) if rapid else None
                words = f"{kind} {new} of {volume_id} for {retention_s}"
                self._taken_of[new] = volume_id
                step = script.snapshot(new, volume_id, rapid=rapid, retention_s=retention_s, parent=parent)
                return step, words
            case "clone" if len(volume_ids) < _MOST_VOLUMES:
                new = self._new("c")
                return script.clone(new, snapshot_id, parent=parent), f"clone {new} of {snapshot_id}"
            case "clone" | "revert" if own:
                words = f"revert {volume_id} to {own[-1]}"
                return script.revert(volume_id, own[-1], parent=parent), words
            case "archive":
                return script.archive(snapshot_id, parent=parent), f"archive {snapshot_id}"
            case "delete":
                return script.delete_volume(volume_id, parent=parent), f"delete {volume_id}"
            case _:
                return script.delete_snapshot(snapshot_id, parent=parent), f"forget {snapshot_id}"

    def _new(self, letter: str) -> str:
        self._number += 1
        return f"{letter}{self._number}"

    def _ids(self, collection: str) -> list[str]:
        prefix = f"{self.parent}/{collection}/"
        return sorted(name.removeprefix(prefix) for name in self.expected.contents if name.startswith(prefix))


def _delete(client: running.Client, name: str) -> None:
    """Delete a volume or a snapshot, whatever became of it. Raises script.Failed, grpc.RpcError."""
    if "/volumes/" in name:
        operation = client.volumes.DeleteVolume(volumes.DeleteVolumeRequest(name=name, allow_missing=True)).operation
    else:
        request = snapshots.DeleteSnapshotRequest(name=name, allow_missing=True)
        operation = client.snapshots.DeleteSnapshot(request).operation
    script.succeed(client, operation)
