"""The life of an executor: starting, running, draining, stopped; what it has served, and what its end cost.

A request is counted from the moment it is let in until its answer has been sent, so a drain ends when the last answer is out. Who drains,
and what happens to requests that take too long, is the executor's business.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections import Counter
from queue import Empty, SimpleQueue
from typing import Any

from bridge_adapter.errors import Refused, Unavailable

# Signal handlers run in the main thread. Where the kernel gives a signal to another thread, nothing wakes the main one from its wait, so
# it looks by itself.
NOTICE_SECONDS = 1.0


class State(enum.StrEnum):
    """Where an executor is in its life. It only ever goes forward."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Lifecycle:
    """The state of one executor, and its account of requests. Any thread may use it; signal handlers only `ask_to_drain`."""

    def __init__(self, drain_seconds: float) -> None:
        self.state = State.STARTING
        self.served = 0  # requests that were let in
        self.refused: Counter[str] = Counter()  # category -> requests that were not
        self.cancelled = 0  # requests that the drain has cut off
        self._drain_seconds = drain_seconds
        self._started = time.monotonic()
        self._open = 0
        self._open_at_drain = self._served_at_drain = self._refused_at_drain = 0
        self._drain_ends = 0.0
        self._changed = threading.Condition(threading.Lock())
        # Its operations are safe in a signal handler, which may interrupt whoever holds the lock.
        self._asked: SimpleQueue[float | None] = SimpleQueue()

    @property
    def age(self) -> float:
        """Seconds since the executor was started."""
        return time.monotonic() - self._started

    def run(self) -> None:
        """The executor takes requests from now on."""
        self.state = State.RUNNING

    def enter(self, *, inside: bool) -> None:
        """A request begins; `answered` ends it. `inside`: it belongs to one that runs already. Raises Unavailable while draining."""
        with self._changed:
            if self.state is State.STOPPED or (self.state is State.DRAINING and not inside):
                raise self._refusal()
            self._open += 1
            self.served += 1

    def answered(self) -> None:
        """The answer of a request that was let in has been sent, or cannot be."""
        with self._changed:
            self._open -= 1
            if not self._open and self.state is State.DRAINING:
                self._changed.notify_all()

    def refuse(self, error: Refused) -> None:
        """Counts a request that was refused."""
        with self._changed:
            self.refused[error.category] += 1

    def ask_to_drain(self, seconds: float | None = None) -> None:
        """Wakes who waits in `wait_to_drain`. seconds: how long requests may go on, if not as long as configured."""
        self._asked.put(seconds)

    def wait_to_drain(self) -> None:
        """Waits until the executor is asked to drain, and begins to."""
        while True:
            with contextlib.suppress(Empty):
                seconds = self._asked.get(timeout=NOTICE_SECONDS)
                break
        with self._changed:
            self.state = State.DRAINING
            self._drain_ends = time.monotonic() + (self._drain_seconds if seconds is None else seconds)
            self._open_at_drain, self._served_at_drain, self._refused_at_drain = self._open, self.served, self.refused.total()

    def settle(self, until: float | None = None) -> bool:
        """Waits for the answers of all requests, until the drain's time is over or that moment. True when all are out."""
        with self._changed:
            until = self._drain_ends if until is None else until
            while self._open and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, NOTICE_SECONDS))
            return not self._open

    def cut(self, calls: int) -> None:
        """The time is over: so many calls are cancelled."""
        self.cancelled += calls

    def stop(self) -> str:
        """Nothing is let in any more. Returns the account of the drain, in words."""
        with self._changed:
            self.state = State.STOPPED
            nested = self.served - self._served_at_drain
            finished = max(0, self._open_at_drain + nested - self.cancelled)
            refused = self.refused.total() - self._refused_at_drain
            left = f", {self._open} did not let themselves be cancelled" if self._open else ""
        return (
            f"drained: {finished} calls finished, {self.cancelled} were cancelled{left}, {refused} were refused; "
            f"served {self.served} calls in {self.age:.0f} s"
        )

    def summary(self) -> dict[str, Any]:
        """What `stats` tells of it."""
        return {
            "state": str(self.state),
            "age_s": round(self.age, 3),
            "served": self.served,
            "open": self._open,
            "refused": dict(self.refused),
            "cancelled": self.cancelled,
        }

    def _refusal(self) -> Unavailable:
        left = max(0.0, self._drain_ends - time.monotonic())
        return Unavailable(
            "this worker is shutting down and takes no new calls; it was not begun: call another worker, or this one's successor",
            # A successor starts once this one has ended, in half a second or so.
            round(left * 1000) + 500,
            state=str(self.state),
        )
