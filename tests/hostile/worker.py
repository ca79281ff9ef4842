"""A process that tries hostile files, each in a child of its own that may take little memory, time and liberty.

It reads a line of JSON (`actions`, `path`) for each file and answers with one: how each action ended, what they took,
and which other files they opened. Run as `python -m tests.hostile.worker`; `trial` is the other end.
"""

import json
import os
import pathlib
import resource
import signal
import sys

from snapd import errors, units
from tests.hostile import actions

BACKSTOP_BYTES = units.GIB
"""Address space beyond what is taken at the beginning: a mistake ends the child, and not the machine."""
CPU_S = 5
WALL_S = 60


Answer = dict[str, object]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * units.KIB
    raise LookupError(name)


def _try(names: list[str], path: str) -> Answer:
    """Do the actions here, under limits, and return how they ended."""
    foreign: list[str] = []
    watching = True

    def notice(event: str, details: tuple[object, ...]) -> None:
        if watching and event in ("open", "socket.connect", "subprocess.Popen", "os.system", "os.exec"):
            name = os.fsdecode(details[0]) if isinstance(details[0], str | bytes) else repr(details[0])
            if not name.startswith((path, sys.prefix, sys.base_prefix, "/proc/self/")):
                foreign.append(f"{event} {name}")

    sys.addaudithook(notice)
    before, before_cpu_s = _status("VmRSS"), _cpu_s()
    space = _status("VmSize") + BACKSTOP_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    signal.alarm(WALL_S)
    endings = {name: _ending(name, pathlib.Path(path)) for name in names}
    cpu_s = _cpu_s() - before_cpu_s
    watching = False
    return {"endings": endings, "foreign": foreign, "peak_bytes": _status("VmHWM") - before, "cpu_s": cpu_s}


def _ending(name: str, path: pathlib.Path) -> dict[str, str]:
    error, message, result = "", "", ""
    try:
        result = actions.ACTIONS[name](path)
    except (errors.SnapdError, MemoryError, ArithmeticError, LookupError, ValueError, OSError) as ended:
        error, message = type(ended).__name__, str(ended)
    return {"error": error, "message": message, "result": result}


def _in_child(names: list[str], path: str) -> Answer:
    """Do the actions in a child and return how they ended; a child that dies is an ending too."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as sink:
            json.dump(_try(names, path), sink)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as source:
        text = source.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"killed": signal.Signals(os.WTERMSIG(status)).name}
    answer: Answer = json.loads(text)
    return answer


def main() -> None:
    """Answer every line."""
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(_in_child(request["actions"], request["path"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
