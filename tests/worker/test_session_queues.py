"""Bounded queues of sessions: who is refused when too many calls wait, who never is, and what a flood does to others."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane
from bridge_adapter.calls import Call
from bridge_adapter.errors import Overloaded
from bridge_adapter.session_lock import Bounds, Room, SessionLock


class Waiting:
    """A call that waits for its turn, on a connection of its own."""

    def __init__(self, worker: Worker, fields: dict[str, Any], **params: Any) -> None:
        self._client = worker.connect()
        params = {"tool": "snakebridge.call", "payload": fields, "timeout_ms": 20_000, **params}
        self._client.send(lane.request(5, "call", params))

    def answer(self) -> Any:
        return self._client.answer(5)

    def refusal(self) -> dict[str, Any]:
        with pytest.raises(LaneError) as caught:
            self.answer()
        return caught.value.fields


class Held:
    """A call that holds its session until it is let go: it waits for an Elixir function."""

    def __init__(self, worker: Worker, session: str, **params: Any) -> None:
        self.client = worker.connect()
        function = self.client.function("hold", 1, lambda x: x)
        self._id = next(self.client.ids)
        fields = payload("sample", "apply", [function, "held"], session=session)
        self.client.send(lane.request(self._id, "call", {"tool": "snakebridge.call", "payload": fields, **params}))
        question = self.client.receive()
        assert question is not None and question.kind == lane.REQUEST
        self._question = question.id

    def let_go(self) -> Any:
        self.client.send(lane.response(self._question, None, "let go"))
        return self.client.answer(self._id)


def fields(session: str, *args: Any) -> dict[str, Any]:
    return payload("sample", "identity", args or ["done"], session=session)


def test_a_call_that_finds_the_queue_full_is_refused_with_the_figures(worker: Worker, control: Client) -> None:
    held = Held(worker, "full", session_options={"max_queue": 2})
    waiting = [Waiting(worker, fields("full")) for _ in range(2)]
    control.until(lambda stats: stats["longest_queue"] == 2)
    refused = Waiting(worker, fields("full")).refusal()
    assert refused["category"] == "overloaded"
    assert refused["message"].startswith("2 calls wait for the session full, as many as may (max_queue); the call was not begun")
    details = refused["details"]
    assert (details["outcome"], details["queue_length"], details["queue_limit"]) == ("not_started", 2, 2)
    assert details["retry_after_ms"] >= 1
    assert Waiting(worker, fields("another")).answer() == "done"
    assert held.let_go() == "let go"
    assert [call.answer() for call in waiting] == ["done", "done"]
    assert control.request("stats", None)["refused"]["overloaded"] >= 1


def test_with_drop_oldest_the_call_that_has_waited_longest_makes_room(worker: Worker, control: Client) -> None:
    held = Held(worker, "drop", session_options={"max_queue": 2, "overflow": "drop_oldest"})
    oldest = Waiting(worker, fields("drop", "oldest"))
    control.until(lambda stats: stats["longest_queue"] == 1)
    second = Waiting(worker, fields("drop", "second"))
    control.until(lambda stats: stats["longest_queue"] == 2)
    latest = Waiting(worker, fields("drop", "latest"))
    refused = oldest.refusal()
    assert refused["category"] == "overloaded" and refused["details"]["outcome"] == "not_started"
    assert "drop_oldest" in refused["message"]
    held.let_go()
    assert [second.answer(), latest.answer()] == ["second", "latest"]


def test_a_session_may_have_no_queue_at_all_and_its_own_callbacks_still_call_it(worker: Worker) -> None:
    held = Held(worker, "none", session_options={"max_queue": 0})
    assert Waiting(worker, fields("none")).refusal()["category"] == "overloaded"
    assert held.client.tool("snakebridge.call", fields("none", "inside")) == "inside"
    assert held.let_go() == "let go"


def test_a_stream_takes_its_next_turn_however_full_the_queue(worker: Worker, control: Client) -> None:
    reader = worker.connect()
    source = payload("sample", "gen", [20], session="stream")
    id = reader.open_stream(source, credit=4, session_options={"max_queue": 1, "overflow": "drop_oldest"})
    got: list[Any] = []
    while len(got) < 4:  # only then it waits for credit, and not for its turn
        message = reader.receive()
        assert message is not None and message.name == "items"
        got += message.body[1]
    held = Held(worker, "stream")
    waiting = Waiting(worker, fields("stream"))
    control.until(lambda stats: stats["longest_queue"] == 1)
    reader.send(lane.notification("credit", [id, 100]))
    control.until(lambda stats: stats["longest_queue"] == 2)
    held.let_go()
    assert waiting.answer() == "done"
    assert reader.answer(id, got.extend) == {"items": 20}
    assert got == list(range(20))


def test_a_call_that_could_not_begin_before_its_deadline_is_refused_at_once(worker: Worker, control: Client) -> None:
    client = worker.connect()
    for _ in range(6):
        client.call("time", "sleep", 0.05, session="slow")
    held = Held(worker, "slow")
    waiting = [Waiting(worker, fields("slow")) for _ in range(10)]
    control.until(lambda stats: stats["longest_queue"] == 10)
    refused = Waiting(worker, fields("slow"), timeout_ms=100).refusal()
    assert refused["category"] == "overloaded" and refused["details"]["outcome"] == "not_started"
    assert "could not begin before its deadline" in refused["message"]
    patient = Waiting(worker, fields("slow"), timeout_ms=20_000)
    held.let_go()
    assert {call.answer() for call in [*waiting, patient]} == {"done"}


def test_a_call_whose_deadline_passes_while_it_waits_was_not_begun(worker: Worker) -> None:
    held = Held(worker, "late")
    refused = Waiting(worker, fields("late"), timeout_ms=50).refusal()
    assert (refused["category"], refused["details"]["outcome"]) == ("timeout", "not_started")
    held.let_go()


def test_all_queues_of_a_worker_together_are_bounded() -> None:
    with Worker(env={"BRIDGE_ADAPTER_MAX_WAITING": "3"}) as worker:
        control = worker.connect("control")
        held = [Held(worker, name) for name in "ab"]
        waiting = [Waiting(worker, fields(name)) for name in "aab"]
        control.until(lambda stats: stats["waiting"] == 3)
        refused = Waiting(worker, fields("b")).refusal()
        assert refused["category"] == "overloaded" and "max_waiting" in refused["message"]
        for call in held:
            call.let_go()
        assert [call.answer() for call in waiting] == ["done"] * 3
        assert control.request("stats", None)["waiting"] == 0


@pytest.mark.parametrize(
    "options",
    [{"max_queue": -1}, {"max_queue": "many"}, {"max_queue": True}, {"overflow": "block"}, {"max_bytes": 0}, {"max_bytes": "1GB"}],
)
def test_senseless_bounds_are_refused_by_name(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(LaneError, match=next(iter(options))) as caught:
        client.tool("snakebridge.call", fields("bounds"), session_options=options)
    assert caught.value.category == "invalid_request"


def test_the_estimate_is_doubted_until_it_has_been_measured_often_enough() -> None:
    room = Room(100)
    lock = SessionLock(Bounds("s", 100, "reject", room))
    for number in range(4):
        lock.acquire(Call((1, number)))
        time.sleep(0.02)
        lock.release()
    lock.acquire(Call((1, 10)))
    threads = [threading.Thread(target=lambda n=n: lock.acquire(Call((2, n))).release()) for n in range(8)]
    for thread in threads:
        thread.start()
    while lock.waiting < 8:
        pass
    hurried = Call((3, 1), timeout_ms=1)
    hurried.cancel("deadline")
    with pytest.raises(Exception) as caught:
        lock.acquire(hurried)
    assert not isinstance(caught.value, Overloaded)
    lock.release()
    for thread in threads:
        thread.join()
    assert lock.idle and room.waiting == 0


def test_a_flood_of_one_session_costs_others_what_one_busy_call_costs_them(worker: Worker, control: Client) -> None:
    calm = worker.connect()
    calm.call("sample", "spin", 0.001)

    def latency() -> float:
        took = []
        for _ in range(60):
            begun = time.perf_counter()
            calm.call("math", "sqrt", 4, session="calm")
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    def beside(calls: int) -> float:
        flood = [worker.connect() for _ in range(calls)]
        for client in flood:
            client.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("sample", "spin", [60], session="flood")}))
        control.until(lambda stats: len(stats["active"]) == calls and stats["waiting"] == calls - 1)
        try:
            return latency()
        finally:
            for client in flood:
                control.send(lane.notification("cancel", [client.conn, 5, "caller_down"]))
            control.until(lambda stats: not stats["active"])

    one, fifty, alone = beside(1), beside(50), latency()
    # Fifty that compete for the interpreter would cost fifty of its turns, each of them ten times a call.
    assert fifty < 3 * max(one, 20 * alone), f"alone {alone * 1e6:.0f} us, beside one {one * 1e6:.0f} us, beside fifty {fifty * 1e6:.0f} us"
