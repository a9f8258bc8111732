"""How a gateway looks after its executors and its load: the settings, with their flags and variables in the environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_adapter.breaker import Settings as Breaking
from bridge_adapter.gateway import retry
from bridge_adapter.gateway.retry import Retry

KILL_AFTER_MS = 5_000.0
DRAIN_MS = 2_000.0
MAX_QUEUE = 1024
# Long: the executor answers on a thread that needs the GIL, which user code may hold for minutes.
HEARTBEAT_MS = 300_000.0
LONGEST_MS = 86_400_000.0 * 365


@dataclass(frozen=True, slots=True)
class Recycling:
    """When an executor is replaced although it works; 0 = never for that reason. `max_wait_ms`: how long its sessions' objects hold that up
    (0 = for as long as they live)."""

    after_ms: float = 0.0
    calls: int = 0
    rss_mb: float = 0.0
    max_wait_ms: float = 0.0

    @property
    def wanted(self) -> bool:
        return bool(self.after_ms or self.calls or self.rss_mb)


@dataclass(frozen=True, slots=True)
class Care:
    """The settings. Times in milliseconds, except where `Breaking` has seconds."""

    retry: Retry = field(default_factory=Retry)
    breaking: Breaking = field(default_factory=Breaking)
    kill_after_ms: float = KILL_AFTER_MS
    heartbeat_ms: float = HEARTBEAT_MS
    drain_ms: float = DRAIN_MS
    max_queue: int = MAX_QUEUE
    spare: int = 0
    recycling: Recycling = field(default_factory=Recycling)


# Flag, its default, and its help. The variable of --drain-ms is BRIDGE_ADAPTER_DRAIN_MS, and so on.
_DEFAULTS = Care()
_NUMBERS: tuple[tuple[str, float, str], ...] = (
    ("kill-after-ms", KILL_AFTER_MS, "how long a call may ignore its cancellation; 0 = for ever"),
    ("executor-heartbeat-ms", HEARTBEAT_MS, "how long the executor may leave a ping unanswered before it is replaced; 0 = for ever"),
    ("drain-ms", DRAIN_MS, "how long running calls may go on after SIGTERM"),
    ("breaker-window-ms", _DEFAULTS.breaking.window * 1000, "the time within which those crashes count"),
    ("breaker-open-ms", _DEFAULTS.breaking.open_for * 1000, "for how long it is not called then"),
    ("recycle-after-ms", 0.0, "replace an executor of that age; 0 = never"),
    ("recycle-rss-mb", 0.0, "replace an executor that uses so much memory; 0 = never"),
    ("recycle-max-wait-ms", 0.0, "how long objects of sessions hold up its replacement; 0 = as long as they live"),
)
_COUNTS: tuple[tuple[str, int, int, str], ...] = (
    ("breaker-failures", _DEFAULTS.breaking.failures, 0, "crashes after which a function is not called for a while; 0 = off"),
    ("max-queue", MAX_QUEUE, 1, "calls that may wait for an executor, a connection, or their turn in a session"),
    ("spare", 0, 0, "1: keep a second executor ready, which takes over at once after a crash"),
    ("recycle-calls", 0, 0, "replace an executor that has had so many calls; 0 = never"),
)


def add_flags(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """The flags, with defaults from the environment."""

    def add(name: str, default: Any, metavar: str, help: str) -> None:
        value = environment.get(f"BRIDGE_ADAPTER_{name.replace('-', '_').upper()}") or default
        parser.add_argument(f"--{name}", default=value, metavar=metavar, help=help)

    add("max-restarts", retry.MAX_RESTARTS, "N", "runs of an idempotent call beyond the first, after crashes")
    pauses = ",".join(f"{pause:g}" for pause in retry.BACKOFF_MS)
    add("backoff-ms", pauses, "MS,MS,...", "pauses before those runs; or a rule: first=50,factor=2,max=5000")
    add("jitter", retry.JITTER, "PART", "by how much they are made longer or shorter at random, from 0 to 1")
    add("retry-on", ",".join(retry.CAUSES), "CAUSE,...", "the kinds of crash after which it is run again, or none")
    add(
        "breaker-rate",
        _DEFAULTS.breaking.rate,
        "SHARE",
        "the share of its calls meanwhile of which more must crash; 0: any",
    )
    for name, number, help in _NUMBERS:
        add(name, number, "MB" if name.endswith("mb") else "MS", help)
    for name, count, _, help in _COUNTS:
        add(name, count, "N", help)


def read(flags: argparse.Namespace, refuse: Callable[[str], Any]) -> Care:
    """The settings of parsed flags. What cannot be used goes to `refuse`, which does not return."""
    number: dict[str, float] = {}
    for name, *_ in _NUMBERS:
        given = getattr(flags, name.replace("-", "_"))
        number[name] = _number(given)
        if not 0 <= number[name] <= LONGEST_MS:
            unit = "megabytes" if name.endswith("mb") else "milliseconds"
            refuse(f"--{name} {given}: it must be a number of {unit}, 0 or more")
    count: dict[str, int] = {}
    for name, _, least, _ in _COUNTS:
        given = str(getattr(flags, name.replace("-", "_")))
        count[name] = int(given) if given.isascii() and given.isdigit() else -1
        if count[name] < least or (name == "spare" and count[name] > 1):
            refuse(f"--{name} {given}: it must be {'0 or 1' if name == 'spare' else f'an integer, at least {least}'}")
    rate = _number(flags.breaker_rate)
    if not 0 <= rate < 1:
        refuse(f"--breaker-rate {flags.breaker_rate}: it must be a share of calls, from 0 to less than 1")
    try:
        policy = Retry(
            retry.max_restarts(str(flags.max_restarts)),
            retry.backoff(str(flags.backoff_ms)),
            retry.jitter(str(flags.jitter)),
            retry.retry_on(str(flags.retry_on)),
        )
    except ValueError as error:
        refuse(str(error))
        raise
    return Care(
        policy,
        Breaking(count["breaker-failures"], number["breaker-window-ms"] / 1000, number["breaker-open-ms"] / 1000, rate=rate),
        number["kill-after-ms"],
        number["executor-heartbeat-ms"],
        number["drain-ms"],
        count["max-queue"],
        count["spare"],
        Recycling(number["recycle-after-ms"], count["recycle-calls"], number["recycle-rss-mb"], number["recycle-max-wait-ms"]),
    )


def _number(given: Any) -> float:
    try:
        return float(given)
    except ValueError:
        return -1.0
