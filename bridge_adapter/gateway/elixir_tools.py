"""What Python asks of Elixir through Snakepit: functions that came as arguments, called by ExecuteElixirTool.

The arguments and the result are JSON texts, which only the executor writes and reads.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import grpc
from google.protobuf import any_pb2

from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import CORRELATION, CORRELATION_HEADER, TRACE_HEADERS

TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
CALLBACK_TOOL = "snakebridge.callback"
CALLBACK_SECONDS = 300.0  # Snakepit's own default for a call
_SESSION_SECONDS = 60.0  # Elixir keeps a session for an hour after its last use
_SESSIONS = 4096

log = logging.getLogger("bridge_adapter.gateway")


class ElixirTools:
    """Elixir's side of the BridgeService, for what executors ask. `stub` is one of grpc.aio, `pb` the module of its messages.

    `seconds`: how long an Elixir function may take when the call it belongs to has no deadline of its own that ends earlier.
    """

    def __init__(self, stub: Any, pb: ModuleType, seconds: float = CALLBACK_SECONDS) -> None:
        self._stub = stub
        self._pb: Any = pb
        self._seconds = seconds
        self._known: OrderedDict[str, float] = OrderedDict()  # sessions that Elixir has, and when we made sure

    async def ask(self, name: str, params: Mapping[str, Any]) -> bytes:
        """Answers a request of an executor (docs/wire.md §2.4) with a JSON text. Raises LaneError."""
        if name != "callback":
            raise LaneError({"category": "protocol_error", "type": None, "message": f"the gateway does not know the request {name!r}"})
        callback, session = str(params.get("callback")), str(params.get("session") or "default")
        trace = params.get("trace") or {}
        headers = [(key, trace[key]) for key in TRACE_HEADERS if trace.get(key)]
        if trace.get(CORRELATION):
            headers.append((CORRELATION_HEADER, trace[CORRELATION]))
        timeout = self._seconds
        if params.get("timeout_ms") is not None:
            timeout = min(timeout, params["timeout_ms"] / 1000)
        await self._make_sure_of(session, headers, timeout)
        request = self._pb.ExecuteElixirToolRequest(session_id=session, tool_name=CALLBACK_TOOL, metadata=trace)
        for key, text in (("callback_id", json.dumps(callback).encode()), ("args", params["args"])):
            request.parameters[key].CopyFrom(any_pb2.Any(type_url=TEXT_URL, value=text))
        try:
            response = await self._stub.ExecuteElixirTool(request, timeout=timeout, metadata=headers)
        except grpc.RpcError as error:
            self._known.pop(session, None)
            raise _failed(callback, _why(error, timeout)) from error
        if not response.success:
            self._known.pop(session, None)
            raise _failed(callback, response.error_message or "Elixir gives no reason")
        if response.binary_result and not response.result.value:
            from bridge_adapter.codec import tagged

            return tagged.dumps(response.binary_result)
        return bytes(response.result.value) or b"null"

    async def _make_sure_of(self, session: str, headers: list[tuple[str, str]], timeout: float) -> None:
        """A tool call needs a session that Elixir knows; making one that exists is no mistake."""
        made = self._known.get(session)
        if made is not None and time.monotonic() - made < _SESSION_SECONDS:
            return
        try:
            answer = await self._stub.InitializeSession(
                self._pb.InitializeSessionRequest(session_id=session), timeout=timeout, metadata=headers
            )
        except grpc.RpcError as error:
            # The call itself will tell whether it matters.
            log.warning("Elixir did not make the session %s: %s", session, _why(error, timeout))
            return
        if not answer.success:
            log.warning("Elixir did not make the session %s: %s", session, answer.error_message)
            return
        self._known[session] = time.monotonic()
        if len(self._known) > _SESSIONS:
            self._known.popitem(last=False)


def _failed(callback: str, reason: str) -> LaneError:
    return LaneError(
        {
            "category": "callback_error",
            "type": "RuntimeError",
            "message": f"Callback failed: {reason}",
            "details": {"callback": callback},
        }
    )


def _why(error: grpc.RpcError, timeout: float) -> str:
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the Elixir function did not answer within {timeout:g} s"
    return f"{code.name}: {error.details()}"
