"""What the benchmarks over gRPC share: a gateway as Snakepit starts it, the bare echo, the requests of real SnakeBridge, and callers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2

from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

from .report import Row

ROOT = Path(__file__).parent.parent
STRING = "type.googleapis.com/google.protobuf.StringValue"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
READY_POLL_SECONDS = 0.002  # Snakepit looks every 50 ms; the bench wants to know when the file is there


class BeamSide(rpc.BridgeServiceServicer):
    """Just enough of Snakepit's own server for a gateway to live: Ping and Heartbeat."""

    def Ping(self, request: pb.PingRequest, context: object) -> pb.PingResponse:
        return pb.PingResponse(message=f"pong: {request.message}")

    def Heartbeat(self, request: pb.HeartbeatRequest, context: object) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse(session_valid=True)


@dataclass(slots=True)
class Gateway:
    """A gateway that serves: its port, its pid and how long it took from the start of the process to the ready file."""

    port: int
    pid: int
    ready_ms: float

    def rss_mb(self) -> float:
        """Resident memory of the gateway and of its executor; pages that both map count twice."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(_rss_mb(pid) for pid in [str(self.pid), *children])


def _rss_mb(pid: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:", 1)[1].split(None, 1)[0]) / 1024


@contextmanager
def beam() -> Iterator[str]:
    """The live BEAM side, in this process; yields its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    rpc.add_BridgeServiceServicer_to_server(BeamSide(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def gateway(elixir_address: str) -> Iterator[Gateway]:
    """A gateway, started as Snakepit starts it."""
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory) / "ready"
        script = ROOT / "bridge_adapter" / "gateway" / "grpc_server.py"
        command = [sys.executable, str(script), "--adapter", "bridge_adapter.SnakeBridgeAdapter", "--port", "0"]
        command += ["--elixir-address", elixir_address, "--snakepit-run-id", "bench01", "--snakepit-instance-name", "bench"]
        environment = {**os.environ, "SNAKEPIT_READY_FILE": str(ready), "SNAKEPIT_PROCESS_GROUP": "1"}
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=script.parent, env=environment)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the gateway ended with status {process.returncode} before it was ready")
                time.sleep(READY_POLL_SECONDS)
            yield Gateway(int(ready.read_text()), process.pid, (time.perf_counter() - started) * 1000)
        finally:
            process.terminate()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


@contextmanager
def echo() -> Iterator[int]:
    """The bare grpc.aio echo; yields its port."""
    process = subprocess.Popen([sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def client(port: int) -> Iterator[Any]:
    """A blocking stub on a channel without size limits."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        yield rpc.BridgeServiceStub(channel)


def request(module: str, function: str, args: object, session: str = "session_1_1", **fields: object) -> pb.ExecuteToolRequest:
    """The request that real SnakeBridge makes of a call; args and fields are values as JSON has them."""
    payload: dict[str, object] = {
        "protocol_version": 1,
        "min_supported_version": 1,
        "session_id": session,
        "library": module.partition(".")[0],
        "python_module": module,
        "function": function,
        "args": args,
        "kwargs": {},
        "idempotent": False,
        **fields,
    }
    message = pb.ExecuteToolRequest(session_id="session_1_1700000000000000", tool_name="snakebridge.call")
    message.metadata["correlation_id"] = "sp-0123456789abcdef01234567"
    for name, value in payload.items():
        message.parameters[name].CopyFrom(any_pb2.Any(type_url=STRING, value=json.dumps(value).encode()))
    return message


def sqrt(session: str = "session_1_1") -> pb.ExecuteToolRequest:
    """The small call of every comparison: math.sqrt(16)."""
    return request("math", "sqrt", [16], session)


def value_of(response: pb.ExecuteToolResponse) -> Any:
    """The JSON value of an answer. Raises RuntimeError for an error."""
    if not response.success:
        raise RuntimeError(response.error_message)
    return json.loads(response.result.value)


def durations(once: Callable[[], object], n: int) -> list[float]:
    """What each of n calls in a row took, in microseconds."""
    taken = []
    for _ in range(n):
        started = time.perf_counter()
        once()
        taken.append((time.perf_counter() - started) * 1e6)
    return taken


def at_once(port: int, n: int, callers: int) -> tuple[list[float], float]:
    """n small calls by concurrent callers, each in a session of its own, over one channel: the duration of each in microseconds, and all of
    it in seconds."""

    async def measure() -> tuple[list[float], float]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            execute: Callable[[pb.ExecuteToolRequest], Awaitable[object]] = rpc.BridgeServiceStub(channel).ExecuteTool
            taken: list[float] = []

            async def caller(message: pb.ExecuteToolRequest, n: int) -> None:
                for _ in range(n):
                    started = time.perf_counter()
                    await execute(message)
                    taken.append((time.perf_counter() - started) * 1e6)

            messages = [sqrt(f"session_{number}_1") for number in range(callers)]
            await asyncio.gather(*(caller(message, 10) for message in messages))
            taken.clear()
            started = time.perf_counter()
            await asyncio.gather(*(caller(message, n // callers) for message in messages))
            return taken, time.perf_counter() - started

    return asyncio.run(measure())


def ratio(id: str, row: Row, base: Row) -> Row:
    """How many times the one value is the other."""
    value = row.value / base.value
    return Row(id, value, "x", row.n, ratio=value, ratio_to=base.id)
