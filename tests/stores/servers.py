"""Real S3 servers on loopback, and a proxy before one that fails on demand."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import boto3
import botocore.config

from snapd.archive.backends import s3settings

ROOT: Final = pathlib.Path(__file__).parents[2]
VERSITYGW: Final = ROOT / ".venv" / "versitygw"
BUCKET: Final = "snapshots"
CREDENTIALS: Final = s3settings.Credentials("test-access", "test-secret-0123456789")
_PATIENCE_S: Final = 30.0


def free_port() -> int:
    """Return a port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: pathlib.Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        # A process that starts says nothing when it listens; it is looked for until it does, or ends.
        with contextlib.closing(os.fdopen(os.pidfd_open(process.pid), "rb", closefd=True)) as ended:
            select.select([ended], [], [], 0.02)
    raise AssertionError(f"it doesn't listen: {log.read_text()}")


@contextlib.contextmanager
def _running(command: list[str], port: int, log: pathlib.Path, **environment: str) -> Iterator[str]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environment
        )
    try:
        _wait_until_it_listens(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto(folder: pathlib.Path) -> Iterator[str]:
    """Run moto's server and yield its URL. It checks no credentials."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, folder / "moto.log") as url:
        yield url


@contextlib.contextmanager
def versitygw(folder: pathlib.Path) -> Iterator[str]:
    """Run versitygw on a folder and yield its URL."""
    assert VERSITYGW.exists(), f"{VERSITYGW} is missing: run make setup"
    port, data = free_port(), folder / "versitygw"
    data.mkdir()
    command = [str(VERSITYGW), "--port", f"127.0.0.1:{port}", "posix", str(data)]
    secrets = {"ROOT_ACCESS_KEY": CREDENTIALS.access_key, "ROOT_SECRET_KEY": CREDENTIALS.secret_key}
    with _running(command, port, folder / "versitygw.log", **secrets) as url:
        yield url


SERVERS: Final = {"moto": moto, "versitygw": versitygw}


def settings(
    url: str,
    spool: pathlib.Path,
    prefix: str = "",
    bucket: str = BUCKET,
    timeout_s: float = 10.0,
    retry_s: float = 20.0,
) -> s3settings.S3Settings:
    """Return how to reach a bucket of a server."""
    return s3settings.S3Settings(
        endpoint=url,
        bucket=bucket,
        prefix=prefix,
        region="us-east-1",
        credentials=CREDENTIALS,
        ca_file=None,
        path_style=True,
        timeout=datetime.timedelta(seconds=timeout_s),
        retry_for=datetime.timedelta(seconds=retry_s),
        spool=spool,
    )


def make_bucket(url: str, bucket: str = BUCKET) -> None:
    """Make a bucket, as an operator would."""
    client = boto3.session.Session(
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        region_name="us-east-1",
    ).client("s3", endpoint_url=url, config=botocore.config.Config(s3={"addressing_style": "path"}))
    client.create_bucket(Bucket=bucket)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request that passes through the proxy."""

    method: str
    path: str


Fault = Callable[[Request], str]
"""What to do with a request: '' passes it on; a status ('503') answers in the server's place; 'swallow' passes it on
and cuts the connection instead of answering; 'cut' ends the answer in the middle; 'hang' never answers.
"""


class Proxy:
    """A proxy before a server, one request a connection, which fails as it is told."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fault: Fault = lambda _request: ""
        self.seen: list[Request] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and cut everything that hangs."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head, rest = _read_head(connection)
            first = head.split(b"\r\n", 1)[0].decode().split(" ")
            request = Request(first[0], first[1])
            self.seen.append(request)
            fault = self.fault(request)
            length = _content_length(head)
            if b"100-continue" in head.lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = rest + _read_exactly(connection, length - len(rest))
            if fault == "hang":
                self._open.append(connection)
                connection.recv(1)
                return
            if fault.isdigit():
                connection.sendall(f"HTTP/1.1 {fault} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            answer = self._forward(head, body)
            head_length = answer.index(b"\r\n\r\n") + 4
            body_length = len(answer) - head_length
            if fault == "swallow" or (fault == "cut" and not body_length):
                return
            connection.sendall(answer[: head_length + body_length // 2] if fault == "cut" else answer)

    def _forward(self, head: bytes, body: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
        with socket.create_connection(self._upstream) as upstream:
            with contextlib.suppress(OSError):
                # A server may answer before it has read all of a body, and read no more.
                upstream.sendall(b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""]) + body)
            parts = []
            while data := upstream.recv(1 << 16):
                parts.append(data)
        return b"".join(parts)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionResetError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _read_exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(min(1 << 16, length - len(data)))
        if not more:
            raise ConnectionResetError
        data += more
    return data
