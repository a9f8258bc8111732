"""`bridge_adapter.elixir`: Python talks to Elixir by itself, from any thread, in calls and between them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, no_threads, payload

from bridge_adapter import elixir, lane
from bridge_adapter.codec import OpaqueTerm, Ref
from bridge_adapter.letters import Letters

PID = OpaqueTerm(bytes(32) + b"\x03pid" + b"\x83...")
PORT = OpaqueTerm(bytes(32) + b"\x04port" + b"\x83...")


@pytest.fixture
def talking(worker: Worker) -> Iterator[Client]:
    connection = worker.connect(features=("messages",))
    yield connection
    connection.close()


@pytest.fixture
def post(worker: Worker) -> Iterator[Client]:
    """The control connection of a client that takes messages."""
    connection = worker.connect("control", features=("messages",))
    yield connection
    connection.close()


def messages(client: Client) -> list[Any]:
    got = [note.body for note in client.notes if note.name == "message"]
    client.notes.clear()
    return got


def next_message(client: Client) -> Any:
    message = client.receive()
    assert message is not None
    assert message.name == "message"
    return message.body


def test_what_a_call_sends_is_there_before_its_result(talking: Client, post: Client) -> None:
    assert "messages" in talking.features
    talking.call("talker", "send_numbers", PID, 3)
    assert messages(talking) == [[PID, 0], [PID, 1], [PID, 2]]


def test_any_value_is_a_message_and_names_are_targets(talking: Client, post: Client) -> None:
    for target in (PID, "my_server", ("my_server", "node@host")):
        talking.call("talker", "send", target, {"a": [1, (2.5, None)], "raw": b"\xff"})
        assert messages(talking) == [[target, {"a": [1, (2.5, None)], "raw": b"\xff"}]]
    talking.call("talker", "send_object", PID)
    [[_, classes]] = messages(talking)
    assert [type(part) for part in classes] == [Ref, Ref]


@pytest.mark.parametrize("target", [PORT, 5, None, "", (), [1], ("a",)])
def test_what_is_no_process_is_refused(talking: Client, post: Client, target: Any) -> None:
    with pytest.raises(LaneError, match="needs a pid that Elixir passed, or the name of a registered process") as caught:
        talking.call("talker", "send", target, 1)
    assert caught.value.fields["type"] == "TypeError"


def test_other_threads_and_coroutines_send_over_the_control_connection(talking: Client, post: Client) -> None:
    talking.call("talker", "send_in_thread", PID, "thread")
    assert next_message(post) == [PID, "thread"]
    talking.call("talker", "send_in_coroutine", PID, "coroutine")
    assert next_message(post) == [PID, "coroutine"]
    assert messages(talking) == []


def test_streams_send_without_waiting_for_their_reader(talking: Client, post: Client) -> None:
    talking.open_stream(payload("talker", "yield_and_send", [PID, 3]), credit=3)
    assert [next_message(post) for _ in range(3)] == [[PID, 0], [PID, 1], [PID, 2]]


def test_messages_go_out_between_calls(talking: Client, post: Client) -> None:
    talking.call("talker", "send_between_calls", PID, "later")
    assert talking.call("talker", "result_of_background") is None
    assert next_message(post) == [PID, "later"]


def test_objects_cannot_be_sent_between_calls(talking: Client, post: Client) -> None:
    talking.call("talker", "send_object_between_calls", PID)
    assert "cannot be sent between calls" in talking.call("talker", "result_of_background")


def test_a_client_that_does_not_take_its_messages_costs_an_error_and_no_memory(talking: Client, post: Client) -> None:
    talking.call("talker", "flood_between_calls", PID, 40_000)
    assert "Backlog: " in (told := talking.call("talker", "result_of_background"))
    assert "wait for the Elixir client" in told
    got = [next_message(post) for _ in range(10_000)]
    assert got == [[PID, "x" * 1000]] * 10_000


def test_without_a_client_that_takes_messages_sending_is_an_error(talking: Client, worker: Worker) -> None:
    assert talking.call("talker", "connected") is False
    with pytest.raises(LaneError, match="no Elixir client is connected"):
        talking.call("talker", "send", PID, 1)
    with contextlib.closing(worker.connect("control")):  # as the gateway's
        with pytest.raises(LaneError, match="through Snakepit, which only lets Python call functions"):
            talking.call("talker", "send", PID, 1)
        assert talking.call("talker", "connected") is False
    with contextlib.closing(worker.connect("control", features=("messages",))):
        assert talking.call("talker", "connected") is True


def test_outside_of_a_worker_there_is_nobody_to_talk_to() -> None:
    assert elixir.connected() is False
    with pytest.raises(elixir.NotConnected, match="no Python worker"):
        elixir.send("somebody", 1)


def answering(control: Client, times: int) -> threading.Thread:
    def serve() -> None:
        for _ in range(times):
            message = control.receive()
            assert message is not None
            control.serve(message)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_functions_are_called_in_calls_from_threads_and_between_calls(talking: Client, post: Client) -> None:
    double = talking.function("double", 1, lambda x: 2 * x)
    assert talking.call("talker", "call", double, 4) == 8
    post.functions["double"] = lambda x: 2 * x
    thread = answering(post, 1)
    assert talking.call("talker", "call_in_thread", double, 5) == 10
    thread.join()
    talking.call("talker", "call_between_calls", double, 6)
    thread = answering(post, 1)
    assert talking.call("talker", "result_of_background") == 12
    thread.join()


def test_a_function_outlives_the_deadline_of_the_call_that_brought_it(talking: Client, post: Client) -> None:
    double = talking.function("double", 1, lambda x: 2 * x)
    post.functions["double"] = lambda x: 2 * x
    with pytest.raises(LaneError, match="timeout"):
        talking.call(
            "builtins",
            "exec",
            "import talker, time\ntalker.call_between_calls(double, 7)\ntime.sleep(60)",
            {"double": double},
            timeout_ms=300,
        )
    thread = answering(post, 1)
    assert talking.call("talker", "result_of_background") == 14
    thread.join()


def test_a_function_that_takes_too_long_is_given_up(talking: Client, post: Client) -> None:
    never = talking.function("never", 0, lambda: None)
    assert talking.call("talker", "call_in_thread", never, timeout=0.05).startswith(
        "NoAnswer: the Elixir function has not answered in time"
    )
    asked = post.receive()
    assert asked is not None
    assert asked.name == "callback"
    post.send(lane.response(asked.id, None, "too late"))
    # On the call's own connection the same; the answer that comes later is nobody's.
    id = next(talking.ids)
    fields = payload("talker", "call", [never], {"timeout": 0.05})
    talking.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": fields}))
    asked = talking.receive()
    assert asked is not None
    assert asked.name == "callback"
    while (answer := talking.receive()) is not None and answer.kind != lane.RESPONSE:
        assert answer.name == "released"
    assert answer is not None
    assert (answer.id, answer.error["type"], answer.error["category"]) == (id, "TimeoutError", "timeout")
    talking.send(lane.response(asked.id, None, "too late"))
    assert talking.call("math", "sqrt", 4) == 2.0


def test_only_elixir_functions_are_called_and_with_their_arity(talking: Client) -> None:
    with pytest.raises(LaneError, match=r"elixir\.call needs a function that Elixir passed, not int"):
        talking.call("talker", "call", 5)
    with pytest.raises(LaneError, match="Callback expected arity 1, got 0"):
        talking.call("talker", "call", talking.function("one", 1, lambda x: x))


def test_a_message_that_found_no_thread_costs_no_other_one() -> None:
    one, other = socket.socketpair()
    with contextlib.closing(lane.LaneSocket(one, 1 << 20)) as sending, contextlib.closing(lane.LaneSocket(other, 1 << 20)) as reading:
        letters = Letters(sending)
        large = bytes(1 << 17)  # is left to the thread
        with no_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
            letters.post(large)
        letters.post(large)
        assert reading.receive() == large
        letters.close()
