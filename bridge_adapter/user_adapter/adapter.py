"""One call of a user's adapter: a new instance, its session, registration, the tool, and cleanup whatever happened.

Every method may be a coroutine function. Calls run side by side, each on its own thread; those that Elixir marks as thread-sensitive
run on one thread of their own, one at a time.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bridge_adapter import errors
from bridge_adapter.codec.limits import Limits
from bridge_adapter.user_adapter import values
from bridge_adapter.user_adapter.session_context import Elixir, SessionContext

# The sessions of the executor in which the calls run; a user's adapter keeps its state itself.
SIDE_BY_SIDE = "of the adapter"
ONE_THREAD = "of the adapter, on one thread"
_NOT_A_STREAM = {"error": "Streaming tool called on non-streaming endpoint."}
_WHOLE = (str, bytes, bytearray, memoryview, Mapping)
_SESSIONS = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call brings besides its arguments. `types`: the type names of parameters that have one."""

    session_id: str
    metadata: dict[str, str]
    types: dict[str, str]
    one_thread: bool = False

    @classmethod
    def of(cls, fields: Any) -> Asked:
        """From the key `adapter` of the lane's params. Raises InvalidRequest."""
        if not isinstance(fields, dict):
            raise errors.InvalidRequest(f"a call of the adapter needs the key adapter (a map), not {str(fields)[:40]}")
        session, metadata, types = fields.get("session") or "default", fields.get("metadata") or {}, fields.get("types") or {}
        return cls(str(session), dict(metadata), dict(types), fields.get("one_thread") is True)

    @property
    def lane_session(self) -> str:
        """The executor's session for the call."""
        return ONE_THREAD if self.one_thread else SIDE_BY_SIDE

    @property
    def options(self) -> dict[str, bool]:
        """The options of that session."""
        return {"pinned": True} if self.one_thread else {"concurrent": True}


class Runtime(Protocol):
    """What running a call needs of the worker (tools.registry.ToolContext has it)."""

    def settle(self, value: Any) -> Any:
        """Waits for an awaitable; returns anything else as it is."""

    def iterate(self, value: Any) -> Iterator[Any]:
        """Iterates over a sync or async iterable; closing the iterator closes the source."""


class UserAdapter:
    """An adapter class and the Elixir that it works for."""

    def __init__(self, adapter: type[Any], elixir_address: str, limits: Limits) -> None:
        self._adapter = adapter
        self._elixir = Elixir(elixir_address)
        self._limits = limits
        self._registered: OrderedDict[str, None] = OrderedDict()
        self._registering = threading.Lock()

    def call(self, tool: str, arguments: dict[str, Any], asked: Asked, runtime: Runtime) -> values.Answer:
        """The answer of a tool."""
        instance = None
        try:
            instance, context = self._prepared(asked, runtime)
            value = runtime.settle(instance.execute_tool(tool_name=tool, arguments=arguments, context=context))
            if values.is_stream(value):
                close = getattr(value, "close", None)
                if callable(close):
                    close()
                value = _NOT_A_STREAM
            return values.answer(value, self._limits)
        finally:
            _clean_up(instance, runtime)

    def stream(self, tool: str, arguments: dict[str, Any], asked: Asked, runtime: Runtime) -> Iterator[values.Chunk]:
        """The chunks of a tool's answer: one for each item of what can be iterated, one for anything else."""
        instance = None
        items: Iterator[Any] = iter(())
        try:
            instance, context = self._prepared(asked, runtime)
            value = runtime.settle(instance.execute_tool(tool_name=tool, arguments=arguments, context=context))
            items = runtime.iterate(value) if _streams(value) else iter((value,))
            for item in items:
                yield values.chunk(item, self._limits)
        finally:
            try:
                close = getattr(items, "close", None)
                if callable(close):
                    close()
            finally:
                _clean_up(instance, runtime)

    def _prepared(self, asked: Asked, runtime: Runtime) -> tuple[Any, SessionContext]:
        instance = self._adapter()
        context = SessionContext(self._elixir, asked.session_id, asked.metadata, self._limits)
        try:
            runtime.settle(instance.set_session_context(context))
            self._register(instance, context, runtime)
            if callable(getattr(instance, "initialize", None)):
                runtime.settle(instance.initialize())
        except BaseException:
            _clean_up(instance, runtime)
            raise
        return instance, context

    def _register(self, instance: Any, context: SessionContext, runtime: Runtime) -> None:
        """Once for each session, until it returns something. A tool runs, too, when Elixir would not hear of it."""
        register = getattr(instance, "register_with_session", None)
        if not callable(register) or context.session_id in self._registered:
            return
        with self._registering:
            if context.session_id in self._registered:
                return
            try:
                done = runtime.settle(register(context.session_id, context.stub))
            except Exception as error:
                name = type(instance).__name__
                print(f"bridge_adapter: {name}.register_with_session failed: {type(error).__name__}: {error}", file=sys.stderr)
                return
            if done is not None:
                self._registered[context.session_id] = None
                if len(self._registered) > _SESSIONS:
                    self._registered.popitem(last=False)


def _streams(value: Any) -> bool:
    """Snakepit's own server takes apart even texts and dicts; here they are one item."""
    if isinstance(value, _WHOLE):
        return False
    return hasattr(type(value), "__aiter__") or hasattr(type(value), "__iter__")


def _clean_up(instance: Any, runtime: Runtime) -> None:
    if callable(getattr(instance, "cleanup", None)):
        runtime.settle(instance.cleanup())
