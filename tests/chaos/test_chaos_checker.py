"""The checker of chaos histories, checked: it finds nothing in the history of an ideal bridge, and everything that is planted there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from checker import RULES, check
from history import Effect, History, Operation, Window
from hypothesis import given, settings
from hypothesis import strategies as st

STEP = 1000
KINDS = ("plain", "idempotent", "keyed", "ask", "append", "stream")


class Ideal:
    """A bridge that keeps every promise while its workers die, as a generator of histories."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._at = 0
        self._runs = 0
        self._worker = 1
        self._answers: dict[str, tuple[str, int]] = {}
        self._register: tuple[str, list[str]] | None = None
        self.operations: list[Operation] = []
        self.effects: list[Effect] = []
        self.windows: list[Window] = []

    def tick(self) -> int:
        self._at += self._chance.randrange(1, STEP)
        return self._at

    def history(self) -> History:
        return History(tuple(self.operations), tuple(self.effects), tuple(self.windows))

    def run(self, effect: str, fate: str) -> str:
        """User code: whole, interrupted, or cut off by the death of its worker."""
        self._runs += 1
        run = f"w{self._worker}/{self._runs}"
        self.effects.append(Effect(self.tick(), effect, run, f"w{self._worker}", "begin"))
        if fate in ("end", "aborted"):
            self.effects.append(Effect(self.tick(), effect, run, f"w{self._worker}", fate))
        else:
            self._worker += 1
            self._register = None
        return run

    def call(self, kind: str) -> None:
        number = len(self.operations)
        asked = Operation(f"o{number}", f"p{number % 3}", kind, f"o{number}", self.tick())  # type: ignore[arg-type]
        self.operations.append(getattr(self, kind)(asked))

    def end(self, asked: Operation, **fields: object) -> Operation:
        return replace(asked, done=self.tick(), **fields)  # type: ignore[arg-type]

    def refused(self, asked: Operation) -> Operation:
        return self.end(asked, category="worker_crash", outcome="not_started", message="the worker died")

    def crashed(self, asked: Operation, **fields: object) -> Operation:
        return self.end(asked, category="worker_crash", outcome="unknown", message="the worker died", **fields)

    def plain(self, asked: Operation) -> Operation:
        fate = self._chance.choice(["end", "end", "cut", "aborted", "lost", "refused"])
        if fate == "refused":
            return self.refused(asked)
        run = self.run(asked.target, "end" if fate == "lost" else fate)
        if fate == "end":
            return self.end(asked, answered=True, value=[asked.target, run])
        return self.end(asked, category="timeout") if fate == "aborted" else self.crashed(asked)

    def idempotent(self, asked: Operation) -> Operation:
        attempts = self._chance.randrange(0, 3)
        for _ in range(attempts):
            self.run(asked.target, "cut")
        if self._chance.random() < 0.3:
            return self.crashed(asked) if attempts else self.refused(asked)
        return self.end(asked, answered=True, value=[asked.target, self.run(asked.target, "end")], attempts=attempts + 1)

    def keyed(self, asked: Operation) -> Operation:
        asked = replace(asked, target=f"k{self._chance.randrange(4)}")
        if self._chance.random() < 0.1:
            begins = self.tick()
            self._answers.clear()
            self.windows.append(Window("forgotten", begins, self.tick()))
        if asked.target in self._answers:
            run, attempts = self._answers[asked.target]
            return self.end(asked, answered=True, value=[asked.target, run], attempts=attempts, replayed=True)
        if self._chance.random() < 0.3:
            self.run(asked.target, self._chance.choice(["cut", "aborted"]))
            return self.crashed(asked)
        run = self.run(asked.target, "end")
        self._answers[asked.target] = run, 1
        return self.crashed(asked) if self._chance.random() < 0.2 else self.end(asked, answered=True, value=[asked.target, run], attempts=1)

    def ask(self, asked: Operation) -> Operation:
        return self.end(asked, answered=True, value=[asked.target, asked.target])

    def append(self, asked: Operation) -> Operation:
        if self._register is None:
            self._register = f"r{len(self.operations)}", []
        name, entries = self._register
        asked = replace(asked, target=name)
        fate = self._chance.choice(["ok", "ok", "ok", "ok", "late", "lost"])
        if fate == "lost":
            self._register = None
            return self.end(asked, category="session_lost", message="it lived in a worker that is gone")
        entries.append(asked.op)
        return self.end(asked, category="timeout") if fate == "late" else self.end(asked, answered=True, value=[name, list(entries)])

    def stream(self, asked: Operation) -> Operation:
        count = self._chance.randrange(1, 6)
        asked = replace(asked, wanted=count)
        broken = self._chance.random() < 0.3
        run = self.run(asked.target, "cut" if broken else "end")
        items = [[asked.target, number, run] for number in range(self._chance.randrange(count) if broken else count)]
        return self.crashed(asked, value=items) if broken else self.end(asked, answered=True, value=items)


def ideal(chance: random.Random, calls: int) -> Ideal:
    world = Ideal(chance)
    for kind in [*KINDS, *(chance.choice(KINDS) for _ in range(calls))]:
        world.call(kind)
    return world


# --- violations ---

Plant = Callable[[Ideal], None]


def answered(world: Ideal, kind: str) -> Operation:
    """An operation of a kind that went well, at the end of the history."""
    while True:
        world.call(kind)
        if world.operations[-1].answered:
            return world.operations[-1]


def runs_twice(world: Ideal) -> None:
    world.run(answered(world, "plain").target, "end")


def an_effect_is_lost(world: Ideal) -> None:
    gone = answered(world, "plain").target
    world.effects = [effect for effect in world.effects if effect.effect != gone]


def half_an_effect_is_acknowledged(world: Ideal) -> None:
    half = answered(world, "idempotent")
    world.effects = [effect for effect in world.effects if (effect.run, effect.phase) != (half.value[1], "end")]


def not_started_but_ran(world: Ideal) -> None:
    ran = answered(world, "plain")
    world.operations[-1] = replace(ran, answered=False, value=None, category="unavailable")


def not_started_after_an_attempt(world: Ideal) -> None:
    ran = answered(world, "idempotent")
    world.operations[-1] = replace(ran, answered=False, value=None, category="worker_crash", outcome="not_started")


def attempts_are_hidden(world: Ideal) -> None:
    ran = answered(world, "idempotent")
    world.run(ran.target, "cut")
    world.operations[-1] = replace(ran, attempts=1)


def a_reply_is_anothers(world: Ideal) -> None:
    one, other = answered(world, "plain"), answered(world, "ask")
    world.operations[-1] = replace(other, value=one.value)


def a_key_has_two_answers(world: Ideal) -> None:
    again = replay(world)
    world.operations[-1] = replace(again, value=[again.target, world.run(again.target, "end")])


def a_key_runs_again(world: Ideal) -> None:
    world.run(replay(world).target, "cut")


def a_key_runs_twice_at_once(world: Ideal) -> None:
    key = "another key"
    first, second = world.tick(), world.tick()
    ends = world.tick()
    for begins, run in ((first, "v/1"), (second, "w/2")):
        world.effects += [Effect(begins, key, run, run[0], "begin")]
    world.effects += [Effect(ends, key, "v/1", "v", "end"), Effect(ends + 1, key, "w/2", "w", "end")]
    world.operations.append(Operation("twice", "p9", "keyed", key, first, ends + 2, answered=True, value=[key, "w/2"]))


def a_key_conflicts_with_itself(world: Ideal) -> None:
    world.operations[-1] = replace(replay(world), answered=False, value=None, category="idempotency_conflict")


def replay(world: Ideal) -> Operation:
    """A call that was answered from the journal, with no licence since its key ran."""
    world.windows = []
    world._answers.clear()
    while True:
        operation = answered(world, "keyed")
        if operation.replayed and not world.windows:
            return operation
        if world.windows:
            world.windows = []
            world._answers.clear()


def two_appends(world: Ideal) -> tuple[Operation, Operation]:
    while True:
        one, other = answered(world, "append"), answered(world, "append")
        if one.target == other.target and world.operations[-2] is one:
            return one, other


def an_entry_is_lost(world: Ideal) -> None:
    one, other = two_appends(world)
    world.operations[-1] = replace(other, value=[other.target, [entry for entry in other.value[1] if entry != one.op]])


def an_entry_is_there_twice(world: Ideal) -> None:
    _, other = two_appends(world)
    world.operations[-1] = replace(other, value=[other.target, [other.op, *other.value[1]]])


def an_old_object_leaks(world: Ideal) -> None:
    one = answered(world, "append")
    fresh = replace(one, op="fresh", target="a new object", value=["a new object", [*one.value[1], "fresh"]])
    world.operations.append(fresh)


def order_is_lost(world: Ideal) -> None:
    _, other = two_appends(world)
    entries = other.value[1]
    world.operations[-1] = replace(other, value=[other.target, [*entries[:-2], entries[-1], entries[-2]]])


def a_stream_has_a_gap(world: Ideal) -> None:
    whole = long_stream(world)
    world.operations[-1] = replace(whole, value=[*whole.value[:1], *whole.value[2:]])


def a_stream_repeats_itself(world: Ideal) -> None:
    whole = long_stream(world)
    world.operations[-1] = replace(whole, value=[whole.value[0], *whole.value])


def a_stream_begins_anew(world: Ideal) -> None:
    whole = long_stream(world)
    target, number, _ = whole.value[-1]
    world.operations[-1] = replace(whole, value=[*whole.value[:-1], [target, number, "another/1"]])


def a_stream_ends_early(world: Ideal) -> None:
    whole = long_stream(world)
    world.operations[-1] = replace(whole, value=whole.value[:-1])


def long_stream(world: Ideal) -> Operation:
    while len((stream := answered(world, "stream")).value) < 3:
        pass
    return stream


def an_error_of_our_own(world: Ideal) -> None:
    world.operations[-1] = replace(answered(world, "ask"), answered=False, value=None, category="protocol_error")


def a_call_never_ends(world: Ideal) -> None:
    stuck = world.end(Operation("stuck", "p1", "ask", "stuck", world.tick()))
    world.operations += [replace(stuck, done=None), Operation("next", "p1", "ask", "next", world.tick())]


def nothing_works_afterwards(world: Ideal) -> None:
    world.operations.append(world.refused(Operation("calm", "p1", "ask", "calm", world.tick(), calm=True)))


PLANTS: list[tuple[Plant, str]] = [
    (runs_twice, "acknowledged_effects_are_there_once"),
    (an_effect_is_lost, "acknowledged_effects_are_there_once"),
    (half_an_effect_is_acknowledged, "idempotent_answers_come_from_a_whole_run"),
    (not_started_but_ran, "what_had_not_started_never_happened"),
    (not_started_after_an_attempt, "what_had_not_started_never_happened"),
    (attempts_are_hidden, "attempts_are_told_honestly"),
    (a_reply_is_anothers, "every_answer_belongs_to_its_call"),
    (a_key_has_two_answers, "one_key_has_one_answer"),
    (a_key_runs_again, "an_answered_key_never_runs_again"),
    (a_key_runs_twice_at_once, "one_key_runs_one_at_a_time"),
    (a_key_conflicts_with_itself, "keys_of_one_call_never_conflict"),
    (an_entry_is_lost, "objects_keep_what_was_acknowledged"),
    (an_entry_is_there_twice, "objects_keep_what_was_acknowledged"),
    (an_old_object_leaks, "objects_keep_what_was_acknowledged"),
    (order_is_lost, "objects_keep_what_was_acknowledged"),
    (a_stream_has_a_gap, "streams_bring_every_item_once"),
    (a_stream_repeats_itself, "streams_bring_every_item_once"),
    (a_stream_begins_anew, "streams_bring_every_item_once"),
    (a_stream_ends_early, "streams_bring_every_item_once"),
    (an_error_of_our_own, "errors_are_those_of_the_faults"),
    (a_call_never_ends, "every_call_ends"),
    (nothing_works_afterwards, "the_next_call_works"),
]


@settings(deadline=None)
@given(chance=st.randoms(use_true_random=False), calls=st.integers(0, 60))
def test_an_ideal_world_has_no_violations(chance: random.Random, calls: int) -> None:
    assert check(ideal(chance, calls).history()) == []


@pytest.mark.parametrize(("plant", "rule"), PLANTS, ids=lambda given: given.__name__ if callable(given) else "")
def test_what_is_planted_is_found(plant: Plant, rule: str) -> None:
    for seed in range(20):
        world = ideal(random.Random(seed), 20)
        plant(world)
        found = {violation.rule for violation in check(world.history())}
        assert rule in found, f"seed {seed}: {found}"


def test_every_rule_can_fail() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for _, rule in PLANTS}


def test_a_damaged_journal_may_forget() -> None:
    before = Operation("a", "p", "keyed", "k", 0, 10, answered=True, value=["k", "w/1"])
    after = Operation("b", "p", "keyed", "k", 50, 60, answered=True, value=["k", "v/1"])
    effects = (
        Effect(1, "k", "w/1", "w", "begin"),
        Effect(5, "k", "w/1", "w", "end"),
        Effect(51, "k", "v/1", "v", "begin"),
        Effect(55, "k", "v/1", "v", "end"),
    )
    assert [violation.rule for violation in check(History((before, after), effects))] == [
        "one_key_has_one_answer",
        "an_answered_key_never_runs_again",
    ]
    assert check(History((before, after), effects, (Window("forgotten", 20, 30),))) == []
    assert check(History((before, after), effects, (Window("unrecorded", 20, 30),))) != []
    assert check(History((before, after), effects, (Window("unrecorded", 5, 30),))) == []
