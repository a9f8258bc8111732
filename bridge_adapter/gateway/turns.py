"""The order of calls: those of one session go to the executor one after the other, as they came.

Each call travels on a connection of its own, so only here is it known which came first. And a call that waits here has not begun: when
the executor dies, it goes to the next one as if nothing had been.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from bridge_adapter.gateway.refusals import overloaded


class Turns:
    """The queues of all sessions. Belongs to the event loop's thread."""

    def __init__(self, max_queue: int = 1024) -> None:
        self._max_queue = max_queue  # calls of one session that may wait
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # a session is in it while one of its calls has its turn
        self._asking: dict[str, int] = {}

    def of(self, session: str) -> Turn:
        """The turn of one call: use it as an async context manager, or leave it earlier by `leave`. Entering it raises LaneError
        (`overloaded`) when too many wait already."""
        return Turn(self, session)

    def waits_for_elixir(self, session: str) -> bool:
        """True while the session's code waits for Elixir."""
        return session in self._asking

    @contextmanager
    def asking(self, session: str) -> Iterator[None]:
        """Context in which the session's code waits for Elixir: calls that come now may be what it waits for, and do not queue."""
        self._asking[session] = self._asking.get(session, 0) + 1
        try:
            yield
        finally:
            self._asking[session] -= 1
            if not self._asking[session]:
                del self._asking[session]


class Turn:
    """One call's place in the queue of its session."""

    __slots__ = ("_held", "_session", "_turns")

    def __init__(self, turns: Turns, session: str) -> None:
        self._turns = turns
        self._session = session
        self._held = False

    async def __aenter__(self) -> Turn:
        turns, session = self._turns, self._session
        if session in turns._asking:
            return self
        queue = turns._queues.get(session)
        if queue is None:
            turns._queues[session] = deque()
        else:
            if len(queue) >= turns._max_queue:
                raise overloaded(f"their turn in the session {session[:80]!r}", turns._max_queue)
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue.append(gate)
            try:
                await gate
            except asyncio.CancelledError:
                if gate.cancelled() and gate in queue:
                    queue.remove(gate)  # those that stand there are counted
                elif gate.done() and not gate.cancelled():
                    self._held = True  # it had its turn in the moment in which nobody wanted it any more
                    self.leave()
                raise
        self._held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Lets the next call go on."""
        if not self._held:
            return
        self._held = False
        queue = self._turns._queues[self._session]
        while queue:
            gate = queue.popleft()
            if not gate.done():
                gate.set_result(None)
                return
        del self._turns._queues[self._session]
