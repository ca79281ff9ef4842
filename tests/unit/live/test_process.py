import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

from snapd.live import process as processes

_WAIT = "import sys; print(flush=True); sys.stdin.read()"


def _program(*command: str) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        [*(command or (sys.executable,)), "-c", _WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.readline()
    return program


def test_a_process_is_found_by_its_whole_identity_and_by_nothing_less() -> None:
    with _program() as program:
        process = processes.of_pid(program.pid)
        assert process is not None
        identity = process.identity
        for wrong in (
            dataclasses.replace(identity, start_ticks=identity.start_ticks + 1),
            dataclasses.replace(identity, boot="00000000-0000-4000-8000-000000000000"),
            dataclasses.replace(identity, pid=os.getpid()),
        ):
            assert processes.find(wrong) is None
        again = processes.find(identity)
        assert again is not None
        again.kill()
        assert process.wait(10)
        assert not again.is_alive()
        assert processes.find(identity) is None
        again.close()
        process.close()


def test_a_process_that_runs_is_waited_for_no_longer_than_asked() -> None:
    with _program() as program:
        process = processes.of_pid(program.pid)
        assert process is not None
        assert not process.wait(0.01)
        process.terminate()
        assert process.wait(10)
        process.terminate()  # it reaches nobody, which is no error
        process.close()


def test_a_program_with_parentheses_and_blanks_in_its_name_is_told_apart_too(tmp_path: pathlib.Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    shell = shutil.which("cat")
    assert shell is not None
    shutil.copy(shell, odd)
    with subprocess.Popen([odd], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"\n")
        program.stdin.flush()
        program.stdout.read(1)
        process, own = processes.of_pid(program.pid), processes.of_pid(os.getpid())
        assert process is not None
        assert own is not None
        assert process.identity.start_ticks >= own.identity.start_ticks > 0
        process.kill()
        assert process.wait(10)
        process.close()
        own.close()


def test_pids_that_nobody_has_are_nobodys() -> None:
    for pid in (2**22 + 1, 2**40, -1, 0):
        assert processes.of_pid(pid) is None
