"""Turns: which thread runs next, and what time it is, all from one seed.

Every thread of a simulated daemon is a real one, but only one has the turn. It gives it away where it would wait, and
now and then where it takes a lock or changes a file; the seed says to whom. Time stands still while anybody can run,
but for a moment per step, and jumps to the next alarm when nobody can. So a day of retention takes no time, and the
same seed gives the same run.
"""

import hashlib
import random
import threading
from collections.abc import Callable

_STEP_S = 20e-6
"""What each look at the turn costs in simulated time: as in life, no two events have quite the same."""


class Killed(BaseException):
    """The process is dead: whatever this thread is at, it changes nothing any more."""


class Deadlock(AssertionError):
    """Nobody can run, and no alarm is set."""


class Turn:
    """A thread as the scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.alarm_s: float | None = None
        self.baton = threading.Lock()
        self.baton.acquire()


class Scheduler:
    """Who runs. Its creator has the first turn and is the last to go on when the process is killed."""

    def __init__(self, seed: int, switching: float) -> None:
        """Draw from a seed; switching says how likely a turn ends where it need not."""
        self._random = random.Random(seed)
        self._switching = switching
        self._digest = hashlib.sha256()
        self.main = Turn("main")
        self._turns = [self.main]
        self._threads: list[threading.Thread] = []
        self.current = self.main
        self.now_s = 0.0
        self.dead = False
        self.steps = 0
        self.failures: list[BaseException] = []
        """What ended threads that should not have ended so."""

    # --- what happened ------------------------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        """Add to the trace of the run."""
        self._digest.update(f"{self.current.name} {what}\n".encode())

    def digest(self) -> str:
        """Return what stands for all that was noted."""
        return self._digest.hexdigest()

    # --- turns --------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Give the turn away, perhaps. Raises Killed if the process is dead."""
        self._step()
        if self._random.random() < self._switching:
            self._pass_on(self.current)
            self._require_life()

    def block(self, until_s: float | None = None) -> bool:
        """Wait until somebody wakes this thread, or until a time: then False. Raises Killed if the process is dead."""
        self._step()
        me = self.current
        me.ready = False
        me.alarm_s = until_s
        self._pass_on(me)
        self._require_life()
        woken = me.alarm_s is not None or until_s is None
        me.alarm_s = None
        return woken

    def wake(self, turn: Turn) -> None:
        """Let a thread that waits run again when its turn comes."""
        turn.ready = True

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.block(until_s)

    def _step(self) -> None:
        self._require_life()
        self.steps += 1
        self.now_s += _STEP_S

    def _require_life(self) -> None:
        if self.dead:
            raise Killed

    def _pass_on(self, me: Turn | None) -> None:
        chosen = self._choose()
        if chosen is me:
            return
        self.current = chosen
        chosen.baton.release()
        if me is not None:
            me.baton.acquire()

    def _choose(self) -> Turn:
        if self.dead:
            # One after the other comes to its end, and the main one goes on.
            return self._turns[-1]
        self._ring()
        ready = [turn for turn in self._turns if turn.ready]
        if not ready:
            alarms = [turn.alarm_s for turn in self._turns if turn.alarm_s is not None]
            if not alarms:
                self.failures.append(Deadlock(", ".join(turn.name for turn in self._turns)))
                self.kill()
                return self._turns[-1]
            self.now_s = max(self.now_s, min(alarms))
            self._ring()
            ready = [turn for turn in self._turns if turn.ready]
        return self._random.choice(ready)

    def _ring(self) -> None:
        for turn in self._turns:
            if turn.alarm_s is not None and not turn.ready and turn.alarm_s <= self.now_s:
                turn.ready = True
                turn.alarm_s = None

    # --- threads ------------------------------------------------------------------------------------------------------

    def begin(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """Begin a thread, which runs when its turn comes."""
        self._require_life()
        turn = Turn(name)

        def run() -> None:
            turn.baton.acquire()
            try:
                self._require_life()
                target()
            except Killed:
                pass
            except BaseException as failure:
                self.failures.append(failure)
                self.kill()
            finally:
                self._turns.remove(turn)
                self._pass_on(None)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._turns.append(turn)
        self._threads.append(thread)
        thread.start()
        return thread

    # --- death --------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Have every thread end where it stands, without changing anything any more. The caller raises Killed next."""
        self.dead = True

    def bury(self) -> None:
        """Called by the main thread once it knows of a death: wait for the others' end."""
        self.dead = True
        while len(self._turns) > 1:
            self._pass_on(self.main)
        # Each has given its turn away as the last thing but one: until it is gone it still holds what it worked on.
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def revive(self) -> None:
        """Let another process begin. What belonged to the dead one must be gone."""
        self.dead = False
        self.main.ready = True
        self.main.alarm_s = None
