"""Deadlines and cancellation: what they interrupt, and that nothing else is hit."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from eventually import eventually
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane


def category(client: Client, function: str, *args: Any, timeout_ms: int = 200) -> str:
    with pytest.raises(LaneError) as caught:
        client.call("sample", function, *args, timeout_ms=timeout_ms)
    return str(caught.value.category)


@pytest.mark.parametrize("function", ["cleanup_sleep", "spin", "sleep_async"])
def test_a_deadline_interrupts_sleeping_spinning_and_async_code(client: Client, function: str) -> None:
    client.call("sample", "take_log")
    started = time.monotonic()
    assert category(client, function, 30) == "timeout"
    assert time.monotonic() - started < 10
    log = client.call("sample", "take_log")
    assert log == {"cleanup_sleep": ["cleaned"], "spin": [], "sleep_async": ["async cancelled"]}[function]


def test_a_call_after_a_timeout_on_the_same_connection_is_untouched(client: Client) -> None:
    for _ in range(20):
        with pytest.raises(LaneError):
            client.call("sample", "spin", 5, timeout_ms=1)
        assert client.call("math", "sqrt", 4) == 2.0


def test_deadlines_that_strike_at_the_end_of_a_call_hit_nothing_else(client: Client) -> None:
    outcomes = set()
    for _ in range(300):
        try:
            outcomes.add(client.call("sample", "spin", 0.002, timeout_ms=2))
        except LaneError as error:
            outcomes.add(error.category)
        assert client.call("sample", "identity", [1]) == [1]
    assert outcomes <= {"spun", "timeout"}


def test_cancel_comes_over_the_control_connection(client: Client, control: Client) -> None:
    id = 777
    client.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": payload("sample", "cleanup_sleep", [30])}))
    active = control.until(lambda stats: stats["active"])["active"]
    assert active[0][:2] == [client.conn, id]
    control.send(lane.notification("cancel", [client.conn, id, "caller_down"]))
    with pytest.raises(LaneError, match="cancelled"):
        client.answer(id)
    assert control.request("stats", None)["active"] == []


def imported(client: Client, name: str) -> bool:
    return bool(client.call("builtins", "eval", f"{name!r} in __import__('sys').modules"))


def test_an_import_that_has_begun_comes_to_its_end(client: Client) -> None:
    client.call("sample", "forget_module", "slow_to_import")
    assert category(client, "import_and_wait", "slow_to_import", timeout_ms=100) == "timeout"
    assert imported(client, "slow_to_import")
    assert client.call("slow_to_import", "state") == [True, True]


def test_so_does_the_import_of_a_call_that_is_cancelled_and_the_call_does_not_go_on(
    worker: Worker, client: Client, control: Client
) -> None:
    client.call("sample", "forget_module", "slow_to_import")
    client.call("sample", "take_log")
    other = worker.connect()
    other.send(
        lane.request(
            1, "call", {"tool": "snakebridge.call", "payload": payload("sample", "import_and_wait", ["slow_to_import"], session="other")}
        )
    )
    eventually(lambda: imported(client, "slow_to_import"))
    control.send(lane.notification("cancel", [other.conn, 1, "caller_down"]))
    with pytest.raises(LaneError, match="cancelled"):
        other.answer(1)
    other.close()
    control.until(lambda stats: not stats["active"])
    assert client.call("slow_to_import", "state") == [True, True]
    assert client.call("sample", "take_log") == []


def test_an_import_that_does_not_end_is_interrupted_all_the_same(client: Client) -> None:
    assert category(client, "import_and_wait", "never_imported") == "timeout"
    assert not imported(client, "never_imported")


def test_a_call_that_waits_for_its_session_can_be_cancelled(worker: Worker, client: Client) -> None:
    holder = worker.connect()
    thread = threading.Thread(target=lambda: holder.call("sample", "record", 0, 1.0, session="held"))
    thread.start()
    watch = worker.connect("control")
    watch.until(lambda stats: stats["active"])
    started = time.monotonic()
    with pytest.raises(LaneError) as caught:
        client.call("math", "sqrt", 4, session="held", timeout_ms=100)
    assert caught.value.category == "timeout"
    assert time.monotonic() - started < 0.9
    thread.join()
    assert client.call("math", "sqrt", 4, session="held") == 2.0
    holder.close()
    watch.close()


def test_a_deadline_is_heard_after_elixir_functions_were_asked_side_by_side(worker: Worker, client: Client, control: Client) -> None:
    client.call("sample", "take_log")
    id = next(client.ids)
    fields = payload("sample", "ask_many_and_sleep", [client.function("f", 1, abs), 5, 30])
    client.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": fields, "timeout_ms": 2000}))
    log: list[Any] = []
    with contextlib.closing(worker.connect()) as other:
        # The one that began to wait first has its answer first.
        for asked in [control.receive() for _ in range(5)]:
            assert asked is not None
            before = len(log)
            control.send(lane.response(asked.id, None, 1))
            while len(log) == before:
                log += other.call("sample", "take_log", session="t")
    with pytest.raises(LaneError, match="timeout"):
        client.answer(id)
    assert client.call("sample", "take_log") == ["async cancelled"]


def test_a_deadline_that_strikes_while_a_thread_starts_hangs_nothing(client: Client) -> None:
    for _ in range(200):
        assert category(client, "start_threads", timeout_ms=3) == "timeout"


def test_what_a_cancelled_coroutine_raises_is_told_to_nobody_else(worker: Worker) -> None:
    with contextlib.closing(worker.connect(features=("output",))) as client:
        for _ in range(3):
            assert category(client, "fail_when_cancelled", timeout_ms=50) == "timeout"
        client.call("gc", "collect")
        assert client.notes == []
        client.call("builtins", "exec", "import os; os.write(1, b'end\\n')")
        eventually(lambda: "end\n" in worker.output)
        assert not any("never retrieved" in line for line in worker.output)


def test_code_that_swallows_the_interruption_is_shown_by_stats(client: Client, control: Client) -> None:
    client.send(lane.request(9, "call", {"tool": "snakebridge.call", "payload": payload("sample", "swallow", [1.0]), "timeout_ms": 50}))
    control.until(lambda stats: any(row[4] == "deadline" for row in stats["active"]))
    assert client.answer(9) == "swallowed all"


def test_a_deadline_passes_through_a_callback(client: Client) -> None:
    def slow(_: Any) -> None:
        with pytest.raises(LaneError) as inner:
            client.call("sample", "cleanup_sleep", 30, timeout_ms=20_000)
        assert inner.value.category in ("timeout", "cancelled")

    with pytest.raises(LaneError) as caught:
        client.call("sample", "apply", client.function("slow", 1, slow), 1, timeout_ms=300)
    assert caught.value.category == "timeout"
    assert client.call("math", "sqrt", 4) == 2.0


def test_a_cancellation_that_comes_before_its_call_interrupts_it(worker: Worker) -> None:
    client, control = worker.connect(), worker.connect("control")
    for id in range(1_000, 1_010):
        control.send(lane.notification("cancel", [client.conn, id, "caller_down"]))
    control.request("ping", None)
    asked = {"tool": "snakebridge.call", "payload": payload("sample", "spin", [60]), "timeout_ms": 60_000}
    client.send(lane.request(1_005, "call", asked))
    while (answer := client.receive()) is not None and answer.id != 1_005:
        assert answer.kind == lane.NOTIFICATION
    assert answer is not None and answer.error["category"] == "cancelled"
    assert client.call("math", "sqrt", 4) == 2.0
