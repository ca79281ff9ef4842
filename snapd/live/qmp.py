"""A session on the QMP socket of a storage daemon, for threads: every wait has an end, and every error a type.

The library (qemu.qmp) is asyncio's, so a loop of its own, in one thread for all sessions, stands behind a synchronous
face: neither does a hanging process hold up the loop that serves callers, nor the other way round.

A socket serves one client at a time. A second connects and hears no greeting, as does the first if the process is
stopped. A command whose answer doesn't come in time may be carried out all the same, so its session is given up: the
next one asks what is there. A session is for one thread at a time.
"""

import asyncio
import collections
import concurrent.futures
import logging
import pathlib
import socket
import threading
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from qemu import qmp
from qemu.qmp import qmp_client

from snapd import errors, units

GREETING_S = 5.0
"""How long a storage daemon may take to greet."""
COMMAND_S = 10.0
"""How long it may take to answer a command."""

_LONGEST_REPLY = 16 * units.MIB
_MOST_EVENTS = 1024
_FAREWELL_S = 1.0
_GREETINGS = 3
"""Connections that are made until one is greeted. Answers that were given up are sent to whoever connects next."""
_GRACE_S = 1.0
"""How much later than the loop's own time-outs a thread stops waiting for the loop."""

_Result = TypeVar("_Result")

_silent = logging.getLogger(f"{__name__}.library")
_silent.setLevel(logging.CRITICAL + 1)  # what goes wrong is raised, and logged by whoever can say what it means


class Loop:
    """The event loop of all sessions, in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _Result], timeout_s: float) -> _Result:
        """Run a coroutine in the loop and return its result. Raises TimeoutError, and whatever the coroutine raises."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return future.result(timeout_s + _GRACE_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread. All sessions are closed by then."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Heard:
    """The events of a connection, and whether it has ended; filled in the loop's thread, read in others."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.events: collections.deque[qmp.Message] = collections.deque(maxlen=_MOST_EVENTS)
        self.ended = False
        self.watching: asyncio.Task[None] | None = None
        """Kept here, since a loop doesn't keep its tasks."""

    def keep(self, event: qmp.Message) -> bool:
        """Keep an event, and have the library keep nothing of it."""
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()
        return False

    async def watch(self, client: qmp.QMPClient) -> None:
        """Note when the connection ends."""
        while client.runstate is qmp.Runstate.RUNNING:
            await client.runstate_changed()
        with self.changed:
            self.ended = True
            self.changed.notify_all()


class Session:
    """A connection to a monitor, after its greeting."""

    def __init__(self, loop: Loop, client: qmp.QMPClient, heard: _Heard, name: str) -> None:
        self._loop = loop
        self._client: qmp.QMPClient | None = client
        self._heard = heard
        self._name = name

    @property
    def is_open(self) -> bool:
        """Whether it can be used: it wasn't closed or given up."""
        return self._client is not None

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = COMMAND_S
    ) -> Any:
        """Have a command carried out and return what it returns.

        Raises errors.StorageDaemonRefused if it answers with an error, errors.StorageDaemonBusy if it doesn't answer in
        time, errors.StorageDaemonGone if it hangs up. After the last two the session is closed.
        """
        if self._client is None:
            raise errors.StorageDaemonBusy(name=self._name, problem="the session was given up")
        try:
            return self._loop.run(self._client.execute(command, dict(arguments or {})), timeout_s)
        except qmp.ExecuteError as error:
            problem = str(error)
            raise errors.StorageDaemonRefused(name=self._name, command=command, problem=problem) from error
        except TimeoutError as error:
            self.close()
            problem = f"{command} took longer than {timeout_s:g} s"
            raise errors.StorageDaemonBusy(name=self._name, problem=problem) from error
        except (qmp.QMPError, OSError, EOFError) as error:
            self._lost(command, error)

    def _lost(self, command: str, error: Exception) -> NoReturn:
        """Raise what a connection means that ended within a command."""
        cause = self._farewell()
        if isinstance(cause, (OSError, EOFError)) or cause is None:
            problem = f"it hung up during {command}"
            raise errors.StorageDaemonGone(name=self._name, problem=problem) from error
        problem = f"its answer can't be understood: {cause}"
        raise errors.StorageDaemonRefused(name=self._name, command=command, problem=problem) from error

    def wait_event(self, name: str, data: Mapping[str, object], *, timeout_s: float = COMMAND_S) -> None:
        """Wait until an event of that name was heard whose data has at least these items, and forget it.

        Raises errors.StorageDaemonBusy if it isn't heard in time, errors.StorageDaemonGone if the connection ends. Of
        events that nobody waits for, the last are kept.
        """
        heard, end = self._heard, time.monotonic() + timeout_s
        with heard.changed:
            while True:
                for event in heard.events:
                    if event["event"] == name and data.items() <= _data(event).items():
                        heard.events.remove(event)
                        return
                if heard.ended:
                    raise errors.StorageDaemonGone(name=self._name, problem=f"it hung up before {name}")
                if not heard.changed.wait(end - time.monotonic()):
                    raise errors.StorageDaemonBusy(name=self._name, problem=f"no {name} came within {timeout_s:g} s")

    def forget_events(self) -> None:
        """Forget all events that were heard: what is waited for next is yet to come."""
        with self._heard.changed:
            self._heard.events.clear()

    def close(self) -> None:
        """Hang up, so that the next client is served."""
        self._farewell()

    def _farewell(self) -> BaseException | None:
        """Close the connection and return what had ended it before, if anything had."""
        client, self._client = self._client, None
        if client is None:
            return None
        try:
            self._loop.run(client.disconnect(), _FAREWELL_S)
        except Exception as error:  # whatever ended it is told here once more
            return error
        return None


def _data(event: qmp.Message) -> Mapping[str, object]:
    found = event.get("data", {})
    return found if isinstance(found, dict) else {}


def connect(loop: Loop, path: pathlib.Path, name: str, *, timeout_s: float = GREETING_S) -> Session:
    """Open a session on a unix socket; name is the storage daemon's, for people.

    Raises errors.StorageDaemonGone if nobody listens there, errors.StorageDaemonBusy if there is no greeting in time:
    the process hangs or is stopped, or somebody else has the socket; errors.StorageDaemonRefused if it isn't QMP.
    """
    end = time.monotonic() + timeout_s
    for _ in range(_GREETINGS - 1):
        with suppress(_NotGreeted):
            return _connect(loop, path, name, end, timeout_s)
    try:
        return _connect(loop, path, name, end, timeout_s)
    except _NotGreeted as error:
        raise errors.StorageDaemonRefused(name=name, command="a connection", problem=str(error)) from error


class _NotGreeted(Exception):
    """Something else came first: an answer to who had the socket before and had hung up, or it isn't QMP."""


def _connect(loop: Loop, path: pathlib.Path, name: str, end: float, timeout_s: float) -> Session:
    """Raises as `connect` does, and _NotGreeted."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
    except (BlockingIOError, TimeoutError) as error:
        connection.close()
        raise errors.StorageDaemonBusy(name=name, problem="its queue of connections is full") from error
    except OSError as error:
        connection.close()
        raise errors.StorageDaemonGone(name=name, problem=f"{path}: {error.strerror or error}") from error
    connection.setblocking(False)
    try:
        heard = _Heard()
        client = loop.run(_greeted(connection, heard, name), max(0.0, end - time.monotonic()))
    except TimeoutError as error:
        connection.close()
        raise errors.StorageDaemonBusy(name=name, problem=f"no greeting came within {timeout_s:g} s") from error
    except (qmp.QMPError, OSError, EOFError) as error:
        connection.close()
        cause = error.exc if isinstance(error, qmp.ConnectError) else error
        if isinstance(cause, qmp_client.GreetingError):
            raise _NotGreeted(str(cause)) from error
        if isinstance(cause, (OSError, EOFError)):
            raise errors.StorageDaemonGone(name=name, problem="it hung up before it greeted") from error
        raise errors.StorageDaemonRefused(name=name, command="a connection", problem=str(cause)) from error
    return Session(loop, client, heard, name)


async def _greeted(connection: socket.socket, heard: _Heard, name: str) -> qmp.QMPClient:
    client = qmp.QMPClient(name, readbuflen=_LONGEST_REPLY)
    client.logger = _silent
    client.events.event_filter = heard.keep
    # The library takes an event that comes within its own negotiation for the answer.
    client.negotiate = False
    await client.connect(connection)
    try:
        await client.execute("qmp_capabilities")
    except BaseException:
        with suppress(Exception):
            await client.disconnect()
        raise
    heard.watching = asyncio.create_task(heard.watch(client))
    return client
