"""How often, and after which pauses, a call is run again whose executor died: only calls whose caller says that they are idempotent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

MAX_RESTARTS = 3
BACKOFF_MS = (50.0, 100.0, 200.0)
_MOST_RESTARTS = 100
_LONGEST_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Retry:
    """`max_restarts` runs beyond the first; before the n-th of them a pause of the n-th (or last) of `backoff_ms` milliseconds."""

    max_restarts: int = MAX_RESTARTS
    backoff_ms: tuple[float, ...] = BACKOFF_MS

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt of that number, counted from 1."""
        return self.backoff_ms[min(attempt, len(self.backoff_ms)) - 1] / 1000 if self.backoff_ms else 0.0

    def with_request(self, metadata: Mapping[str, str], parameters: Mapping[str, bytes]) -> Retry:
        """These settings as one request changes them: `max_restarts` and `backoff_ms` in its metadata or, failing that, its parameters.

        Raises ValueError for values that cannot be used.
        """
        restarts = metadata.get("max_restarts") or _text(parameters.get("max_restarts"))
        pauses = metadata.get("backoff_ms") or _text(parameters.get("backoff_ms"))
        if not restarts and not pauses:
            return self
        return Retry(max_restarts(restarts) if restarts else self.max_restarts, backoff(pauses) if pauses else self.backoff_ms)


NEVER = Retry(0, ())


def max_restarts(text: str) -> int:
    """A number of restarts. Raises ValueError."""
    number = int(text) if text.strip().isdigit() else -1
    if not 0 <= number <= _MOST_RESTARTS:
        raise ValueError(f"max_restarts is {text[:40]!r}; it must be an integer from 0 (never run again) to {_MOST_RESTARTS}")
    return number


def backoff(text: str) -> tuple[float, ...]:
    """Pauses in milliseconds: `50,100,200`, or the same as a JSON list. Raises ValueError."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    try:
        pauses = tuple(float(part) for part in parts if part.strip())
    except ValueError:
        pauses = (-1.0,)
    if not all(0 <= pause <= _LONGEST_MS for pause in pauses):
        raise ValueError(f"backoff_ms is {text[:80]!r}; it must be pauses in milliseconds, like 50,100,200, each at most an hour")
    return pauses


def _text(value: bytes | None) -> str:
    """A parameter's JSON text as the metadata would say it."""
    if not value or value in (b"null", b'""'):
        return ""
    try:
        given = json.loads(value)
    except ValueError:
        return value.decode("utf-8", "replace")
    return given if isinstance(given, str) else json.dumps(given)
