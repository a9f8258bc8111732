"""Results that Snakepit's server sends as they are: it asks an instance of its `ZeroCopyRef` for the payload, before it looks at types.

Ours answers with the executor's JSON text, so that None, integers of any size and everything else reach Elixir unchanged.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from functools import cache
from typing import Any, ClassVar

from bridge_adapter.adapter.host import Batches, Host
from bridge_adapter.adapter.raised import Raised, raised
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import Asked

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

NOT_HERE = b'{"error":"Streaming tool called on non-streaming endpoint."}'
_HOOKS = ("snakepit_bridge", "snakepit_bridge.zero_copy")

log = logging.getLogger("bridge_adapter.adapter")

_classes: dict[type, type[Any]] = {}


class Chunk:
    """One item of a stream, as the server takes it: `data` goes on the wire as it is."""

    __slots__ = ("data",)
    is_final = False
    metadata: ClassVar[dict[str, str]] = {}  # the server copies it

    def __init__(self, text: bytes) -> None:
        self.data = b'{"data":' + text + b"}"


class _Exact:
    """What an instance of the hook's class says instead. On the streaming RPC it is one chunk."""

    _text: bytes
    _payload: Any
    is_final = False
    metadata: ClassVar[dict[str, str]] = {}

    @property
    def data(self) -> bytes:
        return b'{"data":' + self._text + b"}"

    def to_payload(self, *_: Any, **__: Any) -> Any:
        return self._payload

    def __repr__(self) -> str:
        return f"<a result of {len(self._text)} bytes of JSON>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Streamed(_Exact):
    """A stream. Iterated, it runs and gives chunks; on the unary RPC it says what Snakepit says of a stream there, and nothing runs."""

    _call: Asked
    _host: Host

    @staticmethod
    def of(call: Asked, host: Host) -> Any:
        stream = _make(Streamed, NOT_HERE)
        object.__setattr__(stream, "_call", call)
        object.__setattr__(stream, "_host", host)
        return stream

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return _chunks(self._host.stream(self._call), self._call)


async def _chunks(batches: Batches, call: Asked) -> AsyncGenerator[Chunk, None]:
    failure: Raised
    try:
        while (texts := await batches.next()) is not None:
            for text in texts:
                yield Chunk(text)
        return
    except LaneError as error:
        failure = raised(error, call, brief=True)
    finally:
        batches.close()
    raise failure


def exact(text: bytes) -> Any:
    """The result whose JSON text this is. Without the hook it is the plain value, and the server has its way with it."""
    if _hook() is None:
        return json.loads(text)
    return _make(_Exact, text)


def _make(kind: type[_Exact], text: bytes) -> Any:
    made = _hooked(kind)
    # Past the constructor of the hook's class, and past its being frozen.
    result: Any = object.__new__(made)
    object.__setattr__(result, "_text", text)
    object.__setattr__(result, "_payload", orjson.Fragment(text) if orjson is not None else json.loads(text))
    return result


def _hooked(kind: type[_Exact]) -> type[Any]:
    """The same as a subclass of the hook's class."""
    if kind not in _classes:
        hook = _hook()
        _classes[kind] = kind if hook is None else type(kind.__name__.strip("_"), (kind, hook), {})
    return _classes[kind]


@cache
def _hook() -> type | None:
    """`ZeroCopyRef`, wherever this Snakepit has it."""
    for name in _HOOKS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    loaded = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "snakepit_bridge"]
    for module in loaded:
        found = getattr(module, "ZeroCopyRef", None)
        if isinstance(found, type):
            return found
    log.warning("there is no snakepit_bridge.ZeroCopyRef here: None and integers arrive in Elixir as Snakepit's server has them")
    return None
