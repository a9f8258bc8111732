"""A TLS connection with the methods of a blocking socket that the lane uses, for one thread that reads and others that write.

OpenSSL's connections must not be used by two threads at once. Here every step into OpenSSL is taken alone and returns at once; what there
is to wait for is waited for outside, so that a thread which waits for the peer's next message holds up nobody who wants to send.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

_SLICE = 256 * 1024  # encrypted at a time, so that the thread that reads gets its turn
_FAREWELL_SECONDS = 1.0

T = TypeVar("T")


class TlsSocket:
    """The server's side of a TLS connection."""

    def __init__(self, client: socket.socket, context: ssl.SSLContext) -> None:
        client.setblocking(False)
        self._tls = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._turn = threading.Lock()
        self._until: float | None = None

    def handshake(self, seconds: float) -> None:
        """Raises OSError (TimeoutError, ssl.SSLError) when the client does not come to an agreement in that time."""
        self.settimeout(seconds)
        self._run(self._tls.do_handshake)
        self.settimeout(None)

    @property
    def subject(self) -> str:
        """The common name in the client's certificate, which was verified; "" where it has shown none."""
        with self._turn:
            certificate = self._tls.getpeercert() or {}
        parts: Any = certificate.get("subject", ())
        return next((value for part in parts for name, value in part if name == "commonName"), "")

    def settimeout(self, seconds: float | None) -> None:
        """From now on for that time. Unlike a socket's it is not renewed by bytes that come: a client cannot win time by sending slowly."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def recv(self, size: int) -> bytes:
        return self._run(lambda: self._tls.recv(size))

    def recv_into(self, buffer: memoryview, size: int) -> int:
        return self._run(lambda: self._tls.recv_into(buffer, size))

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        at = 0
        while at < len(view):
            part = view[at : at + _SLICE]
            at += self._run(lambda part=part: self._tls.send(part))  # type: ignore[misc]

    def pending(self) -> int:
        """Bytes that have come and are decrypted already: a poll does not see them."""
        with self._turn:
            return self._tls.pending()

    def fileno(self) -> int:
        return self._tls.fileno()

    def shutdown(self, how: int) -> None:
        """Ends the connection under TLS, without its farewell: the lane's messages have lengths, so nothing can be cut off unseen."""
        socket.socket.shutdown(self._tls, how)

    def turn_away(self) -> None:
        """Closes once the client has had the time to read why: what it has sent, unread, would else cut off the alert on its way."""
        with contextlib.suppress(OSError):
            self.settimeout(_FAREWELL_SECONDS)
            self.shutdown(socket.SHUT_WR)
            while True:
                self._wait(select.POLLIN)
                if not socket.socket.recv(self._tls, 4096):
                    break
        self.close()

    def close(self) -> None:
        with self._turn:
            self._tls.close()

    def _run(self, step: Callable[[], T]) -> T:
        while True:
            with self._turn:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    events = select.POLLIN
                except ssl.SSLWantWriteError:
                    events = select.POLLOUT
            self._wait(events)

    def _wait(self, events: int) -> None:
        poll = select.poll()
        try:
            poll.register(self._tls, events)
        except ValueError as error:  # closed by another thread
            raise OSError(errno.EBADF, str(error)) from None
        left = None if self._until is None else self._until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("the client took too long")
        if not poll.poll(None if left is None else left * 1000):
            raise TimeoutError("the client took too long")
