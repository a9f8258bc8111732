"""What an adapter of a user's knows of its call: session, metadata, and the way to Elixir (Snakepit's SessionContext).

gRPC is loaded, and a connection made, when somebody asks for the way to Elixir. The stubs are Snakepit's own where they can be imported.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections import OrderedDict
from types import ModuleType
from typing import Any

from bridge_adapter import calls
from bridge_adapter.codec.limits import Limits
from bridge_adapter.user_adapter import values

TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
CALL_SECONDS = 300.0  # Snakepit's own default
SESSION_SECONDS = 5.0
_SESSIONS = 4096
_HEADERS = {"correlation_id": "x-snakepit-correlation-id", "traceparent": "traceparent", "tracestate": "tracestate", "baggage": "baggage"}


class Elixir:
    """The BEAM's gRPC server. Connected when it is first needed, by any thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._stub: Any = None
        self.messages: Any = None
        self._known: OrderedDict[str, None] = OrderedDict()

    def stub(self, session_id: str) -> Any:
        """The stub, for a session that Elixir knows after this."""
        with self._lock:
            if self._stub is None:
                self._stub = self._connect()
            new = session_id not in self._known
        if new:
            self._make(session_id)
        return self._stub

    def _connect(self) -> Any:
        import grpc

        self.messages, services = _modules()
        sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return services.BridgeServiceStub(grpc.insecure_channel(self._address, options=sizes))

    def _make(self, session_id: str) -> None:
        import grpc

        try:
            answer = self._stub.InitializeSession(self.messages.InitializeSessionRequest(session_id=session_id), timeout=SESSION_SECONDS)
        except grpc.RpcError as error:
            print(f"bridge_adapter: Elixir at {self._address} did not make the session {session_id}: {error.code().name}", file=sys.stderr)
            return
        if not answer.success:
            print(f"bridge_adapter: Elixir did not make the session {session_id}: {answer.error_message}", file=sys.stderr)
            return
        with self._lock:
            self._known[session_id] = None
            if len(self._known) > _SESSIONS:
                self._known.popitem(last=False)


def _modules() -> tuple[ModuleType, Any]:
    """(messages, services): Snakepit's stubs when they are on the path and fit the protobuf that is there, else ours."""
    try:
        return importlib.import_module("snakepit_bridge_pb2"), importlib.import_module("snakepit_bridge_pb2_grpc")
    except Exception:  # not there, or made by another protobuf
        from bridge_adapter.proto import snakepit_bridge_pb2, snakepit_bridge_pb2_grpc

        return snakepit_bridge_pb2, snakepit_bridge_pb2_grpc


class SessionContext:
    """One call, as its adapter sees it. `session_id`: that of the worker; `request_metadata`: what Elixir sent with the call."""

    def __init__(self, elixir: Elixir, session_id: str, request_metadata: dict[str, str], limits: Limits) -> None:
        self.session_id = session_id
        self.request_metadata = request_metadata
        self._elixir = elixir
        self._limits = limits
        self._tools: dict[str, dict[str, Any]] | None = None

    @property
    def stub(self) -> Any:
        """The (synchronous) gRPC stub to Elixir."""
        return self._elixir.stub(self.session_id)

    @property
    def elixir_tools(self) -> dict[str, dict[str, Any]]:
        """The tools that Elixir offers to this session, by name: name, description, parameters, metadata, supports_streaming."""
        if self._tools is None:
            stub = self.stub
            request = self._elixir.messages.GetExposedElixirToolsRequest(session_id=self.session_id)
            answer = stub.GetExposedElixirTools(request, timeout=_seconds(), metadata=self._headers())
            self._tools = {tool.name: _described(tool) for tool in answer.tools}
        return self._tools

    def call_elixir_tool(self, tool_name: str, /, **parameters: Any) -> Any:
        """The answer of an Elixir tool; bytes where it answers with bytes. Raises RuntimeError with Elixir's reason when it fails."""
        stub, messages = self.stub, self._elixir.messages
        request = messages.ExecuteElixirToolRequest(session_id=self.session_id, tool_name=tool_name, metadata=self.request_metadata)
        for name, value in parameters.items():
            parameter = request.parameters[name]
            parameter.type_url, parameter.value = TEXT_URL, values.text(value, self._limits, str)
        response = stub.ExecuteElixirTool(request, timeout=_seconds(), metadata=self._headers())
        if not response.success:
            raise RuntimeError(f"the Elixir tool {tool_name} failed: {response.error_message or 'Elixir gives no reason'}")
        if response.binary_result:
            return response.binary_result
        return json.loads(response.result.value) if response.result.value else None

    def cleanup(self) -> None:
        """Forgets what was asked of Elixir; the connection serves other calls, too."""
        self._tools = None

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def _headers(self) -> list[tuple[str, str]]:
        metadata = self.request_metadata
        return [(header, metadata[key]) for key, header in _HEADERS.items() if metadata.get(key)]


def _seconds() -> float:
    """How long Elixir may take: as long as the call itself still may."""
    call = calls.running()
    if call is None or call.deadline is None:
        return CALL_SECONDS
    return max(0.001, min(CALL_SECONDS, call.deadline - time.monotonic()))


def _described(tool: Any) -> dict[str, Any]:
    parameters = [{"name": one.name, "type": one.type, "description": one.description, "required": one.required} for one in tool.parameters]
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": parameters,
        "metadata": dict(tool.metadata),
        "supports_streaming": tool.supports_streaming,
    }
