"""What a message brings: its refs and functions, looked up while it is decoded, the key under which it asks, and the form in which its
answer is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.codec import CallbackRef, Ref, StreamRef
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.journal.records import LONGEST_KEY, Key
from bridge_adapter.refs import unknown
from bridge_adapter.request import PACKED, Form, UnresolvedRef

if TYPE_CHECKING:
    from bridge_adapter.codec.segments import Outlet
    from bridge_adapter.user_adapter.adapter import Asked


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


def key_of(params: dict[str, Any], method: str) -> Key | None:
    """The idempotency key of a request, if it has one. Raises InvalidRequest."""
    given = params.get("key")
    if given is None:
        return None
    match given:
        case [str(text), str(digest), *attempt] if 0 < len(text) <= LONGEST_KEY and _is_text(text + digest) and _is_attempt(attempt):
            if method == "stream":
                raise errors.InvalidRequest("a stream has no idempotency key: what it has sent is not recorded; call it without one")
            return Key(*given)
    rule = f"key must be a text of 1 to {LONGEST_KEY} characters, a digest and the number of the attempt"
    raise errors.InvalidRequest(f"{rule}, not {str(given)[:80]}")


def asked_of(params: dict[str, Any]) -> Asked | None:
    """What is asked of the user's adapter; None for a request to a tool of ours."""
    if params.get("encoding") != "plain":
        return None
    from bridge_adapter.user_adapter.adapter import Asked  # few workers have an adapter of a user's

    return Asked.of(params.get("adapter"))


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no file takes
        return False
    return True


def _is_attempt(given: list[Any]) -> bool:
    return not given or (len(given) == 1 and type(given[0]) is int and 0 < given[0] < 2**31)
