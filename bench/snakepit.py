"""The gateway as Snakepit sees it: small calls, streams and 16 MB values over real gRPC, against a bare grpc.aio echo; start and memory.

The rows of 16 MB are what real SnakeBridge does, bytes as base64 in tagged JSON; those that end in `_binary` use `binary_parameters`.
What the client spends on base64 is not in them.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import time
from typing import Any

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

from .gateway import at_once, beam, client, durations, echo, gateway, ratio, request, sqrt, value_of
from .report import Row, note, timed

ROUNDS = 6
CALLS = 6_000  # of each kind, over all rounds
CALLERS = 16
ITEMS = 20_000
STREAMS = 7
MEGABYTES_16 = 16_000_000
LARGE = 9
STARTS = 7


def run() -> list[Row]:
    """Every row of the suite."""
    with beam() as elixir:
        note("snakepit: starts")
        starts = []
        for _ in range(STARTS):
            with gateway(elixir) as started:
                starts.append(started.ready_ms)
        with gateway(elixir) as served, client(served.port) as stub:
            note("snakepit: gateway and echo in turns")
            with echo() as echo_port, client(echo_port) as echo_stub:
                ports, stubs = {"gateway": served.port, "echo": echo_port}, {"gateway": stub, "echo": echo_stub}
                rows = call_rows(ports, stubs) + stream_rows(stubs)
            rss = served.rss_mb()
            note("snakepit: large values")
            rows += large_rows(stub)
    return [*rows, Row("gateway_ready", statistics.median(starts), "ms", STARTS), Row("gateway_rss", rss, "MB", 1)]


def call_rows(ports: dict[str, int], stubs: dict[str, Any]) -> list[Row]:
    """math.sqrt by one caller and by sixteen, in turns with an echo of the same messages so that noise meets both alike."""
    taken: dict[str, list[float]] = {f"{who}_{callers}": [] for callers in (1, CALLERS) for who in stubs}
    seconds = dict.fromkeys(taken, 0.0)
    message = sqrt()
    assert value_of(stubs["gateway"].ExecuteTool(message, timeout=60)) == 4.0
    for stub in stubs.values():
        one_by_one(stub, message, 200)
    for _ in range(ROUNDS):
        for who, stub in stubs.items():
            started = time.perf_counter()
            taken[f"{who}_1"] += one_by_one(stub, message, CALLS // ROUNDS)
            seconds[f"{who}_1"] += time.perf_counter() - started
        for who, port in ports.items():
            each, whole = at_once(port, CALLS // ROUNDS, CALLERS)
            taken[f"{who}_{CALLERS}"] += each
            seconds[f"{who}_{CALLERS}"] += whole
    rows = {id: timed(taken[id], seconds[id], id) for id in taken}
    compared = [ratio(f"gateway_{callers}_vs_echo", rows[f"gateway_{callers}"], rows[f"echo_{callers}"]) for callers in (1, CALLERS)]
    return [*rows.values(), *compared]


def stream_rows(stubs: dict[str, Any]) -> list[Row]:
    """range(20 000) through snakebridge.stream, one chunk per item, in turns with chunks of the same size that the echo makes."""
    message = request("builtins", "range", [ITEMS], call_type="dynamic_stream")
    message.tool_name = "snakebridge.stream"
    message.stream = True
    rates: dict[str, list[float]] = {who: [] for who in stubs}
    for _ in range(STREAMS):
        for who, stub in stubs.items():
            started = time.perf_counter()
            chunks = [chunk.data for chunk in stub.ExecuteStreamingTool(message, timeout=120) if not chunk.is_final]
            rates[who].append(len(chunks) / (time.perf_counter() - started))
            assert len(chunks) == ITEMS and json.loads(chunks[-1]) == {"data": ITEMS - 1}
    rows = {who: Row(f"{who}_stream", statistics.median(rates[who]), "items/s", ITEMS * STREAMS) for who in stubs}
    return [*rows.values(), ratio("gateway_stream_vs_echo", rows["gateway"], rows["echo"])]


def large_rows(stub: Any) -> list[Row]:
    """16 MB of bytes in and out. In: `len(bytes)`. Out: `bytes(n)`. In, binary: the value of an attribute that is set."""
    data = os.urandom(MEGABYTES_16)
    tagged = {"__type__": "bytes", "__schema__": 1, "data": base64.b64encode(data).decode()}
    incoming = request("builtins", "len", [tagged])
    outgoing = request("builtins", "bytes", [MEGABYTES_16])
    holder = value_of(stub.ExecuteTool(request("types", "SimpleNamespace", [], call_type="class", **{"class": "SimpleNamespace"})))
    binary = request("types", "data", [], call_type="set_attr", attr="data", instance=holder)
    binary.binary_parameters["value"] = data
    assert value_of(stub.ExecuteTool(incoming)) == len(data)
    assert value_of(stub.ExecuteTool(binary)) is True
    assert base64.b64decode(value_of(stub.ExecuteTool(outgoing))["data"]) == bytes(MEGABYTES_16)
    rows = {"gateway_16mb_in": incoming, "gateway_16mb_out": outgoing, "gateway_16mb_in_binary": binary}
    return [median_row(id, stub, message) for id, message in rows.items()]


def one_by_one(stub: Any, message: pb.ExecuteToolRequest, n: int) -> list[float]:
    return durations(lambda: stub.ExecuteTool(message, timeout=60), n)


def median_row(id: str, stub: Any, message: pb.ExecuteToolRequest) -> Row:
    return Row(id, statistics.median(one_by_one(stub, message, LARGE)) / 1000, "ms", LARGE)
