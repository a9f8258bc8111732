"""The order of calls, what has not begun when an executor dies, and that a crash does not slow the next calls down."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_process import Gateway, ToolFailed, read, request, value_of
from process_tree import gone

from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.turns import Turns
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

SESSIONS = 16
CALLS = 8


@pytest.fixture
def own(start: Callable[..., Gateway]) -> Gateway:
    return start()


def test_calls_of_a_session_that_come_at_once_run_in_the_order_in_which_they_came(own: Gateway) -> None:
    """On a gateway that has no connection to its executor yet, which is where they could overtake each other. gRPC itself hands calls that
    are made at once over in another order now and then; in which one they came is told by their start events."""

    async def send() -> list[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{own.port}") as channel:
            await channel.channel_ready()
            stub = rpc.BridgeServiceStub(channel)
            messages = [request("note_down", f"s{k}", n, session_id=f"s{k}") for n in range(CALLS) for k in range(SESSIONS)]
            for number, message in enumerate(messages):
                message.metadata["correlation_id"] = str(number)
            return [value_of(answer) for answer in await asyncio.gather(*(stub.ExecuteTool(message, timeout=30) for message in messages))]

    assert asyncio.run(send()) == [n for n in range(CALLS) for _ in range(SESSIONS)]
    controls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    events = own.stub.StreamTelemetry(iter(controls.get, None), timeout=30)
    starts = (int(event.correlation_id) for event in events if list(event.event_parts) == ["python", "call", "start"])
    came = list(itertools.islice(starts, CALLS * SESSIONS))
    controls.put(None)
    events.cancel()
    for k in range(SESSIONS):
        expected = [number // SESSIONS for number in came if number % SESSIONS == k]
        assert own.execute("noted", f"s{k}", session_id=f"s{k}") == expected and len(expected) == CALLS


def test_calls_that_wait_for_their_session_have_not_begun_when_the_executor_dies(gateway: Gateway, pipe: Path) -> None:
    first = gateway.stub.ExecuteTool.future(request("wait_forever", str(pipe)), timeout=30)
    executor = int(read(pipe))
    waiting = [gateway.stub.ExecuteTool.future(request("note_down", "after", n), timeout=30) for n in range(4)]
    assert gateway.execute("sqrt", 16, module="math", session_id="other") == 4.0  # by now they are in the gateway
    os.kill(executor, signal.SIGKILL)
    with pytest.raises(ToolFailed, match="WorkerCrash"):
        value_of(first.result())
    assert [value_of(call.result()) for call in waiting] == [0, 1, 2, 3]


def test_a_call_that_comes_while_an_abandoned_one_holds_the_gil_runs_on_the_next_executor(
    start: Callable[..., Gateway], pipe: Path, tmp_path: Path
) -> None:
    own = start("--kill-after-ms", "500")
    met = [own.stub.ExecuteTool.future(request("meet", 3, session_id=f"m{n}"), timeout=20) for n in range(3)]
    assert sorted(value_of(call.result()) for call in met) == [0, 1, 2]  # so there are connections that wait for work
    stuck = own.stub.ExecuteTool.future(request("hold_the_gil", str(pipe), 60), timeout=30)
    executor = int(read(pipe))
    stuck.cancel()
    count = tmp_path / "count"
    assert own.execute("count_once", str(count), session_id="innocent", timeout=20) == 1
    assert count.read_text() == "x" and gone(executor, 5)


def test_crashes_do_not_make_the_next_call_wait(start: Callable[..., Gateway]) -> None:
    own = start("--breaker-failures", "0")
    for _ in range(10):
        with pytest.raises(ToolFailed, match="WorkerCrash"):
            own.execute("die", "exit")
    # Pauses that grew with every crash would be at five seconds by now.
    assert own.execute("sqrt", 16, module="math", timeout=4) == 4.0


def test_a_function_is_judged_by_its_calls_whoever_sends_the_signal(start: Callable[..., Gateway], tmp_path: Path) -> None:
    own = start("--breaker-failures", "2")
    for _ in range(2):
        with pytest.raises(ToolFailed, match="WorkerCrash"):
            own.execute("die", "SIGKILL")
    with pytest.raises(ToolFailed, match="CircuitOpen"):
        own.execute("die", "SIGKILL")
    # It dies under every call, as if somebody killed it; every call succeeds when it is run again.
    for n in range(4):
        assert own.execute("die_once", str(tmp_path / f"{n}"), idempotent=True) == own.executor_pid()


def test_a_session_that_waits_for_its_turn_and_is_given_up_lets_the_others_go_on(gateway: Gateway, pipe: Path) -> None:
    first = gateway.stub.ExecuteTool.future(request("wait_forever", str(pipe)), timeout=30)
    read(pipe)
    waiting = [gateway.stub.ExecuteTool.future(request("note_down", "given up", n), timeout=30) for n in range(4)]
    waiting[0].cancel()
    waiting[2].cancel()
    first.cancel()
    assert [value_of(waiting[n].result()) for n in (1, 3)] == [1, 3]


def test_a_stream_gives_its_turn_back_with_its_first_items(gateway: Gateway) -> None:
    stream = gateway.stub.ExecuteStreamingTool(request("count", module="itertools", tool="snakebridge.stream"), timeout=30)
    assert next(stream).data == b'{"data":0}'
    assert gateway.execute("sqrt", 16, module="math") == 4.0
    stream.cancel()
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_turns_leave_nothing_behind() -> None:
    async def use() -> None:
        turns = Turns()
        order: list[int] = []

        async def call(n: int) -> None:
            async with turns.of("s"):
                order.append(n)
                await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(call(n)) for n in range(10)]
        await asyncio.sleep(0)
        for n in (1, 5, 9):
            tasks[n].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2, 3, 4, 6, 7, 8]
        async with turns.of("s"):
            with turns.asking("s", "an executor"):
                async with turns.of("s"):
                    order.append(10)
        assert order[-1] == 10 and not turns._queues and not turns._asking

    asyncio.run(use())


def test_those_that_have_left_the_queue_are_not_counted() -> None:
    async def use() -> None:
        turns = Turns(2)

        async def call() -> None:
            async with turns.of("s"):
                return

        async with turns.of("s"):
            for _ in range(10):
                left = asyncio.ensure_future(call())
                await asyncio.sleep(0)
                left.cancel()
                await asyncio.wait({left})
            waiting = [asyncio.ensure_future(call()) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(LaneError, match="overloaded: 2 calls wait for their turn in the session 's'"):
                await call()
        await asyncio.gather(*waiting)
        assert not turns._queues

    asyncio.run(use())
