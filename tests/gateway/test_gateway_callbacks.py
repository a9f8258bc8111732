"""Functions of Elixir, called by Python through ExecuteElixirTool."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from beam_side import SESSION_QUOTA, BeamSide
from gateway_process import Gateway, ToolFailed, read, request, until, value_of

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

MODULE = "gateway_callbacks"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def function(name: str, arity: int = 1) -> dict[str, Any]:
    """A function as SnakeBridge sends it."""
    return {"__type__": "callback", "__schema__": 1, "ref_id": name, "pid": "#PID<0.123.0>", "arity": arity}


@pytest.fixture(autouse=True)
def functions(beam: BeamSide) -> dict[str, Callable[..., Any]]:
    beam.functions = {"double": lambda n: 2 * n, "echo": lambda value: value, "fail": lambda value: 1 // 0}
    beam.asked.clear()
    beam.quota = SESSION_QUOTA
    return beam.functions


@pytest.mark.parametrize("way", ["apply", "apply_async", "await_it", "apply_in_a_thread_of_asyncio", "apply_in_a_thread"])
def test_a_function_is_called_from_any_kind_of_code(gateway: Gateway, beam: BeamSide, way: str) -> None:
    assert gateway.execute(way, function("double"), 21, module=MODULE, session_id="sess-cb") == 42
    [asked] = beam.asked
    assert (asked.session, asked.tool, asked.callback, asked.args) == ("sess-cb", "snakebridge.callback", "double", [21])


def test_the_session_is_made_before_the_first_callback_and_not_again_at_once(gateway: Gateway, beam: BeamSide) -> None:
    for _ in range(3):
        gateway.execute("apply", function("double"), 1, module=MODULE, session_id="sess-once")
    assert [asked.message.session_id for asked in beam.requests("InitializeSession")].count("sess-once") == 1


def test_threads_call_at_the_same_time(gateway: Gateway, functions: dict[str, Callable[..., Any]]) -> None:
    meeting = threading.Barrier(4)

    def meet(n: int) -> int:
        meeting.wait(20)
        return n * n

    functions["meet"] = meet
    assert gateway.execute("apply_in_threads", function("meet"), 4, module=MODULE) == [0, 1, 4, 9]
    assert gateway.execute("await_many", function("meet"), 4, module=MODULE) == [0, 1, 4, 9]


@pytest.mark.parametrize("way", ["apply", "apply_async", "apply_in_a_thread"])
def test_a_function_may_call_python_in_the_same_session(gateway: Gateway, functions: dict[str, Callable[..., Any]], way: str) -> None:
    functions["again"] = lambda n: gateway.execute("increment", n, module=MODULE)
    functions["deeper"] = lambda n: gateway.execute(way, function("again"), n, module=MODULE)
    functions["deepest"] = lambda n: gateway.execute(way, function("deeper"), n, module=MODULE)
    assert gateway.execute(way, function("deepest"), 1, module=MODULE) == 2


def test_a_call_that_waits_for_elixir_may_call_python_again_while_the_gateway_drains(
    start: Callable[..., Gateway], functions: dict[str, Callable[..., Any]]
) -> None:
    gateway = start("--drain-ms", "30000")

    def draining() -> bool:
        _, beat = gateway.stub.Heartbeat.with_call(pb.HeartbeatRequest(session_id="s"), timeout=5)
        return dict(beat.trailing_metadata()).get("bridge-adapter-state") == "draining"

    def again(n: int) -> Any:
        gateway.process.terminate()
        assert until(draining, 10)
        return gateway.execute("increment", n, module=MODULE)

    functions["again"] = again
    assert gateway.execute("apply", function("again"), 1, module=MODULE) == 2
    assert gateway.process.wait(10) == 0


def test_what_a_callback_calls_runs_where_its_session_is_when_another_executor_has_taken_over(
    gateway: Gateway, functions: dict[str, Callable[..., Any]]
) -> None:
    before = gateway.executor_pid()

    def length(held: Any) -> Any:
        os.kill(before, signal.SIGTERM)
        assert until(lambda: gateway.execute("getpid", module="os", session_id="elsewhere") != before, 20)
        return gateway.execute("len", held, module="builtins", session_id="stays")

    functions["length"] = length
    held = gateway.execute("a_collection", 3, session_id="stays")
    assert gateway.execute("apply", function("length"), held, module=MODULE, session_id="stays") == 3
    assert gateway.execute("increment", 1, module=MODULE, session_id="stays") == 2  # nothing leads to the old one any more


def test_what_a_callback_calls_does_not_end_with_a_call_that_it_does_not_belong_to(
    gateway: Gateway, functions: dict[str, Callable[..., Any]], pipe: Path, tmp_path: Path
) -> None:
    asked, go = threading.Event(), threading.Event()

    def wait(value: Any) -> Any:
        asked.set()
        go.wait(20)
        return value

    functions["wait"] = wait
    outer = gateway.stub.ExecuteTool.future(request("apply", function("wait"), 1, module=MODULE, session_id="guest"), timeout=30)
    assert asked.wait(20)
    guest = gateway.stub.ExecuteTool.future(request("tell", str(pipe), "in", session_id="guest"), timeout=30)
    outer.cancel()
    assert read(pipe) == "in"
    assert value_of(guest.result()) is None
    go.set()


@pytest.mark.parametrize("way", ["apply_or_say", "apply_in_a_thread"])
def test_a_function_that_fails_is_an_exception_in_python(gateway: Gateway, way: str) -> None:
    answer = gateway.execute(way, function("fail"), 1, module=MODULE)
    assert answer.endswith("integer division or modulo by zero')")
    with pytest.raises(ToolFailed, match=r"^RuntimeError: ZeroDivisionError"):
        gateway.execute("apply", function("fail"), 1, module=MODULE)


def test_python_may_call_by_itself_but_not_send(gateway: Gateway) -> None:
    assert gateway.execute("call", function("double"), 21, module="bridge_adapter.elixir") == 42
    assert gateway.execute("connected", module="bridge_adapter.elixir") is False
    with pytest.raises(ToolFailed, match="through Snakepit, which only lets Python call functions; pass a function that sends"):
        gateway.execute("send", "somebody", 1, module="bridge_adapter.elixir")


def test_a_function_that_elixir_does_not_know_says_so(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed, match=r"^RuntimeError: Callback failed: not_found$"):
        gateway.execute("apply", function("unknown"), 1, module=MODULE)


def test_a_session_that_elixir_refuses_is_reported_by_the_call_itself(gateway: Gateway, beam: BeamSide) -> None:
    beam.quota = 0
    with pytest.raises(ToolFailed, match="Callback failed: not_found"):
        gateway.execute("apply", function("double"), 1, module=MODULE, session_id="refused")
    beam.quota = SESSION_QUOTA
    assert gateway.execute("apply", function("double"), 1, module=MODULE, session_id="refused") == 2


def test_the_arity_is_checked_before_elixir_is_asked(gateway: Gateway, beam: BeamSide) -> None:
    with pytest.raises(ToolFailed, match=r"^TypeError: Callback expected arity 1, got 2$"):
        gateway.execute("apply", function("double"), 1, 2, module=MODULE)
    assert beam.asked == []


def test_keyword_arguments_are_a_map_that_comes_last(gateway: Gateway, functions: dict[str, Callable[..., Any]]) -> None:
    functions["both"] = lambda first, options: [first, options]
    answer = gateway.execute("apply", function("both", 2), 1, module=MODULE, kwargs={"k": "v", "n": 2})
    assert answer == [1, {"k": "v", "n": 2}]


def test_opaque_arguments_are_refs_that_work(gateway: Gateway, beam: BeamSide, functions: dict[str, Callable[..., Any]]) -> None:
    functions["name"] = lambda ref: gateway.execute("name", call_type="method", instance=ref, module=MODULE)
    assert gateway.execute("apply_to_a_thing", function("name"), module=MODULE) == "a thing"
    ref = beam.asked[0].args[0]
    assert (ref["__type__"], ref["session_id"], ref["type_name"]) == ("ref", "sess-A", "Thing")
    assert gateway.execute("apply_to_a_thing", function("echo"), module=MODULE) == "the same"


def test_arguments_are_exact(gateway: Gateway, beam: BeamSide, functions: dict[str, Callable[..., Any]]) -> None:
    functions["count"] = lambda *args: len(args)
    assert gateway.execute("apply_to_exact", function("count", 6), module=MODULE) == 6
    none, big, nan, data, pair, table = beam.asked[0].args
    assert (none, big) == (None, 2**70)
    assert (
        nan["__type__"] == "special_float" and data["__type__"] == "bytes" and pair["__type__"] == "tuple" and table["__type__"] == "dict"
    )


def test_large_results_arrive(gateway: Gateway, functions: dict[str, Callable[..., Any]]) -> None:
    functions["large"] = lambda n: "x" * n
    assert gateway.execute("apply", function("large"), 20_000_000, module=MODULE) == "x" * 20_000_000


def test_a_function_outlives_its_call_only_in_who_keeps_it(gateway: Gateway) -> None:
    gateway.execute("keep", function("double"), module=MODULE, session_id="keeps")
    assert gateway.execute("is_still", function("double"), module=MODULE, session_id="keeps") is True
    assert gateway.execute("apply_kept", 4, module=MODULE, session_id="keeps") == 8
    gateway.execute("keep", None, module=MODULE, session_id="keeps")
    gateway.execute("keep", function("double"), module=MODULE, session_id="keeps")
    assert gateway.execute("apply_kept", 5, module=MODULE, session_id="keeps") == 10


def test_streams_call_elixir_between_items(gateway: Gateway) -> None:
    chunks = gateway.chunks("stream_of", function("double"), 5, module=MODULE)
    assert [chunk.data for chunk in chunks[:-1]] == [b'{"data":%d}' % (2 * n) for n in range(5)]


def test_correlation_id_and_trace_go_along(gateway: Gateway, beam: BeamSide) -> None:
    message = request("apply", function("double"), 1, module=MODULE)
    assert value_of(gateway.stub.ExecuteTool(message, metadata=[("traceparent", TRACE)], timeout=20)) == 2
    [asked] = beam.asked
    assert asked.metadata == {"correlation_id": "sp-1", "traceparent": TRACE}
    assert (asked.headers["x-snakepit-correlation-id"], asked.headers["traceparent"]) == ("sp-1", TRACE)


def test_the_deadline_of_the_call_is_that_of_the_callback(gateway: Gateway, beam: BeamSide) -> None:
    gateway.execute("apply", function("double"), 1, module=MODULE, timeout=7)
    assert beam.asked[0].seconds is not None and 4 < beam.asked[0].seconds < 8


def test_a_callback_without_end_ends_with_the_deadline_of_its_call(gateway: Gateway, functions: dict[str, Callable[..., Any]]) -> None:
    go = threading.Event()
    functions["hang"] = lambda _: go.wait(20)
    call = gateway.stub.ExecuteTool.future(request("apply", function("hang"), 1, module=MODULE), timeout=1)
    # Whoever is first: the executor's answer or gRPC's own clock.
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED or json.loads(call.result().error_message)["category"] == "timeout"
    go.set()
    assert gateway.execute("apply", function("double"), 1, module=MODULE) == 2


def test_a_callback_has_a_time_limit_of_its_own(start: Callable[..., Gateway], beam: BeamSide) -> None:
    go = threading.Event()
    beam.functions["hang"] = lambda _: go.wait(20)
    answer = start("--callback-timeout-ms", "200").execute("apply_or_say", function("hang"), 1, module=MODULE)
    go.set()
    assert answer == "CallbackError: Callback failed: the Elixir function did not answer within 0.2 s"


def test_a_cancelled_call_cancels_its_callback(gateway: Gateway, beam: BeamSide, functions: dict[str, Callable[..., Any]]) -> None:
    asked, go = threading.Event(), threading.Event()

    def hang(_: Any) -> None:
        asked.set()
        go.wait(20)

    functions["hang"] = hang
    call = gateway.stub.ExecuteTool.future(request("apply", function("hang"), 1, module=MODULE), timeout=30)
    assert asked.wait(20)
    call.cancel()
    assert until(lambda: gateway.execute("increment", 1, module=MODULE, timeout=5) == 2, 5)
    go.set()
