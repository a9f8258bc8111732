"""The journal against a model: calls begin, end and come again in any order, and the file is opened anew and tidied in between."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge_adapter.journal.records import FAILED, FINISHED, STARTED, Row
from bridge_adapter.journal.store import Bounds, Journal

KEYS = st.sampled_from(["a", "b", "c"])
OWNERS = st.sampled_from(["first", "second"])


@dataclass
class Call:
    """What the model knows of a key."""

    state: int
    attempts: int
    owner: str
    answer: bytes | None = None


class Machine(RuleBasedStateMachine):
    """Two processes with one journal, either of which may die at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "calls.journal"
        self.journals = {owner: self.opened(owner) for owner in ("first", "second")}
        self.calls: dict[str, Call] = {}

    def opened(self, owner: str) -> Journal:
        return Journal(self.path, bounds=Bounds(answer=100), owner=owner)

    @rule(key=KEYS, owner=OWNERS, takes_over=st.booleans())
    def begin(self, key: str, owner: str, takes_over: bool) -> None:
        asked: list[Row] = []

        def decide(row: Row) -> bool:
            asked.append(row)
            return takes_over

        row, attempt = self.journals[owner].begin(key, "digest", "form", decide)
        known = self.calls.get(key)
        if known is None:
            assert (row, attempt, asked) == (None, 1, [])
        else:
            assert [(seen.state, seen.attempts, seen.owner, seen.answer) for seen in asked] == [
                (known.state, known.attempts, known.owner, known.answer)
            ]
            assert (row, attempt) == ((None, known.attempts + 1) if takes_over else (asked[0], 0))
        if row is None:
            self.calls[key] = Call(STARTED, attempt, owner)

    @rule(key=KEYS, owner=OWNERS, answer=st.binary(max_size=120), good=st.booleans(), noted=st.booleans())
    def end(self, key: str, owner: str, answer: bytes, good: bool, noted: bool) -> None:
        journal, known = self.journals[owner], self.calls.get(key)
        if good:
            journal.finish(key, answer, attempt=known.attempts if noted and known is not None else None)
            journal._settle()  # the other one would not see it yet
        else:
            journal.fail(key, answer)
        if known is not None and (known.state, known.owner) == (STARTED, owner):
            known.state = FINISHED if good else FAILED
            known.answer = None if good and len(answer) > 100 else answer

    @rule(owner=OWNERS)
    def open_anew(self, owner: str) -> None:
        self.journals[owner].close()
        self.journals[owner] = self.opened(owner)

    @rule(owner=OWNERS)
    def tidy(self, owner: str) -> None:
        self.journals[owner].tidy()

    @invariant()
    def both_see_what_is_known(self) -> None:
        for journal in self.journals.values():
            for key in ("a", "b", "c"):
                row, known = journal.look(key), self.calls.get(key)
                seen = row and (row.state, row.attempts, row.owner, row.answer)
                assert seen == (known and (known.state, known.attempts, known.owner, known.answer))

    def teardown(self) -> None:
        for journal in self.journals.values():
            journal.close()
        self.directory.cleanup()


TestJournal = Machine.TestCase
TestJournal.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
