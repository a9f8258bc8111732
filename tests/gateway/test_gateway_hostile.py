"""Input that nobody means well with: the gateway answers or refuses it, and goes on."""

from __future__ import annotations

import json
import random
import socket

import grpc
import pytest
from beam_side import BeamSide
from gateway_process import Gateway, raw_request, request, value_of

from bridge_adapter.proto import snakepit_bridge_pb2 as pb


def test_bytes_that_are_no_http_are_refused(gateway: Gateway) -> None:
    chance = random.Random(4)
    starts = [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"]
    connections = []
    for number in range(200):
        connection = socket.create_connection(("127.0.0.1", gateway.port))
        connection.sendall(chance.choice(starts) + chance.randbytes(200))
        connections.append(connection)
        if number % 2:
            connection.close()
    assert gateway.execute("sqrt", 16, module="math") == 4.0
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"args": b"[" * 100_000}, "max_depth"),
        ({"args": b"[1" + b"0" * 5_000_000 + b"]"}, "max_int_bits"),
        ({"args": b"\xff\xfe"}, "in the parameter args"),
        ({"session_id": b'"' + b"x" * 100_000 + b'"'}, "a session id must have 1 to 512 characters"),
        ({"session_id": b"[]"}, "session_id must be a string"),
        ({"function": b'"sq\\u0000rt"'}, "has no attribute"),
        ({"python_module": b'"..math"'}, "relative import"),
        ({"python_module": b'"' + b"a." * 3000 + b'b"'}, ""),
        ({"protocol_version": b"1e400"}, "must be integers"),
    ],
)
def test_parameters_of_any_kind_are_answered(gateway: Gateway, parameters: dict[str, bytes], message: str) -> None:
    given = {"protocol_version": b"1", "min_supported_version": b"1", "python_module": b'"math"', "function": b'"sqrt"', **parameters}
    answer = gateway.stub.ExecuteTool(raw_request(given), timeout=20)
    assert not answer.success and message in json.loads(answer.error_message)["message"]
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_much_metadata_is_harmless(gateway: Gateway) -> None:
    message = request("sqrt", 16, module="math")
    for number in range(2000):
        message.metadata[f"key {number}"] = "v" * 100
    assert value_of(gateway.stub.ExecuteTool(message, timeout=20)) == 4.0


def test_a_session_of_many_bytes_is_not_kept(gateway: Gateway) -> None:
    answer = gateway.stub.InitializeSession(pb.InitializeSessionRequest(session_id="x" * 1_000_000), timeout=20)
    assert not answer.success and "1000000 characters; they may have 16384" in answer.error_message
    message = pb.InitializeSessionRequest(session_id="full", metadata={"much": "x" * 20_000})
    assert not gateway.stub.InitializeSession(message, timeout=20).success
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        gateway.stub.GetSession(pb.GetSessionRequest(session_id="full"), timeout=20)


def test_half_a_greeting_holds_up_nobody(gateway: Gateway) -> None:
    greeting, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"
    parts = [b"", greeting[:5], greeting + settings, greeting + settings + b"\0\x40\0\1\4\0\0\0\1"]
    connections = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall(parts[number % 4])
    assert gateway.execute("sqrt", 16, module="math", timeout=5) == 4.0
    assert gateway.stub.Heartbeat(pb.HeartbeatRequest(session_id="s"), timeout=5).session_valid
    for connection in connections:
        connection.close()


def test_ids_cannot_break_into_headers_or_lines_of_output(gateway: Gateway, beam: BeamSide) -> None:
    beam.functions = {"five": lambda: 5}
    function = {"__type__": "callback", "ref_id": "five", "arity": 0, "pid": "#PID<0.1.0>"}
    message = request("apply", function, module="gateway_callbacks")
    message.metadata["correlation_id"] = "x\nlevel=error é\0" + "y" * 1000
    message.metadata["traceparent"] = "no\r\ntrace"
    answer = gateway.stub.ExecuteTool(message, timeout=20)
    assert value_of(answer) == 5
    assert answer.metadata["correlation_id"] == "x?level=error ??" + "y" * 496
    assert beam.asked[-1].headers["traceparent"] == "no??trace"
