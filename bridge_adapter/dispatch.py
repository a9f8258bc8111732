"""Request -> tool -> answer: the one place where user code runs. Knows nothing of sockets.

A rule, a limit or a fix written here holds for every way in: the lane (`packed`), the gateway (`tagged`) and whatever comes later.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors, processes, tracing
from bridge_adapter.callbacks import Callback, CallbackHub
from bridge_adapter.calls import Call, CallTable
from bridge_adapter.codec import CallbackRef, DecodeError, Ref, StreamRef
from bridge_adapter.codec.packed import Packer
from bridge_adapter.codec.segments import Segments
from bridge_adapter.config import Config
from bridge_adapter.lifecycle import Lifecycle, State
from bridge_adapter.loop import EventLoop, settle
from bridge_adapter.memory import Memory, explain
from bridge_adapter.pause import Pause
from bridge_adapter.request import (
    SCHEMA_2_VERSION,
    VERSIONS,
    Form,
    Request,
    UnresolvedRef,
    check_version,
    describe,
    json_value,
    session_of,
)
from bridge_adapter.sessions import Session, Sessions
from bridge_adapter.tools import STREAM_TOOLS, TOOLS, Watch
from bridge_adapter.tools.registry import STREAM_END, RefEntry, Tool, ToolError

if TYPE_CHECKING:
    from bridge_adapter.journal.once import Once
    from bridge_adapter.lineage.recovery import Recovery
    from bridge_adapter.policy.decisions import Policy
    from bridge_adapter.policy.guard import Guard
    from bridge_adapter.user_adapter.adapter import Asked, UserAdapter

_RESULT_TOOLS = ("snakebridge.call", "snakebridge.stream")
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

    def entered(self, request: Request) -> _Entered:
        """Context in which the request holds its session's lock."""
        return _Entered(self, request)

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
        """The error map of an exception that ended a request."""
        if isinstance(error, MemoryError):
            explain(error, self.config.memory_hard_limit)
        if request is None:
            return errors.to_wire(error)
        if isinstance(error, errors.RecordedFailure):
            return {**json.loads(error.wire), "context": describe(request)}
        return errors.to_wire(error, describe(request), for_snakebridge=request.form.encoding == "tagged")


class _Entered:
    """Opens the session of a request and takes its turn; leaves with the lock released."""

    __slots__ = ("_dispatcher", "_lock", "_request")

    def __init__(self, dispatcher: Dispatcher, request: Request) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._lock: Any = None

    def __enter__(self) -> Session:
        call, sessions = self._request.call, self._dispatcher.sessions
        session_id = session_of(self._request)
        while True:
            if sessions.leaving and not self._request.admitted:
                if call.parent is None:
                    sessions.refuse_stateless(session_id)
                else:
                    sessions.refuse_given(session_id)
            session = sessions.open(session_id)
            call.session, call.session_id = session, session_id
            if self._request.options is not None:
                session.configure(self._request.options)
            if session.concurrent:
                return self._inside(session)
            owner = session.lock.owner
            if owner is not None and call.parent is None and self._request.form.encoding == "tagged":
                # Snakepit does not tell from where a call is made. While the session waits for an Elixir function, it may be from there.
                call.host = owner.innermost_asking()
            self._lock = session.lock.acquire(call)
            if not session.closed:
                if sessions.leaving and not self._request.admitted:
                    self._refuse_given(session_id)
                return self._inside(session)
            # Released while this call waited: what comes now is a new session of that name.
            self._lock.release()
            self._lock = None

    def _refuse_given(self, session_id: str) -> None:
        try:
            self._dispatcher.sessions.refuse_given(session_id)
        except BaseException:
            self._lock.release()
            raise

    def _inside(self, session: Session) -> Session:
        dispatcher, call = self._dispatcher, self._request.call
        self._request.admitted = True
        try:
            dispatcher.pause.enter(call)
            if dispatcher.watch is not None and dispatcher.watch.due():
                call.run(lambda: dispatcher.reload_changed(call))
            if session.recovers is not None and self._request.asked is None:
                dispatcher.recovery().enter(session, self._request)
        except BaseException:
            self.__exit__()
            raise
        return session

    def __exit__(self, *_: object) -> None:
        self._dispatcher.pause.leave(self._request.call)
        if self._lock is not None:
            self._lock.release()


class Context:
    """One request as its tool and the codec see it (tools.registry.ToolContext and codec.Resolver)."""

    __slots__ = ("_dispatcher", "library", "module", "policy", "request", "serial", "session", "session_id")

    def __init__(self, dispatcher: Dispatcher, session: Session, request: Request) -> None:
        self._dispatcher = dispatcher
        self.policy = dispatcher.policy
        self.session = session
        self.session_id = session.id
        self.request = request
        self.serial = next(dispatcher.serials)
        self.module = self.library = ""

    def payload(self) -> dict[str, Any]:
        """The decoded payload, checked: protocol version, sessions and existence of the refs in it."""
        request = self.request
        payload = request.payload
        if request.asked is not None:
            from bridge_adapter.user_adapter import values

            return values.arguments(payload, request.binary or {}, request.asked.types)
        if request.form.encoding == "tagged":
            try:
                payload = self._decode_tagged(payload)
            except Exception:
                # A caller of another version may well send what this one cannot read.
                versions = {name: json_value(payload[name]) for name in VERSIONS if name in payload}
                check_version(versions, request.tool, self._dispatcher.config.allow_legacy_protocol)
                raise
            if request.binary:
                payload.update(request.binary)
            check_version(payload, request.tool, self._dispatcher.config.allow_legacy_protocol)
            if (payload.get("protocol_version") or 0) >= SCHEMA_2_VERSION:
                request.form = replace(request.form, schema=2)
        elif "protocol_version" in payload or "min_supported_version" in payload:
            check_version(payload, request.tool, False)
        if request.foreign and request.foreign != {self.session_id}:
            other = next(id for id in request.foreign if id != self.session_id)
            raise errors.SessionMismatch("SnakeBridge reference session mismatch", ref_session=other, call_session=self.session_id)
        if request.unresolved and request.tool != "snakebridge.release_ref":
            raise request.unresolved[0].error
        result = payload.get("result")
        if result is not None and request.tool in _RESULT_TOOLS:
            if result not in ("value", "ref"):
                raise errors.InvalidRequest(f"result must be 'value' or 'ref', not {str(result)[:40]!r}")
            request.form = replace(request.form, by_reference=result == "ref")
        module = payload.get("python_module") or payload.get("module_path") or payload.get("module")
        self.module = module if isinstance(module, str) else ""
        library = payload.get("library")
        self.library = library if isinstance(library, str) and library else self.module.partition(".")[0]
        self.module = self.module or self.library  # helpers have no module
        return payload

    def _decode_tagged(self, payload: dict[str, Any]) -> dict[str, Any]:
        from bridge_adapter.codec import tagged

        atoms = self._dispatcher.config.atom_class
        decoded = {}
        for name, text in payload.items():
            try:
                decoded[name] = tagged.loads(text, self, self._dispatcher.limits, atom_class=atoms)
            except DecodeError as error:
                error.add_note(f"in the parameter {name}")
                raise
        return decoded

    # --- codec.Resolver ---

    def resolve(self, ref: Ref | StreamRef) -> Any:
        """The object of a ref; for one that names nothing, an UnresolvedRef while the payload is decoded."""
        session_id = ref.session or self.session_id
        self.request.given.append(ref.id)
        if session_id != self.session_id:
            self.request.foreign.add(session_id)
        try:
            found = self.session.refs.get(ref.id).obj
            if self.policy is not None:
                self.policy.reference(found)
            return found
        except errors.UnknownRef as error:
            missing = UnresolvedRef(ref, error)
            self.request.unresolved.append(missing)
            if self.request.tool == "snakebridge.release_ref" or session_id != self.session_id:
                return missing
            raise

    def callback(self, ref: CallbackRef) -> Any:
        callback = self._dispatcher.callbacks.callable(ref)
        self._dispatcher.callbacks.carried(callback, self.request.call, self.session_id)
        self.request.functions = True
        return callback

    def opaque(self, value: Any) -> Any:
        if isinstance(value, Callback):
            if self.request.returned is not None:
                self.request.returned.append(value)
            if self.request.refs is not None:
                self.request.refs.append("a function")  # never held: it cannot be given out twice
            return value.ref
        if isinstance(value, UnresolvedRef):
            return value.ref
        if self.policy is not None:
            try:
                self.policy.reference(value)
            except errors.PermissionDenied as error:
                error.details["outcome"] = "unknown"  # the call has run: its result is refused
                raise
        ref = self.new_ref(value)
        if self.request.refs is not None:
            self.request.refs.append(ref.id)
        return ref

    def new_ref(self, value: Any) -> Ref | StreamRef:
        """The ref of an object, made if it has none."""
        return self.session.refs.add(value, self.module, self.library, self.serial)

    # --- tools.registry.ToolContext ---

    def alone(self, seconds: float) -> AbstractContextManager[int]:
        return self._dispatcher.pause.alone(self.request.call, seconds)

    def live_objects(self) -> Iterable[tuple[str, Iterable[Any]]]:
        return self._dispatcher.sessions.live_objects()

    def entry_of(self, obj: Any) -> RefEntry | None:
        return self.session.refs.entry_of(obj)

    def release_ref(self, target: Any) -> bool:
        refs = self.session.refs
        if isinstance(target, UnresolvedRef):
            return False
        entry = None if isinstance(target, (Ref, StreamRef)) else refs.entry_of(target)
        id = entry.ref.id if entry is not None else target.id if isinstance(target, (Ref, StreamRef)) else target
        if not isinstance(id, str) or not refs.release(id):
            return False
        if self.session.lineage is not None:
            self.session.lineage.released(id)
        return True

    def release_session(self, session_id: str) -> int:
        dispatcher = self._dispatcher
        session = dispatcher.sessions.find(session_id)
        if session is not None and session.recovers is not None:
            dispatcher.recovery().forget(session_id)
        return dispatcher.sessions.release(session_id)

    def settle(self, value: Any) -> Any:
        return settle(value, self._dispatcher.loop)

    def describe(self, error: BaseException) -> dict[str, Any]:
        return self._dispatcher.error(from_tool(error) if isinstance(error, ToolError) else error, self.request)

    def iterate(self, value: Any) -> Iterator[Any]:
        if hasattr(type(value), "__aiter__"):
            return self._dispatcher.loop.iterate(value)
        return iter(value)


_KINDS: dict[str, Callable[[str], Exception]] = {
    "invalid_request": errors.InvalidRequest,
    "invalid_ref": errors.InvalidRef,
    "helper_not_found": errors.HelperNotFound,
    "helper_load_error": errors.HelperLoadError,
    "permission_denied": errors.PermissionDenied,
}


def from_tool(error: ToolError) -> Exception:
    """A tool's complaint as the worker's error."""
    return _KINDS[error.kind](str(error))


def unknown_tool(name: str) -> errors.UnknownTool:
    return errors.UnknownTool(f"Tool '{name}' not supported by SnakeBridgeAdapter", tool=name, tools=sorted({*TOOLS, *STREAM_TOOLS}))
