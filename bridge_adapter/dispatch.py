"""Request -> tool -> answer: the one place where user code runs. Knows nothing of sockets.

A rule, a limit or a fix written here holds for every way in: the lane (`packed`), the gateway (`tagged`) and whatever comes later.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors, processes, tracing
from bridge_adapter.callbacks import CallbackHub
from bridge_adapter.calls import Call, CallTable
from bridge_adapter.codec.packed import Packer
from bridge_adapter.codec.segments import Segments
from bridge_adapter.config import Config
from bridge_adapter.context import Context
from bridge_adapter.entered import Entered
from bridge_adapter.lifecycle import Lifecycle, State
from bridge_adapter.loop import EventLoop
from bridge_adapter.memory import Memory, explain
from bridge_adapter.pause import Pause
from bridge_adapter.request import Form, Request, describe, session_of
from bridge_adapter.sessions import Session, Sessions
from bridge_adapter.tools import STREAM_TOOLS, TOOLS, Watch
from bridge_adapter.tools.registry import STREAM_END, Tool

if TYPE_CHECKING:
    from bridge_adapter.journal.once import Once
    from bridge_adapter.lineage.recovery import Recovery
    from bridge_adapter.policy.decisions import Policy
    from bridge_adapter.policy.guard import Guard
    from bridge_adapter.user_adapter.adapter import Asked, UserAdapter

_FREEING = ("snakebridge.release_ref", "snakebridge.release_session")  # what makes room is always let in
_STREAM_END_JSON = b'{"__type__":"stop_iteration"}'
_PROCESS = processes.token()


class Dispatcher:
    """The state that requests share: sessions, calls in flight, the event loop, callbacks, segments of shared memory."""

    def __init__(
        self,
        config: Config,
        segments: Segments | None = None,
        adapter: UserAdapter | None = None,
        once: Once | None = None,
        *,
        policy: Policy | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.config = config
        self.policy = policy  # None: callers may name anything
        self.guard = guard  # None: no roles are in force, and nothing is recorded
        self._once = once
        self._adapter = adapter
        self.segments = segments
        self.limits = config.limits
        self.sessions = Sessions(config)
        self.calls = CallTable()
        self.loop = EventLoop()
        self.callbacks = CallbackHub(self.loop, self.calls)
        self.pause = Pause()
        self.watch: Watch | None = None  # reloads changed modules
        self.lifecycle = Lifecycle(config.drain_ms / 1000)
        self.memory = Memory(config.memory_limit, self.sessions.by_size)
        self.serials = itertools.count(1)
        self._recovery: Recovery | None = None

    def admit(self, request: Request) -> None:
        """Lets a request in, whose answer `lifecycle.answered` then ends. Raises Refused.

        What belongs to a call that runs already is let in whatever happens: that call could not end without it.
        """
        call, lifecycle = request.call, self.lifecycle
        inside = call.parent is not None or (lifecycle.state is State.DRAINING and self._may_belong(request))
        if not inside and request.tool not in _FREEING:
            self.memory.admit(call.started)
        lifecycle.enter(inside=inside)

    def check_bytes(self, request: Request, session: Session) -> None:
        """Raises MemoryLimit when the session holds more than it may, and the request would not make room."""
        call = request.call
        if call.parent is None and call.host is None and request.tool not in _FREEING:
            session.refs.check_bytes()

    def _may_belong(self, request: Request) -> bool:
        """True for a call of Snakepit, which does not tell from where it is made, while its session waits for an Elixir function."""
        session = self.sessions.find(session_of(request)) if request.form.encoding == "tagged" else None
        owner = session.lock.owner if session is not None else None
        return owner is not None and owner.innermost_asking() is not None

    def run(self, request: Request, packer: Packer) -> bytes:
        """The encoded answer of a unary tool. Raises whatever user code raised, or a BridgeError."""
        tool = TOOLS.get(request.tool) if request.asked is None else self._users(request.asked, request.tool, "call")
        if tool is None:
            if request.tool in STREAM_TOOLS:
                return self.encode({"error": "Streaming tool called on non-streaming endpoint."}, request, packer, None)
            raise unknown_tool(request.tool)
        with self.entered(request) as session:
            self.check_bytes(request, session)

            def body() -> bytes:
                context = Context(self, session, request)
                with tracing.attached(request.call.trace):
                    if session.lineage is not None and request.asked is None:
                        return self.recovery().run(tool, context, packer)
                    value = tool(context.payload(), context)
                    return self.encode(value, request, packer, context)

            def code() -> bytes:
                return session.run(lambda: request.call.run(body))  # type: ignore[no-any-return]

            if request.key is None or (session.lineage is not None and not request.key.digest):
                return code()
            if self._once is None:
                raise errors.InvalidRequest("the call has an idempotency key, but this worker has no journal; start it with --journal FILE")
            return self._run_once(self._once, request, session, code)

    def _run_once(self, once: Once, request: Request, session: Session, code: Callable[[], bytes]) -> bytes:
        """The answer of an idempotent call, or the one that was recorded under its key."""
        assert request.key is not None
        if request.form.shared is not None:  # what is recorded must be all there
            request.form = replace(request.form, shared=None)
        request.refs = []
        made = request.refs

        def recorded() -> tuple[bytes, str]:
            answer = code()
            return answer, "|".join((_PROCESS, session.id, *made)) if made else ""

        def holds(refs: str) -> bool:
            process, _, rest = refs.partition("|")
            id, *names = rest.split("|")
            here = process == _PROCESS or session.lineage is not None
            return not refs or (here and id == session.id and all(name in session.refs for name in names))

        def describe(error: BaseException) -> bytes | None:
            fields = self.error(error, request)
            return json.dumps(fields, default=str).encode() if fields["category"] == "python_error" else None

        form = f"{request.form.encoding} {request.form.schema} {request.form.identity:d}"
        answer, request.outcome = once.run(request.key, form, request.call, recorded, holds=holds, describe=describe)
        return answer

    def stream_tool(self, request: Request) -> Tool:
        """What makes the items of a stream. Raises UnknownTool or InvalidRequest."""
        if request.asked is not None:
            return self._users(request.asked, request.tool, "stream")
        tool = STREAM_TOOLS.get(request.tool)
        if tool is None:
            if request.tool in TOOLS:
                raise errors.InvalidRequest(f"the tool {request.tool} does not stream; use `call`")
            raise unknown_tool(request.tool)
        return tool

    def reload_changed(self, call: Call) -> None:
        """Reloads modules whose files have changed, unless other calls go on running: then a later call tries again."""
        watch = self.watch
        assert watch is not None
        changed = watch.changed()
        if changed:
            from bridge_adapter.tools.reload import PAUSE_SECONDS

            # New calls wait meanwhile, or a worker that is never idle would never be alone.
            with self.pause.alone(call, PAUSE_SECONDS) as others:
                if others:
                    watch.later()
                else:
                    watch.run_again(changed)
                    if self.policy is not None:
                        self.policy.forget()

    @property
    def keeps_answers(self) -> bool:
        """Whether there is a journal, so that calls may have keys."""
        return self._once is not None

    def watch_files(self, directories: list[str]) -> None:
        """From now on, modules from these directories are reloaded when their files change."""
        from bridge_adapter import logs

        self.watch = Watch(directories, logs.notice, self.sessions.live_objects)

    def _users(self, asked: Asked, name: str, method: str) -> Tool:
        """A tool of the user's adapter."""
        if self._adapter is None:
            raise unknown_tool(name)
        if self.policy is not None:
            self.policy.named(f"adapter.{name}")
        run = getattr(self._adapter, method)
        return lambda arguments, context: run(name, arguments, asked, context)

    def entered(self, request: Request) -> Entered:
        """Context in which the request holds its session's lock."""
        return Entered(self, request)

    def recovery(self) -> Recovery:
        """What sessions that are recovered have in common. Raises InvalidRequest where there is no journal."""
        if self._recovery is None:
            from bridge_adapter.lineage.recovery import Recovery

            self._recovery = Recovery(self, self._once)
        return self._recovery

    def encode(self, value: Any, request: Request, packer: Packer, context: Context | None) -> bytes:
        """The encoded answer of a request. The refs of one that cannot be encoded are let go."""
        before = len(context.session.refs) if context is not None else 0
        try:
            return self.encode_value(value, request.form, packer, context)
        except BaseException:
            if context is not None:
                context.session.refs.release_made_by(context.serial, before)
            raise

    def encode_value(self, value: Any, form: Form, packer: Packer, context: Context | None) -> bytes:
        """A value as it travels in the given form; opaque objects become refs of the context's session."""
        if form.by_reference and context is not None and value is not STREAM_END:
            value = context.opaque(value)
        if form.encoding == "plain":
            return packer.pack(list(value))  # an Answer or a Chunk, made by the user's adapter
        if form.encoding == "tagged":
            if value is STREAM_END:
                return _STREAM_END_JSON
            from bridge_adapter.codec import tagged  # a worker that only serves the lane never needs it

            resolver = context if context is not None else packer.resolver
            # Peers that speak schema 1 cannot ask for a ref, so they get one where a value cannot travel.
            graceful = form.schema == 1 and context is not None
            return tagged.dumps(value, resolver, self.limits, schema=form.schema, graceful=graceful)
        if value is STREAM_END:
            value = {"__type__": "stop_iteration"}
        outer, packer.resolver, packer.preserve_identity = packer.resolver, context or packer.resolver, form.identity
        outlet = packer.segments if form.shared is not None else None
        if outlet is not None:
            outlet.allow(form.shared)
        try:
            return packer.pack(value)
        finally:
            packer.resolver, packer.preserve_identity = outer, False
            if outlet is not None:
                outlet.allow(None)

    def callback_result(self, text: Any, context: Context) -> Any:
        """The value of an Elixir function's answer that came as JSON text. Raises CallbackError when it says that the function failed."""
        from bridge_adapter.codec import tagged

        value = tagged.loads(text, context, self.limits, atom_class=self.config.atom_class)
        if isinstance(value, dict) and value.get("__type__") == "callback_error":
            raise errors.CallbackError(str(value.get("reason", "the Elixir function failed")))
        return value

    def error(self, error: BaseException, request: Request | None) -> dict[str, Any]:
        """The error map of an exception that ended a request. One that cannot be told, because its class says nonsense, is told as such."""
        try:
            return self._told(error, request)
        except Exception as untold:
            return errors.to_wire(errors.Untellable(f"the call raised an exception that cannot be told: {type(untold).__name__}: {untold}"))

    def _told(self, error: BaseException, request: Request | None) -> dict[str, Any]:
        if isinstance(error, MemoryError):
            explain(error, self.config.memory_hard_limit)
        if request is None:
            return errors.to_wire(error)
        if isinstance(error, errors.RecordedFailure):
            return {**json.loads(error.wire), "context": describe(request)}
        return errors.to_wire(error, describe(request), for_snakebridge=request.form.encoding == "tagged")


def unknown_tool(name: str) -> errors.UnknownTool:
    return errors.UnknownTool(f"Tool '{name}' not supported by SnakeBridgeAdapter", tool=name, tools=sorted({*TOOLS, *STREAM_TOOLS}))
