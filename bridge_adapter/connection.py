"""One client connection of the executor: a thread that reads requests, runs them, and answers.

Call connections run user code on their own thread; the control connection never does. While user code waits for an Elixir function, the
connection goes on serving requests, so a callback inside a call inside a callback nests on one thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors, lane, output
from bridge_adapter.callbacks import error_from, unreadable
from bridge_adapter.calls import Call
from bridge_adapter.codec import CodecError, LimitExceeded
from bridge_adapter.codec.packed import Packer, Unpacker
from bridge_adapter.codec.segments import Outlet
from bridge_adapter.context import from_tool
from bridge_adapter.dispatch import Dispatcher
from bridge_adapter.hello import Hello, welcome
from bridge_adapter.incoming import Resolver, asked_of, form_of, key_of
from bridge_adapter.letters import Letters
from bridge_adapter.outbox import stream_items
from bridge_adapter.questions import Questions
from bridge_adapter.request import Request
from bridge_adapter.stats import stats
from bridge_adapter.tools.registry import ToolError

if TYPE_CHECKING:
    from bridge_adapter.lane import LaneSocket, Message
    from bridge_adapter.policy.access import Identity
    from bridge_adapter.tokens import Tokens

_LOOK_SECONDS = 0.25  # how often a wait for the peer looks whether its call was cancelled


class Connection:
    """A connection and what it needs to encode, decode and run. One thread serves it."""

    def __init__(self, id: int, socket: LaneSocket, dispatcher: Dispatcher, tokens: Tokens) -> None:
        self.id = id
        self.socket = socket
        self._dispatcher = dispatcher
        self._tokens = tokens
        self._resolver = Resolver(dispatcher)
        self.packer = Packer(self._resolver, dispatcher.limits)
        self._unpacker = Unpacker(self._resolver, lane.wire_limits(dispatcher.limits))
        self._outlet: Outlet | None = None  # segments, for a client that knows them
        self._innermost: Call | None = None
        self._questions = Questions(dispatcher)
        self._credits: dict[int, int] = {}
        self._body: bytes | memoryview = b""  # the message that came last
        self._told: list[str] = []  # released functions of which the client may not have read yet
        self.role = ""
        self.identity: Identity | None = None  # who calls, where roles are in force or decisions are recorded
        self.speaks = self.lines = False  # what calls print goes to this client; it wants whole lines
        self.letters: Letters | None = None  # where messages for its processes go, if it takes them
        self.texts = False  # the client's functions take and give JSON texts
        self.intruder = False  # the client has shown a wrong token
        self.refusal: errors.Refused | None = None  # why nobody is served here

    def serve(self) -> None:
        """Reads and answers until the client is gone."""
        try:
            if self._greet():
                while (body := self.socket.receive()) is not None:
                    self._take(body)
        except (LimitExceeded, errors.ProtocolError) as error:
            self._say_goodbye(error)
        except OSError:
            return  # the client vanished: nobody is left to tell
        finally:
            self._close()

    def _close(self) -> None:
        self.socket.close()
        if self._outlet is not None:
            self._outlet.settle()
        self._dispatcher.calls.cancel_connection(self.id, "caller_down")
        hub = self._dispatcher.callbacks
        # Other clients' functions may be among them: the next connection tells of them.
        hub.released.extend(self._told)
        if self in hub.controls:
            hub.controls.remove(self)
        if self.letters is not None:
            self.letters.close()
        self._questions.close()

    # --- hello ---

    def _greet(self) -> bool:
        self.socket.max_frame = lane.HELLO_FRAME
        self.socket.sock.settimeout(lane.HELLO_SECONDS)
        try:
            body = self.socket.receive()
            if body is None:
                return False
            message = self._decode(body)
            if message is None:
                return False
            self._welcome(message)
        except TimeoutError:
            return False
        except (errors.BridgeError, CodecError) as error:
            self.intruder = isinstance(error, errors.Unauthorized)
            self._say_goodbye(error, message.id if "message" in locals() and message is not None else 0)
            turn_away = getattr(self.socket.sock, "turn_away", None)
            if turn_away is not None:
                turn_away()  # over TLS the client might else see the end before the reason
            return False
        self.socket.sock.settimeout(None)
        self.socket.max_frame = self._dispatcher.limits.frame
        return True

    def _welcome(self, message: Message) -> None:
        hello = Hello.of(message, self._tokens, self._dispatcher.guard, getattr(self.socket.sock, "subject", ""))
        if self.refusal is not None:
            raise self.refusal
        self.identity = hello.identity
        self.role, self.texts = hello.role, hello.texts
        limits, segments = self._dispatcher.limits, self._dispatcher.segments
        if hello.shared and segments is not None:
            self.packer.segments = self._unpacker.segments = self._outlet = Outlet(segments)
        self.letters = Letters(self.socket) if "messages" in hello.features else None
        self.speaks, self.lines = "output" in hello.features and output.forward(), "lines" in hello.features
        does = {
            "output": self.speaks,
            "messages": self.letters is not None,
            "shared": self._outlet is not None,
            "journal": self._dispatcher.keeps_answers,
        }
        if self.role == "control" and self._may_listen():
            self._dispatcher.callbacks.controls.append(self)
        features = [feature for feature, done in does.items() if done]
        self.socket.send(self.packer.pack(lane.response(message.id, None, welcome(self.id, limits, features))))

    def _may_listen(self) -> bool:
        """Whether this client is asked what threads ask outside of calls, and told what they print: others' arguments and results."""
        guard = self._dispatcher.guard
        return guard is None or self.identity is None or guard.hears(self.identity)

    def _say_goodbye(self, error: BaseException, id: int = 0) -> None:
        try:
            self.socket.send(self.packer.pack(lane.response(id, errors.to_wire(error), None)))
        except OSError:
            return

    # --- messages ---

    def _decode(self, body: bytes | memoryview) -> Message | None:
        """The message of a body. Of one that cannot be decoded, whoever sent or awaits it is told here, and None returned."""
        self._resolver.reset()
        if self._outlet is not None:
            self._outlet.opened = False
        try:
            return lane.parse(self._unpacker.unpack(body))
        except (CodecError, errors.BridgeError) as error:
            match lane.peek(body):
                case lane.REQUEST, id:
                    self._answer_error(id, error, None)
                case lane.RESPONSE, id:
                    self._questions.answered(id, None, unreadable(error))
                case _:
                    raise errors.ProtocolError(f"a message that cannot be read: {error}") from error
            return None

    def _take(self, body: bytes | memoryview) -> None:
        message = self._decode(body)
        if message is None:
            return
        if message.kind == lane.REQUEST:
            self._body = body
            # Who asks on has read the answer to what he asked before, and what was told with it.
            self._told.clear()
            if self._outlet is not None:
                self._outlet.settle()
            self._serve_request(message)
        elif message.kind == lane.NOTIFICATION:
            self._notice(message)
        else:
            unresolved = self._resolver.unresolved
            self._questions.answered(
                message.id,
                message.body,
                error_from(message.error) if message.error is not None else (unresolved[0].error if unresolved else None),
            )

    def _serve_request(self, message: Message) -> None:
        name = message.name
        if self.identity is not None and not self._admitted(message):
            return
        if name in ("call", "stream") and self.role != "control":
            self._serve_call(message)
        elif name == "ping":
            self.socket.send(self.packer.pack(lane.response(message.id, None, {"time": time.time()})))
        elif name == "stats":
            self.socket.send(self.packer.pack(lane.response(message.id, None, stats(self._dispatcher, message.body))))
        elif name == "recycle" and self.role == "control":
            self.socket.send(self.packer.pack(lane.response(message.id, None, self._recycle(message.body))))
        elif name == "leave" and self.role == "control":
            self.socket.send(self.packer.pack(lane.response(message.id, None, self._dispatcher.sessions.leave())))
        elif name == "give" and self.role == "control":
            self.socket.send(self.packer.pack(lane.response(message.id, None, self._dispatcher.sessions.give(str(message.body)))))
        else:
            methods = "ping, stats, recycle, leave, give" if self.role == "control" else "call, stream, ping, stats"
            self._answer_error(
                message.id,
                errors.ProtocolError(f"no method {name!r} on this connection; its methods are {methods}"),
                None,
            )

    def _admitted(self, message: Message) -> bool:
        """Whether the caller's roles permit the request; where not, he is told so."""
        from bridge_adapter.policy import guard as doors

        guard, identity = self._dispatcher.guard, self.identity
        if guard is None or identity is None:
            return True
        operation, resource, corr = doors.asked(message.name, message.body)
        try:
            guard.check(identity, operation, resource, corr)
        except errors.BridgeError as error:
            self._answer_error(message.id, error, None, message)
            return False
        return True

    def _recycle(self, names: Any) -> bool:
        segments = self._dispatcher.segments
        return segments is not None and isinstance(names, list) and len(names) == 2 and segments.renew(*names)

    def _serve_call(self, message: Message) -> None:
        dispatcher = self._dispatcher
        request: Request | None = None
        outer = self._innermost
        admitted = False
        try:
            request = self._request(message)
            dispatcher.admit(request)
            admitted = True
            call = request.call
            self._innermost = call
            try:
                dispatcher.calls.add(call)
                if message.name == "call":
                    value = dispatcher.run(request, self.packer)
                    if request.form.encoding == "tagged":
                        value = self.packer.pack(value)
                else:
                    value = stream_items(self, dispatcher, request, message)
            finally:
                dispatcher.calls.remove(call)
                self._innermost = outer
                output.finish(call)
                call.session = None  # threads that it has started know the call, but do not keep the session's objects
        except errors.Disconnected:
            raise
        except errors.CallCancelled:
            error = errors.CallWasCancelled("the call in whose callback this one was made was cancelled")
            self._answer_error(message.id, error, request)
        except ToolError as error:
            self._answer_error(message.id, from_tool(error), request, message)
        except BaseException as error:
            self._answer_error(message.id, error, request, message)
        else:
            self._tell_released()
            outcome = request.outcome
            if outcome is None:
                self.socket.send(lane.response_head(message.id), value)
            else:
                self.socket.send(lane.response_head(message.id, outcome=True), value, lane.outcome(outcome.attempts, outcome.replayed))
        finally:
            if admitted:
                dispatcher.lifecycle.answered()

    def _request(self, message: Message) -> Request:
        params = message.body
        if not isinstance(params, dict):
            raise errors.InvalidRequest(f"the params of {message.name} must be a map, not {type(params).__name__}")
        tool, payload, timeout = params.get("tool"), params.get("payload"), params.get("timeout_ms")
        if not isinstance(tool, str) or not isinstance(payload, dict):
            raise errors.InvalidRequest("a call needs the keys tool (a string) and payload (a map)")
        if timeout is not None and (type(timeout) not in (int, float) or timeout < 0):
            raise errors.InvalidRequest(f"timeout_ms must be a number >= 0 or nil, not {str(timeout)[:40]}")
        call = Call((self.id, message.id), timeout, self._parent(params.get("parent")))
        call.connection = self
        call.label = tool
        call.caller = params.get("caller", 0)
        trace = params.get("trace")
        if trace is not None:
            if not isinstance(trace, dict):
                raise errors.InvalidRequest(f"trace must be a map of texts, not {str(trace)[:40]}")
            call.trace = trace
        resolver = self._resolver
        asked = asked_of(params)
        request = Request(
            call,
            tool,
            payload,
            form_of(params, self._outlet),
            params.get("binary"),
            params.get("session_options") if asked is None else asked.options,
            asked,
            set(resolver.foreign),
            list(resolver.unresolved),
            [] if message.name == "call" else None,
            key_of(params, message.name),
            given=list(resolver.given),
            functions=bool(resolver.callbacks),
        )
        if request.options is not None and isinstance(request.options, dict) and "recover" in request.options:
            request.raw, request.read_again = self._body, self._read_again
        for callback in resolver.callbacks:
            self._dispatcher.callbacks.carried(callback, call, str(payload.get("session_id") or "default"))
        return request

    def _read_again(self, request: Request) -> None:
        """Looks up the refs of a payload once more."""
        resolver, body = self._resolver, request.raw
        assert body is not None
        resolver.reset()
        request.payload = lane.parse(self._unpacker.unpack(body)).body["payload"]
        request.foreign, request.unresolved, request.given = set(resolver.foreign), list(resolver.unresolved), list(resolver.given)

    def _parent(self, key: Any) -> Call | None:
        if key is None:
            return self._innermost
        if not isinstance(key, list) or len(key) != 2:
            raise errors.InvalidRequest(f"parent must be [connection, id], not {str(key)[:40]}")
        return self._dispatcher.calls.get((key[0], key[1]))

    def _answer_error(self, id: int, error: BaseException, request: Request | None, message: Message | None = None) -> None:
        if isinstance(error, errors.Refused):
            self._dispatcher.lifecycle.refuse(error)
        if self.identity is not None and message is not None and isinstance(error, errors.PermissionDenied):
            from bridge_adapter.policy import guard as doors

            guard = self._dispatcher.guard
            if guard is not None:
                operation, resource, corr = doors.asked(message.name, message.body)
                guard.denied(self.identity, operation, resource, error, corr)
        fields = self._dispatcher.error(error, request)
        self._tell_released()
        self.socket.send(self.packer.pack(lane.response(id, fields, None)))

    def _notice(self, message: Message) -> None:
        guard = self._dispatcher.guard
        if guard is not None and self.identity is not None and not guard.permits(self.identity, str(message.name)):
            return  # nobody waits for an answer
        match message.name, message.body:
            case "credit", [int(id), int(count)]:
                if id in self._credits and count > 0:
                    self._credits[id] += count
            case "drain", [*seconds] if self.role == "control" and _is_drain(seconds):
                self._dispatcher.lifecycle.ask_to_drain(*seconds)
            case "cancel", [int(id), str(reason)]:
                self._dispatcher.calls.cancel_request((self.id, id), reason)
            case "cancel", [int(connection), int(id), str(reason)]:
                self._dispatcher.calls.cancel_request((connection, id), reason)
            case _:
                raise errors.ProtocolError(f"unknown notification {message.name!r} {str(message.body)[:40]}")

    def _tell_released(self) -> None:
        hub = self._dispatcher.callbacks
        if hub.released:
            dropped = hub.take_released()
            self._told += dropped
            self.socket.send(self.packer.pack(lane.notification("released", dropped)))

    # --- streams ---

    def stream_packer(self) -> Packer:
        """A packer for a stream: the connection's own may be in use by a call that the consumer makes between items."""
        return Packer(self._resolver, self._dispatcher.limits)

    def open_credit(self, id: int, count: int) -> None:
        self._credits[id] = count

    def close_credit(self, id: int) -> None:
        self._credits.pop(id, None)

    def credit(self, id: int) -> int:
        """Items that the client still takes."""
        return self._credits[id]

    def spend(self, id: int, count: int) -> None:
        self._credits[id] -= count

    def await_credit(self, id: int, call: Call) -> None:
        """Serves the connection until the client gives credit or the call is cancelled."""
        while self._credits[id] <= 0 and call.reason is None:
            self.serve_one(call)

    def serve_one(self, call: Call, until: float | None = None) -> None:
        """Takes one message, once it comes; returns without one when the call is cancelled or `until` has passed."""
        while not self.socket.ready(_LOOK_SECONDS if until is None else max(0.0, min(_LOOK_SECONDS, until - time.monotonic()))):
            if call.reason is not None or (until is not None and time.monotonic() >= until):
                return
        body = self.socket.receive()
        if body is None:
            call.cancel("caller_down")
            raise errors.Disconnected("the client closed the connection while its call was running")
        self._take(body)

    # --- callbacks, messages, output ---

    def holds(self, call: Call) -> bool:
        """True while that call runs."""
        return self._dispatcher.calls.holds(call)

    def streams(self, call: Call) -> bool:
        """True for a stream of this connection, whose client reads only as it needs items."""
        return call.key[1] in self._credits

    def voice(self) -> LaneSocket | None:
        """Where what is said on behalf of a call that has ended goes: the client's control connection."""
        return next((control.socket for control in self._dispatcher.callbacks.controls if control.speaks), None)

    def ask(self, params: dict[str, Any], call: Call | None, session: str, timeout: float | None = None) -> Any:
        """Calls an Elixir function and waits for its answer (see callbacks.CallbackChannel)."""
        return self._questions.ask(self, params, call, session, timeout)


def _is_drain(seconds: list[Any]) -> bool:
    return not seconds or (len(seconds) == 1 and type(seconds[0]) in (int, float) and 0 <= seconds[0] < 1e6)
