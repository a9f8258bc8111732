"""BridgeService as the worker serves it: what concerns the worker is answered here at once, tools are passed to the executor.

Parameters and results stay the JSON texts that they are: the gateway neither parses nor makes JSON, except to describe an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import timestamp_pb2

from bridge_adapter.gateway import failures, parameters, telemetry_stream
from bridge_adapter.gateway.beam import ElixirSide
from bridge_adapter.gateway.bridge import STREAM_TOOLS, Bridge, outcome
from bridge_adapter.gateway.door import Door
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.lifecycle import Draining, Lifecycle
from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.gateway.sampling import Sampler
from bridge_adapter.gateway.telemetry import Telemetry
from bridge_adapter.policy.access import Identity
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
MAX_SESSIONS = 10_000
MOST_OF_A_SESSION = 16 * 1024  # characters; they are kept for as long as it lives
STATE = "bridge-adapter-state"  # trailing metadata

log = logging.getLogger("bridge_adapter.gateway")


class BridgeService(rpc.BridgeServiceServicer):
    """The servicer."""

    def __init__(
        self,
        bridge: Bridge,
        elixir: ElixirSide,
        telemetry: Telemetry,
        sampler: Sampler,
        lifecycle: Lifecycle,
        *,
        worker_id: str,
        door: Door | None = None,
    ) -> None:
        self._bridge = bridge
        self._lifecycle = lifecycle
        self._elixir = elixir
        self._telemetry = telemetry
        self._sampler = sampler
        self._worker_id = worker_id
        self._door = door
        self._sessions: OrderedDict[str, pb.GetSessionResponse] = OrderedDict()
        self.stopping = asyncio.Event()

    # --- the worker itself ---

    async def Ping(self, request: pb.PingRequest, context: Any) -> pb.PingResponse:
        self._say_state(context)
        return pb.PingResponse(message=f"Pong from Python: {request.message}", server_time=_now())

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        self._say_state(context)
        return pb.HeartbeatResponse(server_time=_now(), session_valid=True)

    async def InitializeSession(self, request: pb.InitializeSessionRequest, context: Any) -> pb.InitializeSessionResponse:
        if self._door is not None:
            await self._door.admit(context, "session.initialize", request.session_id)
        size = len(request.session_id) + sum(len(name) + len(value) for name, value in request.metadata.items())
        if size > MOST_OF_A_SESSION:
            message = f"id and metadata of this session have {size} characters; they may have {MOST_OF_A_SESSION}. Give it a shorter name"
            return pb.InitializeSessionResponse(success=False, error_message=message)
        if request.session_id not in self._sessions:
            if len(self._sessions) >= MAX_SESSIONS:
                self._sessions.popitem(last=False)
            session = pb.GetSessionResponse(session_id=request.session_id, metadata=request.metadata, created_at=_now())
            self._sessions[request.session_id] = session
        self._elixir.session(request.session_id)
        return pb.InitializeSessionResponse(success=True)

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        if self._door is not None:
            await self._door.admit(context, "session.get", request.session_id)
        self._elixir.session(request.session_id)
        session = self._sessions.get(request.session_id)
        if session is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no session {request.session_id!r}; InitializeSession makes one")
            raise AssertionError("abort raises")
        return session

    async def CleanupSession(self, request: pb.CleanupSessionRequest, context: Any) -> pb.CleanupSessionResponse:
        if self._door is not None:
            await self._door.admit(context, "session.cleanup", request.session_id)
        self._sessions.pop(request.session_id, None)
        self._elixir.forget(request.session_id)
        try:
            released = await self._bridge.release_session(request.session_id, context.time_remaining)
        except LaneError as error:
            log.warning("the objects of session %s could not be released: %s", request.session_id, error)
            released = 0
        return pb.CleanupSessionResponse(success=True, resources_cleaned=released)

    async def StreamTelemetry(self, requests: Any, context: Any) -> None:
        """Events, as the controls want them, until Elixir or the worker ends."""
        if self._door is not None:
            await self._door.admit(context, "telemetry")
        await telemetry_stream.serve(self._telemetry, self._sampler, requests, context, self.stopping)

    def _say_state(self, context: Any) -> None:
        """A worker that drains is alive, and says so to those who look."""
        if self._lifecycle.draining:
            context.set_trailing_metadata(((STATE, self._lifecycle.state.value),))

    # --- what Elixir serves ---

    async def RegisterTools(self, request: pb.RegisterToolsRequest, context: Any) -> Any:
        await _not_here(context)

    async def GetExposedElixirTools(self, request: pb.GetExposedElixirToolsRequest, context: Any) -> Any:
        await _not_here(context)

    async def ExecuteElixirTool(self, request: pb.ExecuteElixirToolRequest, context: Any) -> Any:
        await _not_here(context)

    # --- tools ---

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: Any) -> pb.ExecuteToolResponse:
        started = time.monotonic()
        self._elixir.session(request.session_id)
        call = parameters.asked(request, context.invocation_metadata())
        identity: Identity | None = None
        try:
            with self._telemetry.call(call) as span:
                if self._door is not None:
                    identity = self._door.admit_call(context, call)
                binary = None
                result: bytes | None
                if self._bridge.for_adapter(call):
                    result, binary = await self._bridge.execute_adapter(call, context.time_remaining)
                else:
                    result = await self._bridge.execute(call, context.time_remaining)
                span.result_bytes = len(result or binary or b"")
            response = pb.ExecuteToolResponse(success=True, binary_result=binary)
            if result is not None:
                response.result.type_url, response.result.value = TEXT_URL, result  # an Any of its own would copy the result once more
        except Draining as error:
            await self._send_away(context, call, error)
            raise AssertionError("abort raises") from None
        except LaneError as error:
            if self._door is not None and identity is not None:
                self._door.failed(identity, call, error.fields)
            response = pb.ExecuteToolResponse(success=False, error_message=failures.text(self._failure(call, error)))
        response.execution_time_ms = int((time.monotonic() - started) * 1000)
        response.metadata.update(outcome(call))
        if self._worker_id:
            response.metadata["worker_id"] = self._worker_id
        return response

    async def ExecuteStreamingTool(self, request: pb.ExecuteToolRequest, context: Any) -> None:
        self._elixir.session(request.session_id)
        call = parameters.asked(request, context.invocation_metadata())
        identity: Identity | None = None
        try:
            with self._telemetry.call(call):
                if self._door is not None:
                    identity = self._door.admit_call(context, call)
                await self._stream(call, context)
        except Draining as error:
            await self._send_away(context, call, error)
        except LaneError as error:
            if self._door is not None and identity is not None:
                self._door.failed(identity, call, error.fields)
            await context.abort(grpc.StatusCode.INTERNAL, failures.status_text(self._failure(call, error)))

    async def _stream(self, call: Asked, context: Any) -> None:
        if self._bridge.for_adapter(call):
            await self._stream_adapter(call, context)
            return
        number = 0
        if call.tool not in STREAM_TOOLS:
            # Whether an answer streams depends on the RPC; the answer of a tool that does not stream is one chunk.
            value = await self._bridge.execute(call, context.time_remaining)
            number = 1
            await context.write(_chunk(call.tool, number, value))
        else:
            async with aclosing(self._bridge.stream(call, context.time_remaining)) as batches:
                async for items in batches:
                    for item in items:
                        number += 1
                        await context.write(_chunk(call.tool, number, item))
        await context.write(pb.ToolChunk(chunk_id=f"{call.tool}-{number + 1}", is_final=True))

    async def _stream_adapter(self, call: Asked, context: Any) -> None:
        """Items of a user's adapter travel as they are, not as `{"data": item}`; each may say that it is the last one."""
        number, ended = 0, False
        async with aclosing(self._bridge.stream(call, context.time_remaining)) as batches:
            async for items in batches:
                for data, final, metadata in items:
                    number += 1
                    ended = ended or final
                    await context.write(pb.ToolChunk(chunk_id=f"{call.tool}-{number}", data=data, is_final=final, metadata=metadata))
        if not ended:
            await context.write(pb.ToolChunk(chunk_id=f"{call.tool}-{number + 1}", is_final=True))

    async def _send_away(self, context: Any, call: Asked, error: Draining) -> None:
        """As gRPC says that a server takes no calls, with a hint when to come again."""
        context.set_trailing_metadata(((STATE, self._lifecycle.state.value), ("retry-after-ms", str(error.retry_after_ms))))
        await context.abort(grpc.StatusCode.UNAVAILABLE, failures.status_text(self._failure(call, error)))

    def _failure(self, call: Asked, error: LaneError) -> dict[str, Any]:
        payload = failures.payload(error.fields, call.tool, call.texts, call.worker_session)
        log.info("%s failed: %s: %s", call.tool, payload["type"], payload["message"], extra={"corr": call.correlation})
        return payload


async def _not_here(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Elixir serves this method, not its workers")


def _chunk(tool: str, number: int, value: bytes) -> pb.ToolChunk:
    return pb.ToolChunk(chunk_id=f"{tool}-{number}", data=b'{"data":' + value + b"}")


def _now() -> timestamp_pb2.Timestamp:
    nanoseconds = time.time_ns()
    return timestamp_pb2.Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)
