"""Snakepit's own gRPC server, as Python workers see it: sessions, heartbeats, and the Elixir functions and tools that Python may call.

It keeps every request with its headers. Elixir functions are Python functions here: `register_callback` stands for an Elixir process that
passed a function to SnakeBridge, `register_tool` for one that exposed a tool.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, timestamp_pb2

from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
CALLBACK_TOOL = "snakebridge.callback"
SESSION_QUOTA = 10_000
TOOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TOOL_NAME_BYTES = 64
TOOL_METADATA_ENTRIES = 32
TOOL_METADATA_BYTES = 4096
THREADS = 32  # callbacks that wait for calls that wait for callbacks need one each


class Received(NamedTuple):
    """A request as it arrived. `seconds`: what was left of its deadline; None when it had none."""

    method: str
    message: Any
    headers: dict[str, str]
    seconds: float | None


class Asked(NamedTuple):
    """A call of `snakebridge.callback`, taken apart."""

    session: str
    tool: str
    callback: str
    args: list[Any]
    metadata: dict[str, str]
    headers: dict[str, str]
    seconds: float | None


@dataclass
class Session:
    """A session of the BEAM: what made it, and the tools that Python has registered for it."""

    metadata: dict[str, str]
    created: timestamp_pb2.Timestamp
    python_tools: dict[str, pb.ToolRegistration] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """An Elixir tool: `function` is called with the parameters by name. A result of bytes goes back as `binary_result`."""

    name: str
    function: Callable[..., Any]
    description: str = ""
    exposed: bool = True


class BeamSide(rpc.BridgeServiceServicer):
    """The server. It listens at `address` as soon as it is made; use it as a context manager, or call `stop`.

    `functions`: functions by callback id that count as registered in every session. `heartbeat_status`: a gRPC status that all heartbeats
    are answered with. `quota`: how many sessions there may be; when it is reached, no InitializeSession succeeds.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.asked: list[Asked] = []
        self.sessions: dict[str, Session] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.heartbeat_status: grpc.StatusCode | None = None
        self.quota = SESSION_QUOTA
        self._callbacks: dict[tuple[str, str], Callable[..., Any]] = {}
        self._tools: dict[str, dict[str, Tool]] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=unlimited)
        rpc.add_BridgeServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    # --- what Elixir programs do ---

    def register_callback(self, session_id: str, callback_id: str, function: Callable[..., Any]) -> None:
        """An Elixir process of that session passes a function to Python. It does not make the session."""
        self._callbacks[session_id, callback_id] = function
        self.register_tool(session_id, Tool(CALLBACK_TOOL, lambda callback_id, args: None))

    def register_tool(self, session_id: str, tool: Tool) -> None:
        """Elixir exposes a tool to the Python code of a session."""
        self._tools.setdefault(session_id, {})[tool.name] = tool

    def python_tools(self, session_id: str) -> dict[str, pb.ToolRegistration]:
        """What Python has registered for a session."""
        return self.sessions[session_id].python_tools

    # --- what tests want to know ---

    def requests(self, method: str) -> list[Received]:
        """The requests of a method so far."""
        with self._lock:
            return [received for received in self.received if received.method == method]

    def wait_for(self, method: str, count: int = 1, seconds: float = 20) -> list[Received]:
        """The requests of a method, once there are `count` of them. Raises TimeoutError."""
        end = time.monotonic() + seconds
        with self._arrived:
            while True:
                found = [received for received in self.received if received.method == method]
                if len(found) >= count:
                    return found
                if not self._arrived.wait(end - time.monotonic()):
                    raise TimeoutError(f"{len(found)} of {count} {method} within {seconds:g} s")

    # --- the service ---

    def Ping(self, request: pb.PingRequest, context: Any) -> pb.PingResponse:
        self._note("Ping", request, context)
        return pb.PingResponse(message=f"pong: {request.message}", server_time=_now())

    def InitializeSession(self, request: pb.InitializeSessionRequest, context: Any) -> pb.InitializeSessionResponse:
        self._note("InitializeSession", request, context)
        with self._lock:
            if len(self.sessions) >= self.quota:
                return pb.InitializeSessionResponse(success=False, error_message="session quota exceeded")
            if request.session_id not in self.sessions:
                self.sessions[request.session_id] = Session(dict(request.metadata), _now())
        return pb.InitializeSessionResponse(success=True)

    def CleanupSession(self, request: pb.CleanupSessionRequest, context: Any) -> pb.CleanupSessionResponse:
        self._note("CleanupSession", request, context)
        with self._lock:
            self.sessions.pop(request.session_id, None)
        return pb.CleanupSessionResponse(success=True, resources_cleaned=1)

    def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        self._note("GetSession", request, context)
        session = self.sessions.get(request.session_id)
        if session is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Session not found: {request.session_id}")
        return pb.GetSessionResponse(
            session_id=request.session_id, metadata=session.metadata, created_at=session.created, tool_count=len(session.python_tools)
        )

    def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        self._note("Heartbeat", request, context)
        if self.heartbeat_status is not None:
            context.abort(self.heartbeat_status, "heartbeats fail by order of the test")
        return pb.HeartbeatResponse(server_time=_now(), session_valid=request.session_id in self.sessions)

    def RegisterTools(self, request: pb.RegisterToolsRequest, context: Any) -> pb.RegisterToolsResponse:
        self._note("RegisterTools", request, context)
        session = self.sessions.get(request.session_id)
        if session is None:
            return pb.RegisterToolsResponse(success=False, error_message=f"session_not_found: {request.session_id}")
        with self._lock:
            reason = _refusal(request.tools, session.python_tools)
            if reason:
                return pb.RegisterToolsResponse(success=False, error_message=reason)
            session.python_tools.update({tool.name: tool for tool in request.tools})
        return pb.RegisterToolsResponse(success=True, tool_ids={tool.name: f"{request.session_id}:{tool.name}" for tool in request.tools})

    def GetExposedElixirTools(self, request: pb.GetExposedElixirToolsRequest, context: Any) -> pb.GetExposedElixirToolsResponse:
        self._note("GetExposedElixirTools", request, context)
        tools = self._tools.get(request.session_id, {}).values()
        specs = [pb.ToolSpec(name=tool.name, description=tool.description) for tool in tools if tool.exposed]
        return pb.GetExposedElixirToolsResponse(tools=specs)

    def ExecuteElixirTool(self, request: pb.ExecuteElixirToolRequest, context: Any) -> pb.ExecuteElixirToolResponse:
        received = self._note("ExecuteElixirTool", request, context)
        try:
            parameters = {name: json.loads(value.value) for name, value in request.parameters.items()}
        except ValueError as error:
            return _refused(f"Invalid parameter: {error}")
        if request.tool_name == CALLBACK_TOOL:
            return self._call_back(request, parameters, received)
        if request.session_id not in self.sessions:
            return _refused("session_not_found")
        tool = self._tools.get(request.session_id, {}).get(request.tool_name)
        if tool is None or not tool.exposed:
            return _refused("not_found")
        began = time.monotonic()
        try:
            answer = _answered(tool.function(**parameters))
        except Exception as error:
            return _refused(repr(error))
        answer.metadata["execution_time"] = str(int((time.monotonic() - began) * 1000))
        return answer

    def _call_back(
        self, request: pb.ExecuteElixirToolRequest, parameters: Mapping[str, Any], received: Received
    ) -> pb.ExecuteElixirToolResponse:
        name, args = parameters["callback_id"], parameters["args"]
        asked = Asked(request.session_id, request.tool_name, name, args, dict(request.metadata), received.headers, received.seconds)
        with self._lock:
            self.asked.append(asked)
        function = self._callbacks.get((request.session_id, name)) or self.functions.get(name)
        if request.session_id not in self.sessions or function is None:
            return _refused("not_found")
        try:
            return _answered(function(*args))
        except Exception as error:
            return _answered({"__type__": "callback_error", "reason": repr(error)})

    def _note(self, method: str, message: Any, context: Any) -> Received:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        received = Received(method, message, headers, context.time_remaining())
        with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        return received

    # --- its life ---

    def stop(self) -> None:
        self._server.stop(None).wait()

    def __enter__(self) -> BeamSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _refusal(tools: Any, present: Mapping[str, Any]) -> str:
    """Why a batch of tools cannot be registered; one bad tool spoils it. Empty when it can."""
    names = set(present)
    for tool in tools:
        if not TOOL_NAME.fullmatch(tool.name) or len(tool.name.encode()) > TOOL_NAME_BYTES:
            return f"invalid_tool_name: {tool.name!r}"
        if tool.name in names:
            return f"duplicate_tool: {tool.name}"
        size = sum(len(key.encode()) + len(value.encode()) for key, value in tool.metadata.items())
        if len(tool.metadata) > TOOL_METADATA_ENTRIES or size > TOOL_METADATA_BYTES:
            return f"invalid_metadata: {tool.name} has {len(tool.metadata)} entries, {size} bytes"
        names.add(tool.name)
    return ""


def _answered(value: Any) -> pb.ExecuteElixirToolResponse:
    if isinstance(value, bytes):
        return pb.ExecuteElixirToolResponse(success=True, binary_result=value)
    text = json.dumps(value).encode()
    return pb.ExecuteElixirToolResponse(success=True, result=any_pb2.Any(type_url=TEXT_URL, value=text))


def _refused(reason: str) -> pb.ExecuteElixirToolResponse:
    return pb.ExecuteElixirToolResponse(success=False, error_message=reason)


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return now
