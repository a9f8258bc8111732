"""Moments in which no other call runs user code: for reloading modules. Who enters tells, which costs next to nothing; who wants to be
alone closes the door for new calls and waits for those inside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bridge_adapter.errors import CallCancelled

if TYPE_CHECKING:
    from bridge_adapter.calls import Call

_LOOK_SECONDS = 0.005


class Pause:
    """The calls whose user code runs now, and the one that wants to be alone, if any."""

    def __init__(self) -> None:
        self._inside: dict[Call, None] = {}
        self._closed_by: Call | None = None
        self._turn = threading.Lock()

    def enter(self, call: Call) -> None:
        """The call begins to run user code; it waits while another wants to be alone. Raises its interruption."""
        self._inside[call] = None
        # Looked at afterwards: whoever closes the door in this moment sees the call inside, or the call sees the door closed.
        while self._closed_by is not None and not self._may_pass(call):
            self._inside.pop(call, None)
            try:
                call.sleep(_LOOK_SECONDS)
            except CallCancelled:
                raise call.interruption() from None
            self._inside[call] = None

    def leave(self, call: Call) -> None:
        """The call runs no user code any more."""
        self._inside.pop(call, None)

    @contextmanager
    def alone(self, call: Call, seconds: float) -> Iterator[int]:
        """Context in which no other call runs; after that many seconds, how many still do. Calls that this one is part of do not count."""
        with self._turn:
            self._closed_by = call
            try:
                until = time.monotonic() + seconds
                while (others := self._others(call)) and time.monotonic() < until:
                    call.sleep(_LOOK_SECONDS)
                yield others
            finally:
                self._closed_by = None

    def _may_pass(self, call: Call) -> bool:
        # What is called from inside a running call must go on, or that one would never end.
        return call is self._closed_by or call.parent is not None or call.host is not None

    def _others(self, call: Call) -> int:
        return sum(1 for other in list(self._inside) if not call.within(other))
