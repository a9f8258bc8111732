"""Sessions that are rebuilt: their worker is killed, another one on the same journal goes on, and old refs name objects again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane
from bridge_adapter.codec import Ref
from bridge_adapter.lineage.records import MOST_REBUILDS


class Recovering(Client):
    """A client whose calls say that their session is recovered."""

    options: dict[str, Any]

    def ask(self, function: Any, *args: Any, on: Ref | None = None, params: dict[str, Any] | None = None, **fields: Any) -> Any:
        asked = payload("" if on is not None else "lineages", function, args, session="s")
        if on is not None:
            asked |= {"call_type": "method", "instance": on}
        return self.tool("snakebridge.call", asked | fields, session_options=self.options, **(params or {}))

    def make(self, function: str, *args: Any, **fields: Any) -> Any:
        return self.ask(function, *args, idempotent=True, **fields)

    def change(self, ref: Ref, function: str, *args: Any, **fields: Any) -> Any:
        return self.ask(function, *args, on=ref, idempotent=True, **fields)

    def read(self, ref: Ref, function: str, *args: Any) -> Any:
        return self.ask(function, *args, on=ref, mutates=False)

    def attr(self, ref: Ref, name: str) -> Any:
        return self.ask(name, on=ref, call_type="get_attr")

    def step(self, ref: Any, **fields: Any) -> Any:
        return self.ask("stream_next", call_type="stream_next", stream_ref=ref, **fields)

    def release(self, ref: Ref) -> bool:
        return bool(self.tool("snakebridge.release_ref", {"session_id": "s", "ref": ref}, session_options=self.options))


class Lives:
    """One worker after another on the same journal."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self._stack = path, stack
        self.worker: Worker | None = None

    def begin(self, options: dict[str, Any] | None = None, *args: str) -> Recovering:
        if self.worker is not None:
            self.worker.process.kill()
            self.worker.process.wait()
        self.worker = self._stack.enter_context(Worker(args=("--journal", str(self.path / "calls.journal"), *args)))
        client = Recovering(self.worker.socket())
        client.options = {"recover": "lineage", **(options or {})}
        return client


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    with ExitStack() as stack:
        yield Lives(tmp_path, stack)


def lost(call: Callable[[], Any]) -> str:
    """The message of a session_lost error."""
    with pytest.raises(LaneError) as failure:
        call()
    assert failure.value.category == "session_lost", failure.value.fields
    return str(failure.value.fields["message"])


def test_objects_come_back_under_their_refs_with_their_state(lives: Lives) -> None:
    client = lives.begin()
    basket = client.make("Basket", 1, 2)
    pair = client.make("Pair", basket, client.make("Basket", 10))
    client.change(basket, "add", 3)
    assert client.read(pair, "total") == 16
    client = lives.begin()
    assert client.read(pair, "total") == 16
    assert client.read(basket, "total") == 6
    assert client.attr(pair, "left").id == basket.id
    client.change(basket, "add", 4)
    child = client.ask("child", on=basket, mutates=False)
    assert client.attr(client.make("Pair", child, basket), "left").id == child.id
    client.change(child, "add", 5)
    client = lives.begin()
    assert client.read(pair, "total") == 20
    assert client.read(child, "total") == 5


def test_an_unmarked_call_that_changes_an_object_costs_it_its_recovery_and_is_named(lives: Lives) -> None:
    client = lives.begin()
    basket, other = client.make("Basket", 1), client.make("Basket", 2)
    pair = client.make("Pair", basket, client.make("Basket", 10))
    unmarked = client.ask("Basket", 3)
    functional = client.make("Basket", client.function("f", 0, lambda: 1))
    client.change(pair, "add", 0)
    assert client.ask("total", on=pair) == 11  # changes nothing, as the state shows
    assert client.read(basket, "total") == 1
    client.ask("add", 7, on=basket)
    client = lives.begin()
    assert "changed by `add`" in lost(lambda: client.read(pair, "total"))
    assert "mutates: false" in lost(lambda: client.read(basket, "total"))
    assert client.read(other, "total") == 2
    assert "made by `lineages.Basket`, which was not marked idempotent" in lost(lambda: client.read(unmarked, "total"))
    assert "was given an Elixir function" in lost(lambda: client.read(functional, "total"))


def test_in_a_replayable_session_every_call_is_recorded(lives: Lives) -> None:
    client = lives.begin({"replayable": True, "pinned": True})
    basket = client.ask("Basket", 1)
    client.ask("add", 2, on=basket)
    assert lives.begin({"replayable": True, "pinned": True}).read(basket, "total") == 3


def test_what_comes_out_different_is_found_and_named(lives: Lives) -> None:
    client = lives.begin()
    dice, seeded, basket = client.make("Dice"), client.make("Dice", 3), client.make("Basket", 1)
    value = client.attr(seeded, "value")
    client = lives.begin()
    assert "`lineages.Dice` made another object than the first time: give it a seed" in lost(lambda: client.attr(dice, "value"))
    assert client.attr(seeded, "value") == value
    assert client.read(basket, "total") == 1


def test_a_forest_without_a_seed_is_found_out_and_one_with_a_seed_answers_as_before(lives: Lives) -> None:
    client = lives.begin()
    rows, kinds = [[0.0, 1.0], [1.0, 0.5], [2.0, 0.0], [3.0, 1.5]] * 5, [0, 0, 1, 1] * 5
    module = {"python_module": "sklearn.ensemble"}
    wild, tame = (client.make("RandomForestClassifier", kwargs={"n_estimators": 5, "random_state": seed}, **module) for seed in (None, 7))
    for forest in (wild, tame):
        client.change(forest, "fit", rows, kinds)
    before = client.read(tame, "predict_proba", rows)
    assert client.ask("predict", rows, on=tame).tolist()  # unmarked, and changes nothing
    client = lives.begin()
    assert client.read(tame, "predict_proba", rows).tolist() == before.tolist()
    assert "`fit` left an object in another state than the first time: give it a seed" in lost(lambda: client.read(wild, "predict", rows))


def test_what_comes_out_different_is_given_out_if_that_is_wanted(lives: Lives) -> None:
    options = {"on_difference": "warn"}
    dice = lives.begin(options).make("Dice")
    assert isinstance(lives.begin(options).attr(dice, "value"), float)


def test_a_call_that_fails_now_is_named_with_its_error(lives: Lives, tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("4")
    client = lives.begin()
    basket = client.make("needs", str(path))
    pair = client.make("Pair", basket, basket)
    path.unlink()
    client = lives.begin()
    assert "`lineages.needs` raised FileNotFoundError" in lost(lambda: client.read(pair, "total"))
    assert "`lineages.needs` raised FileNotFoundError" in lost(lambda: client.read(basket, "total"))


def test_a_call_that_has_failed_half_way_is_made_again_and_what_was_interrupted_is_gone(lives: Lives) -> None:
    client = lives.begin()
    basket, other = client.make("Basket", 1), client.make("Basket", 1)
    with pytest.raises(LaneError, match="it is full"):
        client.change(basket, "add_badly", 2)
    with pytest.raises(LaneError) as late:
        client.change(other, "add_slowly", 2, params={"timeout_ms": 100})
    assert late.value.category == "timeout"
    client = lives.begin()
    assert client.read(basket, "total") == 3
    assert "`add_slowly`, which was interrupted" in lost(lambda: client.read(other, "total"))


def test_the_deadline_of_the_first_call_interrupts_the_rebuild_and_the_next_one_begins_again(lives: Lives, tmp_path: Path) -> None:
    path = tmp_path / "seconds"
    path.write_text("0")
    client = lives.begin()
    basket = client.make("Basket", 1)
    client.make("Slow", str(path))
    path.write_text("30")
    client = lives.begin()
    with pytest.raises(LaneError) as late:
        client.ask("total", on=basket, mutates=False, params={"timeout_ms": 300})
    assert late.value.category == "timeout"
    path.write_text("0")
    assert client.read(basket, "total") == 1


def test_a_rebuild_that_kills_every_worker_is_given_up(lives: Lives, tmp_path: Path) -> None:
    path = tmp_path / "deadly"
    basket = lives.begin().make("deadly", str(path))
    path.touch()
    with pytest.raises((ConnectionError, OSError)):
        lives.begin().read(basket, "total")
    with closing(sqlite3.connect(tmp_path / "calls.journal")) as file, file:
        assert file.execute("SELECT rebuilds FROM lineages").fetchone() == (1,)
        file.execute("UPDATE lineages SET rebuilds = ?", (MOST_REBUILDS,))
    assert "was begun 3 times" in lost(lambda: lives.begin().read(basket, "total"))


def test_a_call_with_a_key_whose_answer_was_lost_is_not_made_twice(lives: Lives) -> None:
    client = lives.begin()
    basket = client.make("Basket")
    key = {"key": ["k", "", 1]}
    assert client.change(basket, "add", 5, params=key) == 1
    again = {"key": ["k", "", 2]}
    client = lives.begin()
    assert client.change(basket, "add", 5, params=again) == 1
    assert client.read(basket, "total") == 5


def test_released_refs_stay_released_and_what_nobody_can_ask_for_is_forgotten(lives: Lives) -> None:
    client = lives.begin()
    basket, other = client.make("Basket", 1), client.make("Basket", 2)
    pair = client.make("Pair", basket, basket)
    assert client.release(basket)
    assert client.release(other)
    client = lives.begin()
    assert client.read(pair, "total") == 2
    for gone in (basket, other):
        with pytest.raises(LaneError):
            client.read(gone, "total")
    again = client.attr(pair, "left")
    assert client.read(again, "total") == 1
    assert lives.begin().read(again, "total") == 1


def test_a_session_that_was_released_does_not_come_back(lives: Lives) -> None:
    client = lives.begin()
    basket = client.make("Basket", 1)
    client = lives.begin()
    client.tool("snakebridge.release_session", {"session_id": "s"}, session_options=client.options)
    with pytest.raises(LaneError):
        lives.begin().read(basket, "total")


def test_held_streams_go_on_where_they_were(lives: Lives, tmp_path: Path) -> None:
    client = lives.begin()
    basket = client.make("Basket", 1, 2, 3, 4, 5, 6)
    numbers = client.change(basket, "numbers")
    assert client.step(numbers) == 1
    assert client.step(numbers, batch=3) == {"items": [2, 3, 4], "done": False}
    client.step(numbers, unread=1)
    client = lives.begin()
    assert client.step(numbers) == 4
    client.change(basket, "add", 7)
    client = lives.begin()
    assert client.step(numbers, batch=9) == {"items": [5, 6, 7], "done": True}
    assert lives.begin().step(numbers) == {"__type__": "stop_iteration"}


def test_items_whose_answer_was_lost_are_taken_again(lives: Lives) -> None:
    client = lives.begin()
    numbers = client.change(client.make("Basket", 1, 2, 3, 4), "numbers")
    assert client.step(numbers) == 1
    assert client.step(numbers, batch=2, params={"key": ["b", "", 1]})["items"] == [2, 3]
    client = lives.begin()
    assert client.step(numbers, batch=2, params={"key": ["b", "", 2]})["items"] == [2, 3]
    assert client.step(numbers) == 4


def test_a_stream_that_can_resume_is_asked_to(lives: Lives) -> None:
    client = lives.begin()
    stream = client.make("Resuming", 10)
    assert client.step(stream, batch=4)["items"] == [0, 1, 2, 3]
    client = lives.begin()
    assert client.step(stream) == 4
    assert client.ask("how", on=stream, mutates=False) == 4


def test_work_goes_on_from_its_last_checkpoint(lives: Lives, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    client = lives.begin()
    work = client.make("Long", str(marks))
    for _ in range(5):
        client.step(work)
    marks.unlink()
    client = lives.begin()
    assert client.step(work) == {"step": 6, "sum": 21}
    assert marks.read_text().split() == ["4", "5", "6"]


def test_without_a_journal_a_session_cannot_be_recovered() -> None:
    with Worker() as worker:
        client = Recovering(worker.socket())
        client.options = {"recover": "lineage"}
        with pytest.raises(LaneError, match="needs a journal"):
            client.make("Basket")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recover": "magic"}, "must be 'lineage'"),
        ({"concurrent": True}, "no order"),
        ({"on_difference": "shrug"}, "must be 'fail' or 'warn'"),
    ],
)
def test_options_that_make_no_sense_are_refused(lives: Lives, options: dict[str, Any], says: str) -> None:
    with pytest.raises(LaneError, match=says):
        lives.begin(options).make("Basket")


def test_a_flow_goes_on_from_its_last_checkpoint(lives: Lives) -> None:
    import numpy as np

    image = np.random.default_rng(2).random((32, 32))
    asked = {"python_module": "bridge_adapter.kernels.flow"}
    options = {"blur_sigma": 1.0, "iterations": 60, "block": 2, "tol": 0.0}
    client = lives.begin()
    flow = client.make("Restoration", image, kwargs=options, **asked)
    seen = [client.step(flow)["iteration"] for _ in range(10)]
    client = lives.begin()
    while not isinstance(info := client.step(flow), dict) or "iteration" in info:
        seen.append(info["iteration"])
    assert seen == list(range(2, 61, 2))
    result = client.ask("result", on=flow, mutates=False)
    expected = client.make("restore", image, kwargs=options, **asked)
    np.testing.assert_array_equal(result["image"], expected["image"])


def test_a_rebuild_that_cannot_be_noted_is_begun_again_with_nothing_lost(lives: Lives, tmp_path: Path) -> None:
    client, marker = lives.begin(), tmp_path / "marker"
    basket = client.make("Basket", 1, 2)
    client.make("NoMoreFiles", str(marker))
    marker.touch()
    client = lives.begin()
    with pytest.raises(LaneError, match="the session s is to be recovered, but the journal") as refused:
        client.read(basket, "total")
    assert refused.value.category == "unavailable" and refused.value.fields["details"]["outcome"] == "not_started"
    marker.unlink()
    client.call("lineages", "files_again", session="other")
    assert client.read(basket, "total") == 3


def test_clients_that_vanish_during_a_rebuild_cost_nothing(lives: Lives, tmp_path: Path) -> None:
    client, there = lives.begin(), tmp_path / "there"
    there.touch()
    basket = client.make("Basket", 1, 2)
    client.make("Waits", str(there))
    client = lives.begin()
    assert lives.worker is not None
    control = lives.worker.connect("control")
    for number in range(1, MOST_REBUILDS + 1):
        there.unlink()
        impatient = Recovering(lives.worker.socket())
        asked = payload("", "total", (), session="s") | {"call_type": "method", "instance": basket, "mutates": False}
        impatient.send(lane.request(9, "call", {"tool": "snakebridge.call", "payload": asked, "session_options": client.options}))
        while control.request("stats", None)["served"] < number:
            pass
        impatient.close()
        there.touch()
        while control.request("stats", None)["open"]:
            pass
    assert client.read(basket, "total") == 3
