"""Workers of every way in under a pool that does what Snakepit's does: start, watch, restart, stop."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_worker import Answer, CallFailed, StartFailed
from process_tree import children, gone
from standin import STRICT_QUEUE, Pool
from ways_in import ADAPTER, GATEWAY, WAYS, launcher

MODULE = "gateway_sample"
CALLBACK = {"__type__": "callback", "__schema__": 1, "ref_id": "cb_1_1", "pid": "#PID<0.1.0>", "arity": 1}

Start = Callable[..., Pool]


class Background:
    """A call in a thread of its own. `result` waits for it."""

    def __init__(self, call: Callable[..., Any], *args: Any, **fields: Any) -> None:
        self._outcome: list[Any] = []

        def run() -> None:
            try:
                self._outcome.append(call(*args, **fields))
            except Exception as error:
                self._outcome.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join()
        [outcome] = self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def pipe(directory: Path) -> Path:
    path = directory / "pipe"
    os.mkfifo(path)
    return path


def read(pipe: Path) -> str:
    """What user code tells through a named pipe."""
    return pipe.read_text()


# --- start ---


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_comes_up_under_the_name_and_with_the_flags_that_snakepit_looks_for(start_pool: Start, directory: Path, way: str) -> None:
    stages: list[str] = []
    initialized = threading.Event()

    def on_stage(name: str, worker: Any) -> None:
        stages.append(name)
        if name == "initialized":
            initialized.set()

    pool = start_pool(way, on_stage=on_stage)
    worker = pool.worker()
    assert initialized.wait(20)
    assert stages == ["spawned", "ready", "connected", "initialized"]
    process = Path(f"/proc/{worker.pid}")
    flags = (process / "cmdline").read_bytes().decode().split("\0")
    assert "python" in (process / "comm").read_text()
    assert any("grpc_server.py" in flag for flag in flags)
    assert flags[flags.index("--snakepit-run-id") + 1] == pool.run_id
    assert flags[flags.index("--elixir-address") + 1] == pool.beam.address
    assert worker.group and os.getpgid(worker.pid) == worker.pid
    assert not list(directory.glob("snakepit_ready*"))
    assert pool.beam.wait_for("Ping")
    # Snakepit's own server gives away what is not a map or a string; through ours every value is exact.
    assert pool.call("factorial", 30, module="math").value == math.factorial(30)
    assert pool.call("getpid", module="os").value in children(worker.pid)


def test_a_missing_adapter_stops_the_pool_before_it_starts(directory: Path) -> None:
    broken = launcher(ADAPTER, directory)
    pool = Pool(directory, type(broken)(**{**vars(broken), "adapter": "no_such_module.Adapter"}))
    with pytest.raises(StartFailed, match="health check ended with 1"):
        pool.start()
    assert not pool.history
    pool.stop()


@pytest.mark.parametrize("way", [GATEWAY, ADAPTER])
def test_the_caller_session_and_the_correlation_id_go_through_to_elixir_functions(start_pool: Start, way: str) -> None:
    pool = start_pool(way)
    pool.beam.register_callback("sess-1", "cb_1_1", lambda n: n * 2)
    answer = pool.call("apply", CALLBACK, 21, module="gateway_callbacks", session="sess-1", correlation="sp-of-the-test")
    assert answer.value == 42
    [asked] = pool.beam.asked
    assert (asked.session, asked.callback, asked.args) == ("sess-1", "cb_1_1", [21])
    # Snakepit's own server does not tell its adapter how long the caller waits.
    assert asked.seconds is not None and (way == ADAPTER or asked.seconds < 60)
    assert asked.metadata["correlation_id"] == "sp-of-the-test"
    assert "sess-1" in pool.beam.sessions


# --- while it runs ---


def test_the_telemetry_stream_is_cut_and_the_worker_stays(start_pool: Start) -> None:
    pool = start_pool(GATEWAY, heartbeat_seconds=0.1)
    worker = pool.worker()
    while not worker.telemetry_end:
        pool.call("sqrt", 16, module="math")
        worker.ended.wait(0.2)
    assert worker.telemetry_end == "DEADLINE_EXCEEDED"
    names = {".".join(event.event_parts) for event in worker.events}
    assert {"python.call.start", "python.call.stop"} <= names
    assert pool.call("sqrt", 16, module="math").value == 4.0
    assert pool.history == [worker] and worker.status is None


@pytest.mark.parametrize("way", WAYS)
def test_heartbeats_are_answered_while_user_code_holds_the_interpreter(start_pool: Start, pipe: Path, way: str) -> None:
    pool = start_pool(way, heartbeat_seconds=0.05)
    call = Background(pool.call, "hold_the_gil", str(pipe), 1, module=MODULE)
    read(pipe)
    worker, before = pool.worker(), pool.worker().beats
    assert call.result().value == "done"
    assert worker.beats - before >= 5
    assert not worker.killed_because


def test_a_worker_that_misses_one_heartbeat_is_killed_and_starts_again_under_its_name(start_pool: Start) -> None:
    pool = start_pool(GATEWAY, heartbeat_seconds=0.05, heartbeat_timeout=1.0)
    worker = pool.worker()
    executor = pool.call("getpid", module="os").value
    os.kill(worker.pid, signal.SIGSTOP)
    again = pool.worker(other_than=worker)
    assert (worker.status, worker.killed_because) == (137, "a heartbeat failed: DEADLINE_EXCEEDED")
    assert again.id == worker.id and again.session_id != worker.session_id
    assert gone(executor, 5)
    assert pool.call("getpid", module="os").value != executor


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_of_user_code_costs_one_call_and_not_the_worker(start_pool: Start, directory: Path, way: str) -> None:
    pool = start_pool(way)
    worker = pool.worker()
    with pytest.raises(CallFailed) as failed:
        pool.call("die", "SIGSEGV", module=MODULE)
    assert failed.value.payload["type"] == "WorkerCrash"
    assert "SIGSEGV" in failed.value.payload["message"] and "about to die by SIGSEGV" in failed.value.payload["message"]
    assert pool.call("die_once", str(directory / "marker"), module=MODULE, idempotent=True).value > 0
    assert pool.history == [worker] and worker.status is None


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_is_killed_in_a_call_is_unavailable_and_starts_again(start_pool: Start, pipe: Path, way: str) -> None:
    pool = start_pool(way)
    worker = pool.worker()
    child = pool.call("start_child", module=MODULE).value
    call = Background(pool.call, "wait_forever", str(pipe), module=MODULE)
    executor = int(read(pipe))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(CallFailed) as failed:
        call.result()
    assert failed.value.fields["code"] == "UNAVAILABLE"
    assert gone(executor, 5) and gone(child, 5)
    again = pool.worker(other_than=worker)
    assert (again.id, worker.status) == (worker.id, 137)
    assert pool.call("sqrt", 16, module="math").value == 4.0


def test_a_worker_gets_one_call_at_a_time(start_pool: Start, pipe: Path) -> None:
    pool = start_pool(GATEWAY)
    first = Background(pool.call, "tell", str(pipe), "first", module=MODULE)
    second = Background(pool.call, "sqrt", 16, module="math", session="other")
    with pytest.raises(CallFailed, match="no_workers_available"):
        list(pool.stream("range", 3, module="builtins"))
    assert not second.done()
    assert read(pipe) == "first"
    first.result()
    assert second.result().value == 4.0
    assert list(pool.stream("range", 3, module="builtins")) == [0, 1, 2]


@pytest.mark.parametrize("mode", ["hint", STRICT_QUEUE])
def test_a_session_stays_with_its_worker_as_far_as_the_mode_says(start_pool: Start, pipe: Path, mode: str) -> None:
    pool = start_pool(GATEWAY, size=2, affinity=mode)
    made: Answer = pool.call("a_collection", 3, module=MODULE, session="kept")
    busy = Background(pool.call, "tell", str(pipe), "busy", module=MODULE, session="kept")
    if mode == STRICT_QUEUE:
        size = Background(pool.call, "__len__", module=MODULE, session="kept", call_type="method", instance=made.value)
        assert read(pipe) == "busy"
        busy.result()
        assert size.result().value == 3
        return
    # The other worker does not have the object; the error says what to do about it.
    with pytest.raises(CallFailed) as failed:
        pool.call("__len__", module=MODULE, session="kept", call_type="method", instance=made.value)
    assert f"Unknown SnakeBridge reference: {made.value['id']}" in failed.value.payload["message"]
    assert "strict_queue" in failed.value.payload["message"]
    assert read(pipe) == "busy"
    busy.result()


def test_a_deadline_of_whole_seconds_ends_the_call_and_frees_the_worker(start_pool: Start, pipe: Path) -> None:
    pool = start_pool(GATEWAY)
    call = Background(pool.call, "wait_forever", str(pipe), module=MODULE, timeout=1.9)
    executor = int(read(pipe))
    with pytest.raises(CallFailed) as failed:
        call.result()
    assert failed.value.fields["code"] == "DEADLINE_EXCEEDED"
    # Calls of a session run one at a time: this one waits until Python has left the other.
    assert pool.call("getpid", module="os").value == executor


# --- the end ---


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_that_stops_leaves_no_process_and_no_file(directory: Path, way: str) -> None:
    with Pool(directory, launcher(way, directory)) as pool:
        worker = pool.worker()
        below = [pool.call("getpid", module="os").value, pool.call("start_child", module=MODULE).value]
    assert worker.status in (0, 143) and not worker.killed_because
    assert all(gone(pid, 5) for pid in below)
    assert not list((directory / "tmp").iterdir())


@pytest.mark.parametrize("function", ["wait_forever", "swallow_forever", "hold_the_gil"])
def test_a_pool_that_stops_during_a_call_needs_no_force(directory: Path, pipe: Path, function: str) -> None:
    with Pool(directory, launcher(GATEWAY, directory)) as pool:
        worker = pool.worker()
        arguments = [600] if function == "hold_the_gil" else []
        call = Background(pool.call, function, str(pipe), *arguments, module=MODULE)
        executor = int(read(pipe))
    assert worker.status in (0, 143) and not worker.killed_because
    assert gone(executor, 5)
    with pytest.raises(CallFailed):
        call.result()
    assert not list((directory / "tmp").iterdir())


def test_a_worker_that_is_stopped_while_it_starts_counts_as_shut_down(directory: Path) -> None:
    pool = Pool(directory, launcher(GATEWAY, directory), on_stage=lambda stage, worker: os.kill(worker.pid, signal.SIGTERM))
    with pytest.raises(StartFailed, match=r"was shut down with status (0|143) "):
        pool.start()
    pool.stop()
    assert not list((directory / "tmp").iterdir())
