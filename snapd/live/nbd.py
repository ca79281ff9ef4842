"""A client of an NBD export that looks at it and flushes it (doc/proto.md of the NBD project, fixed newstyle).

QMP has no command that flushes, and an export's size and flags are best seen as a hypervisor sees them.
"""

import dataclasses
import pathlib
import socket
import struct
import time

from snapd import errors

TIMEOUT_S = 5.0
"""How long a server may take to take a request or to answer it."""
_SHORTEST_WAIT_S = 0.001
"""A time-out of nothing would be none at all."""

_OLD_MAGIC = b"NBDMAGIC"
_OPTION_MAGIC = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698

_FIXED_NEWSTYLE = 1 << 0
_NO_ZEROES = 1 << 1
_OPTION_GO = 7
_REPLY_ACK = 1
_REPLY_INFO = 3
_REPLY_ERROR = 1 << 31
_REPLY_UNKNOWN = _REPLY_ERROR + 6
_INFO_EXPORT = 0
_LONGEST_REPLY = 4096

_FLAG_READ_ONLY = 1 << 1
_FLAG_FLUSH = 1 << 2

_COMMAND_DISCONNECT = 2
_COMMAND_FLUSH = 3

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_EXPORT_INFO = struct.Struct(">HQH")
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE_REPLY = struct.Struct(">IIQ")


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """What a server says of an export."""

    size_bytes: int
    read_only: bool
    can_flush: bool


class Client:
    """A connection to one export; one request at a time."""

    def __init__(self, path: pathlib.Path, name: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Connect. Raises errors.StorageDaemonGone, StorageDaemonBusy, StorageDaemonRefused (no such export)."""
        self._name = name
        self._timeout_s = timeout_s
        self._cookie = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            self._connect(path)
            self.export = self._go()
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: pathlib.Path) -> None:
        try:
            self._socket.connect(str(path))
        except (BlockingIOError, TimeoutError) as error:
            raise errors.StorageDaemonBusy(name=self._name, problem="its NBD server takes no connection") from error
        except OSError as error:
            raise errors.StorageDaemonGone(name=self._name, problem=f"{path}: {error.strerror or error}") from error

    def _go(self) -> Export:
        """Agree on fixed newstyle, and choose the export."""
        greeting = self._receive(18)
        if greeting[:16] != _OLD_MAGIC + _OPTION_MAGIC or not greeting[17] & _FIXED_NEWSTYLE:
            raise self._refusal("a connection", "it isn't an NBD server of the fixed newstyle")
        chosen = self._name.encode()
        data = struct.pack(">I", len(chosen)) + chosen + struct.pack(">H", 0)
        flags = struct.pack(">I", _FIXED_NEWSTYLE | _NO_ZEROES)
        self._send(flags + _OPTION.pack(_OPTION_MAGIC, _OPTION_GO, len(data)) + data)
        found: Export | None = None
        while True:
            magic, _, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            if magic != _REPLY_MAGIC or length > _LONGEST_REPLY:
                raise self._refusal("NBD_OPT_GO", "its answer can't be understood")
            answer = self._receive(length)
            if kind >= _REPLY_ERROR:
                problem = "there is no such export" if kind == _REPLY_UNKNOWN else answer.decode(errors="replace")
                raise self._refusal("NBD_OPT_GO", problem)
            if kind == _REPLY_INFO and length == _EXPORT_INFO.size:
                what, size_bytes, bits = _EXPORT_INFO.unpack(answer)
                if what == _INFO_EXPORT:
                    found = Export(size_bytes, bool(bits & _FLAG_READ_ONLY), bool(bits & _FLAG_FLUSH))
            if kind == _REPLY_ACK:
                if found is None:
                    raise self._refusal("NBD_OPT_GO", "it doesn't say what it exports")
                return found

    def flush(self) -> None:
        """Have all writes that were answered before made durable. Raises as the constructor does."""
        code = self.ask(_COMMAND_FLUSH)[0]
        if code:
            raise self._refusal("a flush", f"error {code}")

    def ask(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", receive: int = 0
    ) -> tuple[int, bytes]:
        """Send a request and return the error of its reply (0: none) with the bytes that follow it if there is none."""
        self._cookie += 1
        self._send(_REQUEST.pack(_REQUEST_MAGIC, 0, command, self._cookie, offset, length) + data)
        magic, code, cookie = _SIMPLE_REPLY.unpack(self._receive(_SIMPLE_REPLY.size))
        if magic != _SIMPLE_MAGIC or cookie != self._cookie:
            raise self._refusal("a request", "its answer can't be understood")
        return code, b"" if code else self._receive(receive)

    def close(self) -> None:
        """Take leave."""
        try:
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _COMMAND_DISCONNECT, 0, 0, 0))
        except OSError:
            pass  # it is gone, and so is what we would have told it
        finally:
            self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise errors.StorageDaemonBusy(name=self._name, problem="its NBD server takes no request") from error
        except OSError as error:
            raise errors.StorageDaemonGone(name=self._name, problem="its NBD server hung up") from error

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        end = time.monotonic() + self._timeout_s
        while len(received) < length:
            try:
                self._socket.settimeout(max(_SHORTEST_WAIT_S, end - time.monotonic()))
                piece = self._socket.recv(length - len(received))
            except TimeoutError as error:
                raise errors.StorageDaemonBusy(name=self._name, problem="its NBD server doesn't answer") from error
            except OSError as error:
                raise errors.StorageDaemonGone(name=self._name, problem="its NBD server hung up") from error
            if not piece:
                raise errors.StorageDaemonGone(name=self._name, problem="its NBD server hung up")
            received += piece
        return bytes(received)

    def _refusal(self, command: str, problem: str) -> errors.StorageDaemonRefused:
        return errors.StorageDaemonRefused(name=self._name, command=command, problem=problem)
