"""The user code of chaos runs. What it does it writes down at once, in a file of its worker, where no death of a process takes it back."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import chaos_points

_WORKER = f"{os.getpid()}-{os.urandom(4).hex()}"
_log = os.open(f"{os.environ['CHAOS_DIR']}/effects-{_WORKER}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
_runs = itertools.count(1)


def _write(effect: str, run: str, phase: str) -> None:
    at = time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000
    os.write(_log, (json.dumps({"at": at, "effect": effect, "run": run, "worker": _WORKER, "phase": phase}) + "\n").encode())


def apply(effect: str, milliseconds: int) -> list[str]:
    """Has an effect, some time after which it is whole."""
    run = f"{_WORKER}/{next(_runs)}"
    try:
        _write(effect, run, "begin")
        chaos_points.reached("running")
        time.sleep(milliseconds / 1000)
    except BaseException:
        _write(effect, run, "aborted")
        raise
    _write(effect, run, "end")
    return [effect, run]


def items(effect: str, count: int, milliseconds: int) -> Iterator[list[Any]]:
    """A stream whose items say whose they are, which they are, and of which run."""
    run = f"{_WORKER}/{next(_runs)}"
    _write(effect, run, "begin")
    for number in range(count):
        chaos_points.reached("item")
        if milliseconds:
            time.sleep(milliseconds / 1000)
        yield [effect, number, run]


def ask(effect: str, function: Callable[[str], Any]) -> list[Any]:
    """What an Elixir function says of the effect."""
    return [effect, function(effect)]


def echo(effect: str, data: Any) -> list[Any]:
    """What came, as it came."""
    return [effect, data]


class Register:
    """An object in a session. It knows its name, and what was appended to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[str] = []

    def append(self, entry: str) -> list[Any]:
        self.entries.append(entry)
        return [self.name, list(self.entries)]
