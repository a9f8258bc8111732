"""Messages for processes of Elixir on their way out. Posting never waits: what the client has not taken yet waits here, in order, up to a
limit beyond which posting is an error."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from bridge_adapter.errors import Unavailable

if TYPE_CHECKING:
    from bridge_adapter.lane import LaneSocket

MOST = 100_000
ROOM = 32 << 20  # bytes; a single message may have more when nothing else waits
_SMALL = 1 << 15  # sent by whoever posts it, if the socket takes it at once


class NotConnected(Unavailable, ConnectionError):
    """No client of Elixir is connected that takes messages."""


class Backlog(Unavailable, BufferError):
    """The client does not take the messages as fast as they come."""


class Letters:
    """What is to be sent on one connection. The thread that sends starts with the first message that has to wait."""

    def __init__(self, socket: LaneSocket) -> None:
        self._socket = socket
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._sending = False  # the thread has one in hand
        self._closed = False
        # Reentrant: a finaliser that runs in here may post, too.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def post(self, body: bytes) -> None:
        """Sends a message, or leaves it to the thread. Raises NotConnected or Backlog."""
        with self._changed:
            if self._closed:
                raise NotConnected("the Elixir client has gone; messages can be sent again when one is connected (elixir.connected())")
            if not self._waiting and not self._sending and len(body) <= _SMALL and self._offered(body):
                return
            if len(self._waiting) >= MOST or (self._waiting and self._size + len(body) > ROOM):
                raise Backlog(
                    f"{len(self._waiting)} messages ({self._size} bytes) wait for the Elixir client, which does not take them; "
                    f"send less often, or larger parts at a time (at most {MOST} messages or {ROOM} bytes wait)"
                )
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="messages", daemon=True)
                thread.start()  # if the system allows one; if not, the next message tries again
                self._thread = thread
            self._waiting.append(body)
            self._size += len(body)
            self._changed.notify()

    def close(self) -> None:
        """The connection has ended."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()

    def _offered(self, body: bytes) -> bool:
        try:
            return self._socket.offer(body)
        except OSError as error:
            raise NotConnected(f"the Elixir client has gone: {error}") from None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                body = self._waiting.popleft()
                self._size -= len(body)
                self._sending = True
            try:
                self._socket.send(body)
            except OSError:
                self.close()
                return
