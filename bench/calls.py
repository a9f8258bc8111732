"""Small calls: Elixir over the lane, and the same call over gRPC through the gateway, against a bare echo; worker start and memory.

`lane_vs_grpc` compares Python clients of both, so that the transports are compared and not the languages.
"""

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
from pathlib import Path

import grpc
from google.protobuf import any_pb2

from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

from . import elixir
from .report import Row, note, timed

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from lane_client import Worker, payload  # noqa: E402

CALLS = 2_000
ROUNDS = 5
STRING = "type.googleapis.com/google.protobuf.StringValue"


def run() -> list[Row]:
    """Every row of the suite."""
    note("calls: Elixir over the lane")
    rows = elixir.run("calls.exs")
    note("calls: worker start and memory")
    rows += start_rows()
    note("calls: gateway, echo and lane, in turns")
    return rows + transport_rows()


def start_rows() -> list[Row]:
    """From starting an executor to its first answer, and the memory of one that has answered."""
    samples, rss = [], 0.0
    for _ in range(7):
        started = time.perf_counter()
        with Worker() as worker:
            client = worker.connect()
            assert client.call("math", "sqrt", 16) == 4.0
            samples.append((time.perf_counter() - started) * 1000)
            rss = max(rss, client.request("stats", None)["rss_mb"])
            client.close()
    samples.sort()
    return [Row("start", samples[len(samples) // 2], "ms", len(samples)), Row("rss", rss, "MB", len(samples))]


def transport_rows() -> list[Row]:
    """The same call over three transports, measured in turns so that noise meets them alike."""
    with Worker() as worker, gateway() as gateway_port, echo() as echo_port:
        lane = worker.connect()
        fields = payload("math", "sqrt", [16])
        params = {"tool": "snakebridge.call", "payload": fields, "timeout_ms": 60_000}
        channels = [grpc.insecure_channel(f"127.0.0.1:{port}") for port in (gateway_port, echo_port)]
        over_gateway, over_echo = (rpc.BridgeServiceStub(channel) for channel in channels)
        call: dict[str, Callable[[], object]] = {
            "lane_py": lambda: lane.request("call", params),
            "gateway_1": lambda: over_gateway.ExecuteTool(request(), timeout=60),
            "echo_1": lambda: over_echo.ExecuteTool(request(), timeout=60),
        }
        answer = over_gateway.ExecuteTool(request(), timeout=60)
        assert answer.success and json.loads(answer.result.value) == 4.0, answer
        samples: dict[str, list[float]] = {name: [] for name in call}
        for _ in range(ROUNDS):
            for name, once in call.items():
                samples[name] += durations(once, CALLS // ROUNDS)
        many = {name: concurrent_rate(port) for name, port in (("gateway_16", gateway_port), ("echo_16", echo_port))}
        for channel in channels:
            channel.close()
        lane.close()
    rows = {name: timed(taken, sum(taken) / 1e6, name) for name, taken in samples.items()}
    rows |= {name: Row(name, rate, "calls/s", CALLS) for name, rate in many.items()}
    compared = [ratio("lane_vs_grpc", rows["lane_py"], rows["gateway_1"]), ratio("gateway_vs_echo", rows["gateway_1"], rows["echo_1"])]
    compared.append(ratio("gateway_16_vs_echo", rows["gateway_16"], rows["echo_16"]))
    return [*rows.values(), *compared]


def ratio(id: str, row: Row, base: Row) -> Row:
    value = row.value / base.value
    return Row(id, value, "x", row.n, ratio=value, ratio_to=base.id)


def durations(once: Callable[[], object], n: int) -> list[float]:
    taken = []
    for _ in range(n):
        started = time.perf_counter()
        once()
        taken.append((time.perf_counter() - started) * 1e6)
    return taken


def request() -> pb.ExecuteToolRequest:
    """What real SnakeBridge sends for math.sqrt(16)."""
    message = pb.ExecuteToolRequest(session_id="session_1_1", tool_name="snakebridge.call")
    for name, value in payload("math", "sqrt", [16]).items():
        message.parameters[name].CopyFrom(any_pb2.Any(type_url=STRING, value=json.dumps(value).encode()))
    return message


def concurrent_rate(port: int, callers: int = 16) -> float:
    """Calls per second of 16 concurrent callers on one channel."""

    async def measure() -> float:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rpc.BridgeServiceStub(channel)
            execute: Callable[[pb.ExecuteToolRequest], Awaitable[object]] = stub.ExecuteTool

            async def caller(n: int, session: str) -> None:
                message = request()
                message.parameters["session_id"].value = json.dumps(session).encode()
                for _ in range(n):
                    await execute(message)

            await asyncio.gather(*(caller(10, f"s{i}") for i in range(callers)))
            started = time.perf_counter()
            await asyncio.gather(*(caller(CALLS // callers, f"s{i}") for i in range(callers)))
            return CALLS / callers * callers / (time.perf_counter() - started)

    return asyncio.run(measure())


@contextmanager
def echo() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class BeamSide(rpc.BridgeServiceServicer):
    """Just enough of Snakepit's own server for a gateway to live: Ping and Heartbeat."""

    def Ping(self, request: pb.PingRequest, context: object) -> pb.PingResponse:
        return pb.PingResponse(message=f"pong: {request.message}")

    def Heartbeat(self, request: pb.HeartbeatRequest, context: object) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse(session_valid=True)


@contextmanager
def gateway() -> Iterator[int]:
    """A gateway, started as Snakepit starts it; yields its port."""
    beam = grpc.server(ThreadPoolExecutor(2))
    rpc.add_BridgeServiceServicer_to_server(BeamSide(), beam)
    beam_port = beam.add_insecure_port("127.0.0.1:0")
    beam.start()
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory) / "ready"
        script = ROOT / "bridge_adapter" / "gateway" / "grpc_server.py"
        command = [sys.executable, str(script), "--adapter", "bridge_adapter.SnakeBridgeAdapter", "--port", "0"]
        command += ["--elixir-address", f"127.0.0.1:{beam_port}", "--snakepit-run-id", "bench01", "--snakepit-instance-name", "bench"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=script.parent, env={**os.environ, "SNAKEPIT_READY_FILE": str(ready)})
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the gateway ended with status {process.returncode} before it was ready")
                time.sleep(0.01)
            yield int(ready.read_text())
        finally:
            process.terminate()
            process.wait()
            beam.stop(None)
