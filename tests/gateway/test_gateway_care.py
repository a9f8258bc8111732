"""How a gateway looks after its executors and its load: breakers, heartbeats, drain, spare executors, recycling, bounded queues."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_process import Gateway, ToolFailed, read, request, until, value_of
from process_tree import gone

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

SPOKEN = {"SNAKEPIT_LOG_LEVEL": "info"}


def failure(gateway: Gateway, function: str, *args: Any, **fields: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as error:
        gateway.execute(function, *args, **fields)
    return error.value.payload


def executors(directory: Path) -> list[int]:
    """The pids of the executors of a gateway whose sockets lie there."""
    mine = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"unix:{directory}/snakebridge-" in (entry / "cmdline").read_text(errors="replace"):
                mine.append(int(entry.name))
        except OSError:
            continue
    return mine


def begin(gateway: Gateway, pipe: Path, gate: Path, **fields: Any) -> Any:
    """A call that runs until the gate is there."""
    return gateway.stub.ExecuteTool.future(request("until_there", str(pipe), str(gate), module="gateway_waits", **fields), timeout=60)


# --- what is said of crashes, and what follows from it ---


def test_a_crash_tells_its_cause_and_policies_name_those_after_which_a_call_is_run_again(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway, count = start("--retry-on", "signal,oom"), tmp_path / "count"
    details = failure(gateway, "die", "exit")["details"]
    assert (details["cause"], details["exit_status"], details["signal"], details["outcome"]) == ("exit", 3, None, "unknown")
    details = failure(gateway, "shut_the_sockets", module="gateway_waits")["details"]
    assert (details["cause"], details["outcome"]) == ("connection_lost", "unknown")
    details = failure(gateway, "abort_saying", "failed: CUDA_ERROR_ILLEGAL_ADDRESS", module="gateway_waits")["details"]
    assert (details["cause"], details["exit_status"], details["signal"]) == ("gpu_fault", None, 6)
    payload = failure(gateway, "count_and_die", str(count), idempotent=True)
    assert payload["details"]["attempts"] == 1 and "does not retry after exit (retry_on)" in payload["message"]
    message = request("die_once", str(tmp_path / "marker"), idempotent=True)
    message.metadata["retry_on"] = "exit"
    answer = gateway.stub.ExecuteTool(message, timeout=30)
    assert value_of(answer) and answer.metadata["attempts"] == "2"


def test_a_function_that_crashes_again_and_again_is_refused_and_tried_later(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway, count = start("--breaker-failures", "2", "--breaker-open-ms", "700"), tmp_path / "count"
    for _ in range(2):
        assert failure(gateway, "count_and_die", str(count))["category"] == "worker_crash"
    payload = failure(gateway, "count_and_die", str(count), session_id="another")
    assert (payload["category"], payload["type"]) == ("circuit_open", "CircuitOpen")
    assert payload["details"]["outcome"] == "not_started" and 0 < payload["details"]["retry_after_ms"] <= 701
    assert "gateway_sample.count_and_die has taken the Python worker down 2 times" in payload["message"]
    assert gateway.execute("sqrt", 16, module="math") == 4.0
    assert until(lambda: failure(gateway, "count_and_die", str(count))["category"] == "worker_crash", 10)
    assert count.read_text() == "xxx"
    assert failure(gateway, "count_and_die", str(count))["category"] == "circuit_open"  # one failed probe is enough
    assert "gateway_sample.count_and_die has failed too often" in gateway.output()


def test_kills_from_outside_are_no_functions_fault(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    gateway = start("--breaker-failures", "1")
    call = begin(gateway, pipe, tmp_path / "gate")
    os.kill(int(read(pipe)), signal.SIGKILL)
    with pytest.raises(ToolFailed, match="SIGKILL"):
        value_of(call.result())
    (tmp_path / "gate").touch()
    again = begin(gateway, pipe, tmp_path / "gate")
    assert int(read(pipe)) == value_of(again.result())


def test_calls_do_not_wait_for_an_executor_that_cannot_live(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    path = f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"
    gateway = start("--breaker-failures", "2", "--breaker-open-ms", "600", env={"PYTHONPATH": path})
    first = gateway.executor_pid()
    breaks = tmp_path / "user" / "sitecustomize.py"
    breaks.write_text("import sys\nif 'bridge_adapter.executor' in sys.orig_argv: sys.exit(7)\n")
    os.kill(first, signal.SIGKILL)
    assert until(lambda: failure(gateway, "sqrt", 16, module="math")["category"] == "circuit_open", 20)
    assert until(lambda: "the Python worker has failed too often" in gateway.output(), 5)
    gateway.stub.Ping(pb.PingRequest(message="x"), timeout=2)
    breaks.unlink()

    def works() -> bool:
        try:
            return bool(gateway.execute("sqrt", 16, module="math") == 4.0)
        except ToolFailed:
            return False

    assert until(works, 20)


def test_an_executor_that_answers_no_ping_is_replaced(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    gateway = start("--executor-heartbeat-ms", "400")
    call = begin(gateway, pipe, tmp_path / "gate")
    pid = int(read(pipe))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ToolFailed) as error:
        value_of(call.result())
    details = error.value.payload["details"]
    assert (details["cause"], details["outcome"]) == ("missed_heartbeat", "unknown")
    assert gone(pid, 2) and gateway.executor_pid() != pid


def test_an_executor_that_is_told_to_end_costs_no_call(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    gateway = start()
    call = begin(gateway, pipe, tmp_path / "gate")
    pid = int(read(pipe))
    os.kill(pid, signal.SIGTERM)
    # The next call finds it draining, and goes to the next executor; the first one comes to its end.
    assert until(lambda: gateway.execute("getpid", module="os", session_id="another") != pid, 10)
    (tmp_path / "gate").touch()
    assert value_of(call.result()) == pid
    assert gone(pid, 5)


# --- the end ---


def test_a_gateway_that_is_told_to_end_finishes_its_calls_and_takes_no_new_ones(
    start: Callable[..., Gateway], pipe: Path, tmp_path: Path
) -> None:
    gateway = start("--drain-ms", "30000", env=SPOKEN)
    call = begin(gateway, pipe, tmp_path / "gate")
    pid = int(read(pipe))
    gateway.process.send_signal(signal.SIGTERM)

    def sent_away() -> grpc.RpcError | None:
        try:
            gateway.execute("sqrt", 16, module="math", session_id="another")
        except grpc.RpcError as error:
            return error
        return None

    assert until(lambda: sent_away() is not None, 10)
    error = sent_away()
    assert error is not None and error.code() == grpc.StatusCode.UNAVAILABLE
    trailing = dict(error.trailing_metadata())
    assert trailing["bridge-adapter-state"] == "draining" and 0 < int(trailing["retry-after-ms"]) <= 30001
    assert "takes no new calls; this one was not begun" in error.details()
    with pytest.raises(grpc.RpcError) as refused:
        gateway.chunks("many", 3)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    _, beat = gateway.stub.Heartbeat.with_call(pb.HeartbeatRequest(session_id="s"), timeout=5)
    assert dict(beat.trailing_metadata())["bridge-adapter-state"] == "draining"
    (tmp_path / "gate").touch()
    assert value_of(call.result()) == pid
    assert gateway.process.wait(10) == 0
    assert "drained: 1 calls finished, 0 cancelled, 0 killed, 3 refused" in gateway.output()


def test_calls_that_wait_for_an_executor_are_told_when_the_gateway_ends(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    gateway = start("--drain-ms", "50", env={**SPOKEN, "PYTHONPATH": f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"})
    first = gateway.executor_pid()
    hangs = "import time, sys\nif 'bridge_adapter.executor' in sys.orig_argv: time.sleep(600)\n"
    (tmp_path / "user" / "sitecustomize.py").write_text(hangs)
    os.kill(first, signal.SIGKILL)
    assert gone(first, 5) and until(lambda: "the executor is gone" in gateway.output(), 5)
    call = gateway.stub.ExecuteTool.future(request("sqrt", 16, module="math"), timeout=60)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(timeout=0.3)
    gateway.process.terminate()
    with pytest.raises(ToolFailed) as error:
        value_of(call.result())
    payload = error.value.payload
    assert (payload["category"], payload["details"]["outcome"]) == ("unavailable", "not_started")
    assert gateway.process.wait(5) == 0
    assert "drained: 0 calls finished, 1 cancelled, 0 killed" in gateway.output()


@pytest.mark.parametrize(
    ("function", "category", "totals"),
    [("wait_forever", "cancelled", "0 calls finished, 1 cancelled, 0 killed"), ("hold_the_gil", "worker_crash", "0 cancelled, 1 killed")],
)
def test_calls_that_do_not_finish_are_cancelled_and_then_killed(
    start: Callable[..., Gateway], pipe: Path, function: str, category: str, totals: str
) -> None:
    gateway = start("--drain-ms", "50", env=SPOKEN)
    arguments = [600] if function == "hold_the_gil" else []
    call = gateway.stub.ExecuteTool.future(request(function, str(pipe), *arguments, idempotent=True), timeout=60)
    read(pipe)
    gateway.process.send_signal(signal.SIGTERM)
    with pytest.raises(ToolFailed) as error:
        value_of(call.result())
    assert error.value.payload["category"] == category
    assert gateway.process.wait(10) == 0
    assert totals in gateway.output()


def test_a_second_signal_forces_the_end(start: Callable[..., Gateway], pipe: Path, tmp_path: Path) -> None:
    gateway = start("--drain-ms", "60000", env=SPOKEN)
    call = begin(gateway, pipe, tmp_path / "gate")
    executor = int(read(pipe))
    gateway.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError):
        while True:
            gateway.execute("sqrt", 16, module="math", session_id="another")
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(5) == 0
    assert gone(executor, 1)
    with pytest.raises((ToolFailed, grpc.RpcError)):
        value_of(call.result())


# --- spare executors and recycling ---


def test_a_spare_executor_takes_over(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start("--spare", "1", env=SPOKEN)
    first = gateway.executor_pid()
    assert until(lambda: "a spare executor is ready" in gateway.output(), 10)
    (spare,) = set(executors(tmp_path)) - {first}
    os.kill(first, signal.SIGKILL)
    assert gateway.execute("getpid", module="os", idempotent=True) == spare
    assert until(lambda: len(executors(tmp_path)) == 2 and first not in executors(tmp_path), 10)
    # A spare one that dies is replaced, too.
    (second,) = set(executors(tmp_path)) - {spare}
    os.kill(second, signal.SIGKILL)
    assert until(lambda: len(executors(tmp_path)) == 2 and second not in executors(tmp_path), 10)
    assert gateway.executor_pid() == spare


def test_executors_are_replaced_after_their_share_of_calls_and_no_call_fails(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start("--recycle-calls", "20", env=SPOKEN)
    pids: list[int] = []

    def replaced_twice() -> bool:
        pids.append(gateway.executor_pid())
        return len(set(pids)) >= 3

    assert until(replaced_twice, 20)
    assert "it has had" in gateway.output() and "(--recycle-calls 20)" in gateway.output()
    assert until(lambda: len(executors(tmp_path)) <= 2, 10)


def test_objects_of_sessions_hold_up_the_replacement(start: Callable[..., Gateway]) -> None:
    gateway = start("--recycle-calls", "2", env=SPOKEN)
    pid = gateway.executor_pid()
    ref = gateway.execute("keep", module="gateway_waits")
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        assert gateway.executor_pid() == pid
    release = request("", tool="snakebridge.release_session")
    value_of(gateway.stub.ExecuteTool(release, timeout=10))
    assert ref and until(lambda: gateway.executor_pid() != pid, 20)


def test_objects_hold_it_up_no_longer_than_they_may(start: Callable[..., Gateway]) -> None:
    gateway = start("--recycle-after-ms", "300", "--recycle-max-wait-ms", "300")
    pid = gateway.executor_pid()
    gateway.execute("keep", module="gateway_waits")
    assert until(lambda: gateway.executor_pid() != pid, 10)


# --- bounded queues ---


@pytest.mark.parametrize("place", ["session", "connection"])
def test_what_waits_is_bounded(start: Callable[..., Gateway], pipe: Path, tmp_path: Path, place: str) -> None:
    flags, sessions, what = {
        "session": ([], "one", "their turn in the session 'one'"),
        "connection": (["--max-connections", "1"], "s{}", "a connection to the Python worker"),
    }[place]
    gateway, gate = start("--max-queue", "2", *flags), tmp_path / "gate"
    calls = [begin(gateway, pipe, gate, session_id=sessions.format(0))]
    read(pipe)
    refused: list[dict[str, Any]] = []
    waiting = [
        gateway.stub.ExecuteTool.future(request("sqrt", 16, module="math", session_id=sessions.format(n)), timeout=30) for n in range(1, 5)
    ]
    assert until(lambda: sum(call.done() for call in waiting) == 2, 10)
    for call in waiting:
        if call.done():
            with pytest.raises(ToolFailed) as error:
                value_of(call.result())
            refused.append(error.value.payload)
    gate.touch()
    assert value_of(calls[0].result()) and sum(value_of(call.result()) == 4.0 for call in waiting if call.result().success) == 2
    for payload in refused:
        assert (payload["category"], payload["details"]["outcome"]) == ("overloaded", "not_started")
        assert payload["details"]["retry_after_ms"] > 0 and f"2 calls wait for {what}" in payload["message"]
