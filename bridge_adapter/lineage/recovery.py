"""Lineage recovery as dispatch sees it: what happens when a call enters a session that is recovered, and when it has run there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bridge_adapter.codec.packed import Packer
from bridge_adapter.errors import InvalidRequest, Unavailable
from bridge_adapter.journal.records import Outcome
from bridge_adapter.lineage.recorder import NOT_MARKED, Done, Lineage, NotRecorded
from bridge_adapter.lineage.records import MOST_REBUILDS, Options, key_of
from bridge_adapter.lineage.store import Store
from bridge_adapter.tools.registry import STREAM_END

if TYPE_CHECKING:
    from bridge_adapter.context import Context
    from bridge_adapter.dispatch import Dispatcher
    from bridge_adapter.journal.once import Once
    from bridge_adapter.lineage.records import History
    from bridge_adapter.request import Request
    from bridge_adapter.sessions import Session
    from bridge_adapter.tools.registry import Tool

_RECORDED = ("snakebridge.call", "snakebridge.batch")
_LONGEST_ANSWER = 1 << 20
_READS = ("get_attr", "module_attr")


class Recovery:
    """The sessions of a worker that are recovered. Raises InvalidRequest where there is no journal."""

    def __init__(self, dispatcher: Dispatcher, once: Once | None) -> None:
        if once is None:
            raise InvalidRequest(
                "a session with recover needs a journal, where what happens in it is recorded; start the worker with --journal FILE, "
                "or remove journal: false from the options of its pool"
            )
        self._dispatcher = dispatcher
        self._store = Store(once.journal)

    def enter(self, session: Session, request: Request) -> None:
        """Before a call of the session runs: the session is rebuilt, if this process does not know it. Called under its lock."""
        if request.tool == "snakebridge.release_session":
            return
        lineage = session.lineage
        if lineage is None:
            lineage = session.run(lambda: request.call.run(lambda: self._open(session, request)))
        lineage.settle()
        if request.unresolved and request.read_again is not None:
            request.read_again(request)

    def _open(self, session: Session, request: Request) -> Lineage:
        assert session.recovers is not None
        lineage = Lineage(session.id, self._store, session.recovers, session.refs.find)
        history = lineage.load()
        lineage.records = history.records
        try:
            lost = self._rebuilt(session, request, lineage, history)
            with request.call.shielded():
                lineage.resume(history, lost)
                session.refs.explain = lineage.why
                session.lineage = lineage
        except BaseException as error:
            if session.lineage is None:
                session.refs.clear()  # never half a session: the next call begins again
                with request.call.shielded(), suppress(Unavailable):
                    lineage.rebuilding(history.rebuilds)  # it has not ended with its process
            if isinstance(error, NotRecorded):
                raise Unavailable(f"the session {session.id} is to be recovered, but {error.__cause__}") from error
            raise
        return lineage

    def _rebuilt(self, session: Session, request: Request, lineage: Lineage, history: History) -> dict[str, str]:
        """What did not come back, and why."""
        from bridge_adapter.lineage.replay import Rebuild

        if not history.records:
            return {}
        rebuild = Rebuild(self._dispatcher, session, lineage, request, history)
        if history.rebuilds >= MOST_REBUILDS:
            return rebuild.give_up()
        lineage.rebuilding(history.rebuilds + 1)
        return rebuild.run()

    def run(self, tool: Tool, context: Context, packer: Packer) -> bytes:
        """The encoded answer of a call in the session, which is recorded before it leaves."""
        request, lineage = context.request, context.session.lineage
        assert lineage is not None
        key = key_of(request)
        # It has run: before the process died, and rebuilding has made it again, or before its connection broke.
        answer = request.answer or (lineage.answered[1] if key and key == lineage.answered[0] else None)
        if request.key is not None:
            request.outcome = Outcome(request.key.attempt, replayed=answer is not None)
        if answer is not None:
            return answer
        if request.refs is None:
            request.refs = []
        payload = context.payload()
        if request.tool not in _RECORDED:
            return self._dispatcher.encode(tool(payload, context), request, packer, context)
        planned = self._done(context, lineage, payload)
        if planned.given and (request.functions or not (planned.again or planned.reads)):
            lineage.look(planned.given)
        noted = False
        try:
            value = tool(payload, context)
            answer = self._dispatcher.encode(value, request, packer, context)
            # Inside, so that what interrupts the call in this moment is noted, too.
            with request.call.shielded():
                noted = True
                self._note(context, lineage, payload, value)
                lineage.answered = (key, answer) if len(answer) <= _LONGEST_ANSWER else ("", b"")
        except BaseException as error:
            if not noted:
                request.refs = []
                with request.call.shielded():
                    self._note(context, lineage, payload, error=error)
            raise
        return answer

    def _note(
        self, context: Context, lineage: Lineage, payload: dict[str, Any], value: Any = None, error: BaseException | None = None
    ) -> None:
        request = context.request
        key = key_of(request)
        interrupted = error is not None and not isinstance(error, Exception)
        if payload.get("call_type") == "stream_next" and not interrupted:
            if request.given:
                lineage.stepped(request.given[-1], _taken(payload, value, error), key)
            return
        done = self._done(context, lineage, payload)
        done.value, done.key, done.refs = value, key, list(request.refs or ())
        done.raised = "" if error is None else type(error).__name__
        if interrupted:
            done.hindrance = "was interrupted"
        elif request.functions:
            done.hindrance = "was given an Elixir function, which cannot be called again"
        lineage.ran(done, self._body(request))

    def streams(self, context: Context, payload: dict[str, Any]) -> None:
        """Before a stream of the session begins: what it may change is not known from now on, unless it says that it changes nothing."""
        lineage, request = context.session.lineage, context.request
        assert lineage is not None
        done = self._done(context, lineage, payload)
        if done.given and not done.again and not done.reads:
            with request.call.shielded():
                lineage.drop_objects(done.given, done.label, NOT_MARKED)

    def _done(self, context: Context, lineage: Lineage, payload: dict[str, Any]) -> Done:
        request = context.request
        again = payload.get("idempotent") is True or request.key is not None or lineage.options.replayable
        reads = payload.get("mutates") is False or payload.get("call_type") in _READS
        return Done(_label(payload), again, reads, [ref for ref in request.given if ref in context.session.refs])

    def _body(self, request: Request) -> Callable[[], bytes]:
        def body() -> bytes:
            data = bytes(request.raw or b"")
            segments = self._dispatcher.segments
            if segments is None:
                return data
            from bridge_adapter.lineage.inline import inline

            return inline(data, segments)

        return body

    def forget(self, session_id: str) -> None:
        """A session has ended."""
        Lineage(session_id, self._store, Options(), lambda _: None).forget()


def _label(payload: dict[str, Any]) -> str:
    name = payload.get("class") or payload.get("class_name") or payload.get("helper") or payload.get("function") or payload.get("method")
    name = name or payload.get("attr") or payload.get("attribute") or "?"
    module = payload.get("python_module") or payload.get("module_path") or payload.get("module")
    of_object = payload.get("call_type") in ("method", "get_attr", "set_attr")
    return str(name)[:200] if of_object or not module else f"{module}.{name}"[:200]


def _taken(payload: dict[str, Any], value: Any, error: BaseException | None) -> int:
    """How many items a step has taken from its stream."""
    if error is not None:
        return 1  # what a stream raises takes the place of an item
    if "unread" in payload:
        return -int(payload["unread"])
    if "batch" in payload:
        return len(value["items"])
    return 0 if value is STREAM_END else 1
