"""Calls with a key, over the lane: run once at a time, answered again, and what is no answer is run again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane
from bridge_adapter.calls import Call
from bridge_adapter.journal.once import Once
from bridge_adapter.journal.records import Key
from bridge_adapter.journal.store import Journal

Ask = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers that share a journal."""
    with ExitStack() as stack:

        def start(*args: str, journal: str = "calls.journal", env: dict[str, str] | None = None) -> Worker:
            return stack.enter_context(Worker(args=("--journal", str(tmp_path / journal), *args), env=env))

        yield start


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


class Asker(Client):
    """A client whose calls have keys. `outcome`: (attempts, replayed) of the last answer."""

    outcome: tuple[int, bool] | None = None

    def once(self, key: Any, function: str, *args: Any, module: str = "counted", digest: str = "d", **params: Any) -> Any:
        session = params.pop("session", "s")
        asked = {"tool": "snakebridge.call", "payload": payload(module, function, args, session=session), "timeout_ms": 20_000, **params}
        return self.request("call", {**asked, "key": [key, digest]})

    def receive(self) -> Any:
        message = super().receive()
        if message is not None and message.kind == lane.RESPONSE:
            self.outcome = None if message.outcome is None else (message.outcome[0], message.outcome[1])
        return message


def asker(worker: Worker) -> Asker:
    return Asker(worker.socket(), "call")


def count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_the_same_key_gives_the_same_answer_and_says_so(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    value = [1.5, {"a": b"\xff"}, None, 2**70]
    first = client.once("k", "run", str(runs), value)
    assert (first, client.outcome) == ((1, value), (1, False)) or first == [1, value]
    assert client.once("k", "run", str(runs), value) == first
    assert client.outcome == (1, True)
    assert count(runs) == 1
    assert client.call("counted", "run", str(runs)) == 2
    assert client.outcome is None


def test_another_worker_gives_it_too_and_one_that_is_started_later(start: Callable[..., Worker], runs: Path) -> None:
    first, second = start(), start()
    assert asker(first).once("k", "run", str(runs)) == 1
    other = asker(second)
    assert (other.once("k", "run", str(runs)), other.outcome) == (1, (1, True))
    first.process.kill()
    second.process.kill()
    later = asker(start())
    assert (later.once("k", "run", str(runs)), later.outcome) == (1, (1, True))


@pytest.mark.parametrize("workers", [1, 2])
def test_two_at_once_are_one_execution(start: Callable[..., Worker], runs: Path, tmp_path: Path, workers: int) -> None:
    running = [start() for _ in range(workers)]
    clients = [asker(running[number % workers]) for number in range(4)]
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda number=number, client=client: answers.append(
                (client.once("k", "until", str(runs), str(tmp_path / "go"), session=f"s{number}"), client.outcome)
            )
        )
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    watch = [worker.connect("control") for worker in running]
    eventually(lambda: sum(len(control.request("stats", None)["active"]) for control in watch), lambda active: active == 4)
    eventually(lambda: count(runs))
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(1, (1, False)), (1, (1, True)), (1, (1, True)), (1, (1, True))]
    assert count(runs) == 1


def test_a_key_with_other_arguments_is_a_conflict(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    client.once("k", "run", str(runs))
    with pytest.raises(LaneError, match=r"the idempotency key 'k' belongs to another request, made earlier.*use another key") as caught:
        client.once("k", "run", str(runs), digest="other")
    assert (caught.value.category, caught.value.fields["details"]["idempotency_key"]) == ("idempotency_conflict", "k")
    assert count(runs) == 1


def test_a_failure_is_for_those_who_waited_and_later_calls_run_again(start: Callable[..., Worker], runs: Path, tmp_path: Path) -> None:
    worker = start()
    errors: list[str] = []

    def ask(session: str) -> None:
        with pytest.raises(LaneError) as caught:
            asker(worker).once("k", "fail_until", str(runs), str(tmp_path / "go"), session=session)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=ask, args=(f"s{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    watch = worker.connect("control")
    watch.until(lambda stats: len(stats["active"]) == 3)
    eventually(lambda: count(runs))
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert errors == ["python_error: run 1 failed"] * 3
    client = asker(worker)
    with pytest.raises(LaneError, match="run 2 failed"):
        client.once("k", "fail_until", str(runs), str(tmp_path / "go"))
    assert client.once("other", "run", str(runs)) == 3


def test_a_call_that_was_interrupted_is_run_again(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    with pytest.raises(LaneError, match="timeout"):
        client.once("k", "slow", str(runs), 30, timeout_ms=200)
    assert (client.once("k", "slow", str(runs), 0), client.outcome) == (2, (2, False))


def test_who_waits_for_another_ends_at_his_own_deadline(start: Callable[..., Worker], runs: Path, tmp_path: Path) -> None:
    worker = start()
    go = tmp_path / "go"
    first = threading.Thread(target=lambda: asker(worker).once("k", "until", str(runs), str(go), session="first"))
    first.start()
    eventually(lambda: count(runs))
    with pytest.raises(LaneError, match="timeout"):
        asker(worker).once("k", "until", str(runs), str(go), timeout_ms=200)
    go.touch()
    first.join()
    assert count(runs) == 1


def test_what_a_dead_worker_has_begun_runs_again_elsewhere(start: Callable[..., Worker], runs: Path) -> None:
    with pytest.raises(ConnectionError):
        asker(start()).once("k", "die_first", str(runs))
    client = asker(start())
    assert (client.once("k", "die_first", str(runs)), client.outcome) == (2, (2, False))
    assert (client.once("k", "die_first", str(runs)), client.outcome) == (2, (2, True))


def test_refs_are_given_again_while_their_objects_live(start: Callable[..., Worker], runs: Path) -> None:
    worker = start()
    client = asker(worker)
    ref = client.once("k", "make", str(runs))
    assert client.once("k", "make", str(runs)) == ref
    assert client.outcome == (1, True)
    assert client.method(ref, "name") == "thing"
    # In another session, another worker, and once it is released, the object is made anew.
    assert client.once("k", "make", str(runs), session="other") != ref
    assert client.outcome == (2, False)
    fresh = client.once("k2", "make", str(runs))
    client.request("call", {"tool": "snakebridge.release_ref", "payload": {**payload("", ""), "ref": fresh}, "timeout_ms": 5000})
    again = client.once("k2", "make", str(runs))
    assert (again != fresh, client.outcome) == (True, (2, False))
    other = asker(start())
    assert other.once("k2", "make", str(runs)) != again
    assert other.outcome == (3, False)


def test_an_answer_that_is_too_large_is_made_again(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    assert len(client.once("k", "large", str(runs), 9_000_000)) == 9_000_000
    assert len(client.once("k", "large", str(runs), 9_000_000)) == 9_000_000
    assert (client.outcome, count(runs)) == ((2, False), 2)


def test_a_call_from_the_callback_of_its_own_key_is_refused(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())

    def ask(path: str) -> Any:
        return client.once("k", "run", path)

    with pytest.raises(LaneError, match="the idempotency key 'k' is that of the call in whose callback this one is made"):
        client.once("k", "again_from_callback", str(runs), client.function("ask", 1, ask))
    assert client.once("k", "run", str(runs)) == 2


def test_keys_that_are_none_and_streams_are_refused(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    for key in ("", "x" * 256, 7, None, "\ud800"):
        with pytest.raises(LaneError, match="key must be a text of 1 to 255 characters"):
            client.once(key, "run", str(runs))
    for rest in ([], ["\ud800"], ["d", 0], ["d", -3], ["d", True], ["d", 2**40], ["d", 1, 1]):
        asked = {"tool": "snakebridge.call", "payload": payload("counted", "run", [str(runs)]), "key": ["k", *rest]}
        with pytest.raises(LaneError, match="key must be a text of 1 to 255 characters"):
            client.request("call", asked)
    with pytest.raises(LaneError, match="a stream has no idempotency key"):
        client.request(
            "stream", {"tool": "snakebridge.stream", "payload": payload("builtins", "range", [3]), "credit": 9, "key": ["k", "d"]}
        )
    assert count(runs) == 0


def test_without_a_journal_a_key_is_refused(worker: Worker, runs: Path) -> None:
    with pytest.raises(LaneError, match="this worker has no journal; start it with --journal FILE"):
        asker(worker).once("k", "run", str(runs))
    assert count(runs) == 0


def test_a_journal_that_cannot_be_written_costs_keyed_calls_only(start: Callable[..., Worker], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    worker = start(journal="file/calls.journal")
    client = asker(worker)
    with pytest.raises(LaneError, match=r"the call has a key, but the journal .* cannot be used") as caught:
        client.once("k", "run", str(runs))
    assert caught.value.category == "unavailable"
    assert count(runs) == 0
    # Keys that the client has made for one call each only serve retries.
    assert client.once("made up", "run", str(runs), digest="") == 1
    assert client.once("made up too", "run", str(runs), digest="") == 2
    assert client.call("counted", "run", str(runs)) == 3
    worker.process.kill()
    worker.process.wait()
    assert sum("calls go on without it" in line for line in worker.output) == 1


def test_a_key_made_for_one_call_is_only_looked_for_when_it_comes_again(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())

    def attempt(number: int, key: str, function: str = "run", by: Asker = client) -> Any:
        asked = {"tool": "snakebridge.call", "payload": payload("counted", function, [str(runs)]), "timeout_ms": 5000}
        return by.request("call", {**asked, "key": [key, "", number]}), by.outcome

    assert attempt(1, "own") == (1, (1, False))
    assert attempt(2, "own") == (1, (1, True))
    assert attempt(2, "of a call that died") == (2, (2, False))
    assert attempt(3, "of a call that died") == (2, (2, True))
    ref, _ = attempt(1, "ref", "make")
    assert attempt(2, "ref", "make") == (ref, (1, True))
    again, outcome = attempt(2, "ref", "make", asker(start()))
    assert (again != ref, outcome) == (True, (2, False))


def test_an_answer_that_cannot_be_recorded_is_given_all_the_same(tmp_path: Path) -> None:
    class Full(Journal):
        def finish(self, key: str, answer: bytes, refs: str = "", attempt: int | None = None) -> None:
            raise MemoryError

    journal = Full(tmp_path / "calls.journal")
    once = Once(lambda: journal)

    def run(answer: bytes) -> tuple[bytes, int, bool]:
        given, outcome = once.run(Key("k", "d"), "form", Call((1, 1)), lambda: (answer, ""), holds=lambda _: True, describe=lambda _: None)
        return given, outcome.attempts, outcome.replayed

    assert run(b"first") == (b"first", 1, False)
    assert run(b"second") == (b"second", 2, False)
    once.close()


def test_calls_that_come_first_at_the_same_time_open_one_journal(tmp_path: Path) -> None:
    opened: list[Journal] = []

    def open_journal() -> Journal:
        opened.append(Journal(tmp_path / "calls.journal"))
        return opened[-1]

    once = Once(open_journal)

    def run(number: int) -> None:
        once.run(Key(f"{number}", ""), "", Call((1, number)), lambda: (b"x", ""), holds=lambda _: True, describe=repr)  # type: ignore[arg-type,return-value]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    once.close()


def test_an_error_that_cannot_be_told_is_raised_as_it_is(tmp_path: Path) -> None:
    once = Once(lambda: Journal(tmp_path / "calls.journal"))

    def fails() -> tuple[bytes, str]:
        raise KeyError("mine")

    def cannot(_: BaseException) -> bytes:
        raise TypeError("not to be told")

    with pytest.raises(KeyError, match="mine"):
        once.run(Key("k", "d"), "", Call((1, 1)), fails, holds=lambda _: True, describe=cannot)
    assert once.run(Key("k", "d"), "", Call((1, 2)), lambda: (b"x", ""), holds=lambda _: True, describe=cannot)[1].attempts == 2
    once.close()


def test_the_answer_over_tagged_json_is_recorded_too(start: Callable[..., Worker], runs: Path) -> None:
    client = asker(start())
    fields = {name: lane_json(value) for name, value in payload("counted", "run", [str(runs)]).items()}
    asked = {"tool": "snakebridge.call", "payload": fields, "encoding": "tagged", "key": ["k", "d"], "timeout_ms": 5000}
    assert client.request("call", asked) == client.request("call", asked) == b"1"
    assert client.outcome == (1, True)
    with pytest.raises(LaneError, match="belongs to another request"):
        client.once("k", "run", str(runs))


def lane_json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


def test_nothing_is_left_beside_the_journal_when_a_worker_ends(start: Callable[..., Worker], runs: Path, tmp_path: Path) -> None:
    worker = start()
    assert asker(worker).once("k", "run", str(runs)) == 1
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    assert not list(tmp_path.glob("*.ends-*"))
    assert asker(start()).once("k", "run", str(runs)) == 1


def test_of_many_that_come_with_a_key_at_once_one_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "calls.journal")
    once = Once(lambda: journal)
    runs: dict[str, int] = {}

    def code(key: str) -> tuple[bytes, str]:
        runs[key] = runs.get(key, 0) + 1
        return f"{key} {runs[key]}".encode(), ""

    def ask(caller: int, barrier: threading.Barrier) -> None:
        for number in range(60):
            barrier.wait()
            key = f"key {number}"
            call = Call((caller, number))
            once.run(Key(key, "d"), "form", call, partial(code, key), holds=lambda _: True, describe=lambda _: None)

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=ask, args=(caller, barrier)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    once.close()
    assert runs == {f"key {number}": 1 for number in range(60)}


@pytest.mark.parametrize("digest", ["d", ""])
def test_what_a_forked_child_comes_back_with_is_not_recorded(start: Callable[..., Worker], runs: Path, digest: str) -> None:
    with pytest.raises(ConnectionError):
        asker(start()).once("k", "fork_and_die_first", str(runs), digest=digest)
    client = asker(start())
    assert client.once("k", "fork_and_die_first", str(runs), digest=digest) == "the worker"
    assert client.outcome is not None and not client.outcome[1]
