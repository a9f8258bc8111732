"""Waits for what other threads and processes do, where no message tells of it: looks again and again, with a pause and with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")
FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.02  # seconds; each is twice the one before


def eventually(look: Callable[[], Seen], holds: Callable[[Seen], object] = bool, seconds: float = 30) -> Seen:
    """The first value seen for which `holds` is true; fails with the last one if there is none in time."""
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while not holds(seen := look()):
        assert time.monotonic() < end, f"within {seconds:g} s it has not come to that; last seen: {seen!r}"
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return seen
