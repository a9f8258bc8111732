"""A circuit breaker: after a number of failures within a window it lets nothing pass for a while, then a few probes, and closes again when
those succeed. Pure: it neither waits nor logs, and its clock is given to it.

Closed: everything passes; `failures` failures within `window` seconds open it, if more than the share `rate` of the tries since the first
of them have failed: where most succeed, whatever fails now and then has another cause. Open: nothing passes for `open_for` seconds.
Half-open: at most `probes` permits are out at a time; `successes` of them that succeed close it, one failure opens it again.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class State(enum.Enum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Settings:
    """When a breaker opens and closes; times in seconds. `failures` = 0: never; `rate` = 0: their number alone decides."""

    failures: int = 5
    window: float = 60.0
    open_for: float = 30.0
    probes: int = 3
    successes: int = 3
    rate: float = 0.5


class Permit:
    """Leave to try once. Whoever holds it says how it went, by one of `succeeded`, `failed` and `release`; later words are not heard."""

    __slots__ = ("_breaker", "_epoch")

    def __init__(self, breaker: Breaker, epoch: int) -> None:
        self._breaker: Breaker | None = breaker
        self._epoch = epoch

    def succeeded(self) -> None:
        """It went well."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._returned(self._epoch, success=True)

    def failed(self) -> bool:
        """It failed. True when that has opened the breaker."""
        breaker, self._breaker = self._breaker, None
        if breaker is None:
            return False
        mine = breaker._returned(self._epoch, success=False)
        # A probe of an earlier half-open time says nothing of the present one.
        return breaker.failed() if mine or breaker.state is State.CLOSED else False

    def release(self) -> None:
        """It says nothing: it was cancelled, or failed for reasons of its own."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._returned(self._epoch, success=False)


class Breaker:
    """One breaker. `rejected` counts what it has refused. Not for several threads at once."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.rejected = 0
        self._clock = clock
        self._state = State.CLOSED
        # When, and what had succeeded by then; more than these cannot matter.
        self._failed: deque[tuple[float, int]] = deque(maxlen=max(1, settings.failures))
        self._passed = 0  # successes, probes aside
        self._opened = 0.0
        self._epoch = 0  # of half-open times
        self._out = 0  # probes of this epoch that have not come back
        self._succeeded = 0

    @property
    def state(self) -> State:
        """The state now: an open breaker becomes half-open by itself."""
        if self._state is State.OPEN and self._clock() - self._opened >= self.settings.open_for:
            self._state = State.HALF_OPEN
            self._epoch += 1
            self._out = self._succeeded = 0
        return self._state

    @property
    def quiet(self) -> bool:
        """True when it is as a new one: closed, without a failure that still counts."""
        return self.state is State.CLOSED and (not self._failed or self._clock() - self._failed[-1][0] >= self.settings.window)

    @property
    def retry_after(self) -> float:
        """Seconds after which it makes sense to try again."""
        state = self.state
        if state is State.OPEN:
            return max(0.0, self._opened + self.settings.open_for - self._clock())
        # Half-open with every probe out: they come back any time.
        return min(1.0, self.settings.open_for) if state is State.HALF_OPEN and self._out >= self.settings.probes else 0.0

    def admit(self) -> Permit | None:
        """Leave to try, or None: refused."""
        state = self.state
        if state is State.CLOSED:
            return Permit(self, 0)
        if state is State.HALF_OPEN and self._out < self.settings.probes:
            self._out += 1
            return Permit(self, self._epoch)
        self.rejected += 1
        return None

    def failed(self) -> bool:
        """A failure that is known without a permit. True when it has opened the breaker."""
        state, now = self.state, self._clock()
        if state is State.OPEN or not self.settings.failures:
            return False
        if state is State.CLOSED:
            self._failed.append((now, self._passed))
            if not self._too_many(now):
                return False
        self._state, self._opened = State.OPEN, now
        self._failed.clear()
        return True

    def succeeded(self) -> None:
        """A success that is known without a permit."""
        self._passed += 1

    def _too_many(self, now: float) -> bool:
        """Whether the latest failures open it."""
        first, before = self._failed[0]
        if len(self._failed) < self.settings.failures or now - first >= self.settings.window:
            return False
        # The first one says only that something had gone wrong; what came of the tries after it says how often.
        failed = len(self._failed) - 1
        return not failed or failed / (failed + self._passed - before) > self.settings.rate

    def close(self) -> None:
        """What it guards is known to be well."""
        self._state = State.CLOSED
        self._failed.clear()

    def _returned(self, epoch: int, *, success: bool) -> bool:
        """A permit is back; True when it is a probe of the present half-open time."""
        if not epoch and success:
            self.succeeded()
        if not epoch or epoch != self._epoch or self._state is not State.HALF_OPEN:
            return False
        self._out -= 1
        if success:
            self._succeeded += 1
            if self._succeeded >= self.settings.successes:
                self.close()
        return True
