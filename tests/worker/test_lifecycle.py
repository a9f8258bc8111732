"""How a worker drains: what it lets in, what it finishes, what it cuts off, and what it says of it."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane
from bridge_adapter.lifecycle import Lifecycle, State


class Held:
    """A call that holds its session until it is let go: it waits for an Elixir function. `key` names it as a parent."""

    def __init__(self, client: Client, session: str) -> None:
        self._client = client
        id = next(client.ids)
        client.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": self._fields(client, session)}))
        question = client.receive()
        assert question is not None and question.kind == lane.REQUEST
        self._question, self._id, self.key = question, id, [client.conn, id]

    def _fields(self, client: Client, session: str) -> dict[str, Any]:
        return payload("sample", "apply", [client.function("hold", 1, lambda x: x), "held"], session=session)

    def let_go(self) -> Any:
        self._client.send(lane.response(self._question.id, None, "let go"))
        return self._client.answer(self._id)


@contextmanager
def draining(worker: Worker, *seconds: float) -> Iterator[Client]:
    """A worker that has been told to drain, and its control connection."""
    control = worker.connect("control")
    control.send(lane.notification("drain", list(seconds)))
    control.until(lambda stats: stats["draining"])
    yield control


def refusal(client: Client, *args: Any, **params: Any) -> dict[str, Any]:
    with pytest.raises(LaneError) as caught:
        client.tool("snakebridge.call", payload("math", "sqrt", args, session="other"), **params)
    return caught.value.fields


def account(worker: Worker) -> str:
    """What the worker has said of its drain; it has ended."""
    worker._drain.join(10)
    return next(line for line in worker.output if "drained: " in line)


def test_a_draining_worker_lets_in_what_its_running_calls_need_and_nothing_else() -> None:
    with Worker() as worker:
        held, late = Held(worker.connect(), "s"), worker.connect()
        with draining(worker, 20.0) as control:
            assert control.request("stats", None)["state"] == "draining"
            refused = refusal(late, 4)
            assert refused["category"] == "unavailable"
            assert refused["details"]["outcome"] == "not_started" and refused["details"]["state"] == "draining"
            assert 500 < refused["details"]["retry_after_ms"] <= 20_500
            fields = payload("math", "sqrt", [9], session="other")
            assert late.tool("snakebridge.call", fields, parent=held.key) == 3.0
            assert worker.connect().tool("snakebridge.call", fields, parent=held.key) == 3.0  # over a connection made meanwhile
            assert held.let_go() == "let go"
            assert worker.process.wait(5) == 0
        assert "drained: 3 calls finished, 0 were cancelled, 1 were refused; served 3 calls in " in account(worker)
        assert not Path(worker.directory, "w.sock").exists()


def test_when_its_time_is_over_running_calls_are_cancelled_and_waiting_ones_were_not_begun() -> None:
    with Worker() as worker:
        busy, waiting, control = worker.connect(), worker.connect(), worker.connect("control")
        busy.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("time", "sleep", [60])}))
        control.until(lambda stats: stats["active"])
        waiting.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("math", "sqrt", [4])}))
        control.until(lambda stats: stats["waiting"])
        control.send(lane.notification("drain", [0]))
        with pytest.raises(LaneError) as cut:
            busy.answer(5)
        with pytest.raises(LaneError) as never:
            waiting.answer(5)
        assert worker.process.wait(5) == 0
        assert (cut.value.category, cut.value.fields["details"]["outcome"]) == ("cancelled", "unknown")
        assert (never.value.category, never.value.fields["details"]["outcome"]) == ("unavailable", "not_started")
        assert "2 were cancelled" in account(worker)


def test_the_time_of_a_drain_is_configured() -> None:
    with Worker(env={"BRIDGE_ADAPTER_DRAIN_MS": "60000"}) as worker:
        held, control = Held(worker.connect(), "s"), worker.connect("control")
        worker.process.terminate()
        control.until(lambda stats: stats["draining"])
        assert refusal(worker.connect(), 4)["details"]["retry_after_ms"] > 50_000
        assert held.let_go() == "let go"
        assert worker.process.wait(5) == 0


def test_a_worker_whose_standard_streams_are_broken_ends_in_order() -> None:
    with Worker() as worker:
        worker.connect().call("sample", "break_the_streams")
        worker.process.terminate()
        assert worker.process.wait(20) == 0


def test_a_second_signal_ends_a_drain_at_once() -> None:
    with Worker(env={"BRIDGE_ADAPTER_DRAIN_MS": "60000"}) as worker:
        held, control = Held(worker.connect(), "s"), worker.connect("control")
        worker.process.terminate()
        control.until(lambda stats: stats["draining"])
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(5) == 0
        with pytest.raises((ConnectionError, OSError)):
            held.let_go()


@pytest.mark.parametrize("seconds", [[-1], ["soon"], [1, 2], [1e300]])
def test_a_drain_without_a_sensible_time_breaks_the_protocol(worker: Worker, seconds: list[Any]) -> None:
    control = worker.connect("control")
    control.send(lane.notification("drain", seconds))
    with pytest.raises((ConnectionError, LaneError)):
        control.request("ping", None)
    assert worker.connect().call("math", "sqrt", 4) == 2.0


def test_call_connections_cannot_drain_a_worker(worker: Worker) -> None:
    client = worker.connect()
    client.send(lane.notification("drain", []))
    with pytest.raises((ConnectionError, LaneError)):
        client.call("math", "sqrt", 4)
    assert worker.connect().call("math", "sqrt", 4) == 2.0


def test_every_effect_of_a_worker_that_drains_under_load_has_been_answered(tmp_path: Path) -> None:
    done = tmp_path / "done"
    answered: list[int] = []

    def load(client: Client, session: str) -> None:
        try:
            while True:
                client.call("sample", "append_line", str(done), session=session)
                answered.append(1)
        except (LaneError, OSError):
            return

    with Worker() as worker:
        threads = [threading.Thread(target=load, args=(worker.connect(), f"s{number % 3}")) for number in range(6)]
        for thread in threads:
            thread.start()
        while len(answered) < 300:
            time.sleep(0.001)
        worker.process.terminate()
        assert worker.process.wait(10) == 0
        for thread in threads:
            thread.join()
        assert len(done.read_text().splitlines()) == len(answered)


def test_stats_tell_the_state_the_age_and_what_was_served(worker: Worker) -> None:
    client, control = worker.connect(), worker.connect("control")
    before = control.request("stats", None)
    client.call("math", "sqrt", 4)
    # An answer is on its way a moment before its call is counted as answered.
    until = time.monotonic() + 20
    while (after := control.request("stats", None))["open"]:
        assert time.monotonic() < until
    assert after["state"] == "running" and after["draining"] is False
    assert after["served"] == before["served"] + 1 and after["open"] == 0 and after["age_s"] > 0
    assert after["memory"]["used"] > 2**20 and after["waiting"] == after["longest_queue"] == 0
    client.call("builtins", "bytearray", 10_000_000, session="big")
    client.tool("snakebridge.call", payload("builtins", "bytearray", [10_000_000], session="big") | {"result": "ref"})
    largest = control.request("stats", {"sessions": True})["largest_sessions"]
    assert largest[0]["session_id"] == "big" and largest[0]["bytes"] >= 10_000_000 and largest[0]["refs"] == 1


def test_a_lifecycle_only_goes_forward_and_counts_what_is_open() -> None:
    life = Lifecycle(0.0)
    life.run()
    life.enter(inside=False)
    life.ask_to_drain()
    life.wait_to_drain()
    assert life.state is State.DRAINING and not life.settle()
    life.enter(inside=True)
    life.answered()
    life.answered()
    assert life.settle()
    life.cut(1)
    assert life.stop().startswith("drained: 1 calls finished, 1 were cancelled, 0 were refused; served 2 calls")
    assert life.state is State.STOPPED


def test_signals_count_whichever_thread_the_kernel_gives_them_to() -> None:
    """Python's own handlers run in the main thread only, and a lock that it waits for does not wake it for a signal of another thread."""
    with Worker(env={"BRIDGE_ADAPTER_DRAIN_MS": "60000"}) as worker:
        _, control = Held(worker.connect(), "s"), worker.connect("control")
        pid = worker.process.pid
        other = next(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)
        tgkill = ctypes.CDLL(None).tgkill
        assert tgkill(pid, other, signal.SIGTERM) == 0
        control.until(lambda stats: stats["draining"])
        assert tgkill(pid, other, signal.SIGTERM) == 0
        assert worker.process.wait(10) == 0
