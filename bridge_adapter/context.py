"""What a tool and the codec see of one request: its checked payload, the objects behind its refs, refs for the objects of its answer.

One context belongs to one request in one session; the worker that both are part of stays out of sight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.callbacks import Callback
from bridge_adapter.codec import CallbackRef, DecodeError, Ref, StreamRef
from bridge_adapter.loop import settle
from bridge_adapter.request import SCHEMA_2_VERSION, VERSIONS, Request, UnresolvedRef, check_version, json_value
from bridge_adapter.sessions import Session
from bridge_adapter.tools.registry import RefEntry, ToolError

if TYPE_CHECKING:
    from bridge_adapter.dispatch import Dispatcher

_RESULT_TOOLS = ("snakebridge.call", "snakebridge.stream")


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
