"""A double of Snakepit's own Python server, written from what is known of its behaviour: the lifecycle of an adapter, the typing of
results, errors and streams, in its process mode and in its threaded mode. Deliberately as blocking and as fragile as the original.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import grpc
import serialization
import snakepit_bridge_pb2 as pb
import snakepit_bridge_pb2_grpc as rpc
from google.protobuf import timestamp_pb2
from snakepit_bridge import SessionContext

MEGABYTES_100 = 100 << 20
QUEUE_LENGTH = 100
IN_CONTEXT = ("library", "python_module", "function", "call_type", "payload_version")
TRUE = ("1", "true", "t", "yes", "y", "on")
END = object()


class Servicer(rpc.BridgeServiceServicer):
    """One instance per server; one instance of the adapter class per call."""

    def __init__(self, adapter_class: type, elixir_address: str, threaded: bool) -> None:
        self._adapter_class = adapter_class
        self._threaded = threaded
        self._stub = rpc.BridgeServiceStub(grpc.insecure_channel(elixir_address))
        self._aio_stub = rpc.BridgeServiceStub(grpc.aio.insecure_channel(elixir_address))
        self._registered: set[str] = set()

    async def greet(self, tries: int) -> None:
        """Pings Elixir until it answers."""
        delay = 0.05
        for _ in range(tries):
            try:
                await self._aio_stub.Ping(pb.PingRequest(message="startup"), timeout=1)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 2)
        sys.exit(1)

    async def Ping(self, request: Any, context: Any) -> Any:
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        return pb.PingResponse(message=f"Pong from Python: {request.message}", server_time=now)

    async def InitializeSession(self, request: Any, context: Any) -> Any:
        return await self._aio_stub.InitializeSession(request)

    async def Heartbeat(self, request: Any, context: Any) -> Any:
        return await self._aio_stub.Heartbeat(request)

    async def ExecuteTool(self, request: Any, context: Any) -> Any:
        arguments: dict[str, Any] = {}
        adapter = None
        try:
            adapter = await self._adapter(request)
            arguments = self._arguments(request)
            result = await self._execute(adapter, request, arguments)
            if inspect.isgenerator(result) or inspect.isasyncgen(result):
                result = {"error": "Streaming tool called on non-streaming endpoint."}
            return pb.ExecuteToolResponse(success=True, result=serialization.encode(result))
        except Exception as error:
            return pb.ExecuteToolResponse(success=False, error_message=json.dumps(_failure(error, request, arguments)))
        finally:
            await self._cleanup(adapter)

    async def ExecuteStreamingTool(self, request: Any, context: Any) -> AsyncIterator[Any]:
        arguments: dict[str, Any] = {}
        adapter = None
        number, final = 0, False
        try:
            adapter = await self._adapter(request)
            arguments = self._arguments(request)
            result = await self._execute(adapter, request, arguments)
            async for item in _items(result):
                number += 1
                chunk = _chunk(f"{request.tool_name}-{number}", item)
                final = final or chunk.is_final
                yield chunk
            if not final:
                yield pb.ToolChunk(chunk_id=f"{request.tool_name}-{number + 1}", is_final=True)
        except Exception as error:
            await context.abort(grpc.StatusCode.INTERNAL, json.dumps(_failure(error, request, arguments)))
        finally:
            await self._cleanup(adapter)

    async def _adapter(self, request: Any) -> Any:
        if not self._threaded:
            self._stub.InitializeSession(pb.InitializeSessionRequest(session_id=request.session_id))
        adapter = self._adapter_class()
        adapter.set_session_context(self._context(request))
        wanted = self._threaded or request.session_id not in self._registered
        if hasattr(adapter, "register_with_session") and wanted:
            registered = adapter.register_with_session(request.session_id, self._stub)
            if registered is not None:
                self._registered.add(request.session_id)
        if hasattr(adapter, "initialize"):
            await self._invoke(request, adapter.initialize)
        return adapter

    def _context(self, request: Any) -> SessionContext:
        return SessionContext(self._stub, request.session_id, dict(request.metadata))

    def _arguments(self, request: Any) -> dict[str, Any]:
        arguments = {name: serialization.decode(value) for name, value in request.parameters.items()}
        return {**arguments, **request.binary_parameters}

    async def _execute(self, adapter: Any, request: Any, arguments: dict[str, Any]) -> Any:
        given = {"tool_name": request.tool_name, "arguments": arguments, "context": self._context(request)}
        return await self._invoke(request, adapter.execute_tool, **given)

    async def _cleanup(self, adapter: Any) -> None:
        if hasattr(adapter, "cleanup"):
            outcome = adapter.cleanup()
            if inspect.isawaitable(outcome):
                await outcome

    async def _invoke(self, request: Any, method: Callable[..., Any], **arguments: Any) -> Any:
        """Async methods are awaited; sync ones run in the thread pool, or, threaded or for a sensitive library, on the event loop."""
        if inspect.iscoroutinefunction(method):
            return await method(**arguments)
        if self._threaded or request.metadata.get("thread_sensitive", "").lower() in TRUE:
            return method(**arguments)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: method(**arguments))


async def _items(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for item in result:
            yield item
    elif hasattr(result, "__iter__"):
        items: queue.Queue[Any] = queue.Queue(QUEUE_LENGTH)
        threading.Thread(target=_drive, args=(iter(result), items), daemon=True).start()
        while (item := await asyncio.to_thread(items.get)) is not END:
            if isinstance(item, BaseException):
                raise item
            yield item
    else:
        yield result


def _drive(iterator: Iterator[Any], items: queue.Queue[Any]) -> None:
    try:
        for item in iterator:
            items.put(item)
        items.put(END)
    except BaseException as error:
        items.put(error)


def _chunk(chunk_id: str, item: Any) -> Any:
    chunk = pb.ToolChunk(chunk_id=chunk_id)
    if hasattr(item, "data") and hasattr(item, "is_final"):
        chunk.is_final = bool(item.is_final)
        chunk.metadata.update(getattr(item, "metadata", None) or {})
        item = item.data
    if isinstance(item, bytes | bytearray | memoryview):
        chunk.data = bytes(item)
    elif isinstance(item, str):
        chunk.data = item.encode()
    elif item is not None:
        chunk.data = serialization.dumps(item)
    return chunk


def _failure(error: Exception, request: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    stacktrace = traceback.format_exception(error)
    context = {"tool_name": request.tool_name, "session_id": request.session_id}
    context |= {name: arguments[name] for name in IN_CONTEXT if name in arguments}
    return {
        "type": type(error).__name__,
        "message": str(error),
        "stacktrace": stacktrace,
        "traceback": "".join(stacktrace),
        "context": context,
    }


def main(threaded: bool) -> None:
    """The command line of the process server, or that of the threaded one."""
    flags = _flags(threaded)
    module, _, name = flags.adapter.rpartition(".")
    try:
        adapter_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        print(f"cannot import the adapter {flags.adapter}: {error}", file=sys.stderr)
        sys.exit(1)
    if not threaded and flags.health_check:
        sys.exit(0)
    if threaded and not getattr(adapter_class, "__thread_safe__", False):
        print(f"{flags.adapter} is not marked __thread_safe__", file=sys.stderr)
        sys.exit(1)
    asyncio.run(_serve(flags, adapter_class, threaded))


def _flags(threaded: bool) -> argparse.Namespace:
    address = os.environ.get("SNAKEPIT_GRPC_ADDRESS") or os.environ.get("SNAKEPIT_ELIXIR_ADDRESS")
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--adapter", default="")
    parser.add_argument("--elixir-address", default=address)
    for name in ("run-id", "instance-name", "instance-token"):
        parser.add_argument(f"--snakepit-{name}")
    if threaded:
        parser.add_argument("--max-workers", type=int, default=10)
        parser.add_argument("--thread-safety-check", action="store_true")
    else:
        parser.add_argument("--health-check", action="store_true")
    flags = parser.parse_args()
    checking = not threaded and flags.health_check
    if not flags.adapter or not (flags.elixir_address or checking):
        parser.error("--adapter and --elixir-address are required")
    return flags


async def _serve(flags: argparse.Namespace, adapter_class: type, threaded: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    servicer = Servicer(adapter_class, flags.elixir_address, threaded)
    await servicer.greet(30 if threaded else 60)
    server = grpc.aio.server(options=[("grpc.max_send_message_length", MEGABYTES_100), ("grpc.max_receive_message_length", MEGABYTES_100)])
    rpc.add_BridgeServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"[::]:{flags.port}")
    await server.start()
    ready = os.environ["SNAKEPIT_READY_FILE"]
    with open(f"{ready}.tmp", "w", encoding="ascii") as file:
        file.write(str(port))
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{ready}.tmp", ready)
    await stopped.wait()
    await server.stop(2)
