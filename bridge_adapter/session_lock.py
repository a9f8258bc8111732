"""The lock by which a session's calls run one at a time and in order, and the bounded queue of calls that wait for it.

A call that finds the queue full, or that could not begin before its deadline, is refused before it waits. What belongs to a call that
runs already is never refused: a call from its callback, or a stream that takes its next turn.
"""

from __future__ import annotations

import time
from _thread import LockType, allocate_lock
from collections import deque
from dataclasses import dataclass
from typing import Literal

from bridge_adapter.calls import Call
from bridge_adapter.errors import BridgeError, Overloaded, SessionDeadlock, Unavailable
from bridge_adapter.pace import Pace

Overflow = Literal["reject", "drop_oldest"]


class Room:
    """How many calls may wait in the queues of a process, and how many do."""

    __slots__ = ("limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0


@dataclass(slots=True)
class Bounds:
    """Of a session's queue: how many calls may wait, what happens when one more comes, and the room that all queues share."""

    session: str
    limit: int
    overflow: Overflow
    room: Room


class SessionLock:
    """First come, first served. Calls made from a callback of the holder run inside it, one at a time."""

    __slots__ = ("_pace", "_queue", "_since", "bounds", "owner")

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.owner: Call | None = None
        self.bounds = bounds  # none for the calls inside another call
        self._queue: deque[tuple[Call, LockType]] = deque()
        self._since = 0.0
        self._pace = Pace()

    def acquire(self, call: Call) -> SessionLock:
        """Waits for the call's turn; returns the lock to release: this one, or that of the enclosing call's children.

        Raises Overloaded or SessionDeadlock instead of waiting in vain, and what interrupts the call while it waits.
        """
        with _mutex:
            if self.owner is None:
                self.owner = call
                self._since = time.monotonic()
                call.begun = True
                return self
            holder = self.owner
            outer = call.parent or call.host
            if outer is None or not outer.within(holder, guests=True):
                outer = None
                gate = self._enqueue(call)
        if outer is not None:
            children: SessionLock = outer.children_lock(SessionLock)
            return children.acquire(call)
        self._wait(call, gate)
        return self

    def _enqueue(self, call: Call) -> LockType:
        if _waits_in_a_circle(self, call):
            raise SessionDeadlock(
                "this call waits for a session whose running call waits for this one; make one of the calls outside the callback"
            )
        if self.bounds is not None:
            if not call.begun:
                self._make_room(call, self.bounds)
            self.bounds.room.waiting += 1
        gate = allocate_lock()
        gate.acquire()
        self._queue.append((call, gate))
        call.waiting_for = self
        _waiting.setdefault(call.root, set()).add(call)
        return gate

    def _make_room(self, call: Call, bounds: Bounds) -> None:
        """Raises Overloaded when the call must not wait here. Called under the mutex."""
        length, name = len(self._queue), bounds.session
        if call.deadline is not None:
            left = call.deadline - time.monotonic()
            wait = self._pace.in_vain(length, left)
            if wait is not None:
                raise self._overloaded(
                    f"the call could not begin before its deadline: {length} calls wait for the session {name} before it, which takes "
                    f"about {wait * 1000:.0f} ms, and it has {max(0.0, left * 1000):.0f} ms; it was not begun: "
                    "give it more time, or spread the work over more sessions",
                    bounds,
                )
        if length >= bounds.limit:
            oldest = next((item for item in self._queue if not item[0].begun), None) if bounds.overflow == "drop_oldest" else None
            if oldest is None:
                raise self._overloaded(
                    f"{length} calls wait for the session {name}, as many as may (max_queue); the call was not begun: "
                    "make it later, use more sessions, or make the session concurrent",
                    bounds,
                )
            oldest[0].refusal = self._overloaded(
                f"the call made room for a later one (overflow drop_oldest): it waited for the session {name}, where "
                f"{bounds.limit} calls may wait (max_queue); it was not begun: make it again later, or use more sessions",
                bounds,
            )
            self._take_out(oldest)
        elif bounds.room.waiting >= bounds.room.limit:
            raise Overloaded(
                f"{bounds.room.waiting} calls wait for sessions of this worker, as many as may (max_waiting); the call was not begun: "
                "make it later, or start more workers",
                self._pause(),
                queue_length=bounds.room.waiting,
                queue_limit=bounds.room.limit,
            )

    def _overloaded(self, message: str, bounds: Bounds) -> Overloaded:
        return Overloaded(message, self._pause(), session_id=bounds.session, queue_length=len(self._queue), queue_limit=bounds.limit)

    def _pause(self) -> int:
        """Milliseconds in which half of the queue should be gone."""
        return self._pace.pause_ms(len(self._queue)) or 1

    def _wait(self, call: Call, gate: LockType) -> None:
        try:
            with call.while_waiting(lambda: self._give_up(call)):
                gate.acquire()
        finally:
            with _mutex:
                call.waiting_for = None
                if self.bounds is not None:
                    self.bounds.room.waiting -= 1
                waiters = _waiting.get(call.root)
                if waiters is not None:
                    waiters.discard(call)
                    if not waiters:
                        del _waiting[call.root]
        with _mutex:
            mine = self.owner is call
        if not mine:
            raise _not_mine(call)
        call.begun = True

    def _give_up(self, call: Call) -> None:
        with _mutex:
            for item in self._queue:
                if item[0] is call:
                    self._take_out(item)
                    return

    def _take_out(self, item: tuple[Call, LockType]) -> None:
        self._queue.remove(item)
        item[1].release()

    def release(self) -> None:
        """Lets the next call have its turn."""
        with _mutex:
            now = time.monotonic()
            self._pace.took(now - self._since)
            if self._queue:
                self.owner, gate = self._queue.popleft()
                self._since = now
                gate.release()
            else:
                self.owner = None

    @property
    def waiting(self) -> int:
        """Calls that wait for it."""
        return len(self._queue)

    @property
    def contended(self) -> bool:
        """True when somebody waits for it."""
        return bool(self._queue)

    @property
    def idle(self) -> bool:
        return self.owner is None and not self._queue


def _not_mine(call: Call) -> BridgeError:
    """Why a call that waited did not get its turn. Of one that had none before, it is certain that it has done nothing."""
    if call.refusal is not None:
        return call.refusal
    if call.begun:
        return call.interruption()
    if call.reason == "drained":
        return Unavailable(
            "the worker ended before the call's turn came; it was not begun: call another worker, or this one's successor", 500
        )
    error = call.interruption()
    error.details["outcome"] = "not_started"
    return error


_mutex = allocate_lock()
_waiting: dict[Call, set[Call]] = {}  # root call -> the calls of its tree that wait for a lock


def _waits_in_a_circle(lock: SessionLock, call: Call) -> bool:
    """True when waiting for `lock` closes a circle of trees of calls that wait for each other. Called under the mutex."""
    seen: set[Call] = set()
    holders = [lock.owner.root] if lock.owner is not None else []
    while holders:
        root = holders.pop()
        if root is call.root:
            return True
        if root in seen:
            continue
        seen.add(root)
        for waiter in _waiting.get(root, ()):
            owner = waiter.waiting_for.owner if waiter.waiting_for is not None else None
            if owner is not None:
                holders.append(owner.root)
    return False
