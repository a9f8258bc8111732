"""Whether, how often, and after which pauses a call is run again whose executor died: only calls whose caller says that they are
idempotent, only after deaths of the kinds that the policy names, and never beyond the caller's deadline."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

MAX_RESTARTS = 3
BACKOFF_MS = (50.0, 100.0, 200.0)
JITTER = 0.1
# How an executor can die, as `details.cause` of a worker_crash names it.
CAUSES = ("exit", "signal", "oom", "connection_lost", "missed_heartbeat", "gpu_fault")
_MOST_RESTARTS = 100
_LONGEST_MS = 3_600_000.0
# What a request may say, in its metadata or as parameters.
REQUEST_KEYS = ("max_restarts", "max_attempts", "backoff_ms", "jitter", "retry_on")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in milliseconds that grow: `first_ms`, then `factor` times the one before, at most `max_ms`."""

    first_ms: float
    factor: float = 2.0
    max_ms: float = 5_000.0

    def pause_ms(self, attempt: int) -> float:
        """The pause after the failed attempt of that number, counted from 1."""
        return float(min(self.max_ms, self.first_ms * self.factor ** (attempt - 1)))


@dataclass(frozen=True, slots=True)
class Retry:
    """`max_restarts` runs beyond the first, after deaths whose cause is in `retry_on`.

    `backoff_ms`: the pauses before them, one by one (the last one again for all that follow), or a rule. `jitter`: the part of a pause by
    which it is made longer or shorter at random, so that calls that died together do not come back together.
    """

    max_restarts: int = MAX_RESTARTS
    backoff_ms: tuple[float, ...] | Backoff = BACKOFF_MS
    jitter: float = JITTER
    retry_on: frozenset[str] = frozenset(CAUSES)

    @property
    def max_attempts(self) -> int:
        """Runs in all."""
        return self.max_restarts + 1

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt of that number, counted from 1."""
        if isinstance(self.backoff_ms, Backoff):
            pause = self.backoff_ms.pause_ms(attempt)
        else:
            pause = self.backoff_ms[min(attempt, len(self.backoff_ms)) - 1] if self.backoff_ms else 0.0
        return pause * (1 + self.jitter * random.uniform(-1, 1)) / 1000

    def with_request(self, metadata: Mapping[str, str], parameters: Mapping[str, bytes]) -> Retry:
        """This policy as one request changes it, in its metadata or, failing that, its parameters.

        Raises ValueError for what cannot be used.
        """
        asked = {key: metadata.get(key) or _text(parameters.get(key)) for key in REQUEST_KEYS if key in metadata or key in parameters}
        policy = self
        if asked.get("max_attempts"):
            policy = replace(policy, max_restarts=_whole("max_attempts", asked["max_attempts"], 1) - 1)
        if asked.get("max_restarts"):
            policy = replace(policy, max_restarts=max_restarts(asked["max_restarts"]))
        if asked.get("backoff_ms"):
            policy = replace(policy, backoff_ms=backoff(asked["backoff_ms"]))
        if asked.get("jitter"):
            policy = replace(policy, jitter=jitter(asked["jitter"]))
        if asked.get("retry_on"):
            policy = replace(policy, retry_on=retry_on(asked["retry_on"]))
        return policy


NEVER = Retry(0, ())


def max_restarts(text: str) -> int:
    """A number of restarts. Raises ValueError."""
    return _whole("max_restarts", text, 0)


def _whole(name: str, text: str, least: int) -> int:
    number = int(text) if text.isascii() and text.strip().isdigit() else -1
    if not least <= number <= _MOST_RESTARTS:
        raise ValueError(f"{name} is {text[:40]!r}; it must be an integer from {least} (never run again) to {_MOST_RESTARTS}")
    return number


def backoff(text: str) -> tuple[float, ...] | Backoff:
    """Pauses in milliseconds: `50,100,200`, the same as a JSON list, `first=50,factor=2,max=5000`, or that as a JSON object with the keys
    first_ms, factor and max_ms. Raises ValueError."""
    given = text.strip()
    try:
        if given.startswith("{"):
            return _growing(json.loads(given))
        if "=" in given:
            return _growing({name.strip(): value for name, _, value in (part.partition("=") for part in given.split(","))})
        pauses = tuple(float(part) for part in given.removeprefix("[").removesuffix("]").split(",") if part.strip())
        if not all(0 <= pause <= _LONGEST_MS for pause in pauses):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"backoff_ms is {text[:80]!r}; it must be pauses in milliseconds, like 50,100,200, or a rule, like first=50,factor=2,max=5000, "
            "each at most an hour"
        ) from None
    return pauses


def _growing(rule: Mapping[str, str | float]) -> Backoff:
    known = {name.removesuffix("_ms"): float(value) for name, value in rule.items()}
    if not known.keys() <= {"first", "factor", "max"}:
        raise ValueError
    growing = Backoff(known["first"], known.get("factor", 2.0), known.get("max", max(5_000.0, known["first"])))
    if not (0 <= growing.first_ms <= growing.max_ms <= _LONGEST_MS and 1 <= growing.factor <= 100):
        raise ValueError
    return growing


def jitter(text: str) -> float:
    """A part of a pause. Raises ValueError."""
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise ValueError(f"jitter is {text[:40]!r}; it must be a number from 0 (pauses as they are) to 1 (from none to twice as long)")
    return part


def retry_on(text: str) -> frozenset[str]:
    """Kinds of death: their names with commas between, a JSON list of them, or `none`. Raises ValueError."""
    names = [name.strip().strip('"') for name in text.strip().removeprefix("[").removesuffix("]").split(",")]
    kinds = frozenset(name for name in names if name and name != "none")
    unknown = sorted(kinds - set(CAUSES))
    if unknown:
        raise ValueError(f"retry_on names {unknown[0][:40]!r}; it must be none, or some of {', '.join(CAUSES)}, with commas between")
    return kinds


def _text(value: bytes | None) -> str:
    """A parameter's JSON text as the metadata would say it."""
    if not value or value in (b"null", b'""'):
        return ""
    try:
        given = json.loads(value)
    except ValueError:
        return value.decode("utf-8", "replace")
    return given if isinstance(given, str) else json.dumps(given)
