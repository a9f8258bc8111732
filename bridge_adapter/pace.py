"""How fast a queue moves: a running mean of the time from one turn to the next, and what follows from it for one who comes now.

A queue of which too little is known refuses nobody, and what is estimated gets the benefit of the doubt: the mean is of turns that were,
and nobody can tell what the next ones take.
"""

from __future__ import annotations

_WEIGHT = 0.2  # of the latest turn in the mean
_SAMPLES = 5  # before the mean is trusted
_DOUBT = 2.0  # nothing is in vain before the estimate exceeds the time left this many times
_LONGEST_PAUSE_MS = 60_000


class Pace:
    """The pace of one queue. Not locked: its owner is."""

    __slots__ = ("_samples", "mean")

    def __init__(self) -> None:
        self.mean = 0.0  # seconds, of the latest turns most
        self._samples = 0

    def took(self, seconds: float) -> None:
        """One more turn has ended, after so long."""
        self.mean += (seconds - self.mean) * (_WEIGHT if self._samples else 1.0)
        self._samples += 1

    def in_vain(self, ahead: int, left: float) -> float | None:
        """The seconds that so many turns are likely to take, where that is far more than there is left; else None."""
        wait = ahead * self.mean
        return wait if self._samples >= _SAMPLES and wait > _DOUBT * left else None

    def pause_ms(self, length: int) -> int | None:
        """Milliseconds in which half of the queue should be gone; None where nothing is known."""
        if not self._samples:
            return None
        return max(1, min(_LONGEST_PAUSE_MS, round((length + 1) / 2 * self.mean * 1000)))
