"""What becomes of calls when the executor dies or hangs, and that the next one takes over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from gateway_process import Gateway, ToolFailed, read, request, value_of
from process_tree import gone

from bridge_adapter.proto import snakepit_bridge_pb2 as pb


@pytest.mark.parametrize(
    ("how", "words"), [("exit", "exit status 3"), ("SIGSEGV", "SIGSEGV"), ("SIGABRT", "SIGABRT"), ("SIGKILL", "out of memory")]
)
def test_a_call_that_takes_the_worker_down_is_answered_with_how_and_the_last_words(gateway: Gateway, how: str, words: str) -> None:
    with pytest.raises(ToolFailed) as error:
        gateway.execute("die", how)
    payload = error.value.payload
    assert (payload["type"], payload["category"]) == ("WorkerCrash", "worker_crash")
    assert words in payload["message"] and f"about to die by {how}" in payload["message"]
    assert payload["context"]["function"] == "die" and payload["context"]["caller_session_id"] == "sess-A"
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_an_executor_killed_from_outside_answers_its_calls_and_is_replaced(gateway: Gateway, pipe: Path) -> None:
    call = gateway.stub.ExecuteTool.future(request("wait_forever", str(pipe)), timeout=30)
    pid = int(read(pipe))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ToolFailed, match=f"SIGKILL.*pid {pid}"):
        value_of(call.result())
    assert gateway.executor_pid() != pid


def test_an_idempotent_call_is_repeated_on_the_next_executor(gateway: Gateway, tmp_path: Path) -> None:
    first = gateway.executor_pid()
    assert gateway.execute("die_once", str(tmp_path / "marker"), idempotent=True) != first


def test_an_idempotent_call_is_repeated_as_often_as_the_gateway_is_told(start: Callable[..., Gateway], tmp_path: Path) -> None:
    count = tmp_path / "count"
    with pytest.raises(ToolFailed) as error:
        start("--max-restarts", "1").execute("count_and_die", str(count), idempotent=True)
    payload = error.value.payload
    assert payload["type"] == "WorkerCrash" and payload["details"]["attempts"] == 2
    assert "run 2 times (max_restarts = 1)" in payload["message"]
    assert count.read_text() == "xx"


def test_a_request_says_how_often_it_may_be_repeated(gateway: Gateway, tmp_path: Path) -> None:
    count = tmp_path / "count"
    message = request("count_and_die", str(count), idempotent=True)
    message.metadata["max_restarts"] = "2"
    message.metadata["backoff_ms"] = "1,2"
    with pytest.raises(ToolFailed, match="run 3 times"):
        value_of(gateway.stub.ExecuteTool(message, timeout=30))
    assert count.read_text() == "xxx"
    message.metadata["backoff_ms"] = "soon"
    with pytest.raises(ToolFailed, match="backoff_ms is 'soon'; it must be pauses in milliseconds"):
        value_of(gateway.stub.ExecuteTool(message, timeout=30))


def test_the_answer_says_how_many_attempts_it_took(gateway: Gateway, tmp_path: Path) -> None:
    answer = gateway.stub.ExecuteTool(request("die_once", str(tmp_path / "marker"), idempotent=True), timeout=30)
    assert answer.success and answer.metadata["attempts"] == "2"


def test_a_call_that_is_not_idempotent_is_not_repeated(gateway: Gateway, tmp_path: Path) -> None:
    count = tmp_path / "count"
    with pytest.raises(ToolFailed):
        gateway.execute("count_and_die", str(count))
    assert count.read_text() == "x"


def test_a_stream_whose_executor_dies_ends_with_worker_crash(gateway: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as error:
        gateway.chunks("stream_and_die")
    assert error.value.code() == grpc.StatusCode.INTERNAL
    payload = json.loads(error.value.details())
    assert payload["type"] == "WorkerCrash" and "exit status 4" in payload["message"]


def test_processes_of_user_code_die_with_the_executor(gateway: Gateway) -> None:
    child = gateway.execute("start_child")
    os.kill(gateway.executor_pid(), signal.SIGKILL)
    assert gone(child, 5)


def test_an_executor_that_lost_its_sockets_is_replaced(gateway: Gateway) -> None:
    first = gateway.executor_pid()
    with pytest.raises(ToolFailed) as error:
        gateway.execute("close_every_socket")
    assert error.value.payload["category"] == "worker_crash"
    assert gateway.executor_pid() != first


def test_a_lost_connection_is_a_crash_although_the_executor_lives(gateway: Gateway, tmp_path: Path) -> None:
    executor, runs = gateway.executor_pid(), tmp_path / "runs"
    with pytest.raises(ToolFailed, match=f"pid {executor}. broke while it ran this call.*the worker itself lives") as error:
        gateway.execute("break_the_connection_of_this_call", str(runs))
    payload = error.value.payload
    assert (payload["category"], payload["type"]) == ("worker_crash", "WorkerCrash")
    assert (payload["details"]["cause"], payload["details"]["outcome"]) == ("connection_lost", "unknown")
    assert runs.read_text() == "x" and gateway.executor_pid() == executor


def test_an_idempotent_call_outlives_a_lost_connection(gateway: Gateway, tmp_path: Path) -> None:
    executor, runs = gateway.executor_pid(), [tmp_path / f"runs-{number}" for number in range(3)]
    answer = gateway.stub.ExecuteTool(request("break_the_connection_of_this_call", str(runs[0]), idempotent=True), timeout=30)
    assert value_of(answer) == executor and answer.metadata["attempts"] == "2"
    chunks = gateway.chunks("break_the_connection_of_this_stream", str(runs[1]), idempotent=True)
    assert [json.loads(chunk.data)["data"] for chunk in chunks[:-1]] == [0, 1, 2]
    message = request("break_the_connection_of_this_call", str(runs[2]), idempotent=True)
    message.metadata["retry_on"] = "exit,signal"
    with pytest.raises(ToolFailed, match="does not retry after connection_lost"):
        value_of(gateway.stub.ExecuteTool(message, timeout=30))
    assert [path.read_text() for path in runs] == ["xx", "xx", "x"]


def test_heartbeats_and_pings_are_answered_while_user_code_holds_the_gil(gateway: Gateway, pipe: Path) -> None:
    call = gateway.stub.ExecuteTool.future(request("hold_the_gil", str(pipe), 3), timeout=30)
    read(pipe)
    for _ in range(20):
        assert gateway.stub.Heartbeat(pb.HeartbeatRequest(session_id="s"), timeout=2).session_valid
        gateway.stub.Ping(pb.PingRequest(message="x"), timeout=2)
    assert not call.done()
    # A call that needs a connection of its own waits until there is somebody to greet it.
    assert gateway.execute("sqrt", 16, module="math", session_id="other") == 4.0
    assert value_of(call.result()) == "done"


def test_an_executor_that_cannot_start_again_is_told_to_the_callers(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    breaks = tmp_path / "user" / "sitecustomize.py"
    gateway = start(env={"PYTHONPATH": f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"})
    first = gateway.executor_pid()
    breaks.write_text("import os\nprint('the environment is broken', flush=True)\nos._exit(7)\n")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ToolFailed) as error:
        gateway.execute("sqrt", 16, module="math", idempotent=True)
    assert error.value.payload["category"] == "worker_start"
    assert "the environment is broken" in error.value.payload["message"]
    breaks.unlink()
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_a_call_that_ran_once_is_never_said_not_to_have_started(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    gateway = start(env={"PYTHONPATH": f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"})
    for idempotent, outcome in ((True, "unknown"), (False, "not_started")):
        with pytest.raises(ToolFailed) as error:
            gateway.execute("break_python_and_die", str(tmp_path / "user" / "sitecustomize.py"), idempotent=idempotent)
        payload = error.value.payload
        assert (payload["category"], payload["details"]["outcome"]) == ("worker_start", outcome)
        assert ("attempt 1 was begun, and may have had effects" in payload["message"]) is idempotent


def test_executors_that_are_killed_while_they_start_cost_no_call(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    gateway = start(env={"PYTHONPATH": f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"})
    first = gateway.executor_pid()
    starts = tmp_path / "starts"
    dies = f"import os\nopen({str(starts)!r}, 'a').write('x')\nif os.path.getsize({str(starts)!r}) < 6: os.kill(os.getpid(), 9)\n"
    (tmp_path / "user" / "sitecustomize.py").write_text(
        f"import sys\nif 'bridge_adapter.executor' in sys.orig_argv:\n    {dies.replace(chr(10), chr(10) + '    ')}"
    )
    os.kill(first, signal.SIGKILL)
    assert gateway.execute("sqrt", 16, module="math", idempotent=True) == 4.0
    assert len(starts.read_text()) == 6


def test_a_call_that_waits_for_an_executor_ends_at_its_deadline(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    gateway = start(env={"PYTHONPATH": f"{tmp_path / 'user'}:{Path(__file__).parent / 'python'}"})
    first = gateway.executor_pid()
    hangs = "import time, sys\nif 'bridge_adapter.executor' in sys.orig_argv: time.sleep(600)\n"
    (tmp_path / "user" / "sitecustomize.py").write_text(hangs)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as error:
        gateway.execute("sqrt", 16, module="math", timeout=1, idempotent=True)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    began = time.monotonic()
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - began < 5


def test_user_code_does_not_see_the_gateways_modules(gateway: Gateway) -> None:
    for name in ("supervisor", "service", "options", "codec", "kernels", "grpc_server"):
        assert gateway.execute("top_level", name) is False
    assert not any(place.endswith("/gateway") and "bridge_adapter" in place for place in gateway.execute("search_path"))
