"""Calls that cannot begin before their deadline: the gateway refuses them at once and tells when to come again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_process import Gateway, ToolFailed, read, request, until, value_of

from bridge_adapter.breaker import Breaker, Settings, State
from bridge_adapter.gateway.attempts import _Tried
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.refusals import late
from bridge_adapter.gateway.turns import Turns
from bridge_adapter.pace import Pace


def test_the_pace_of_a_queue_says_nothing_before_it_is_known() -> None:
    pace = Pace()
    assert pace.pause_ms(10) is None and pace.in_vain(1000, 0.0) is None
    for _ in range(4):
        pace.took(0.1)
    assert pace.in_vain(1000, 0.1) is None and pace.pause_ms(3) == 200
    pace.took(0.1)
    assert pace.in_vain(10, 0.4) == pytest.approx(1.0)
    assert pace.in_vain(10, 0.6) is None  # the benefit of the doubt
    assert pace.in_vain(0, 0.0) is None  # nobody is before it
    pace.took(1e9)
    assert pace.pause_ms(1000) == 60_000


def test_a_call_that_could_not_have_its_turn_in_time_is_refused_at_once() -> None:
    async def use() -> None:
        turns = Turns(max_queue=8)
        last = asyncio.Event()

        async def call(n: int) -> None:
            async with turns.of("s", 30.0):
                await (asyncio.sleep(0.02) if n < 6 else last.wait())

        waiting = [asyncio.ensure_future(call(n)) for n in range(8)]
        await asyncio.wait(waiting[:6])
        waiting += [asyncio.ensure_future(call(n)) for n in range(8, 14)]
        await asyncio.sleep(0)
        with pytest.raises(
            LaneError, match="could not begin before its deadline: 7 calls wait for their turn in the session 's'"
        ) as refused:
            await turns.of("s", 0.001).__aenter__()
        details = refused.value.fields["details"]
        assert refused.value.fields["category"] == "overloaded" and details["outcome"] == "not_started"
        assert details["retry_after_ms"] >= 4 * 20  # half of those that wait
        waiting.append(asyncio.ensure_future(call(14)))  # one that has the time
        await asyncio.sleep(0)
        with pytest.raises(LaneError, match=r"8 calls wait .* as many as may") as full:
            await turns.of("s", 30.0).__aenter__()
        assert full.value.fields["details"]["retry_after_ms"] >= 4 * 20
        last.set()
        await asyncio.gather(*waiting)
        assert not turns._queues

    asyncio.run(use())


def test_a_call_that_could_not_have_a_connection_in_time_is_refused_at_once(start: Callable[..., Gateway]) -> None:
    gateway = start("--max-connections", "1")
    sleep = [request("sleep", 0.1, module="time", session_id=f"s{n}") for n in range(60)]
    answers = [gateway.stub.ExecuteTool.future(message, timeout=60) for message in sleep]
    assert until(lambda: sum(answer.done() for answer in answers) >= 8, 30)  # gRPC may hand them over in another order
    with pytest.raises(ToolFailed, match=r"could not begin before its deadline: \d+ calls wait for a connection") as refused:
        gateway.execute("sqrt", 4, module="math", session_id="late", timeout=1.5)
    assert refused.value.payload["category"] == "overloaded" and refused.value.payload["details"]["outcome"] == "not_started"
    for answer in answers:
        answer.cancel()
    assert gateway.execute("sqrt", 4, module="math", session_id="late") == 2.0


def test_what_a_call_has_left_is_told_after_its_wait_for_a_connection(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    gateway, gate = start("--max-connections", "1"), tmp_path / "gate"
    first = gateway.stub.ExecuteTool.future(request("until_there", str(pipe), str(gate), module="gateway_waits"), timeout=30)
    read(pipe)
    sent = time.monotonic()
    second = gateway.stub.ExecuteTool.future(request("time_left", module="gateway_waits", session_id="second"), timeout=20)
    until(lambda: time.monotonic() - sent >= 1.0, 5)  # for so long it has no connection
    gate.touch()
    assert first.result().success
    assert value_of(second.result()) < 19.7


def test_a_call_that_was_never_begun_says_nothing_for_a_breaker() -> None:
    clock = time.monotonic()
    breaker = Breaker(Settings(failures=1, open_for=1.0, probes=1, successes=1), lambda: clock)
    breaker.failed()
    clock += 2.0
    with pytest.raises(LaneError), _Tried(breaker.admit()):
        raise late()
    assert breaker.state is State.HALF_OPEN
    with pytest.raises(LaneError), _Tried(breaker.admit()):
        raise LaneError({"category": "python_error", "message": "it has run"})
    assert breaker.state is State.CLOSED
