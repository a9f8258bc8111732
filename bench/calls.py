"""Small calls: Elixir over the lane; worker start and memory; and what the lane gains over gRPC through the gateway.

The two transports are compared with Python clients of both, in turns, so that they are compared and not the languages. The gateway
alone is measured by `bench snakepit`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from . import elixir
from .gateway import ROOT, beam, client, durations, echo, gateway, ratio, sqrt, value_of
from .report import Row, note, timed

sys.path.insert(0, str(ROOT / "tests"))

from lane_client import Worker, payload

CALLS = 2_000
ROUNDS = 5


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
    with Worker() as worker, beam() as address, gateway(address) as served, echo() as echo_port, client(served.port) as over_gateway:
        lane = worker.connect()
        params = {"tool": "snakebridge.call", "payload": payload("math", "sqrt", [16]), "timeout_ms": 60_000}
        message = sqrt()
        assert value_of(over_gateway.ExecuteTool(message, timeout=60)) == 4.0
        with client(echo_port) as over_echo:
            call: dict[str, Callable[[], object]] = {
                "lane_py": lambda: lane.request("call", params),
                "gateway_1": lambda: over_gateway.ExecuteTool(message, timeout=60),
                "echo_1": lambda: over_echo.ExecuteTool(message, timeout=60),
            }
            samples: dict[str, list[float]] = {name: [] for name in call}
            for _ in range(ROUNDS):
                for name, once in call.items():
                    samples[name] += durations(once, CALLS // ROUNDS)
        lane.close()
    rows = {name: timed(taken, sum(taken) / 1e6, name) for name, taken in samples.items()}
    return [
        rows["lane_py"],
        ratio("lane_vs_grpc", rows["lane_py"], rows["gateway_1"]),
        ratio("gateway_vs_echo", rows["gateway_1"], rows["echo_1"]),
    ]
