"""Elixir's functions, called from the host's event loop through blocking stubs: grpc.aio's poller would wake that loop and the server's
for each other's calls.

The stubs are those that the server has loaded: a second copy of the same messages cannot live beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Mapping
from typing import Any

from bridge_adapter.gateway.elixir_tools import ElixirTools
from bridge_adapter.gateway.lane_client import LaneError

_CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
_STUBS, _MESSAGES = "snakepit_bridge_pb2_grpc", "snakepit_bridge_pb2"


class Elixir:
    """Elixir as executors ask it. `stub`: the one of the latest call's context, for where no address is known."""

    def __init__(self) -> None:
        self.stub: Any = None
        self._address = ""
        self._seconds = 0.0
        self._tools: ElixirTools | None = None

    def configure(self, address: str, seconds: float) -> None:
        """Where Elixir is, "" when not known, and how long one of its functions may take."""
        self._address, self._seconds = address, seconds

    async def ask(self, name: str, params: Mapping[str, Any]) -> Any:
        """Answers a request of the executor. Raises LaneError."""
        if self._tools is None:
            self._tools = ElixirTools(_Awaited(self._connect()), _loaded(_MESSAGES), self._seconds)
        return await self._tools.ask(name, dict(params))

    def _connect(self) -> Any:
        if self._address:
            import grpc

            return _loaded(_STUBS).BridgeServiceStub(grpc.insecure_channel(self._address, options=_CHANNEL))
        if self.stub is not None:
            return _Latest(self)
        raise LaneError(
            {
                "category": "callback_gone",
                "type": "RuntimeError",
                "message": "Elixir's functions cannot be called: neither --elixir-address nor SNAKEPIT_GRPC_ADDRESS says where Elixir is",
            }
        )


class _Latest:
    """The stub of whichever context came last: a program that has made a new channel has closed the old one."""

    def __init__(self, elixir: Elixir) -> None:
        self._elixir = elixir

    def __getattr__(self, method: str) -> Any:
        return getattr(self._elixir.stub, method)


class _Awaited:
    """A blocking stub as one to await."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Any:
        blocking = getattr(self._stub, method)
        if hasattr(blocking, "future"):
            return functools.partial(_await, blocking)
        return functools.partial(asyncio.to_thread, blocking)


async def _await(blocking: Any, request: Any, **how: Any) -> Any:
    """gRPC's own future, and no thread that waits for it: functions that call each other need as many at once as they nest."""
    import grpc

    loop, answered = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends
            loop.call_soon_threadsafe(answered.set)

    call = blocking.future(request, **how)
    call.add_done_callback(wake)
    try:
        await answered.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    try:
        return call.result()
    except grpc.FutureCancelledError:  # Elixir's end has cancelled it: an error like others
        raise call from None


def _loaded(name: str) -> Any:
    """The generated module of that name that the server uses; ours when it uses none."""
    for module in list(sys.modules):
        if module == name or (module.endswith(f".{name}") and not module.startswith("bridge_adapter.")):
            return sys.modules[module]
    from bridge_adapter.proto import snakepit_bridge_pb2, snakepit_bridge_pb2_grpc

    return snakepit_bridge_pb2_grpc if name == _STUBS else snakepit_bridge_pb2
