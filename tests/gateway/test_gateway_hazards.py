"""What user code may do to the process it runs in, and that the gateway goes on and says what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_process import USER_CODE, Gateway, ToolFailed, read, request, until, value_of
from process_tree import gone

from bridge_adapter.gateway.output import MOST_WAITING, Output
from bridge_adapter.proto import snakepit_bridge_pb2 as pb

HAZARDS = "gateway_hazards"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def own(start: Callable[..., Gateway]) -> Gateway:
    return start()


def alive(gateway: Gateway) -> bool:
    """Heartbeats and pings are answered, and so is a call."""
    assert gateway.stub.Heartbeat(pb.HeartbeatRequest(session_id="s"), timeout=2).session_valid
    gateway.stub.Ping(pb.PingRequest(message="x"), timeout=2)
    return bool(gateway.execute("sqrt", 16, module="math") == 4.0)


def test_a_forked_child_that_returns_from_the_call_answers_nothing(gateway: Gateway) -> None:
    children = [gateway.execute("fork_and_return", module=HAZARDS) for _ in range(5)]
    assert all(child > 0 for child in children)
    assert all(gone(child, 5) for child in children)
    assert alive(gateway)


def test_a_forked_child_that_stays_ends_with_the_executor(gateway: Gateway) -> None:
    executor = gateway.executor_pid()
    child = gateway.execute("fork_a_child_that_stays", module=HAZARDS)
    os.kill(executor, signal.SIGKILL)
    assert gone(child, 5)
    assert alive(gateway)


def test_a_forked_child_cannot_call_elixir(gateway: Gateway) -> None:
    function = {"__type__": "callback", "ref_id": "cb_1", "pid": "#PID<0.1.0>", "arity": 1}
    told = gateway.execute("fork_and_call", function, module=HAZARDS)
    assert told.startswith("CallbackGone: Elixir functions cannot be called in a process")


def test_threads_that_stay_do_not_hold_up_the_end(own: Gateway) -> None:
    assert own.execute("start_threads_that_stay", 20, module=HAZARDS) > 20
    executor = own.executor_pid()
    own.process.terminate()
    assert own.process.wait(5) == 0 and gone(executor, 0)


def test_signals_that_user_code_ignores_still_end_it(own: Gateway) -> None:
    assert own.execute("ignore_signals", module=HAZARDS) == "ignored"
    executor = own.executor_pid()
    own.process.terminate()
    assert own.process.wait(5) == 0 and gone(executor, 0)


def test_a_signal_that_user_code_has_asked_for_is_named(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed, match="killed by SIGALRM"):
        gateway.execute("alarm", module=HAZARDS)
    assert alive(gateway)


def test_closed_standard_streams_do_not_end_up_in_our_messages(own: Gateway) -> None:
    own.execute("close_standard_streams", module=HAZARDS)
    # The connections made from here on, six at once, would get the numbers that are free now.
    met = [own.stub.ExecuteTool.future(request("meet", 6, session_id=f"m{n}"), timeout=20) for n in range(6)]
    assert sorted(value_of(answer.result()) for answer in met) == list(range(6))
    said = [own.stub.ExecuteTool.future(request("say", "x" * 100, module=HAZARDS, session_id=f"s{n}"), timeout=20) for n in range(20)]
    assert [value_of(answer.result()) for answer in said] == [None] * 20
    assert alive(own)


def test_what_is_printed_after_somebody_has_closed_stdout_still_arrives(own: Gateway, tmp_path: Path) -> None:
    own.execute("close_standard_streams", module=HAZARDS)
    file = tmp_path / "file"
    assert own.execute("print_while_a_file_is_open", str(file), module=HAZARDS, session_id="other") == "data"
    assert until(lambda: "[corr=sp-1] printed" in own.output(), 5)


def test_another_protobuf_of_user_code_is_not_ours(start: Callable[..., Gateway], tmp_path: Path) -> None:
    package = tmp_path / "vendored" / "google" / "protobuf"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("__version__ = '2.6.1'\n")
    own = start(env={"PYTHONPATH": f"{package.parent.parent}:{USER_CODE}"})
    assert own.execute("protobuf_version", module=HAZARDS) == "2.6.1"
    assert alive(own)


def test_an_abandoned_call_that_cannot_be_interrupted_costs_the_executor(start: Callable[..., Gateway], pipe: Path) -> None:
    own = start("--kill-after-ms", "300")
    stuck = own.stub.ExecuteTool.future(request("hold_the_gil", str(pipe), 60), timeout=30)
    executor = int(read(pipe))
    younger = own.stub.ExecuteTool.future(request("sqrt", 16, module="math", session_id="other", idempotent=True), timeout=30)
    stuck.cancel()
    assert gone(executor, 10)
    assert value_of(younger.result()) == 4.0
    assert alive(own)


def test_the_calls_that_it_takes_along_say_so(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    own = start("--kill-after-ms", "300")
    other = tmp_path / "other"
    os.mkfifo(other)
    stuck = own.stub.ExecuteTool.future(request("swallow_forever", str(pipe)), timeout=30)
    read(pipe)
    younger = own.stub.ExecuteTool.future(request("wait_forever", str(other), session_id="other"), timeout=30)
    read(other)
    stuck.cancel()
    with pytest.raises(ToolFailed, match="because a call that was cancelled could not be interrupted within"):
        value_of(younger.result())
    assert alive(own)


def test_an_older_call_that_is_still_wanted_is_not_sacrificed(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    own = start("--kill-after-ms", "200")
    other = tmp_path / "other"
    os.mkfifo(other)
    older = own.stub.ExecuteTool.future(request("wait_forever", str(other), session_id="older"), timeout=30)
    executor = int(read(other))
    stuck = own.stub.ExecuteTool.future(request("swallow_forever", str(pipe)), timeout=30)
    read(pipe)
    stuck.cancel()
    assert not gone(executor, 1)
    older.cancel()
    assert gone(executor, 10)


def test_what_user_code_prints_has_the_id_of_its_call(own: Gateway) -> None:
    own.execute("say_in_pieces", module=HAZARDS)
    lines = ["[corr=sp-1] one line", "[corr=sp-1] half a line", "[corr=sp-1] an error", "[corr=sp-1] no end"]
    assert until(lambda: own.output().splitlines() == lines, 5), own.output()


def test_a_flood_of_output_holds_up_nothing(own: Gateway) -> None:
    assert own.execute("flood", 20, module=HAZARDS) == 20
    assert alive(own)


def test_output_that_nobody_reads_is_dropped_and_counted() -> None:
    end, begin = os.pipe()
    output = Output(begin)
    for _ in range(5):
        output.put(b"x" * (MOST_WAITING // 2))
    output.put(b"last")
    text = b""
    while b"bytes of output were dropped here" not in text:
        text += os.read(end, 1 << 16)
    assert len(text) < 4 * MOST_WAITING
    os.close(end)
    os.close(begin)


def test_user_code_knows_its_call_and_its_trace(gateway: Gateway) -> None:
    message = request("what_is_running", module=HAZARDS)
    answer = value_of(gateway.stub.ExecuteTool(message, metadata=[("traceparent", TRACE)]))
    assert answer == {"corr": "sp-1", "session": "sess-A", "trace": TRACE, "tool": "snakebridge.call"}
    message = request("what_is_running_async", module=HAZARDS)
    message.metadata["traceparent"] = TRACE
    assert value_of(gateway.stub.ExecuteTool(message)) == answer


def test_spans_of_user_code_belong_to_the_callers_trace(gateway: Gateway) -> None:
    message = request("current_span", module=HAZARDS)
    assert value_of(gateway.stub.ExecuteTool(message, metadata=[("traceparent", TRACE)])) == [TRACE[3:35], TRACE[36:52]]
    assert value_of(gateway.stub.ExecuteTool(request("current_span", module=HAZARDS)))[0] == "0" * 32


def test_the_deadline_reaches_user_code(gateway: Gateway) -> None:
    assert 15 < gateway.execute("seconds_left", module=HAZARDS, timeout=20) < 21  # gRPC rounds up
    assert value_of(gateway.stub.ExecuteTool(request("seconds_left", module=HAZARDS))) is None
