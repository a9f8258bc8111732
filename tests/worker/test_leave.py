"""A worker whose place another process takes: sessions that hold nothing go on there, the others stay until they hold nothing any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from eventually import eventually
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane


def moved(client: Client, session: str) -> bool:
    """Whether a call of that session is sent on to the other process."""
    try:
        client.call("sample", "identity", 1, session=session)
    except LaneError as error:
        assert error.category == "unavailable"
        details = error.fields["details"]
        assert details["outcome"] == "not_started"
        return details["moved"] is True
    return False


def test_a_stream_goes_on_and_its_session_stays_with_it(worker: Worker, client: Client, control: Client) -> None:
    reader = worker.connect()
    id = reader.open_stream(payload("sample", "gen", [6], session="streams"), credit=2)
    control.until(lambda stats: stats["active"])
    items: list[int] = []

    def take(batch: list[int]) -> None:
        items.extend(batch)
        if len(items) <= 2:
            # It waits for credit, and has left the session's lock to others.
            assert control.request("leave", None) == ["streams"]
            assert not moved(client, "streams")
        reader.send(lane.notification("credit", [id, len(batch)]))

    assert reader.answer(id, take) == {"items": 6}
    assert len(items) == 6
    reader.close()
    assert moved(client, "streams")


@pytest.fixture
def worker() -> Iterator[Worker]:
    """One for each test: there is no way back."""
    with Worker() as running:
        yield running


def test_sessions_that_hold_nothing_go_and_the_others_stay_until_they_do(worker: Worker, client: Client, control: Client) -> None:
    held = client.call("sample", "Acc", 1, session="holds")
    client.call("sample", "identity", 1, session="empty")
    client.tool("snakebridge.call", payload("sample", "identity", [1], session="pinned"), session_options={"pinned": True})
    running = worker.connect()
    running.send(lane.request(7, "call", {"tool": "snakebridge.call", "payload": payload("sample", "record", [1, 0.5], session="runs")}))
    control.until(lambda stats: stats["active"])
    assert sorted(control.request("leave", None)) == ["holds", "pinned", "runs"]
    assert moved(client, "empty") and moved(client, "new")
    assert not moved(client, "holds") and not moved(client, "pinned")
    # It waits its turn where the session's other call runs: what that makes, it would miss elsewhere.
    assert not moved(client, "runs")
    running.answer(7)
    running.close()
    assert moved(client, "runs")
    assert client.method(held, "add", 1) == 2
    with pytest.raises(LaneError, match="another process has taken the place"):
        client.stream("sample", "gen", 3, session="new")
    client.tool("snakebridge.release_ref", {"ref": held, "session_id": "holds"})
    client.tool("snakebridge.release_session", {"session_id": "pinned"})
    assert control.request("leave", None) == []
    assert moved(client, "holds") and moved(client, "pinned")


def test_a_session_is_given_to_the_other_process_when_nothing_of_it_runs(worker: Worker, client: Client, control: Client) -> None:
    held = client.call("sample", "Acc", 1, session="given")
    running = worker.connect()
    running.send(lane.request(7, "call", {"tool": "snakebridge.call", "payload": payload("sample", "record", [1, 0.5], session="given")}))
    control.until(lambda stats: stats["active"])
    assert control.request("give", "given") is False
    assert not moved(client, "given")  # it waited for the other one
    running.answer(7)
    running.close()
    assert client.method(held, "add", 1) == 2
    assert control.request("give", "given") is True
    assert moved(client, "given") and moved(client, "given")


def test_a_stream_of_a_session_that_was_given_away_goes_on(worker: Worker, client: Client, control: Client) -> None:
    reader = worker.connect()
    id = reader.open_stream(payload("sample", "gen", [6], session="given"), credit=2)
    control.until(lambda stats: stats["active"])
    items: list[int] = []

    def take(batch: list[int]) -> None:
        items.extend(batch)
        if len(items) <= 2:
            eventually(lambda: control.request("give", "given"))  # when it waits for credit
            assert moved(client, "given")
            assert control.request("leave", None) == ["given"]
        reader.send(lane.notification("credit", [id, len(batch)]))

    assert reader.answer(id, take) == {"items": 6}
    assert len(items) == 6
    reader.close()
    assert moved(client, "given")
    assert control.request("leave", None) == []


def test_only_a_control_connection_says_so(client: Client) -> None:
    with pytest.raises(LaneError, match="no method 'leave' on this connection"):
        client.request("leave", None)


def test_modules_are_imported_beforehand_or_named() -> None:
    with Worker(args=("--preload", "xml.dom.minidom", "--allow", "sys.modules")) as worker:
        client = worker.connect()
        assert client.call("sys", "modules.get", "xml.dom.minidom") is not None
    with pytest.raises(Exception, match="cannot import no_such_module: ModuleNotFoundError"):
        Worker(args=("--preload", "sample", "--preload", "no_such_module"))


def test_a_callback_reaches_a_session_that_waits_to_move_and_is_sent_on_once_it_has_moved(
    worker: Worker, client: Client, control: Client
) -> None:
    """Two sessions that are to move: the one whose call waits for Elixir, and the one that is called from there."""
    here, there = client.call("sample", "Acc", 1, session="here"), client.call("sample", "Acc", 1, session="there")
    assert sorted(control.request("leave", None)) == ["here", "there"]
    seen: list[object] = []

    def call_the_other() -> int:
        seen.append(client.method(there, "add", 1))  # it has not moved: it runs, though both are to go
        seen.append(control.request("give", "here"))  # a call of it runs
        seen.append(control.request("give", "there"))
        seen.append(moved(client, "there"))
        seen.append(client.method(here, "add", 1))  # what belongs to the running call goes on
        return 7

    other = client.function("other", 0, call_the_other)
    assert client.call("sample", "apply", other, session="here") == 7
    assert seen == [2, False, True, True, 2]
    assert control.request("give", "here") is True
    assert moved(client, "here") and moved(client, "there")
    assert control.request("leave", None) == []


def test_two_sessions_that_wait_to_move_and_for_each_other_get_an_error_not_a_hang(worker: Worker, client: Client, control: Client) -> None:
    other = worker.connect()
    for session in ("left", "right"):
        client.call("sample", "Acc", 1, session=session)
    assert sorted(control.request("leave", None)) == ["left", "right"]
    both, answers = threading.Barrier(3), []

    def cross(own: Client, session: str) -> object:
        def call() -> object:
            both.wait(20)
            return own.call("sample", "identity", session, session=session)

        return call

    def run(own: Client, own_session: str, other_session: str) -> None:
        function = own.function(own_session, 0, cross(own, other_session))
        try:
            answers.append(own.call("sample", "apply", function, session=own_session))
        except LaneError as error:
            answers.append(error.fields["message"])

    threads = [
        threading.Thread(target=run, args=(client, "left", "right")),
        threading.Thread(target=run, args=(other, "right", "left")),
    ]
    for thread in threads:
        thread.start()
    both.wait(20)  # each holds its session, and is about to call into the other one
    while any(thread.is_alive() for thread in threads):
        control.request("give", "left"), control.request("give", "right")
    assert control.request("give", "left") and control.request("give", "right")
    assert len(answers) == 2 and any("waits for a session whose running call waits for this one" in str(answer) for answer in answers)
    assert moved(client, "left") and moved(client, "right")
    other.close()
