"""Runs again what was recorded of a session, so that its refs name objects in this process: in order, under their old ids.

What does not come out as it did the first time takes with it all that hangs together with it, and is named.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from bridge_adapter import lane
from bridge_adapter.codec.packed import Packer, Unpacker
from bridge_adapter.context import Context, from_tool
from bridge_adapter.incoming import Resolver, form_of
from bridge_adapter.lineage.digest import digest
from bridge_adapter.lineage.records import CALL, MOST_REBUILDS, RELEASE, STEP, Checkpoint, History, Record, key_of
from bridge_adapter.request import Request
from bridge_adapter.tools import TOOLS
from bridge_adapter.tools.registry import STREAM_END, ToolError
from bridge_adapter.tools.stream import MAX_BATCH, step

if TYPE_CHECKING:
    from bridge_adapter.codec import Ref, StreamRef
    from bridge_adapter.dispatch import Dispatcher
    from bridge_adapter.lineage.recorder import Lineage
    from bridge_adapter.sessions import Session

log = logging.getLogger("bridge_adapter.lineage")

_TOLD = 20  # lost objects that the client hears of, one by one


class _Again(Context):
    """The context of a call that is made again: what it makes gets the refs that it got the first time."""

    __slots__ = ("_expected",)

    def __init__(self, dispatcher: Dispatcher, session: Session, request: Request, expected: list[str]) -> None:
        super().__init__(dispatcher, session, request)
        self._expected = expected

    def new_ref(self, value: Any) -> Ref | StreamRef:
        made = len(self.request.refs or ())
        id = self._expected[made] if made < len(self._expected) else None
        # An id that is taken names another object: this one gets a new id, and the comparison of the refs finds it.
        if id is not None and id in self.session.refs:
            id = None
        return self.session.refs.add(value, self.module, self.library, self.serial, id)


class Rebuild:
    """One rebuild of one session, on behalf of the call that found it gone."""

    def __init__(self, dispatcher: Dispatcher, session: Session, lineage: Lineage, request: Request, history: History) -> None:
        self._dispatcher = dispatcher
        self._session = session
        self._lineage = lineage
        self._request = request
        self._history = history
        self._key = key_of(request)
        self._resolver = Resolver(dispatcher)
        self._unpacker = Unpacker(self._resolver, lane.wire_limits(dispatcher.limits))
        self._packer = Packer(None, dispatcher.limits)
        self._lost: dict[str, str] = {}
        self._positions: dict[str, int] = {}
        self._tails: dict[str, deque[Any]] = {}
        self._checkpoints = {ref: kept for ref, kept in history.checkpoints.items() if self._stands_alone(kept)}

    def run(self) -> dict[str, str]:
        """Runs everything again; returns what did not come back, and why."""
        started, calls = time.monotonic(), 0
        for record in self._history.records:
            gone = next((self._lost[ref] for ref in (*record.given, *record.refs) if ref in self._lost), None)
            if gone is not None:
                continue
            if record.kind == CALL:
                calls += self._call(record)
            elif record.kind == STEP:
                self._step(record)
            elif record.kind == RELEASE:
                self._session.refs.release(record.given[0])
            self._restore(record)
        for ref in (*self._lost, *self._history.lost):
            self._session.refs.release(ref)
        self._tell(calls, (time.monotonic() - started) * 1000)
        return self._lost

    def give_up(self) -> dict[str, str]:
        """What is lost of a session whose rebuilding has ended its process again and again."""
        reason = f"its rebuilding was begun {MOST_REBUILDS} times, and ended with the process each time"
        return {ref: reason for record in self._history.records for ref in record.touches}

    def _tell(self, calls: int, ms: float) -> None:
        lost = f", but {len(self._lost)} objects did not come back: {next(iter(self._lost.values()))}" if self._lost else ""
        text = "the session %s was rebuilt: %d calls in %.0f ms%s"
        log.log(logging.WARNING if lost else logging.INFO, text, self._session.id, calls, ms, lost)
        # On the way of the call that has waited for it, before its answer.
        connection = self._request.call.connection
        if connection is not None and connection.role != "control":
            told = {
                "session": self._session.id,
                "calls": calls,
                "microseconds": round(ms * 1000),
                "lost": [list(item) for item in self._lost.items()][:_TOLD],
            }
            with contextlib.suppress(OSError):  # who has asked is gone: whoever comes next finds the session as it is now
                connection.socket.send(self._packer.pack(lane.notification("rebuilt", told)))

    # --- calls ---

    def _call(self, record: Record) -> int:
        if self._passed(record):
            return 0
        request = self._read(record)
        context = _Again(self._dispatcher, self._session, request, record.refs)
        raised, text, value = "", "", None
        try:
            value = TOOLS[request.tool](context.payload(), context)
            answer = self._dispatcher.encode(value, request, self._packer, context)
            if record.key and record.key == self._key:
                self._request.answer = answer
        except Exception as error:
            shown = from_tool(error) if isinstance(error, ToolError) else error
            raised, text = type(error).__name__, f"{type(shown).__name__}: {shown}"
        if raised != record.raised:
            what = f"raised {text[:500]}" if raised else f"did not raise {record.raised}"
            self._lose(record, f"`{record.label}` {what} when it was made again")
        elif request.refs != record.refs:
            self._differs(record, "answered with other objects than the first time")
        elif (difference := self._difference(record, value)) is not None:
            self._differs(record, difference)
        return 1

    def _read(self, record: Record) -> Request:
        self._resolver.reset()
        message = lane.parse(self._unpacker.unpack(record.body))
        params = message.body
        request = Request(self._request.call, params["tool"], params["payload"], form_of(params, None), params.get("binary"))
        request.foreign, request.unresolved = set(self._resolver.foreign), list(self._resolver.unresolved)
        request.refs = []
        return request

    def _difference(self, record: Record, value: Any) -> str | None:
        """What of the states that can be known is not what it was."""
        for ref, then in record.digests.items():
            if not ref and record.raised:
                continue
            now = digest(value if not ref else self._session.refs.find(ref)).text
            if then and now and now != then.rstrip("?"):
                if not ref:
                    return "answered something else than the first time"
                what = "left an object in another state" if ref in record.given else "made another object"
                return f"{what} than the first time: give it a seed"
        return None

    def _differs(self, record: Record, what: str) -> None:
        if self._lineage.options.warn:
            log.warning("the session %s was rebuilt, but `%s` %s", self._session.id, record.label, what)
        else:
            self._lose(record, f"`{record.label}` {what}")

    def _lose(self, record: Record, reason: str) -> None:
        for ref in self._lineage.related(record.touches):
            self._lost.setdefault(ref, reason)

    # --- streams and checkpoints ---

    def _step(self, record: Record) -> None:
        if record.key and record.key == self._key:
            # Its answer was lost with the process: the same call takes these items again.
            record.count, record.last, record.key = record.count - record.last, 0, ""
        [ref] = record.given
        entry = self._session.refs.find_entry(ref)
        if entry is None:
            return
        kept = self._checkpoints.get(ref)
        done = record.count if kept is not None and record.seq < kept.seq else 0
        if kept is not None and record.seq == kept.seq:
            self._restore(record)
            done = kept.count
        position = self._positions[ref] = self._positions.get(ref, 0) + record.count
        resume = getattr(entry.obj, "__snakebridge_resume__", None)
        with contextlib.suppress(Exception):  # a stream that has failed has failed the first time, too
            if resume is not None:
                resume(position)
            elif record.count < 0:
                entry.unread = deque([*list(self._tails.get(ref, ()))[record.count :], *(entry.unread or ())])
            else:
                self._take(ref, entry.obj, record.count - done)

    def _take(self, ref: str, source: Any, count: int) -> None:
        tail = self._tails.setdefault(ref, deque(maxlen=MAX_BATCH))
        context = Context(self._dispatcher, self._session, self._request)
        for _ in range(count):
            item = step({"stream_ref": source}, context)
            if item is STREAM_END:
                return
            tail.append(item)

    def _stands_alone(self, kept: Checkpoint) -> bool:
        """Whether what led to a checkpoint had to do with that object alone, so that it can be left out."""
        uses = [record for record in self._history.records if kept.ref in record.touches]
        return all(set(record.given) <= {kept.ref} and (not record.refs or record is uses[0]) for record in uses if record.seq <= kept.seq)

    def _passed(self, record: Record) -> bool:
        """Whether a checkpoint holds what the record did."""
        if len(record.given) != 1 or record.refs:
            return False
        kept = self._checkpoints.get(record.given[0])
        return kept is not None and record.seq <= kept.seq

    def _restore(self, record: Record) -> None:
        for ref, kept in list(self._checkpoints.items()):
            if kept.seq == record.seq:
                del self._checkpoints[ref]
                found = self._session.refs.find(ref)
                try:
                    found.__snakebridge_restore__(Unpacker().unpack(kept.value))
                except Exception as error:
                    self._lose(record, f"it could not go on from its checkpoint: {type(error).__name__}: {error}")
