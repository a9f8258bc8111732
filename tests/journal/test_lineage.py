"""What is kept of a session, and what two digests say of two objects."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from bridge_adapter.errors import Unavailable
from bridge_adapter.journal.records import JournalError
from bridge_adapter.journal.schema import MIGRATIONS
from bridge_adapter.journal.store import Bounds, Journal
from bridge_adapter.lineage import recorder
from bridge_adapter.lineage.digest import digest
from bridge_adapter.lineage.inline import inline
from bridge_adapter.lineage.recorder import Done, Lineage, NotRecorded
from bridge_adapter.lineage.records import Checkpoint, Options, Record
from bridge_adapter.lineage.store import Store


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "calls.journal")
    yield opened
    opened.close()


class Held:
    """The objects of a session, and its lineage."""

    def __init__(self, journal: Journal, session: str = "s") -> None:
        self.objects: dict[str, Any] = {}
        self.lineage = Lineage(session, Store(lambda: journal), Options(), self.objects.get)
        self.lineage.resume(self.lineage.load(), {})

    def make(self, ref: str, value: Any, *given: str, again: bool = True, reads: bool = False) -> None:
        if not again:
            self.lineage.look(list(given))
        self.objects[ref] = value
        self.lineage.ran(Done(f"make {ref}", again, reads, list(given), [ref], value), lambda: b"body")

    def change(self, *given: str, again: bool = True, answer: Any = None, to: Any = None) -> None:
        """`to`: what happens meanwhile."""
        if not again:
            self.lineage.look(list(given))
        if to is not None:
            to()
        self.lineage.ran(Done("change", again, False, list(given), [], answer), lambda: b"body")

    def release(self, ref: str) -> None:
        del self.objects[ref]
        self.lineage.released(ref)

    @property
    def labels(self) -> list[str]:
        return [record.label for record in self.lineage.records]


def test_a_history_is_read_as_it_was_written(journal: Journal) -> None:
    store = Store(lambda: journal)
    assert store.open("s").records == []
    record = Record(1, 0, "f", ["a"], ["b"], {"": "d"}, "ValueError", 2, "k", True, 1, b"body", 4)
    store.add("s", record)
    store.count("s", dataclasses.replace(record, count=7))
    store.lose("s", {"c": "why"})
    store.checkpoint("s", Checkpoint("a", 1, 7, b"value"))
    store.rebuilding("s", 2)
    history = store.open("s")
    assert history.records == [dataclasses.replace(record, count=7)]
    assert (history.lost, history.rebuilds, history.broken) == ({"c": "why"}, 2, "")
    assert history.checkpoints == {"a": Checkpoint("a", 1, 7, b"value")}
    store.give_up("s", "too much")
    assert (store.open("s").records, store.open("s").broken) == ([], "too much")
    store.forget("s")
    assert store.open("s").lost == {}


def test_a_session_that_another_process_has_rebuilt_is_not_written_by_this_one(journal: Journal) -> None:
    held = Held(journal)
    held.make("a", [1])
    with closing(sqlite3.connect(journal.path)) as file, file:
        file.execute("UPDATE lineages SET owner = 'another'")
    with pytest.raises(NotRecorded, match="not this process's any more"):
        held.change("a")


def test_what_a_process_has_changed_whose_session_another_has_rebuilt_is_not_answered(journal: Journal) -> None:
    here, there = Store(lambda: journal), Store(lambda: journal)
    here._own, there._own = "here", "there"
    objects = {"a": [1]}
    lineage = Lineage("s", here, Options(), objects.get)
    lineage.resume(lineage.load(), {})
    lineage.ran(Done("make a", True, False, [], ["a"], objects["a"]), lambda: b"body")
    lineage.look(["a"])
    objects["a"].append(2)
    there.open("s")
    with pytest.raises(NotRecorded, match="not this process's any more"):
        lineage.ran(Done("change", False, False, ["a"]), lambda: b"body")
    with pytest.raises(Unavailable, match="not this process's any more"):
        lineage.settle()
    history = there.open("s")
    assert [record.label for record in history.records] == ["make a"]
    assert (history.lost, history.broken) == ({}, "")


def test_a_journal_of_version_1_gets_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "old.journal"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(f"{MIGRATIONS[0]}; PRAGMA application_id = {0x534E4A4C}; PRAGMA user_version = 1;")
    with closing(Journal(path)) as journal:
        journal.keep("k", "form", 1, b"answer")
        Store(lambda: journal).open("s")
        assert journal.look("k") is not None
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        assert file.execute("SELECT session FROM lineages").fetchall() == [("s",)]


def test_lineages_of_processes_that_are_gone_expire_and_those_of_living_ones_do_not(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j", bounds=Bounds(seconds=100))) as journal:
        for name in ("living", "dead"):
            Held(journal, name).make("a", [1])
        with closing(sqlite3.connect(journal.path)) as file, file:
            file.execute("UPDATE lineages SET touched = touched - 10000")
            file.execute("UPDATE lineages SET owner = 'gone' WHERE session = 'dead'")
        journal.tidy()
        with closing(sqlite3.connect(journal.path)) as file:
            for table in ("lineages", "lineage_records"):
                assert file.execute(f"SELECT session FROM {table}").fetchall() == [("living",)]


def test_released_objects_take_their_records_along_as_soon_as_nothing_depends_on_them(journal: Journal) -> None:
    held = Held(journal)
    held.make("model", [0])
    held.make("data", [1])
    held.make("other", [2])
    held.change("model", "data")
    held.make("part", "x", "model", reads=True)
    held.release("part")  # only read, and in nothing else
    assert held.labels == ["make model", "make data", "make other", "change"]
    held.release("data")
    assert held.labels == ["make model", "make data", "make other", "change", "release_ref"]
    held.release("model")
    assert held.labels == ["make other"]
    assert [record.label for record in held.lineage.load().records] == ["make other"]


def test_what_hangs_together_with_a_changed_object_is_lost_unless_it_shows_its_old_state(journal: Journal) -> None:
    held = Held(journal)
    held.make("inner", [1])
    held.make("outer", [held.objects["inner"]], "inner")
    held.make("beside", (1, 2), "inner")
    held.make("apart", [1])
    held.change("outer", again=False)
    assert held.lineage.lost == {}
    held.change("outer", to=lambda: held.objects["inner"].append(2))  # recorded: so is what it did to the other
    held.change("outer", again=False)
    assert held.lineage.lost == {}
    held.change("outer", again=False, to=lambda: held.objects["inner"].append(3))
    assert set(held.lineage.lost) == {"inner", "outer"}
    held.make("later", [3], "outer")
    assert "cannot be rebuilt" in held.lineage.why("later")


@pytest.mark.parametrize("marked", [True, False])
def test_what_an_unrecorded_object_holds_may_change_through_it(journal: Journal, marked: bool) -> None:
    held = Held(journal)
    held.make("inner", [1])
    held.make("outer", [held.objects["inner"]], "inner", again=False)
    assert set(held.lineage.lost) == {"outer"}
    held.change("outer", again=marked, to=lambda: held.objects["inner"].append(2))
    assert set(held.lineage.lost) == {"outer", "inner"}


def test_more_than_is_kept_ends_the_recovery_with_a_warning(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "MOST_RECORDS", 3)
    held = Held(journal)
    for name in "abcd":
        held.make(name, [name])
    assert "more was recorded of its session than is kept" in held.lineage.why("a")
    assert len(caplog.records) == 1
    held.make("e", [])
    assert held.lineage.load().records == []


@pytest.mark.parametrize(("limit", "most"), [("MOST_BYTES_OF_ALL", 20), ("MOST_LOST", 1)])
def test_other_bounds_end_it_too(journal: Journal, monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(recorder, limit, most)
    monkeypatch.setattr(recorder, "_LOOK_EVERY", 1)
    held = Held(journal)
    for number in range(10):
        held.make(f"a{number}", [number], again=limit != "MOST_LOST")
    assert "more than" in held.lineage.broken and held.lineage.load().broken == held.lineage.broken


def test_a_lost_object_that_is_released_is_forgotten(journal: Journal) -> None:
    held = Held(journal)
    held.make("a", [1], again=False)
    assert held.lineage.load().lost
    held.release("a")
    assert held.lineage.load().lost == {}


def test_a_call_that_cannot_be_recorded_is_not_answered_and_nothing_runs_until_that_is_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(journal)
    held.make("a", [1])

    def full(*_: Any) -> Any:
        raise JournalError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "_do", full)
        with pytest.raises(NotRecorded, match="the disk is full") as failure:
            held.change("a")
        assert failure.value.details["outcome"] == "unknown"
        with pytest.raises(Exception, match="unrecorded"):
            held.lineage.settle()
    held.lineage.settle()
    assert "could not be recorded" in held.lineage.load().broken


def test_segments_become_bytes_in_a_record(tmp_path: Path) -> None:
    from bridge_adapter.codec.packed import Packer, Unpacker
    from bridge_adapter.codec.segments import Outlet, Segments

    os.chmod(tmp_path, 0o700)
    segments = Segments(str(tmp_path))
    outlet = Outlet(segments)
    outlet.allow((1 << 20, 1))
    array = np.arange(1000.0)
    body = Packer(segments=outlet).pack([0, 1, "call", {"args": [array, "text", 1.5, {"k": (1, None)}]}])
    assert len(body) < 1000
    kept = inline(body, segments)
    outlet.settle()
    [_, _, _, params] = Unpacker().unpack(kept)
    np.testing.assert_array_equal(params["args"][0], array)
    assert params["args"][1:] == ["text", 1.5, {"k": (1, None)}]


# --- digests ---


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left: Any) -> None:
        self.left = left


def circle(value: Any) -> list[Any]:
    items: list[Any] = [value]
    items.append(items)
    return items


KNOWN: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: 1, lambda: 2),
    (lambda: 1, lambda: True),
    (lambda: 1.0, lambda: 1),
    (lambda: "a", lambda: b"a"),
    (lambda: float("nan"), lambda: 0.0),
    (lambda: [1, 2], lambda: [2, 1]),
    (lambda: (1, 2), lambda: [1, 2]),
    (lambda: {"a": 1, "b": 2}, lambda: {"a": 2, "b": 1}),
    (lambda: {"x", "y", "z"}, lambda: {"x", "y"}),
    (lambda: circle(1), lambda: circle(2)),
    (lambda: Point(1, [2]), lambda: Point(1, [3])),
    (lambda: Slotted(1), lambda: Slotted(2)),
    (lambda: random.Random(1), lambda: random.Random(2)),
    (lambda: np.arange(4), lambda: np.arange(4.0)),
    (lambda: np.arange(4), lambda: np.arange(4).reshape(2, 2)),
    (lambda: np.random.default_rng(1), lambda: np.random.default_rng(2)),
    (lambda: np.array(["a", None], object), lambda: np.array(["b", None], object)),
    (lambda: pyarrow.table({"a": [1, 2]}), lambda: pyarrow.table({"a": [1, 3]})),
    (lambda: re.compile("a"), lambda: re.compile("b")),
    (lambda: partial(print, 1), lambda: partial(print, 2)),
    (lambda: Path("/a"), lambda: Path("/b")),
    (lambda: iter([1, 2]), lambda: iter([2])),
]


@pytest.mark.parametrize(("make", "other"), KNOWN)
def test_equal_states_have_equal_digests_and_others_have_others(make: Callable[[], Any], other: Callable[[], Any]) -> None:
    first, second = digest(make()), digest(make())
    assert first == second and first.complete
    assert digest(other()).text != first.text


@pytest.mark.parametrize("make", [threading.Lock, lambda: (n for n in "ab"), lambda: lambda: 1, lambda: [open(os.devnull)]])  # noqa: SIM115
def test_what_cannot_be_known_is_passed_over_and_said(make: Callable[[], Any]) -> None:
    first = digest(make())
    assert first == digest(make()) and not first.complete


def test_padding_of_records_and_shared_parts_mean_nothing() -> None:
    kind = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one, two = np.zeros(2, kind), np.frombuffer(b"\xff" * kind.itemsize * 2, kind).copy()
    two["a"], two["b"] = 0, 0
    assert one.tobytes() != two.tobytes() and digest(one) == digest(two)
    shared = [1]
    assert digest([shared, shared]) == digest([[1], [1]])


def test_a_class_says_itself_what_counts() -> None:
    class Clock:
        def __init__(self, value: int) -> None:
            self.value, self.at = value, random.random()

        def __snakebridge_state__(self) -> int:
            return self.value

    assert digest(Clock(1)) == digest(Clock(1)) != digest(Clock(2))


class Nonsense:
    def __reduce_ex__(self, _: Any) -> Any:
        return (1,)


def test_what_is_too_large_or_nonsense_has_no_digest() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert digest(deep).text == digest(Nonsense()).text == digest(np.zeros(9 << 20)).text == ""
    assert digest(list(range(200_000))).text == ""
    assert digest(bytes(65 << 20)).text == ""


def test_a_digest_is_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from bridge_adapter.lineage.digest import digest; from fractions import Fraction;"
        "print(digest([{'a', 'b', 'c'}, {'k': Fraction(1, 3)}, np.arange(3), print, Fraction, 'ä']).text)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in "12"
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 33
