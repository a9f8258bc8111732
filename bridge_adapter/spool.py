"""What a call says (prints, logs, warns) on its way to the Elixir process that made it: gathered for a few milliseconds, bounded, in order.

It travels on the call's own connection while the call runs, so that it arrives before the result; what threads say after that goes through
the control connection. A client that does not read holds a call up for a second at most; then what does not fit is dropped and counted.
"""

from __future__ import annotations

import codecs
import contextlib
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgpack

from bridge_adapter import calls, lane

if TYPE_CHECKING:
    from bridge_adapter.calls import Call
    from bridge_adapter.lane import LaneSocket

ROOM = 1 << 20  # characters that wait to be sent, per call
BATCH = 1 << 15  # characters of one message, about
PIECE = 1 << 14  # no text is longer; a frame of that size can be sent without waiting where anything can
PATIENCE_SECONDS = 1.0  # how long, in all, a call waits for a client that does not read
GATHER_SECONDS = 0.004
_STALLED_SECONDS = 0.02
_ENTRY = 64  # what an entry counts besides its text
_TEXTS = ("out", "err")
_JOINED = 1024  # shorter texts are joined as they come
_decoder = codecs.getincrementaldecoder("utf-8")


class Spool:
    """What one call has said and its client has not got yet. Any thread may write; messages are sent one at a time, in order."""

    __slots__ = (
        "_begun",
        "_call",
        "_dropped",
        "_entries",
        "_lock",
        "_open",
        "_patience",
        "_sending",
        "_size",
        "_unsent",
        "queued",
        "redirected",
    )

    def __init__(self, call: Call) -> None:
        self._call = call
        self._entries: deque[list[Any]] = deque()
        self._begun: dict[str, codecs.IncrementalDecoder] = {}  # kind -> bytes that are only part of a character
        self._size = 0
        self._dropped = 0
        self._unsent = b""  # a message that was made and could not be sent yet
        self._open = True  # the call runs: its connection is this spool's
        self._patience = PATIENCE_SECONDS
        # Reentrant: what is allocated while it is held may run a finaliser that prints.
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        self.queued = False
        self.redirected: dict[str, list[Any]] = {}  # kind -> what gets it instead, the latest last

    def text(self, kind: str, text: str) -> None:
        """Adds text of "out" or "err"."""
        if len(text) <= PIECE:
            self.entry([kind, text])
        else:
            for start in range(0, len(text), PIECE):
                self.entry([kind, text[start : start + PIECE]])

    def characters(self, kind: str, data: bytes) -> str:
        """The text of bytes of UTF-8; what is only part of a character waits for the rest."""
        with self._lock:
            begun = self._begun.get(kind)
            if begun is None:
                begun = self._begun[kind] = _decoder("replace")
            return begun.decode(data)

    def entry(self, entry: list[Any]) -> None:
        """Adds an entry of docs/wire.md section 2.3. Its second field is a text, or its third."""
        if calls.running() is not self._call:
            self._add(entry, patient=False)
            return
        with self._call.shielded():  # an interruption in the middle would leave half a message on the wire
            self._add(entry, patient=True)

    def _add(self, entry: list[Any], *, patient: bool) -> None:
        size = _size(entry)
        if self._size >= BATCH:
            self.flush()
        if patient and self._size + size > ROOM:
            self._wait_for_room(size)
        with self._lock:
            if self._size + size > ROOM:
                self._dropped += size - _ENTRY
                return
            last = self._entries[-1] if self._entries else None
            if last is not None and last[0] == entry[0] and entry[0] in _TEXTS and len(last[1]) < _JOINED:
                last[1] += entry[1]
                self._size += size - _ENTRY
            else:
                self._entries.append(entry)
                self._size += size
        if not self.queued:
            _courier.soon(self)

    def _wait_for_room(self, size: int) -> None:
        started = time.monotonic()
        until = started + self._patience
        while self._size + size > ROOM and self._call.reason is None and time.monotonic() < until:
            socket = self._socket()
            if socket is None:
                return
            with contextlib.suppress(OSError):  # closed meanwhile, which `flush` finds out, too
                socket.writable(0.05)
            self.flush()
        waited = time.monotonic() - started
        self._patience = PATIENCE_SECONDS if self._size + size <= ROOM else max(0.0, self._patience - waited)

    def before_item(self) -> None:
        """For streams: what was said before an item is sent before it, unless the client does not read for long."""
        if not self._entries and not self._unsent:
            return
        with self._call.shielded():
            until = time.monotonic() + min(self._patience, 0.1)
            while not self.flush():
                if time.monotonic() >= until:
                    self._patience = max(0.0, self._patience - 0.1)
                    return
                time.sleep(0.001)

    def flush_now(self) -> None:
        """Sends what there is without waiting for anybody; what the client does not take at once goes as ever."""
        if calls.running() is not self._call:
            self.flush()
            return
        with self._call.shielded():
            self.flush()

    def flush(self, *, wait: bool = False) -> bool:
        """Sends what there is; `wait`: even if the client takes its time. True when nothing is left."""
        if not self._sending.acquire(blocking=wait):
            return False
        try:
            return self._send_all(wait)
        finally:
            self._sending.release()

    def finish(self) -> None:
        """The call has ended: sends what is left before its answer. What comes now goes through the control connection."""
        for kind, begun in list(self._begun.items()):
            if rest := begun.decode(b"", final=True):
                self.text(kind, rest)
        with self._sending:
            self._send_all(wait=True)
            self._open = False

    def _send_all(self, wait: bool) -> bool:
        while True:
            body = self._unsent or self._message(whole=wait)
            if not body:
                return True
            socket = self._socket()
            if socket is None:
                self._unsent = b""
                return True  # nobody is there to hear it
            try:
                if wait and self._open:
                    socket.send(body)
                elif not socket.offer(body):
                    self._unsent = body
                    return False
            except OSError:
                # The client has closed the connection. Its other one, if that is still there, gets the rest.
                if not self._open:
                    return True
                self._open = False
                self._unsent = body
            else:
                self._unsent = b""

    def _socket(self) -> LaneSocket | None:
        connection = self._call.connection
        return connection.socket if self._open else connection.voice()  # type: ignore[no-any-return]

    def _keep_begun_line(self, said: list[list[Any]]) -> None:
        kind, text = said[-1][:2]
        if kind not in _TEXTS or text.endswith("\n") or len(text) >= _JOINED:
            return
        line, end, rest = text.rpartition("\n")
        self._entries.append([kind, rest])
        self._size += _size(self._entries[-1])
        if line or end:
            said[-1] = [kind, line + end]
        else:
            said.pop()

    def _message(self, whole: bool) -> bytes:
        """The next message; nothing when there is nothing to say. `whole`: a line that has no end yet is said, too."""
        said: list[list[Any]] = []
        with self._lock:
            size = 0
            while self._entries and size < BATCH:
                entry = self._entries.popleft()
                size += _size(entry)
                said.append(entry)
            self._size -= size
            if said and not self._entries and not whole and self._call.connection.lines:
                self._keep_begun_line(said)
            # Counted where it is missing: behind everything that was there when it was dropped.
            if self._dropped and not self._entries:
                said.append(["dropped", self._dropped])
                self._dropped = 0
        if not said:
            return b""
        call = self._call
        return _pack(lane.notification("output", [call.caller, list(call.key), call.session_id, said]))


def _size(entry: list[Any]) -> int:
    return _ENTRY + sum(len(field) for field in entry[1:] if type(field) is str)


def _pack(message: list[Any]) -> bytes:
    try:
        return msgpack.packb(message)  # type: ignore[no-any-return]
    except UnicodeEncodeError:  # lone surrogates
        return msgpack.packb(message, unicode_errors="backslashreplace")  # type: ignore[no-any-return]


class _Courier:
    """The thread that sends what calls have said and nobody else has sent yet. Started by the first word."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Spool] = SimpleQueue()
        self._started = False

    def soon(self, spool: Spool) -> None:
        spool.queued = True
        self._queue.put(spool)
        if not self._started:
            # Where the system allows no thread, the call sends at its end what it says, and the next word tries again.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._run, name="output", daemon=True).start()
                self._started = True

    def _run(self) -> None:
        stalled: list[Spool] = []
        while True:
            spools = stalled or [self._queue.get()]
            time.sleep(_STALLED_SECONDS if stalled else GATHER_SECONDS)
            try:
                while True:
                    spools.append(self._queue.get_nowait())
            except Empty:
                pass
            stalled = []
            for spool in spools:
                # Before looking: what is added from here on is for the next round.
                spool.queued = False
                if not spool.flush() and not spool.queued:
                    spool.queued = True
                    stalled.append(spool)


_courier = _Courier()
_opening = threading.Lock()


def of_current() -> Spool | None:
    """The spool of the call on whose behalf this code runs; None where there is none, or where its client did not ask for its output."""
    call = calls.current()
    if call is None:
        return None
    if call.spool is None:
        if not getattr(call.connection, "speaks", False):
            return None
        spool = Spool(call)  # outside of the lock: an allocation may run a finaliser that prints, and comes by here
        with _opening:
            if call.spool is not None:
                return call.spool
            call.spool = spool
        # Looked at afterwards: a call that ends in this moment has seen it, or is seen to have ended.
        if not call.connection.holds(call):
            spool.finish()
    return call.spool
