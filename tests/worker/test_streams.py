"""Streams: order, credit, errors, halting, and sharing the session with the consumer."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from eventually import eventually
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane


def test_items_come_in_order_and_all_of_them(client: Client) -> None:
    assert client.stream("sample", "gen", 100_000) == list(range(100_000))


def test_every_iterable_streams(client: Client) -> None:
    assert client.stream("sample", "agen", 5) == [0, 1, 2, 3, 4]
    assert client.stream("sample", "gen_slow", 3, 0.01) == [0, 1, 2]
    assert client.stream("builtins", "list", [1, 2]) == [1, 2]
    assert client.stream("builtins", "dict") == [{}]
    assert client.stream("builtins", "str", "text") == ["text"]
    assert client.stream("sample", "gen", 0) == []


def test_dynamic_stream_takes_a_list_as_one_item_and_methods_stream(client: Client) -> None:
    id = client.open_stream(payload("builtins", "list", [[1, 2]]) | {"call_type": "dynamic_stream"})
    items: list[Any] = []
    client.answer(id, items.extend)
    assert items == [[1, 2]]
    ref = client.call("sample", "Acc", 10)
    id = client.open_stream(payload("", "items", [3]) | {"call_type": "method", "instance": ref}, tool="snakebridge.call")
    items.clear()
    client.answer(id, items.extend)
    assert items == [10, 11, 12]


def test_no_more_items_than_credit(client: Client) -> None:
    id = client.open_stream(payload("sample", "gen_forever", ["credit"]), credit=10)
    items: list[Any] = []
    while len(items) < 10:
        message = client.receive()
        assert message is not None
        items += message.body[1]
    assert items == list(range(10))
    client.lane.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.receive()
    client.lane.sock.settimeout(30)
    client.send(lane.notification("credit", [id, 5]))
    while len(items) < 15:
        message = client.receive()
        assert message is not None
        items += message.body[1]
    assert items == list(range(15))
    client.send(lane.notification("cancel", [id, "halted"]))
    assert client.answer(id) == {"items": 15}
    assert ("closed", "credit") in client.call("sample", "take_log")


def test_halting_closes_a_generator_that_is_running(worker: Worker, client: Client, control: Client) -> None:
    id = client.open_stream(payload("sample", "gen_slow", [10_000, 0.02]), credit=100_000)
    message = client.receive()
    assert message is not None
    control.send(lane.notification("cancel", [client.conn, id, "halted"]))
    assert client.answer(id)["items"] < 1000
    assert client.call("math", "sqrt", 4) == 2.0


def test_halting_closes_an_async_generator_wherever_it_is_met(client: Client, control: Client) -> None:
    client.call("sample", "take_log")
    for _ in range(200):
        id = client.open_stream(payload("sample", "agen_ticking"), credit=100_000)
        assert client.receive() is not None
        control.send(lane.notification("cancel", [client.conn, id, "halted"]))
        assert client.answer(id).keys() == {"items"}
        assert client.call("sample", "take_log") == ["closed"]


def test_an_error_comes_after_the_items_before_it(client: Client) -> None:
    id = client.open_stream(payload("sample", "gen_error", [3]))
    items: list[Any] = []
    with pytest.raises(LaneError, match="boom mid-stream"):
        client.answer(id, items.extend)
    assert items == [0, 1, 2]


def test_the_consumer_may_use_the_session_between_items(worker: Worker, client: Client) -> None:
    other = worker.connect()
    id = client.open_stream(payload("sample", "gen_forever", ["shared"]), credit=1_000_000)
    assert client.receive() is not None
    done = threading.Event()

    def read() -> None:
        client.answer(id)
        done.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for _ in range(5):
        assert other.call("math", "sqrt", 4) == 2.0  # same session "s", while the generator is running hot
    other.close()
    stopper = worker.connect("control")
    stopper.send(lane.notification("cancel", [client.conn, id, "halted"]))
    assert done.wait(10)
    stopper.close()


def test_a_callback_inside_a_generator(client: Client) -> None:
    id = client.open_stream(payload("sample", "gen_callback", [client.function("f", 1, lambda x: x * x), 4]))
    items: list[Any] = []
    client.answer(id, items.extend)
    assert items == [0, 1, 4, 9]


def test_a_stream_has_a_deadline_even_when_nobody_gives_credit(client: Client) -> None:
    id = client.open_stream(payload("sample", "gen_forever", ["deadline"]), credit=1, timeout_ms=300)
    with pytest.raises(LaneError) as caught:
        client.answer(id, lambda _: None)
    assert caught.value.category == "timeout"
    assert ("closed", "deadline") in client.call("sample", "take_log")


@pytest.mark.parametrize(
    ("change", "category"),
    [({"credit": 0}, "invalid_request"), ({"tool": "nope"}, "unknown_tool"), ({"tool": "snakebridge.helpers"}, "invalid_request")],
)
def test_bad_streams_are_refused(client: Client, change: dict[str, Any], category: str) -> None:
    with pytest.raises(LaneError) as caught:
        client.answer(client.open_stream(payload("sample", "gen", [3]), **change))
    assert caught.value.category == category
    assert client.call("math", "sqrt", 4) == 2.0


def test_the_value_that_a_generator_returns_comes_with_the_end(client: Client) -> None:
    assert client.answer(client.open_stream(payload("sample", "gen_returning", [3, {"tokens": 3}]))) == {"items": 3, "value": {"tokens": 3}}
    assert client.answer(client.open_stream(payload("sample", "gen_returning", [2, None]))) == {"items": 2}
    ref = client.call("sample", "Acc", 10)
    assert client.answer(client.open_stream(payload("sample", "gen_returning", [0, ref]))) == {"items": 0, "value": ref}


def test_a_returned_value_that_cannot_travel_is_an_error_after_the_items(client: Client) -> None:
    items: list[Any] = []
    with pytest.raises(LaneError, match="deep") as caught:
        client.answer(client.open_stream(payload("sample", "gen_returning_deep", [2, 2000])), items.extend)
    assert caught.value.category == "limit_exceeded"
    assert items == [0, 1]
    assert client.call("math", "sqrt", 4) == 2.0


def test_a_halted_stream_has_no_value(client: Client, control: Client) -> None:
    id = client.open_stream(payload("sample", "gen_forever", ["no value"]), credit=100_000)
    assert client.receive() is not None
    control.send(lane.notification("cancel", [client.conn, id, "halted"]))
    assert "value" not in client.answer(id)


def test_large_items_travel_one_by_one(client: Client) -> None:
    id = client.open_stream(payload("builtins", "map", [client.function("f", 1, lambda n: b"x" * n), [3 << 20, 1, 3 << 20]]))
    sizes: list[int] = []
    client.answer(id, lambda items: sizes.extend(map(len, items)))
    assert sizes == [3 << 20, 1, 3 << 20]


def test_a_stream_that_is_halted_while_its_session_is_busy_closes_in_its_turn(worker: Worker, client: Client) -> None:
    client.call("sample", "take_log")
    id = client.open_stream(payload("sample", "gen_forever", ["in turn"]), credit=1)
    assert client.receive() is not None
    with contextlib.closing(worker.connect()) as other:
        busy = payload("talker", "say_around", [other.function("f", 1, str), "x"])
        other.send(lane.request(1, "call", {"tool": "snakebridge.call", "payload": busy}))
        asked = other.receive()
        assert asked is not None and asked.name == "callback"
        client.send(lane.notification("cancel", [id, "halted"]))
        assert client.answer(id) == {"items": 1}
        assert client.call("sample", "take_log", session="t") == []
        other.send(lane.response(asked.id, None, "answer"))
        assert other.answer(1) == "answer"
    assert eventually(lambda: client.call("sample", "take_log")) == [("closed", "in turn")]
    assert "stream" not in client.call("builtins", "eval", "[t.name for t in __import__('threading').enumerate()]")


def test_a_client_that_does_not_read_costs_bounded_memory_and_leaves_the_session_free(worker: Worker) -> None:
    with contextlib.closing(worker.connect()) as reader, contextlib.closing(worker.connect()) as other:
        other.call("sample", "take_log", session="large")
        id = reader.open_stream(payload("sample", "gen_large", [100, 1 << 20], session="large"), credit=1000)
        made = 0
        while made < 16:
            made += len(other.call("sample", "take_log", session="large"))
        for _ in range(200):  # it would make all hundred meanwhile
            made += len(other.call("sample", "take_log", session="large"))
        assert made <= 24
        items: list[Any] = []
        assert reader.answer(id, items.extend) == {"items": 100}
        assert all(len(item) == 1 << 20 for item in items)
