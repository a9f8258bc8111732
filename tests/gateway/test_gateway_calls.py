"""What Elixir gets for its RPCs: answers, values, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_process import TEXT, WORKER_SESSION, Gateway, ToolFailed, raw_request, read, request, value_of
from google.protobuf import any_pb2, wrappers_pb2

from bridge_adapter.gateway import parameters
from bridge_adapter.proto import snakepit_bridge_pb2 as pb

# --- the worker itself ---


def test_ping_answers_with_the_message_and_the_time(gateway: Gateway) -> None:
    answer = gateway.stub.Ping(pb.PingRequest(message="connection_test"), timeout=5)
    assert answer.message == "Pong from Python: connection_test"
    assert answer.server_time.seconds > 1_700_000_000


def test_every_session_is_valid_in_a_heartbeat(gateway: Gateway) -> None:
    answer = gateway.stub.Heartbeat(pb.HeartbeatRequest(session_id=WORKER_SESSION), timeout=5)
    assert answer.session_valid
    assert answer.server_time.seconds > 1_700_000_000


def test_a_session_is_made_shown_and_cleaned_up(gateway: Gateway) -> None:
    made = pb.InitializeSessionRequest(session_id="s1", metadata={"elixir_node": "a@b"})
    assert gateway.stub.InitializeSession(made, timeout=5).success
    assert gateway.stub.InitializeSession(made, timeout=5).success
    shown = gateway.stub.GetSession(pb.GetSessionRequest(session_id="s1"), timeout=5)
    assert shown.session_id == "s1" and shown.metadata["elixir_node"] == "a@b"
    gateway.execute("Event", module="threading", session_id="s1")
    cleaned = gateway.stub.CleanupSession(pb.CleanupSessionRequest(session_id="s1"), timeout=5)
    assert cleaned.success and cleaned.resources_cleaned == 1
    with pytest.raises(grpc.RpcError) as error:
        gateway.stub.GetSession(pb.GetSessionRequest(session_id="s1"), timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("RegisterTools", pb.RegisterToolsRequest()),
        ("GetExposedElixirTools", pb.GetExposedElixirToolsRequest()),
        ("ExecuteElixirTool", pb.ExecuteElixirToolRequest()),
    ],
)
def test_methods_of_elixir_are_not_served(gateway: Gateway, method: str, message: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        getattr(gateway.stub, method)(message, timeout=5)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_telemetry_stream_stays_open(gateway: Gateway) -> None:
    control = pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=True))
    stream = gateway.stub.StreamTelemetry(iter([control]), timeout=1)
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


# --- calls ---


def test_a_call_answers_json_under_the_string_url_and_echoes_the_correlation_id(gateway: Gateway) -> None:
    answer = gateway.stub.ExecuteTool(request("sqrt", 16, module="math"), timeout=5)
    assert answer.success and answer.result.type_url == TEXT and answer.result.value == b"4.0"
    assert answer.metadata["correlation_id"] == "sp-1"


def test_the_correlation_id_may_come_as_a_header(gateway: Gateway) -> None:
    message = request("sqrt", 16, module="math")
    del message.metadata["correlation_id"]
    answer = gateway.stub.ExecuteTool(message, timeout=5, metadata=[("x-snakepit-correlation-id", "sp-2")])
    assert answer.metadata["correlation_id"] == "sp-2"


@pytest.mark.parametrize("value", [None, True, 6, 2**53 + 1, 10**400, -0.0, "text", "None", [1, None], {"a": {"b": 1}}, ""])
def test_values_come_back_exact(gateway: Gateway, value: Any) -> None:
    answer = gateway.stub.ExecuteTool(request("copy", value, module="copy"), timeout=5)
    assert answer.success, answer.error_message
    assert answer.result.value == json.dumps(value, separators=(",", ":")).encode()


def test_a_large_value_makes_the_round_trip(gateway: Gateway) -> None:
    text = "x" * 20_000_000
    assert gateway.execute("copy", text, module="copy") == text


def test_the_session_of_the_payload_wins_over_that_of_the_request(gateway: Gateway) -> None:
    assert gateway.execute("Event", module="threading")["session_id"] == "sess-A"
    for absent in ("", None):
        assert gateway.execute("Event", module="threading", session_id=absent)["session_id"] == WORKER_SESSION


def test_schema_2_is_spoken_only_to_callers_that_asked_for_it(gateway: Gateway) -> None:
    rich = {"__type__": "timedelta", "__schema__": 2, "value": [1, 0, 0]}
    assert gateway.execute("timedelta", 1, module="datetime")["__type__"] == "ref"
    assert gateway.execute("timedelta", 1, module="datetime", protocol_version=2) == rich
    asked = request("timedelta", 1, module="datetime")
    asked.metadata["codec_schema"] = "2"
    assert value_of(gateway.stub.ExecuteTool(asked, timeout=5)) == rich
    assert gateway.execute("abs", rich, module="builtins", protocol_version=2) == rich


def test_calls_run_at_the_same_time(gateway: Gateway) -> None:
    """Sixteen calls of sixteen sessions meet at one barrier."""
    answers = [gateway.stub.ExecuteTool.future(request("meet", 16, session_id=f"meet-{number}"), timeout=20) for number in range(16)]
    assert sorted(value_of(answer.result()) for answer in answers) == list(range(16))


# --- parameters ---


@pytest.mark.parametrize("url", ["", TEXT, "type.snakepit.bridge/json", "type.googleapis.com/google.protobuf.Value", "float"])
def test_any_type_url_is_accepted(gateway: Gateway, url: str) -> None:
    parameters = {name: parameter.value for name, parameter in request("sqrt", 16, module="math").parameters.items()}
    assert value_of(gateway.stub.ExecuteTool(raw_request(parameters, url=url), timeout=5)) == 4.0


def test_really_packed_wrapper_messages_are_understood(gateway: Gateway) -> None:
    message = request("sqrt", 16, module="math")
    message.parameters["function"].Pack(wrappers_pb2.StringValue(value="sqrt"))
    message.parameters["session_id"].Pack(wrappers_pb2.StringValue(value="packed"))
    message.parameters["protocol_version"].Pack(wrappers_pb2.Int64Value(value=1))
    message.parameters["idempotent"].Pack(wrappers_pb2.BoolValue(value=False))
    assert value_of(gateway.stub.ExecuteTool(message, timeout=5)) == 4.0


@pytest.mark.parametrize(
    ("wrapped", "text"),
    [
        (wrappers_pb2.DoubleValue(value=1.5), b"1.5"),
        (wrappers_pb2.Int64Value(value=9), b"9"),
        (wrappers_pb2.UInt64Value(value=2**64 - 1), b"18446744073709551615"),
        (wrappers_pb2.Int64Value(value=0), b"0"),
        (wrappers_pb2.BoolValue(value=True), b"true"),
        (wrappers_pb2.StringValue(value="x"), b'"x"'),
        (wrappers_pb2.StringValue(value=""), b'""'),
    ],
)
def test_each_packed_wrapper_is_its_value(wrapped: Any, text: bytes) -> None:
    packed = any_pb2.Any()
    packed.Pack(wrapped)
    assert parameters.json_text("p", packed) == text


def test_json_that_starts_like_a_wrapper_stays_json(gateway: Gateway) -> None:
    message = request("sqrt", 16, module="math")
    for white in (b"\n", b"\t", b"\r\n", b" "):
        message.parameters["args"].value = white + b"[16]" + white
        assert value_of(gateway.stub.ExecuteTool(message, timeout=5)) == 4.0


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"\xff", b"\n\x03abc"])
def test_a_parameter_that_is_no_json_is_named(gateway: Gateway, text: bytes) -> None:
    message = request("sqrt", 16, module="math")
    message.parameters["args"].type_url = ""
    message.parameters["args"].value = text
    with pytest.raises(ToolFailed) as error:
        value_of(gateway.stub.ExecuteTool(message, timeout=5))
    assert error.value.payload["category"] == "decode_error"
    assert "parameter args" in error.value.payload["message"]


def test_a_broken_wrapper_is_named(gateway: Gateway) -> None:
    message = request("sqrt", 16, module="math")
    message.parameters["args"].value = b"\x0a\x7fx"
    with pytest.raises(ToolFailed, match="parameter args"):
        value_of(gateway.stub.ExecuteTool(message, timeout=5))


def test_binary_parameters_arrive_as_bytes_and_win(gateway: Gateway) -> None:
    message = raw_request({"protocol_version": b"1", "min_supported_version": b"1", "ref": b'"json"'}, "snakebridge.release_ref")
    message.binary_parameters["ref"] = b"\x00\xff"
    assert value_of(gateway.stub.ExecuteTool(message, timeout=5)) is False  # bytes name no ref; the point is that they arrived
    message = request("len", module="builtins")
    message.binary_parameters["args"] = b"\x00\xff"
    with pytest.raises(ToolFailed, match="bytes"):
        value_of(gateway.stub.ExecuteTool(message, timeout=5))


def test_pickles_are_refused(gateway: Gateway) -> None:
    message = request("len", module="builtins")
    message.binary_parameters["blob"] = b"\x80\x04."
    message.metadata["binary_format:blob"] = "pickle"
    with pytest.raises(ToolFailed, match="the binary parameter blob is a pickle"):
        value_of(gateway.stub.ExecuteTool(message, timeout=5))


# --- errors ---


def test_an_error_is_structured(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed) as error:
        gateway.execute("loads", "{", module="json")
    payload = error.value.payload
    assert payload["type"] == "JSONDecodeError"
    assert payload["qualified_type"] == "json.decoder.JSONDecodeError"
    assert payload["category"] == "python_error"
    assert "Expecting property name" in payload["message"]
    assert payload["traceback"] == "".join(payload["stacktrace"])
    assert payload["context"] == {
        "tool_name": "snakebridge.call",
        "session_id": WORKER_SESSION,
        "caller_session_id": "sess-A",
        "library": "json",
        "python_module": "json",
        "function": "loads",
    }
    assert payload["cause"] is None and payload["notes"] == []


def test_an_error_carries_its_cause_and_notes(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed) as error:
        gateway.execute("raise_with_cause")
    payload = error.value.payload
    assert (payload["type"], payload["qualified_type"]) == ("Mine", "gateway_sample.Mine")
    assert payload["cause"]["type"] == "KeyError" and payload["cause"]["message"] == "'k'"
    assert payload["notes"] == ["a note"]


def test_the_members_of_an_exception_group_are_told(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed) as error:
        gateway.execute("raise_group")
    payload = error.value.payload
    assert payload["type"] == "ExceptionGroup"
    assert [(member["type"], member["message"]) for member in payload["exceptions"]] == [("ValueError", "one"), ("TypeError", "two")]


@pytest.mark.parametrize("name", ["KeyError", "StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError"])
def test_whatever_user_code_raises_is_an_answer(gateway: Gateway, name: str) -> None:
    with pytest.raises(ToolFailed) as error:
        gateway.execute("raise_it", name)
    assert error.value.payload["type"] == name


def test_an_unknown_tool_is_named(gateway: Gateway) -> None:
    with pytest.raises(ToolFailed) as error:
        value_of(gateway.stub.ExecuteTool(request("x", tool="foo"), timeout=5))
    assert error.value.payload["type"] == "AttributeError"
    assert error.value.payload["message"] == "Tool 'foo' not supported by SnakeBridgeAdapter"


def test_a_message_over_the_limit_is_refused_and_the_next_one_served(start: Callable[..., Gateway]) -> None:
    gateway = start("--max-message", "100000")
    with pytest.raises(grpc.RpcError) as error:
        gateway.execute("copy", "x" * 200_000, module="copy")
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert gateway.execute("sqrt", 16, module="math") == 4.0


def test_a_request_over_the_limit_of_the_lane_is_refused_and_the_next_one_served(start: Callable[..., Gateway]) -> None:
    gateway = start(env={"BRIDGE_ADAPTER_MAX_FRAME": "200000"})
    with pytest.raises(ToolFailed, match="max_frame"):
        gateway.execute("copy", "x" * 300_000, module="copy")
    assert gateway.execute("sqrt", 16, module="math") == 4.0


# --- cancellation ---


def test_a_cancelled_rpc_interrupts_the_code(gateway: Gateway, pipe: Path) -> None:
    call = gateway.stub.ExecuteTool.future(request("hold_after_interruption", str(pipe)), timeout=30)
    assert int(read(pipe)) > 0
    call.cancel()
    assert read(pipe) == "interrupted"


def test_a_deadline_interrupts_the_code(gateway: Gateway, pipe: Path) -> None:
    call = gateway.stub.ExecuteTool.future(request("hold_after_interruption", str(pipe)), timeout=1)
    assert int(read(pipe)) > 0
    assert read(pipe) == "interrupted"
    # Whoever is first: the executor's answer or gRPC's own clock.
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED or json.loads(call.result().error_message)["category"] == "timeout"


def test_an_abandoned_call_that_cannot_be_interrupted_leaves_room_for_others(start: Callable[..., Gateway], pipe: Path) -> None:
    gateway = start("--max-connections", "2")
    stuck = gateway.stub.ExecuteTool.future(request("sleep_in_c", str(pipe), 1, session_id="a"), timeout=30)
    read(pipe)
    stuck.cancel()
    assert [gateway.execute("sqrt", 16, module="math", session_id="b") for _ in range(3)] == [4.0] * 3
    assert gateway.execute("sqrt", 16, module="math", session_id="a") == 4.0


def test_more_callers_than_connections_wait_their_turn(start: Callable[..., Gateway]) -> None:
    gateway = start("--max-connections", "2")
    calls = [gateway.stub.ExecuteTool.future(request("sqrt", n * n, module="math", session_id=f"s{n}"), timeout=30) for n in range(40)]
    assert [value_of(call.result()) for call in calls] == list(range(40))


def test_thread_sensitive_calls_share_a_thread(gateway: Gateway) -> None:
    threads = set()
    for _ in range(3):
        message = request("get_ident", module="threading", session_id="sensitive")
        message.metadata["thread_sensitive"] = "true"
        threads.add(value_of(gateway.stub.ExecuteTool(message, timeout=5)))
        gateway.execute("sqrt", 4, module="math", session_id="other")
    assert len(threads) == 1


def test_modules_may_be_thread_sensitive_for_every_call(start: Callable[..., Gateway]) -> None:
    own = start(env={"SNAKEPIT_THREAD_SENSITIVE": "threading, os.getpid"})
    threads = {own.execute("get_ident", module="threading", session_id="sensitive") for _ in range(3)}
    calls = [own.stub.ExecuteTool.future(request("get_ident", module="threading", session_id="sensitive"), timeout=20) for _ in range(8)]
    assert {value_of(call.result()) for call in calls} == threads and len(threads) == 1
