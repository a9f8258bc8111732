"""Sessions: isolation, order, limits, release, and what they cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter.calls import Call
from bridge_adapter.codec import Ref
from bridge_adapter.config import Config
from bridge_adapter.refs import RefStore
from bridge_adapter.sessions import Sessions


def make(client: Client, session: str) -> Ref:
    ref = client.call("sample", "Acc", 1, session=session)
    assert isinstance(ref, Ref)
    return ref


def category(client: Client, fields: dict[str, Any], tool: str = "snakebridge.call") -> str:
    with pytest.raises(LaneError) as caught:
        client.tool(tool, fields)
    return str(caught.value.category)


def test_a_session_never_sees_the_refs_of_another(client: Client) -> None:
    mine = make(client, "mine")
    wrong = payload("", "add", [1], session="yours") | {"call_type": "method", "instance": mine}
    assert category(client, wrong) == "session_mismatch"
    assert category(client, payload("sample", "identity", [[{"deep": mine}]], session="yours")) == "session_mismatch"
    forged = Ref(mine.id, "yours", mine.module, mine.library, mine.type_name)
    assert category(client, wrong | {"instance": forged}) == "unknown_ref"
    by_id = {"call_type": "method", "ref": mine.id, "method": "add", "args": [1], "session_id": "yours"}
    assert category(client, by_id) == "unknown_ref"


def test_releasing_a_leaves_a_colon_b_alone(client: Client) -> None:
    first, second = make(client, "a"), make(client, "a:b")
    assert client.tool("snakebridge.release_session", {"session_id": "a"}) == 1
    with pytest.raises(LaneError, match="unknown_ref"):
        client.method(first, "add", 1)
    assert client.method(second, "add", 1) == 2
    assert client.tool("snakebridge.release_session", {"session_id": "a"}) == 0


def test_a_released_ref_is_unknown_and_releasing_it_again_is_false(client: Client) -> None:
    ref = make(client, "r")
    assert client.tool("snakebridge.release_ref", {"ref": ref, "session_id": "r"}) is True
    assert client.tool("snakebridge.release_ref", {"ref": ref, "session_id": "r"}) is False
    with pytest.raises(LaneError, match="Unknown SnakeBridge reference"):
        client.method(ref, "add", 1)


def test_refs_survive_until_the_session_ends_and_pass_as_arguments(client: Client) -> None:
    ref = make(client, "keep")
    for _ in range(200):
        client.call("sample", "Acc", session="keep")
    assert client.call("sample", "identity", {"x": [ref]}, session="keep") == {"x": [ref]}


def test_calls_of_one_session_run_one_at_a_time_and_others_beside_them(worker: Worker) -> None:
    with_log = worker.connect()
    with_log.call("sample", "take_log")
    clients = [worker.connect() for _ in range(6)]

    def run(client: Client, number: int) -> None:
        client.call("sample", "record", number, 0.02, session="one")

    threads = [threading.Thread(target=run, args=item) for item in zip(clients, range(6), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = with_log.call("sample", "take_log")
    assert len(log) == 12
    assert all(log[i][0] == "start" and log[i + 1] == ("end", log[i][1]) for i in range(0, 12, 2))
    for client in [*clients, with_log]:
        client.close()


def test_a_concurrent_session_runs_calls_side_by_side(worker: Worker) -> None:
    clients = [worker.connect() for _ in range(2)]
    clients[0].call("sample", "take_log")

    def run(client: Client) -> None:
        client.tool("snakebridge.call", payload("sample", "record", [1, 0.2], session="conc"), session_options={"concurrent": True})

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry[0] for entry in clients[0].call("sample", "take_log")] == ["start", "start", "end", "end"]
    for client in clients:
        client.close()


def test_a_pinned_session_stays_on_one_thread(worker: Worker) -> None:
    clients = [worker.connect() for _ in range(3)]
    options = {"session_options": {"pinned": True}}
    fields = payload("sample", "thread_id", session="pin")
    pinned = {client.tool("snakebridge.call", fields, **options) for client in clients * 2}
    free = {client.tool("snakebridge.call", payload("sample", "thread_id", session="free")) for client in clients}
    assert len(pinned) == 1
    assert len(free) == 3
    function = clients[0].function("f", 1, lambda x: clients[0].tool("snakebridge.call", fields) + x)
    nested = clients[0].tool("snakebridge.call", payload("sample", "apply", [function, 0], session="pin"))
    assert {nested} == pinned  # a callback into the session stays on its thread too
    assert clients[0].tool("snakebridge.release_session", {"session_id": "pin"}) == 0
    for client in clients:
        client.close()


def test_ref_limits_evict_the_oldest_but_never_the_answer_being_made() -> None:
    with Worker(env={"SNAKEBRIDGE_REF_MAX": "3"}) as small:
        client = small.connect()
        old = make(client, "s")
        many = client.call("builtins", "eval", "[object() for _ in range(8)]")
        assert len(many) == 8
        assert [client.call("sample", "identity", ref) for ref in many] == many
        with pytest.raises(LaneError, match="unknown_ref"):
            client.method(old, "add", 1)
        client.close()


def test_ten_thousand_sessions_cost_little_memory_and_no_threads(worker: Worker) -> None:
    client = worker.connect()
    make(client, "warm")
    before = client.request("stats", None)
    refs = [make(client, f"many-{i}") for i in range(10_000)]
    after = client.request("stats", None)
    assert after["refs"] - before["refs"] == 10_000
    assert after["threads"] == before["threads"]
    assert (after["rss_mb"] - before["rss_mb"]) * 1024 / 10_000 <= 4.0
    assert client.method(refs[5000], "add", 1) == 2
    for i in range(10_000):
        client.tool("snakebridge.release_session", {"session_id": f"many-{i}"})
    client.close()


def test_sessions_that_wait_for_each_other_get_an_error_not_a_hang(worker: Worker) -> None:
    one, two = worker.connect(), worker.connect()
    both_inside = threading.Barrier(2)
    errors: list[str] = []

    def into(client: Client, other: str) -> Any:
        def function(_: Any) -> Any:
            both_inside.wait(10)
            try:
                return client.call("math", "sqrt", 4, session=other)
            except LaneError as error:
                errors.append(str(error.category))
                return None

        return function

    def run(client: Client, mine: str, other: str) -> None:
        client.call("sample", "apply", client.function("f", 1, into(client, other)), 1, session=mine)

    threads = [threading.Thread(target=run, args=args) for args in ((one, "x", "y"), (two, "y", "x"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["session_deadlock"]
    one.close()
    two.close()


@pytest.mark.parametrize("id", ["x" * 513])
def test_session_ids_are_bounded(client: Client, id: str) -> None:
    assert category(client, payload("math", "sqrt", [4], session=id)) == "invalid_request"


@pytest.mark.usefixtures("impatient")
def test_the_objects_of_a_session_can_be_listed_while_its_calls_go_on() -> None:
    refs = RefStore("s", 1 << 20, 0)
    for _ in range(2000):
        refs.add(object(), "", "", 0)
    ended = threading.Event()

    def add() -> None:
        while not ended.is_set():
            refs.add(object(), "", "", 0)

    adding = threading.Thread(target=add)
    adding.start()
    try:
        for _ in range(300):
            assert len(list(refs.objects())) >= 2000
    finally:
        ended.set()
        adding.join()


class _Crossed(set[object]):
    """In the moment in which somebody looks whether a session is without state, a call enters it."""

    def __init__(self, enter: Callable[[], object]) -> None:
        self._enter = enter

    def __len__(self) -> int:
        self._enter()
        return 0


def test_a_session_that_a_call_enters_meanwhile_is_not_forgotten() -> None:
    sessions = Sessions(Config())
    session, call = sessions.open("s"), Call((1, 1))
    session.streams = _Crossed(lambda: session.lock.owner is call or session.lock.acquire(call))
    sessions._sweep()
    # The call has its turn, and looks whether the session is still one.
    assert session.lock.owner is call and not session.closed and sessions.find("s") is session
    session.streams = set()
    session.lock.release()
    sessions._sweep()
    assert session.closed and sessions.find("s") is None
