"""Counts what the garbage collector does, from the first time that somebody asks: until then no collection costs more than it did."""

from __future__ import annotations

import gc
import time
from typing import Any

_counters: list[list[int]] = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
_began = 0


def collections() -> list[list[int]]:
    """[collections, objects collected, nanoseconds] of each generation, since the first time that this was called."""
    if _count not in gc.callbacks:
        gc.callbacks.append(_count)
    return [list(counted) for counted in _counters]


def _count(phase: str, info: dict[str, Any]) -> None:
    # Collections do not nest and hold the GIL: one variable does for all threads.
    global _began
    if phase == "start":
        _began = time.perf_counter_ns()
    elif _began:
        counted = _counters[info["generation"]]
        counted[0] += 1
        counted[1] += info["collected"]
        counted[2] += time.perf_counter_ns() - _began
        _began = 0
