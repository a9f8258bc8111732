"""Memory, CPU time and garbage collections of the executor, measured at intervals while somebody attends.

Memory and CPU time come from /proc, which needs nothing from the executor: they are right while user code holds the GIL. Where there is
no /proc they are left out. Collections are counted by the executor and told when it gets to answering.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bridge_adapter.gateway.lane_client import NotSent
from bridge_adapter.gateway.running import Running
from bridge_adapter.gateway.telemetry import Event, Telemetry

SHORTEST = 0.2  # seconds that say something about CPU time, which comes in ticks of 10 ms


class Usage(NamedTuple):
    """What a process uses. `cpu_seconds` since it began, at `began` (seconds of the clock that `now` reads)."""

    rss_bytes: int
    vms_bytes: int
    cpu_seconds: float
    began: float


def usage(pid: int) -> Usage | None:
    """What the process uses; None where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name, in parentheses, may hold anything.
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    # Numbers of `man proc_pid_stat`, which counts from 1 and has two fields before these.
    user, system, began, size, pages = (int(fields[number - 3]) for number in (14, 15, 22, 23, 24))
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), size, (user + system) / ticks, began / ticks)


def now() -> float:
    """Seconds since boot, as `Usage.began` counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sampler:
    """Emits samples of the executor that `running` finds, every `interval` seconds; 0 = never."""

    def __init__(self, telemetry: Telemetry, running: Callable[[], Running | None], interval: float) -> None:
        self._telemetry = telemetry
        self._running = running
        self._interval = interval
        self._attending = 0
        self._timer: asyncio.TimerHandle | None = None
        self._cpu: tuple[int, float, float] = (0, 0.0, 0.0)  # pid, CPU seconds and when, at the last sample
        self._asked: asyncio.Future[Any] | None = None
        self._collections: tuple[int, list[list[int]]] = (0, [])  # pid and its counters, at the last answer

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Samples at once, and then at intervals until the last who attends has left."""
        self._attending += 1
        try:
            if self._interval:
                self._again()
            yield
        finally:
            self._attending -= 1
            if not self._attending and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._again)
        running = self._running()
        if running is not None:
            self._sample(running.process.pid)
            self._ask(running)

    def _sample(self, pid: int) -> None:
        used = usage(pid)
        if used is None:
            return
        extra = {"executor_pid": str(pid)}
        moment = time.time_ns()
        memory = {"rss_bytes": used.rss_bytes, "vms_bytes": used.vms_bytes}
        self._telemetry.emit(Event("python.memory.sampled", memory, moment, extra=extra))
        known, cpu, since = self._cpu
        if known != pid:
            cpu, since = 0.0, used.began
        until = now()
        if until - since < SHORTEST:
            return
        percent = 100.0 * (used.cpu_seconds - cpu) / (until - since)
        self._cpu = (pid, used.cpu_seconds, until)
        self._telemetry.emit(Event("python.cpu.sampled", {"cpu_percent": round(percent, 2)}, moment, extra=extra))

    def _ask(self, running: Running) -> None:
        if self._asked is not None and not self._asked.done():
            return  # user code holds the GIL, or the executor is busy: one question is enough
        try:
            self._asked = running.lane.collections()
        except NotSent:
            return
        self._asked.add_done_callback(lambda answer: self._told(running.process.pid, answer))

    def _told(self, pid: int, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the executor is gone
        counters: list[list[int]] = answer.result()["gc"]
        known, before = self._collections
        self._collections = (pid, counters)
        if known != pid:
            before = [[0, 0, 0] for _ in counters]
        for generation, (then, counted) in enumerate(zip(before, counters, strict=True)):
            count, collected, duration = (new - old for old, new in zip(then, counted, strict=True))
            if count > 0:
                measured = {
                    "collected": collected,
                    "generation": generation,
                    "duration": duration,
                    "count": count,
                }
                self._telemetry.emit(Event("python.gc.completed", measured, time.time_ns(), extra={"executor_pid": str(pid)}))
