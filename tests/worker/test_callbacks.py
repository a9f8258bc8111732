"""Elixir functions called from Python: nested, from other threads, from coroutines, dropped, failing."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane
from bridge_adapter.callbacks import CallbackHub
from bridge_adapter.calls import CallTable
from bridge_adapter.codec import Ref
from bridge_adapter.loop import EventLoop


def test_a_function_is_called_with_its_arguments_and_keywords(client: Client) -> None:
    add = client.function("add", 2, lambda a, b: a + b)
    assert client.call("functools", "reduce", add, [1, 2, 3]) == 6
    keyed = client.function("keyed", 2, lambda a, **kw: [a, kw])
    assert client.call("sample", "apply", keyed, 1, k=2) == [1, {"k": 2}]


def test_the_wrong_arity_is_a_type_error(client: Client) -> None:
    with pytest.raises(LaneError, match="Callback expected arity 2, got 1"):
        client.call("sample", "apply", client.function("two", 2, lambda a, b: a), 1)


def test_a_function_that_raises_is_a_runtime_error_with_its_text(client: Client) -> None:
    def fail(_: Any) -> None:
        raise ValueError("boo")

    with pytest.raises(LaneError) as caught:
        client.call("sample", "apply", client.function("fail", 1, fail), 1)
    assert (caught.value.fields["type"], caught.value.fields["message"]) == ("RuntimeError", "boo")


def test_calls_nest_on_one_connection_to_any_depth(client: Client) -> None:
    def down(n: int) -> Any:
        return 0 if n == 0 else 1 + client.call("sample", "apply", client.function("down", 1, down), n - 1)

    assert client.call("sample", "apply", client.function("down", 1, down), 30) == 30


def test_opaque_arguments_arrive_as_refs_and_functions_come_back_as_themselves(client: Client) -> None:
    seen: list[Any] = []
    function = client.function("see", 1, seen.append)
    client.call("sample", "apply", function, client.call("sample", "Acc", 3))
    assert isinstance(seen[0], Ref)
    assert client.method(seen[0], "add", 1) == 4
    assert client.call("sample", "identity", function) == function


def test_a_function_kept_by_python_works_in_later_calls_and_is_told_when_dropped(client: Client) -> None:
    client.call("sample", "keep", client.function("kept", 1, lambda x: x * 2))
    assert client.call("sample", "call_kept", 21) == 42
    assert "kept" not in client.released
    client.call("sample", "drop_kept")
    client.call("math", "sqrt", 4)
    assert "kept" in client.released


def test_what_a_client_that_left_did_not_read_of_dropped_functions_is_told_to_the_next(worker: Worker, client: Client) -> None:
    client.call("sample", "keep", client.function("kept", 1, lambda x: x))
    client.call("math", "sqrt", 4)  # the connection that brought the function lets go of it
    with contextlib.closing(worker.connect()) as leaver:
        fields = payload("sample", "drop_kept", (), {}, "s")
        leaver.send(lane.request(1000, "call", {"tool": "snakebridge.call", "payload": fields}))
        assert leaver.lane.sock.recv(1, socket.MSG_PEEK)  # the answer is there, and stays unread
    assert any(client.call("math", "sqrt", 4) == 2.0 and "kept" in client.released for _ in range(2_000))


def test_other_threads_and_coroutines_call_through_the_control_connection(worker: Worker, client: Client, control: Client) -> None:
    answered: list[Any] = []

    def serve() -> None:
        while len(answered) < 2:
            message = control.receive()
            assert message is not None
            if message.kind == lane.REQUEST:
                answered.append(message.body)
                control.serve(message)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    control.functions["t"] = lambda x: x + 1
    function = client.function("t", 1, lambda x: x + 1)
    assert client.call("sample", "apply_in_thread", function, 1) == 2
    assert client.call("sample", "async_callback", function, 5) == 6
    thread.join()
    assert answered[0]["session"] == "s"
    assert answered[0]["call"][0] == client.conn


def test_a_call_made_elsewhere_on_behalf_of_a_callback_runs_inside_its_session(worker: Worker, client: Client) -> None:
    other = worker.connect()

    def from_elsewhere(_: Any) -> Any:
        # What a Task started inside the callback does: another connection, the parent named.
        return other.tool("snakebridge.call", payload("math", "sqrt", [9]), parent=[client.conn, asking])

    asking = next(client.ids) + 1
    assert client.call("sample", "apply", client.function("f", 1, from_elsewhere), 0) == 3.0
    other.close()


def test_a_client_that_vanishes_inside_a_callback_ends_the_call(worker: Worker, client: Client) -> None:
    leaver = worker.connect()
    client.call("sample", "take_log")
    leaver.send(
        lane.request(
            50, "call", {"tool": "snakebridge.call", "payload": payload("sample", "apply", [leaver.function("f", 1, id), 1], session="v")}
        )
    )
    message = leaver.receive()
    assert message is not None
    assert message.name == "callback"
    leaver.close()
    assert client.call("math", "sqrt", 4, session="v") == 2.0  # its session is free again


def test_a_function_is_told_as_dropped_only_after_the_answer_that_holds_it(client: Client) -> None:
    given = [client.function(f"given{n}", 0, lambda: None) for n in range(3)]
    assert client.call("sample", "attempts", client.function("give", 1, lambda n: given[n]), 0, 1, 2) == given
    assert not {ref.id for ref in given} & set(client.released)
    assert client.call("math", "sqrt", 4) == 2.0
    assert "given0" in client.released


UNREADABLE = b"\xd4\x7f\x00"  # an extension that nobody knows


def answer_unreadably(client: Client, message: lane.Message | None) -> None:
    assert message is not None
    assert message.name == "callback"
    client.lane.send(b"\x94\x01" + msgpack.packb(message.id) + b"\xc0" + UNREADABLE)


def test_an_answer_that_cannot_be_read_is_an_error_where_the_function_was_called(client: Client) -> None:
    function = client.function("odd", 1, lambda x: x)
    fields = payload("sample", "attempts", [function, 1, 2])
    client.send(lane.request(1000, "call", {"tool": "snakebridge.call", "payload": fields}))
    answer_unreadably(client, client.receive())
    failed, answered = client.answer(1000)
    assert failed.startswith("CallbackError: what the Elixir function returned cannot be read here: ")
    assert answered == 2
    assert client.call("math", "sqrt", 4) == 2.0


def test_an_answer_that_cannot_be_read_costs_no_stream(client: Client) -> None:
    id = client.open_stream(payload("sample", "gen_attempts", [client.function("odd", 1, lambda x: x), 1, 2]))
    answer_unreadably(client, client.receive())
    items: list[Any] = []
    assert client.answer(id, items.extend) == {"items": 2}
    assert (items[0].split(":")[0], items[1]) == ("CallbackError", 2)
    assert client.call("math", "sqrt", 4) == 2.0


def test_an_answer_on_the_control_connection_that_cannot_be_read_leaves_it_open(client: Client, control: Client) -> None:
    function = client.function("odd", 1, lambda x: x)
    control.functions = client.functions
    fields = payload("sample", "apply_in_thread", [function, 1])
    client.send(lane.request(1000, "call", {"tool": "snakebridge.call", "payload": fields}))
    answer_unreadably(control, control.receive())
    with pytest.raises(LaneError):
        client.answer(1000)
    assert control.request("ping", None)["time"] > 0


def test_a_request_that_cannot_be_read_is_answered_inside_a_callback_too(client: Client) -> None:
    def ask(_: Any) -> Any:
        client.lane.send(b"\x94\x00" + msgpack.packb(2000) + b"\xa4call" + UNREADABLE)
        with pytest.raises(LaneError, match="decode_error"):
            client.answer(2000)
        return "asked"

    assert client.call("sample", "apply", client.function("ask", 1, ask), 1) == "asked"


def test_an_answer_to_nothing_is_let_go_whether_it_can_be_read_or_not(client: Client) -> None:
    client.send(lane.response(77, None, 1))
    client.lane.send(b"\x94\x01\x4d\xc0" + UNREADABLE)
    assert client.call("math", "sqrt", 4) == 2.0


@pytest.mark.usefixtures("impatient")
def test_connections_that_tell_side_by_side_tell_each_dropped_function_once() -> None:
    hub = CallbackHub(EventLoop(), CallTable())
    ids = [str(number) for number in range(100_000)]
    ended = threading.Event()

    def take() -> list[str]:
        taken = []
        while not ended.is_set() or hub.released:
            taken += hub.take_released()
        return taken

    with ThreadPoolExecutor(3) as pool:
        takers = [pool.submit(take) for _ in range(3)]
        for id in ids:
            hub.released.append(id)
        ended.set()
    assert sorted(id for taker in takers for id in taker.result()) == sorted(ids)
