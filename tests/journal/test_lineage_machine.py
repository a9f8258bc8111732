"""Random histories of a session whose worker dies again and again: what it answers is right, and what was marked comes back."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule
from lane_client import HELPERS, TOKEN, Client, LaneError, payload

from bridge_adapter.codec import Ref
from bridge_adapter.config import Config
from bridge_adapter.connection import Connection
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.journal.once import Once
from bridge_adapter.journal.store import Journal
from bridge_adapter.lane import LaneSocket
from bridge_adapter.tokens import Tokens

sys.path.append(str(HELPERS))

import lineages

MARKS = {"idempotent": {"idempotent": True}, "reads": {"mutates": False}, "none": {}}
GONE = ("session_lost", "unknown_ref")


class Sessions(RuleBasedStateMachine):
    """One session. The model is made of the same objects; `together` says which of them calls have brought together."""

    refs = Bundle("refs")

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.objects: dict[str, Any] = {}
        self.together: dict[str, set[str]] = {}
        self.doubtful: set[str] = set()
        self.client: Client | None = None
        self.crash()

    @rule()
    def crash(self) -> None:
        self._end()
        path = Path(self.directory.name) / "calls.journal"
        self.once = Once(lambda: Journal(path))
        here, there = socket.socketpair()
        dispatcher = Dispatcher(Config(), once=self.once)
        threading.Thread(target=Connection(1, LaneSocket(there, 1 << 24), dispatcher, Tokens(TOKEN)).serve, daemon=True).start()
        self.client = Client(here)
        self.lost = set(self.doubtful)

    def _end(self) -> None:
        if self.client is not None:
            self.client.close()
            self.once.close()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self._end()
            self.directory.cleanup()

    def _ask(self, fields: dict[str, Any]) -> Any:
        assert self.client is not None
        return self.client.tool("snakebridge.call", fields, session_options={"recover": "lineage"})

    def _call(self, on: Ref, name: str, *args: Any, mark: str) -> Any:
        asked = payload("", name, args) | {"call_type": "method", "instance": on}
        return self._ask(asked | MARKS[mark])

    def _made(self, ref: Ref, value: Any, *given: Ref, marked: bool) -> Ref:
        self.objects[ref.id] = value
        joined = {ref.id}.union(*(self.together[each.id] for each in given))
        for id in joined:
            self.together[id] = joined
        if not marked or not joined.isdisjoint(self.doubtful):
            self.doubtful |= {ref.id} if not marked and not given else joined
        return ref

    @rule(target=refs, items=st.lists(st.integers(0, 9), max_size=3), marked=st.booleans())
    def make(self, items: list[int], marked: bool) -> Any:
        mark = MARKS["idempotent" if marked else "none"]
        return self._made(self._ask(payload("lineages", "Basket", items) | mark), lineages.Basket(*items), marked=marked)

    @rule(target=refs, left=refs, right=refs, marked=st.booleans())
    def join(self, left: Ref, right: Ref, marked: bool) -> Any:
        values = [self.objects.get(each.id) for each in (left, right)]
        try:
            ref = self._ask(payload("lineages", "Pair", [left, right]) | MARKS["idempotent" if marked else "none"])
        except LaneError as error:
            self._gone(error, left, right)
            return multiple()
        return self._made(ref, lineages.Pair(*values), left, right, marked=marked)

    @rule(ref=refs, number=st.integers(0, 9), marked=st.booleans())
    def add(self, ref: Ref, number: int, marked: bool) -> None:
        try:
            self._call(ref, "add", number, mark="idempotent" if marked else "none")
        except LaneError as error:
            self._gone(error, ref)
            return
        self.objects[ref.id].add(number)
        if not marked or not self.doubtful.isdisjoint(self.together[ref.id]):
            self.doubtful |= self.together[ref.id]

    @rule(ref=refs, mark=st.sampled_from(["reads", "none", "idempotent"]))
    def total(self, ref: Ref, mark: str) -> None:
        try:
            answer = self._call(ref, "total", mark=mark)
        except LaneError as error:
            self._gone(error, ref)
        else:
            assert answer == self.objects[ref.id].total()

    @rule(ref=consumes(refs))
    def release(self, ref: Ref) -> None:
        assert self.client is not None
        with contextlib.suppress(LaneError):
            self.client.tool("snakebridge.release_ref", {"session_id": "s", "ref": ref}, session_options={"recover": "lineage"})

    def _gone(self, error: LaneError, *refs: Ref) -> None:
        """Only what an unmarked call has made or changed, before a crash, may be gone."""
        assert error.category in GONE, error.fields
        assert any(ref.id in self.lost for ref in refs), error.fields


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
