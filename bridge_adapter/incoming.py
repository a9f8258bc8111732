"""What a message brings: its refs and functions, looked up while it is decoded, and the form in which its answer is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.codec import CallbackRef, Ref, StreamRef
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.refs import unknown
from bridge_adapter.request import PACKED, Form, UnresolvedRef

if TYPE_CHECKING:
    from bridge_adapter.codec.segments import Outlet


class Resolver:
    """Decodes the refs and callbacks of incoming messages before it is known which session they are for."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.foreign: set[str] = set()
        self.unresolved: list[UnresolvedRef] = []
        self.callbacks: list[Any] = []
        self.given: list[str] = []

    def reset(self) -> None:
        if self.foreign:
            self.foreign = set()
        if self.unresolved:
            self.unresolved = []
        if self.callbacks:
            self.callbacks = []
        if self.given:
            self.given = []

    def resolve(self, ref: Ref | StreamRef) -> Any:
        self.foreign.add(ref.session)
        self.given.append(ref.id)
        session = self._dispatcher.sessions.find(ref.session)
        try:
            if session is None:
                raise unknown(ref.id, ref.session)
            found = session.refs.get(ref.id).obj
            if self._dispatcher.policy is not None:
                self._dispatcher.policy.reference(found)
            return found
        except errors.UnknownRef as error:
            missing = UnresolvedRef(ref, error)
            self.unresolved.append(missing)
            return missing

    def callback(self, ref: CallbackRef) -> Any:
        callback = self._dispatcher.callbacks.callable(ref)
        self.callbacks.append(callback)
        return callback

    def opaque(self, value: Any) -> Any:
        raise errors.BridgeError(f"a {type(value).__name__} cannot be sent outside a call")


def form_of(params: dict[str, Any], outlet: Outlet | None) -> Form:
    """The form in which the client wants the answer to a request. outlet: the segments of a client that reads shared memory."""
    if params.get("encoding") == "tagged":
        return Form("tagged", 2 if params.get("schema") == 2 else 1)
    if params.get("encoding") == "plain":
        return Form("plain")
    identity, shared = params.get("identity") is True, params.get("shared")
    if shared is None or outlet is None:
        return Form(identity=True) if identity else PACKED
    if not isinstance(shared, list) or [type(part) for part in shared] != [int, int, bool]:
        raise errors.InvalidRequest(f"shared must be [bytes that may be written, bytes from which on, always], not {str(shared)[:40]}")
    room, threshold, always = shared
    # A new segment costs more than the socket, so one is only written for who will use it as such: who passes segments, or asks.
    return Form(identity=identity, shared=(room, threshold)) if always or outlet.opened else Form(identity=identity)
