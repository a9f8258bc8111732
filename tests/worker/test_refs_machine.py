"""The refs of a session against a model: identity, limits, age, eviction."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from bridge_adapter import refs
from bridge_adapter.errors import UnknownRef
from bridge_adapter.refs import RefStore


class Thing:
    """An object that is held."""


class Clock:
    """A time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Machine(RuleBasedStateMachine):
    """The model: what is held, the oldest first, as id -> [object, the answer that made or named it last, when it was used]."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(refs, "time", self.clock)
        self.limit, self.age = 4, 10.0
        self.store = RefStore("s", self.limit, self.age)
        self.held: dict[str, list[object]] = {}
        self.serial = 0
        self.pool = [Thing() for _ in range(8)]

    def expire(self) -> None:
        if self.age:
            self.held = {id: entry for id, entry in self.held.items() if entry[2] >= self.clock.now - self.age}  # type: ignore[operator]

    @rule()
    def the_next_answer(self) -> None:
        self.serial += 1

    @rule(target=ids, which=st.integers(0, 7))
    def add(self, which: int) -> str:
        thing = self.pool[which]
        ref = self.store.add(thing, "m", "m", self.serial)
        known = next((id for id, entry in self.held.items() if entry[0] is thing), None)
        if known is not None:
            assert ref.id == known
            self.held[known][1] = self.serial
            return known
        self.expire()
        for id, entry in list(self.held.items()):
            if len(self.held) >= self.limit and entry[1] != self.serial:
                del self.held[id]
        assert ref.id not in self.held
        self.held[ref.id] = [thing, self.serial, self.clock.now]
        return ref.id

    @rule(id=ids)
    def get(self, id: str) -> None:
        self.expire()
        if id in self.held:
            assert self.store.get(id).obj is self.held[id][0]
            self.held[id][2] = self.clock.now
        else:
            with pytest.raises(UnknownRef):
                self.store.get(id)

    @rule(id=ids)
    def look(self, id: str) -> None:
        self.expire()
        assert (id in self.store) == (id in self.held)

    @rule(id=ids)
    def release(self, id: str) -> None:
        assert self.store.release(id) == (self.held.pop(id, None) is not None)

    @rule()
    def give_up_the_answer(self) -> None:
        """An answer that could not be sent takes with it what it has made, not what was there before."""
        before = len(self.held)
        ref = self.store.add(Thing(), "m", "m", self.serial)
        evicted = before + 1 - len(self.store)
        self.expire()
        for id, entry in list(self.held.items()):
            if len(self.held) >= self.limit and entry[1] != self.serial:
                del self.held[id]
        assert evicted == before - len(self.held)
        self.store.release_made_by(self.serial, len(self.held))
        assert ref.id not in self.store

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(limit=st.none() | st.integers(1, 6), age=st.none() | st.sampled_from([0.0, 4.0, 20]))
    def set_limits(self, limit: int | None, age: float | None) -> None:
        self.store.limit(limit, age)
        self.limit = limit or self.limit
        if age is not None:
            if age and not self.age:
                for entry in self.held.values():
                    entry[2] = self.clock.now
            self.age = float(age)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert list(self.store.objects()) == [entry[0] for entry in self.held.values()]
        assert len(self.store) == len(self.held)
        for thing in self.pool:
            entry = self.store.entry_of(thing)
            assert (entry.obj if entry else None) is (thing if any(known[0] is thing for known in self.held.values()) else None)

    def teardown(self) -> None:
        self.patch.undo()


TestRefStore = Machine.TestCase
TestRefStore.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
