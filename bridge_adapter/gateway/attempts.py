"""How often a call is given to an executor: it waits where there is none, goes to the next one where it was not begun, and is run again
after a crash where its caller's policy allows that. The executors themselves are the supervisor's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.gateway.crashes import Ended, lost_connection, worker_crash
from bridge_adapter.gateway.lane_client import LaneError, LaneLost, NotSent
from bridge_adapter.gateway.refusals import late, overloaded, refusal, went_away
from bridge_adapter.gateway.retry import NEVER, Retry
from bridge_adapter.gateway.running import EXIT_SECONDS, Running
from bridge_adapter.gateway.supervisor import ENDS, NoExecutor, Supervisor

if TYPE_CHECKING:
    from bridge_adapter.breaker import Permit
    from bridge_adapter.gateway.parameters import Asked

# How many executors may send a call away because they are ending, before its caller hears of it.
_MOST_SENT_AWAY = 5
# How long an executor may take to end from the loss of a connection on.
_END_SECONDS = 4 * EXIT_SECONDS

Remaining = Callable[[], float | None]


@dataclass(slots=True)
class _Work:
    """A call on its way through attempts."""

    params: dict[str, Any]
    remaining: Remaining
    retry: Retry
    call: Asked
    session: str
    sent_away: int = 0
    tried_inside: bool = False  # the executor in which its session waits for Elixir had its chance

    def give_time(self) -> None:
        """Tells the executor what is left for the call itself, after every wait. Raises LaneError when that is nothing."""
        seconds = self.remaining()
        if seconds is None:
            self.params["timeout_ms"] = None
            return
        if seconds <= 0:
            raise late()
        self.params["timeout_ms"] = int(seconds * 1000)


log = logging.getLogger("bridge_adapter.gateway")


class Attempts:
    """Calls for the executor of a supervisor. `remaining` tells the seconds that a caller still waits; None = for ever."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._circuits = supervisor.circuits
        self._waiting = 0

    async def call(self, params: dict[str, Any], remaining: Remaining, retry: Retry, call: Asked, session: str) -> Any:
        """The result of a lane call in that session. Raises LaneError, also for a crash."""
        permit = self._circuits.admit(call)
        if permit is None:
            result = await self._call(_Work(params, remaining, retry, call, session))
            if call.attempts > 1:
                self._circuits.survived(call)
        else:
            with _Tried(permit):
                result = await self._call(_Work(params, remaining, retry, call, session))
        if "outcome" in params:
            call.runs, call.replayed = params.pop("outcome")
        return result

    async def _call(self, work: _Work) -> Any:
        call = work.call
        while True:
            running = await self._ready(work)
            call.attempts += 1
            running.calls[id(call)] = call
            try:
                return await running.lane.call(work.params)
            except (NotSent, LaneLost, LaneError) as error:
                await self._recover(running, error, work)
            finally:
                running.finished(call)

    async def stream(
        self, params: dict[str, Any], remaining: Remaining, retry: Retry, call: Asked, session: str, *, begun: Callable[[], None]
    ) -> AsyncGenerator[list[Any], None]:
        """The items of a stream, in batches as they come; `begun` is called before the first. Raises LaneError. Closing it ends the stream.

        A stream is run again only while its caller has not had an item: nothing may come twice.
        """
        permit = self._circuits.admit(call)
        with _Tried(permit):
            work = _Work(params, remaining, retry, call, session)
            while True:
                running = await self._ready(work)
                call.attempts += 1
                running.calls[id(call)] = call
                try:
                    stream = await running.lane.stream(params)
                    try:
                        while (items := await stream.next()) is not None:
                            begun()
                            work.retry = NEVER
                            yield items
                            stream.consumed(len(items))
                        if permit is None and call.attempts > 1:
                            self._circuits.survived(call)
                        return
                    finally:
                        stream.close()
                except (NotSent, LaneLost, LaneError) as error:
                    await self._recover(running, error, work)
                finally:
                    running.finished(call)

    async def _ready(self, work: _Work) -> Running:
        """The executor for the next attempt. Raises LaneError where there is none, or no time."""
        try:
            running = self._inside(work) or self._supervisor.running or await self._an_executor(work.call)
            work.give_time()
        except LaneError as error:
            raise _with_outcome(error, work.call.attempts) from error.__cause__
        return running

    def _inside(self, work: _Work) -> Running | None:
        """The executor that waits for Elixir, and perhaps for this very call: it may be one that takes no others any more."""
        if work.tried_inside:
            return None
        work.tried_inside = True
        return self._supervisor.asking(work.session)

    async def _an_executor(self, call: Asked) -> Running:
        """The next executor. Raises LaneError where waiting for it is of no use."""
        supervisor = self._supervisor
        limit = supervisor.care.max_queue
        if self._waiting >= limit:
            raise overloaded("the Python worker", limit, supervisor.starts.pause_ms(1))
        permit = supervisor.breaker.admit()
        if permit is None:
            breaker = supervisor.breaker
            raise refusal(
                errors.CircuitOpen(
                    "the Python worker ends again and again as soon as it is started, and calls do not wait for it at the moment; "
                    "this call was not begun. The log of the gateway has its last words",
                    retry_after_ms=int(breaker.retry_after * 1000) + 1,
                    rejected=breaker.rejected,
                )
            )
        self._waiting += 1
        try:
            with _Tried(permit):
                while (running := supervisor.running) is None:
                    if supervisor.stopping:
                        raise NoExecutor(ENDS, "unavailable")
                    await asyncio.shield(supervisor.next)
            return running
        except NoExecutor as error:
            raise LaneError(_fields(error.category, str(error))) from None
        finally:
            self._waiting -= 1

    async def _recover(self, running: Running, error: OSError | LaneError, work: _Work) -> None:
        """Returns when the call is to be tried again. Raises its LaneError when it is not."""
        if isinstance(error, LaneLost):
            await self._after_crash(running, error, work)
        elif isinstance(error, NotSent):
            work.call.attempts -= 1
            await self._after_refusal(running, error, work)
        elif isinstance(error, LaneError) and went_away(error) and not self._supervisor.stopping and work.sent_away < _MOST_SENT_AWAY:
            work.call.attempts -= 1
            work.sent_away += 1
            self._supervisor.leaves(running)
        elif isinstance(error, LaneError) and (error.fields.get("details") or {}).get("outcome") == "not_started":
            raise _with_outcome(error, work.call.attempts - 1)
        else:
            raise error

    async def _after_crash(self, running: Running, error: LaneLost, work: _Work) -> None:
        """Waits for as long as the call has to wait before it is run again. Raises its LaneError when it is not."""
        call, retry, pid = work.call, work.retry, running.process.pid
        ended = await _end_after_loss(running)
        if ended is None and error.explained:
            message = f"the connection to the Python worker was given up on: {error}"
            raise LaneError({**_fields("protocol_error", message), "details": {"outcome": "unknown"}}) from error
        cause = ended.cause if ended is not None else "connection_lost"
        crash = worker_crash(ended, pid, call, retry) if ended is not None else lost_connection(error, pid, call, retry)
        pause, left = retry.pause(call.attempts), work.remaining()
        allowed = call.attempts <= retry.max_restarts and cause in retry.retry_on and not self._circuits.is_open(call)
        if not allowed or self._supervisor.stopping or (left is not None and left <= pause):
            raise crash from error
        log.warning("%s runs again (attempt %d): %s", call.tool, call.attempts + 1, crash, extra={"corr": call.correlation})
        await asyncio.sleep(pause)

    async def _after_refusal(self, running: Running, error: NotSent, work: _Work) -> None:
        """Waits until an executor that takes no connections is gone. Raises LaneError when it lives on, ends one that does not listen."""
        if isinstance(error.__cause__, LaneLost) and work.sent_away < _MOST_SENT_AWAY:
            work.sent_away += 1
            await _end_after_loss(running)  # if it lives, the next connection may get further
            return
        if isinstance(error.__cause__, FileNotFoundError):
            # It has taken its socket away, as it does when it is told to end: it finishes what it has, and takes nothing more.
            self._supervisor.leaves(running)
            return
        if await running.end_of(2 * EXIT_SECONDS) is not None or error.__cause__ is None:
            return
        if isinstance(error.__cause__, ConnectionRefusedError) and running is self._supervisor.running:
            log.error("the executor (pid %d) does not listen any more; ending it", running.process.pid)
            running.process.kill()
            await asyncio.shield(running.ended)
            return
        raise _with_outcome(LaneError(_fields("unavailable", str(error))), work.call.attempts) from error


class _Tried:
    """Tells a breaker how a call went: that the executor outlived it is all that it asks. Its failures are counted where executors die."""

    __slots__ = ("_permit",)

    def __init__(self, permit: Permit | None) -> None:
        self._permit = permit

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._permit is None:
            return
        if error is None or (isinstance(error, LaneError) and _answered(error)):
            self._permit.succeeded()
        else:
            self._permit.release()


def _answered(error: LaneError) -> bool:
    """True for what an executor says of a call that it was given: not where there was none, it died, or the call never came to it."""
    not_begun = (error.fields.get("details") or {}).get("outcome") == "not_started"
    return not not_begun and error.fields.get("category") not in ("worker_crash", "worker_start", "unavailable")


async def _end_after_loss(running: Running) -> Ended | None:
    """How an executor ended one of whose connections is lost; None when it lives on."""
    try:
        # It answers, or loses its control connection: one whose sockets user code has closed finds out when it has to answer.
        pong = running.lane.ping()
    except NotSent:
        return await running.end_of(_END_SECONDS)
    either: set[asyncio.Future[Any]] = {pong, running.ended}
    await asyncio.wait(either, timeout=_END_SECONDS / 2, return_when=asyncio.FIRST_COMPLETED)
    if pong.done() and not pong.cancelled() and pong.exception() is None and not running.ended.done():
        return None
    return await running.end_of(_END_SECONDS)


def _with_outcome(error: LaneError, before: int) -> LaneError:
    """What is honest of a call that is not run now: attempts before this one may have had effects."""
    details = {**(error.fields.get("details") or {}), "outcome": "unknown" if before else "not_started"}
    if before:
        details["attempts"] = before
        error.fields["message"] = f"{error.fields.get('message')} (this time: attempt {before} was begun, and may have had effects)"
    error.fields["details"] = details
    return error


_TYPES = {"worker_start": "WorkerStartError", "unavailable": "Unavailable", "protocol_error": "ProtocolError"}


def _fields(category: str, message: str) -> dict[str, Any]:
    return {"category": category, "type": _TYPES[category], "message": message}
