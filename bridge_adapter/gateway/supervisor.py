"""Keeps an executor running: sees it die, puts the spare one or a new one in its place, and replaces one that is to go.

Calls take `running`, or wait for it: `next`. What becomes of those that an executor took along is decided in `attempts`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from bridge_adapter.breaker import Breaker
from bridge_adapter.gateway.care import Care
from bridge_adapter.gateway.circuits import Circuits
from bridge_adapter.gateway.crashes import Ended
from bridge_adapter.gateway.executor_process import ExecutorProcess
from bridge_adapter.gateway.lane_client import Ask
from bridge_adapter.gateway.running import Running, StartFailed
from bridge_adapter.gateway.turns import Turns
from bridge_adapter.pace import Pace

FIRST_DELAY = 0.05
LAST_DELAY = 5.0
# Failed starts in a row after which waiting calls are told: those that end by themselves, and those that somebody kills.
PATIENCE = 3
PATIENCE_WITH_KILLED = 6
# How long one that is to go may take from its last call to its end.
_LEAVE_SECONDS = 5.0
# How long one that was killed may take to be gone.
_KILLED_SECONDS = 0.5
ENDS = "the gateway ends; this call was not passed on. Make it again, on another worker"

log = logging.getLogger("bridge_adapter.gateway")


class NoExecutor(Exception):
    """There is none, and nobody should wait for one; `category` says why, as the wire names it."""

    def __init__(self, message: str, category: str) -> None:
        super().__init__(message)
        self.category = category


class Pause:
    """The wait before the next start: none after an executor that has worked, then longer and longer."""

    def __init__(self) -> None:
        self._seconds = 0.0

    async def __call__(self) -> None:
        seconds, self._seconds = self._seconds, min(max(self._seconds * 2, FIRST_DELAY), LAST_DELAY)
        await asyncio.sleep(seconds)

    def forget(self) -> None:
        self._seconds = 0.0


class Supervisor:
    """The executor of this gateway, whichever process it is at the moment.

    `start_next` makes another one; `ask` answers the executor's own requests (Elixir functions that Python calls); `died` hears of every
    executor that ends by itself: its pid, its status, and how it ended; `opened` of every breaker that opens: whose, and for how long.
    """

    def __init__(
        self,
        first: ExecutorProcess,
        max_connections: int,
        ask: Ask,
        *,
        care: Care | None = None,
        start_next: Callable[[], ExecutorProcess] = ExecutorProcess,
        died: Callable[[int, int, str], None] | None = None,
        opened: Callable[[str, float], None] | None = None,
    ) -> None:
        self.care = care or Care()
        self.turns = Turns(self.care.max_queue)
        self.circuits = Circuits(self.care.breaking, self._breaker_opened)
        self.starts = Pace()  # what it takes until a new executor takes calls
        self.breaker = Breaker(self.care.breaking)  # of the executor as such: opened by those that cannot even live
        self.stopping = False
        self.next: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
        self._first = first
        self._max_connections = max_connections
        self._elixir = ask
        self._start_next = start_next
        self._died = died
        self._opened = opened
        self._running: Running | None = None
        self._held: Running | None = None
        self._spare: Running | None = None
        self._pause, self._spare_pause, self._making_spare = Pause(), Pause(), False
        self._processes: set[ExecutorProcess] = {first}
        self._alive: set[Running] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._vacant = asyncio.Event()  # there is no executor, or it is about to go

    @property
    def running(self) -> Running | None:
        """The executor that takes calls at the moment; None at the end, too."""
        return None if self.stopping else self._running

    def asking(self, session: str) -> Running | None:
        """The executor in which the session's code waits for Elixir, when it is not the one that takes calls: what Elixir calls now belongs
        there, with the objects of the session."""
        process = self.turns.asker(session)
        if process is None:
            return None
        return next((other for other in self._alive if other.process is process and not other.ended.done()), None)

    async def start(self) -> None:
        """Waits until the first executor takes calls. Raises StartFailed."""
        self.put(await self._bring_up(self._first))

    async def run(self) -> None:
        """Watches and restarts, for as long as the gateway lives."""
        failures = killed = 0
        if self._running is None:
            self._vacant.set()
        while not self.stopping:
            await self._vacant.wait()
            self._vacant.clear()
            failures = killed = 0
            while self._running is None and not self.stopping:
                if self._spare is not None:
                    self.put(self._spare)
                    break
                await self._pause()
                if self.stopping:
                    return
                try:
                    self.put(await self.bring_up())
                except (StartFailed, OSError) as error:
                    by_others = isinstance(error, StartFailed) and error.killed
                    failures += 1
                    killed += by_others
                    log.error("the executor cannot be started (%d times in a row): %s", failures, error)
                    if not by_others:
                        self._crash_loop()
                    if failures - killed >= PATIENCE or failures >= PATIENCE_WITH_KILLED:
                        self._give_up(f"the Python worker cannot be started: {error}", "worker_start")

    async def bring_up(self) -> Running:
        """Another executor, when it takes calls. Raises StartFailed or OSError."""
        process = self._start_next()
        self._processes.add(process)
        return await self._bring_up(process)

    async def _bring_up(self, process: ExecutorProcess) -> Running:
        began = time.monotonic()
        try:
            running = await Running.brought_up(process, self._max_connections, partial(self._ask, process), self.care)
        except BaseException:
            self._processes.discard(process)
            raise
        self.starts.took(time.monotonic() - began)
        if self.stopping:
            process.kill()
        self._in_background(self._attend(running))
        return running

    def put(self, running: Running) -> None:
        """From now on, calls go to this executor; one that was there before gets no new ones, and ends with its last."""
        before, self._running, self._held = self._running or self._held, running, None
        if self._spare is running:
            self._spare = None
        if before is not None and before is not running:
            self._let_go(before)
        if running.ended.done():
            self._vacate()
            return
        if not self.next.done():
            self.next.set_result(running)
        self._want_a_spare()

    def leaves(self, running: Running) -> None:
        """This executor takes no calls any more: it has said so itself."""
        if running in (self._running, self._held):
            self._vacate()
        self._let_go(running)

    def hold(self, running: Running) -> bool:
        """Lets calls wait instead of giving them to this executor, until `put` or `resume`. False when they go elsewhere anyway."""
        if running is not self._running:
            return False
        self._held, self._running = running, None
        if self.next.done():
            self.next = asyncio.get_running_loop().create_future()
        return True

    def resume(self, running: Running) -> None:
        """Undoes `hold`, if the executor is still there."""
        if self._held is running:
            self.put(running)

    def _vacate(self) -> None:
        """There is no executor now."""
        self._running = self._held = None
        if self.next.done():
            self.next = asyncio.get_running_loop().create_future()
        self._vacant.set()

    async def _attend(self, running: Running) -> None:
        """From an executor's first moment to its last."""
        self._alive.add(running)
        ended = await self._watched(running)
        self._alive.discard(running)
        self._processes.discard(running.process)
        expected = running.stopping or self.stopping or (running.leaving and not running.calls)
        if running is self._spare:
            self._spare = None
            if not self.stopping:
                log.warning("the spare executor is gone: %s", ended.how)
                self._want_a_spare()
        elif not expected:
            self._mourn(running, ended)
        running.gone(ended)
        if running is self._running:
            self._vacate()

    async def _watched(self, running: Running) -> Ended:
        ended = asyncio.ensure_future(running.watch(self.care.heartbeat_ms / 1000))
        # Calls that come between the first sign and the certainty wait for the next one.
        gone: set[asyncio.Future[Any]] = {asyncio.wrap_future(running.process.exited), running.lane.down, running.lane.stuck, ended}
        await asyncio.wait(gone, return_when=asyncio.FIRST_COMPLETED)
        if running in (self._running, self._held):
            # What a call has done to an executor is no reason to let the next call wait.
            if running.has_proven_itself:
                self._pause.forget()
            self._vacate()
        return await ended

    def _mourn(self, running: Running, ended: Ended) -> None:
        log.error("the executor is gone: %s", ended.how)
        if self._died is not None:
            self._died(running.process.pid, ended.status, ended.how)
        if ended.suspect is not None:
            self.circuits.crashed(ended.suspect)
        if running.has_proven_itself:
            self.breaker.close()
        elif not ended.by_others:
            self._crash_loop()

    def _crash_loop(self) -> None:
        """An executor has ended for no reason that a call would be to blame for."""
        if self.breaker.failed():
            self._breaker_opened("the Python worker", self.care.breaking.open_for)

    def _breaker_opened(self, what: str, seconds: float) -> None:
        log.error("%s has failed too often: calls of it are refused for %g s", what, seconds)
        if self._opened is not None:
            self._opened(what, seconds)

    def _want_a_spare(self) -> None:
        if self.care.spare and self._spare is None and not self._making_spare:
            self._making_spare = True
            self._in_background(self._have_a_spare())

    async def _have_a_spare(self) -> None:
        """Tries until there is one."""
        try:
            while self._spare is None and not self.stopping:
                await self._spare_pause()
                try:
                    await self.spare()
                except (StartFailed, OSError) as error:
                    log.error("the spare executor cannot be started: %s", error)
                else:
                    self._spare_pause.forget()
                    log.info("a spare executor is ready")
        finally:
            self._making_spare = False

    async def spare(self) -> Running:
        """The spare executor; one is brought up where there is none. Raises StartFailed or OSError."""
        if self._spare is None:
            spare = await self.bring_up()
            if self._spare is None:
                self._spare = spare
            else:
                self._let_go(spare)
        return self._spare

    def _let_go(self, running: Running) -> None:
        if not running.leaving:
            running.leaving = True
            self._in_background(self._until_it_left(running))

    async def _until_it_left(self, running: Running) -> None:
        """Ends an executor after its last call."""
        idle = asyncio.ensure_future(running.idle())
        either: set[asyncio.Future[Any]] = {running.ended, idle}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        if running.ended.done():
            return
        running.stopping = True
        running.process.terminate()
        if await running.end_of(_LEAVE_SECONDS) is None:
            running.process.kill()

    async def _ask(self, process: ExecutorProcess, name: str, params: dict[str, Any]) -> Any:
        with self.turns.asking(str(params.get("session")), process):
            return await self._elixir(name, params)

    def _give_up(self, reason: str, category: str) -> None:
        """Tells the calls that wait. Later ones wait for the next attempt."""
        waiting, self.next = self.next, asyncio.get_running_loop().create_future()
        waiting.set_exception(NoExecutor(reason, category))
        waiting.exception()

    def _nobody_comes(self) -> None:
        if not self.next.done():
            self._give_up(ENDS, "unavailable")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, seconds: float) -> None:
        """Ends the executors: asked first, then killed. Calls that wait for one are told."""
        self.stopping = True
        self._nobody_comes()
        for running in self._alive:
            running.stopping = True
        for process in list(self._processes):
            process.terminate()
        exits = {asyncio.wrap_future(process.exited) for process in self._processes}
        if exits:
            _, left = await asyncio.wait(exits, timeout=seconds)
            self.kill()
            if left:
                await asyncio.wait(left, timeout=_KILLED_SECONDS)

    def cancel_all(self, reason: str) -> None:
        """Interrupts every call in every executor. From now on nothing is begun, or run again; calls that wait for an executor are told."""
        self.stopping = True
        self._nobody_comes()
        for running in list(self._alive):
            running.lane.cancel_all(reason)

    @property
    def processes(self) -> list[ExecutorProcess]:
        """Those that run, or are about to."""
        return list(self._processes)

    def kill(self) -> None:
        """Ends the executors at once, from any thread."""
        self.stopping = True
        for process in list(self._processes):
            process.kill()
