"""The lane: length-prefixed MessagePack-RPC between the executor and its clients (docs/wire.md section 2).

The protocol is pure: `Frames` turns bytes into bodies, `parse` a decoded body into a message. `LaneSocket` is the thin shell that moves
frames over a blocking socket; it knows nothing of calls.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import msgpack

from bridge_adapter import lifeline
from bridge_adapter.codec import LimitExceeded, Limits
from bridge_adapter.errors import ProtocolError

VERSION = 1
REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
HELLO_FRAME = 64 * 1024
HELLO_SECONDS = 10.0
# A value of the allowed depth lies inside: message, params, payload, args.
ENVELOPE_DEPTH = 4

_LENGTH = struct.Struct(">I")
_CHUNK = 64 * 1024
_pack: Callable[[int], bytes] = msgpack.packb


def wire_limits(limits: Limits) -> Limits:
    """The limits of a whole message that carries a value within `limits`."""
    return replace(limits, depth=limits.depth + ENVELOPE_DEPTH)


@dataclass(slots=True)
class Message:
    """One message. kind is REQUEST (id, name = method, body = params), RESPONSE (id, error, body = result) or NOTIFICATION (name, body).

    outcome: of a response to a call with a key, how its answer came about.
    """

    kind: int
    id: int
    name: str
    body: Any
    error: Any = None
    outcome: Any = None


def parse(value: Any) -> Message:
    """A decoded body as a message. Raises ProtocolError for anything that is none."""
    match value:
        case [0, int(id), str(method), params]:
            return Message(REQUEST, id, method, params)
        case [1, int(id), error, result, *outcome] if len(outcome) <= 1:
            return Message(RESPONSE, id, "", result, error, outcome[0] if outcome else None)
        case [2, str(method), params]:
            return Message(NOTIFICATION, 0, method, params)
    raise ProtocolError(
        f"not a lane message: {str(value)[:80]}; a message is [0, id, method, params], [1, id, error, result] or [2, method, params]"
    )


def request(id: int, method: str, params: Any) -> list[Any]:
    return [REQUEST, id, method, params]


def response(id: int, error: Any, result: Any) -> list[Any]:
    return [RESPONSE, id, error, result]


def notification(method: str, params: Any) -> list[Any]:
    return [NOTIFICATION, method, params]


def response_head(id: int, *, outcome: bool = False) -> bytes:
    """The bytes of a successful response before its packed result, which its outcome may follow."""
    return (b"\x95\x01" if outcome else b"\x94\x01") + _pack(id) + b"\xc0"


def outcome(attempts: int, replayed: bool) -> bytes:
    """The bytes behind the result of a call with a key: how often it was run, and whether that was earlier."""
    return b"\x92" + _pack(attempts) + (b"\xc3" if replayed else b"\xc2")


def items_head(id: int, count: int) -> bytes:
    """The bytes of an `items` notification before its packed items."""
    return b"\x93\x02\xa5items\x92" + _pack(id) + b"\xdd" + _LENGTH.pack(count)


def stream_end(count: int, value: bytes | None) -> bytes:
    """The packed result of a stream of `count` items; value: what its generator returned, packed, if anything."""
    if value is None:
        return b"\x81\xa5items" + _pack(count)
    return b"\x82\xa5items" + _pack(count) + b"\xa5value" + value


def frame(body: bytes) -> bytes:
    """A body with its length before it."""
    return _LENGTH.pack(len(body)) + body


def peek(body: bytes | memoryview) -> tuple[int, int] | None:
    """REQUEST or RESPONSE and its id, for a body that cannot be decoded as a whole, so that its error finds the one who waits for it."""
    unpacker = msgpack.Unpacker(max_buffer_size=64)
    unpacker.feed(bytes(body[:16]))
    try:
        if unpacker.read_array_header() in (4, 5):
            kind, id = unpacker.unpack(), unpacker.unpack()
            if type(kind) is int and kind in (REQUEST, RESPONSE) and type(id) is int:
                return kind, id
    except Exception:
        return None
    return None


class Frames:
    """Turns received bytes into frame bodies, copying no large one. Pure: put bytes where `space` says, then tell `took` how many."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self._chunk = bytearray(_CHUNK)
        self._view = memoryview(self._chunk)
        self._start = 0  # the first byte of the chunk that belongs to no body yet
        self._end = 0  # the end of what was received, in the chunk or in the large body
        self._large: bytearray | None = None

    def space(self) -> memoryview:
        """Where the next bytes belong; the bodies that `took` has returned are gone."""
        if self._large is not None:
            return memoryview(self._large)[self._end :]
        if self._start:
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def took(self, count: int) -> list[memoryview]:
        """The bodies that the bytes just received complete. Raises LimitExceeded for a frame that announces more than max_frame bytes."""
        self._end += count
        if self._large is not None:
            if self._end < len(self._large):
                return []
            body, self._large, self._end = memoryview(self._large), None, 0
            return [body]
        bodies = []
        while (have := self._end - self._start - 4) >= 0:
            (size,) = _LENGTH.unpack_from(self._chunk, self._start)
            check_size(size, self.max_frame)
            begin = self._start + 4
            if have < size:
                if size > _CHUNK - 4:
                    self._large = bytearray(size)
                    self._large[:have] = self._view[begin : self._end]
                    self._start, self._end = 0, have
                break
            self._start = begin + size
            bodies.append(self._view[begin : self._start])
        return bodies

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return self._end - self._start


def parts(message: list[Any]) -> list[bytes]:
    """The body of a message in pieces: large binaries are passed on as they are, not copied into the body."""
    packer = msgpack.Packer(autoreset=False, unicode_errors="surrogatepass")
    pieces: list[bytes] = []
    _pack_parts(message, packer, pieces)
    return [*pieces, packer.bytes()]


def _pack_parts(value: Any, packer: msgpack.Packer, pieces: list[bytes]) -> None:
    if type(value) is dict:
        packer.pack_map_header(len(value))
        for key, member in value.items():
            packer.pack(key)
            _pack_parts(member, packer, pieces)
    elif type(value) is list:
        packer.pack_array_header(len(value))
        for member in value:
            _pack_parts(member, packer, pieces)
    elif type(value) is bytes and len(value) >= _CHUNK:
        pieces.extend((packer.bytes() + b"\xc6" + _LENGTH.pack(len(value)), value))
        packer.reset()
    else:
        packer.pack(value)


def check_size(size: int, max_frame: int) -> None:
    """Refuses a frame that is too large before a byte of it is stored."""
    if size > max_frame:
        raise LimitExceeded(
            f"a frame of {size} bytes was announced, more than max_frame = {max_frame}; send it in parts or raise max_frame"
        )


class Transport(Protocol):
    """What the lane needs of a socket: a plain one has it, and `tls_socket.TlsSocket`, which also has `pending()`."""

    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, size: int, /) -> int: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class LaneSocket:
    """Frames over a blocking socket. One thread reads; any thread may send."""

    def __init__(self, sock: Transport, max_frame: int) -> None:
        self.sock = sock
        self._pending: Callable[[], int] | None = getattr(sock, "pending", None)  # bytes that have come and that no poll sees
        self.max_frame = max_frame
        self._rest = b""
        self._send_lock = threading.Lock()

    @classmethod
    def end_in_child(cls) -> None:
        """In a child that user code has forked: it ends where it would answer. The connections are its parent's."""

        def leave(*_: object) -> NoReturn:
            lifeline.end_child()

        cls.send = cls.offer = cls.receive = cls.ready = leave  # type: ignore[assignment]

    def receive(self) -> bytes | memoryview | None:
        """The next body, or None when the peer has closed (also in the middle of a frame: there is nobody left to tell)."""
        data = self._rest or self.sock.recv(_CHUNK)
        while len(data) < 4:
            more = self.sock.recv(_CHUNK)
            if not more:
                return None
            data += more
        (size,) = _LENGTH.unpack_from(data)
        check_size(size, self.max_frame)
        have = len(data) - 4
        if have == size:
            self._rest = b""
            return memoryview(data)[4:]
        if have > size:
            self._rest = data[4 + size :]
            return memoryview(data)[4 : 4 + size]
        return self._receive_rest(data, size)

    def _receive_rest(self, data: bytes, size: int) -> memoryview | None:
        self._rest = b""
        # Grown as bytes really arrive: an announced length alone makes nobody's memory ours.
        body = bytearray(min(size, 16 << 20))
        at = len(data) - 4
        body[:at] = memoryview(data)[4:]
        while at < size:
            if at == len(body):
                body.extend(bytes(min(size - at, len(body))))
            with memoryview(body) as view:
                got = self.sock.recv_into(view[at:], min(len(body) - at, size - at))
            if not got:
                return None
            at += got
        return memoryview(body)

    def ready(self, seconds: float) -> bool:
        """True when something can be received, after at most that many seconds."""
        if self._rest or (self._pending is not None and self._pending()):
            return True
        poll = select.poll()  # unlike select, it takes any file descriptor
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, *parts: bytes) -> None:
        """Sends one frame whose body is the parts, joined only where they are small. Raises OSError when the peer is gone."""
        size = sum(map(len, parts))
        header = _LENGTH.pack(size)
        with self._send_lock:
            if size < _CHUNK:
                self.sock.sendall(b"".join((header, *parts)))
            else:
                self.sock.sendall(header)
                for part in _gathered(parts):
                    self.sock.sendall(part)

    def writable(self, seconds: float = 0.0) -> bool:
        """True when something can be sent without waiting, after at most that many seconds. Raises OSError when it is closed."""
        poll = select.poll()
        try:
            poll.register(self.sock, select.POLLOUT)
        except ValueError as error:  # closed by the thread that reads
            raise OSError(errno.EBADF, str(error)) from None
        return bool(poll.poll(seconds * 1000))

    def offer(self, body: bytes) -> bool:
        """Sends a small frame if nobody has to wait for that. False: nothing was sent. Raises OSError when the peer is gone."""
        if not self._send_lock.acquire(blocking=False):
            return False
        try:
            if not self.writable():
                return False
            self.sock.sendall(_LENGTH.pack(len(body)) + body)
            return True
        finally:
            self._send_lock.release()

    def wake(self) -> None:
        """Makes a blocked `receive` return None, from any thread."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.wake()
        self.sock.close()


def _gathered(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Small parts joined, so that they are one system call; large ones as they are, so that they are not copied."""
    small: list[bytes] = []
    for part in parts:
        if len(part) < _CHUNK:
            small.append(part)
            continue
        yield b"".join(small)
        small = []
        yield part
    yield b"".join(small)
