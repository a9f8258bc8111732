"""Every recorded example of Snakepit's and SnakeBridge's wire, sent to a running gateway over gRPC: the answer is the recorded one, or the
one that `deviations.py` calls right."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from beam_side import BeamSide
from deviations import DEVIATIONS, EVERYWHERE, Deviation
from gateway_process import Gateway
from recorded import EXAMPLES, HERE, TEXT_URL, Json, Live, differences, request_of, status, streamed, unary

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

DEADLINE = 20
CAPTURED_SESSION = "auto_<0.94.0>_1795232237781"


def made(function: str, *, session: str, answers: Any = None, **fields: Any) -> Json:
    """A step that is no example of its own: a call as SnakeBridge makes it, and the recorded id of what it makes."""
    parameters = {"protocol_version": 1, "min_supported_version": 1, "session_id": session, "library": "helper_mod"}
    parameters |= {"python_module": "helper_mod", "function": function, "args": [], "kwargs": {}, **fields}
    request = {"session_id": "session_2_1795232237163249", "tool_name": "snakebridge.call", "parameters": parameters}
    return {"rpc": "ExecuteTool", "request": request, "response": {"success": True, "adapter_return_value": answers}}


def captured(ref_id: str, tag: str = "ref") -> Json:
    return {"__type__": tag, "id": ref_id, "session_id": CAPTURED_SESSION}


def callback(callback_id: str) -> Json:
    return {"__type__": "callback", "__schema__": 1, "ref_id": callback_id, "pid": "<0.94.0>", "arity": 1}


ADD_2 = made("add", session=CAPTURED_SESSION, call_type="method", instance=captured("0bc8b6c9ee74481098e1d53c8cee6311"), args=[2])
GENERATOR = made("gen", session=CAPTURED_SESSION, answers=captured("da1282ae7ff74b57a9c53c1fb563e5a9", "stream_ref"))

# What was done before an example was recorded: examples by their id, and other calls.
BEFORE: dict[str, tuple[str | Json, ...]] = {
    "call.method": ("call.class",),
    "call.set_attr": ("call.class",),
    "call.stream_next.int": ("call.generator_result",),
    "call.stream_next.str": ("call.generator_result", "call.stream_next.int"),
    "call.stream_next.stop": ("call.exhausted_iter",),
    "release_ref.hit": ("call.class",),
    "ref.after_release": ("call.class", "release_ref.hit"),
    "release_session": ("ref.object",) * 5,
    "arg.ref_nested": ("arg.ref_setup",),
    "arg.ref_in_set": ("arg.ref_setup",),
    "captured.call.get_attr": ("captured.call.class", ADD_2),
    "captured.call.set_attr": ("captured.call.class",),
    "captured.call.stream_next": (GENERATOR,),
    "captured.release_ref.none": ("captured.call.class",),
    "captured.release_session.none": (made("obj", session="mysess"),),
}
SESSIONS = ("sess-A", CAPTURED_SESSION, "mysess")


class Elixir(BeamSide):
    """The BEAM side of the recordings: it answers the callbacks as Elixir did."""

    def __init__(self) -> None:
        super().__init__()
        failed = {"__type__": "callback_error", "reason": '{:exception, %RuntimeError{message: "boo"}}'}
        self.functions |= {"cb_1_1700000000000": lambda n: n * 2, "cb_err": lambda _: failed, "cb_kind": lambda ref: ref["__type__"]}

    def ExecuteElixirTool(self, request: pb.ExecuteElixirToolRequest, context: Any) -> pb.ExecuteElixirToolResponse:
        answer = super().ExecuteElixirTool(request, context)
        if not answer.success:
            answer.error_message = f"Tool {request.tool_name} not found for session {request.session_id}"
        return answer


class Peer:
    """The gateway, as the one who recorded the examples saw their worker."""

    def __init__(self, gateway: Gateway, elixir: Elixir) -> None:
        self.gateway = gateway
        self.elixir = elixir
        self.live = Live()

    def fresh(self) -> None:
        for session in SESSIONS:
            self.gateway.stub.CleanupSession(pb.CleanupSessionRequest(session_id=session), timeout=DEADLINE)
        self.elixir.asked.clear()
        self.live = Live()

    def prepare(self, example_id: str) -> None:
        for step in BEFORE.get(example_id, ()):
            example = EXAMPLES[step] if isinstance(step, str) else step
            answer = self.answer(example)
            self.live.learn(expected(example).get("result"), answer.get("result"))

    def answer(self, example: Json) -> Json:
        """What our side answers to an example, written down."""
        fields = self.live.put(example["request"])
        stub = self.gateway.stub
        headers = [(name, text) for name, text in example.get("grpc_headers", ()) if name.startswith("x-")]
        try:
            match example["rpc"]:
                case "ExecuteTool":
                    return unary(stub.ExecuteTool(request_of(fields), timeout=DEADLINE, metadata=headers))
                case "ExecuteStreamingTool":
                    return streamed(stub.ExecuteStreamingTool(request_of(fields), timeout=DEADLINE, metadata=headers))
                case "Ping":
                    pong = stub.Ping(pb.PingRequest(**fields), timeout=DEADLINE)
                    recent = abs(pong.server_time.seconds - time.time()) < 3600
                    return {"message": pong.message, "server_time": "<now>" if recent else pong.server_time}
                case "Heartbeat":
                    return {"session_valid": stub.Heartbeat(pb.HeartbeatRequest(**fields), timeout=DEADLINE).session_valid}
                case "StreamTelemetry":
                    return self.telemetry()
                case "ExecuteElixirTool":
                    stub.ExecuteElixirTool(pb.ExecuteElixirToolRequest(**fields), timeout=DEADLINE)
        except grpc.RpcError as error:
            return status(error)
        raise AssertionError(f"no answer to {example['rpc']}")

    def telemetry(self) -> Json:
        """The last events of calls on a telemetry stream, and how the stream ends. The last call is that of a Python function that calls an
        Elixir function with an opaque object."""
        controls = iter([pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=True))])
        stream = self.gateway.stub.StreamTelemetry(controls, timeout=2)
        stream.initial_metadata()
        ref = self.answer(EXAMPLES["callback.lambda_setup"])["result"]
        call = made("__call__", session="sess-A", call_type="method", instance=ref, args=[callback("cb_kind")])
        call["request"]["metadata"] = {"correlation_id": "sp-1"}
        assert self.answer(call)["result"] == "ref"
        written: list[Json] = []
        try:
            for event in stream:
                if event.event_parts[:2] == ["python", "call"]:
                    written.append(event_of(event))
        except grpc.RpcError as error:
            return {"events_tail": [*written[-2:], {"grpc_status": error.code().name}]}
        raise AssertionError("the stream ended before its deadline")

    def asks(self, example: Json) -> Json:
        """What our side asks Elixir when Python calls the function of an example, and what Python gets."""
        callback_id = json.loads(example["request"]["parameters"]["callback_id"]["value_utf8"])
        call = made("apply", session=example["request"]["session_id"], args=[callback(callback_id), 21])
        call["request"]["metadata"] = {"correlation_id": "sp-1"}
        result = self.answer(call)["result"]
        asked = self.elixir.requests("ExecuteElixirTool")[-1].message
        parameters = {name: {"type_url": value.type_url, "value_utf8": value.value.decode()} for name, value in asked.parameters.items()}
        request = {"session_id": asked.session_id, "tool_name": asked.tool_name, "metadata": dict(asked.metadata), "parameters": parameters}
        return {"request": request, "result": result}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    elixir = Elixir()
    with Gateway(tmp_path_factory.mktemp("gw"), elixir, env={"PYTHONPATH": str(HERE / "python")}) as gateway:
        yield Peer(gateway, elixir)
    elixir.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A gateway with an adapter of a user's own instead of SnakeBridge."""
    elixir, env = Elixir(), {"PYTHONPATH": str(HERE / "python")}
    with Gateway(tmp_path_factory.mktemp("gw"), elixir, "--adapter", "plain_adapter.PlainAdapter", env=env) as gateway:
        yield Peer(gateway, elixir)
    elixir.stop()


@pytest.fixture
def peer(running: Peer) -> Peer:
    running.fresh()
    return running


def expected(example: Json) -> Json:
    """The recorded answer in one form: some recordings tell what the adapter returned instead of what the server made of it."""
    response = example["response"]
    if "adapter_return_value" in response:
        return {"success": True, "result": response["adapter_return_value"]}
    if "python_error" in response:
        return {"success": False, "error_message_json": {**response["python_error"], "context": {}}}
    if "events_tail" in response:
        return {"events_tail": [without_numbers(event) for event in response["events_tail"]]}
    if "result" in response and example["rpc"] == "ExecuteElixirTool":
        return {"request": example["request"], "result": json.loads(response["result"]["value_utf8"])}
    return response


def event_of(event: pb.TelemetryEvent) -> Json:
    """A telemetry event, written down."""
    measurements = {
        name: {value.WhichOneof("value"): getattr(value, value.WhichOneof("value"))} for name, value in event.measurements.items()
    }
    written = {"event_parts": list(event.event_parts), "measurements": measurements, "metadata": dict(event.metadata)}
    return without_numbers({**written, "timestamp_ns": event.timestamp_ns, "correlation_id": event.correlation_id})


def without_numbers(event: Json) -> Json:
    """An event of which only the numbers are missing that no two runs share: 1 stands for each that is above 0."""
    if "measurements" not in event:
        return event
    measured = {name: {kind: int(number > 0) for kind, number in value.items()} for name, value in event["measurements"].items()}
    return {**event, "measurements": measured, "timestamp_ns": int(event["timestamp_ns"] > 0)}


def judge(example_id: str, recorded: Json, answer: Json, live: Live) -> None:
    """Holds an answer against the recording and against the table."""
    found = differences(live.put(recorded), answer)
    deviation = DEVIATIONS.get(example_id)
    if deviation is None:
        assert not found, found
        return
    assert found, "the answer is the recorded one; take the example out of DEVIATIONS"
    found = differences(live.put(deviation.answer), answer)
    assert not found, found


@pytest.mark.parametrize("example_id", EXAMPLES)
def test_an_example_is_answered_as_recorded_or_as_the_table_says(example_id: str, request: pytest.FixtureRequest) -> None:
    example = EXAMPLES[example_id]
    peer: Peer = request.getfixturevalue("plain" if example_id.startswith("plain.") else "peer")
    peer.prepare(example_id)
    answer = peer.asks(example) if example_id == "callback.wire" else peer.answer(example)
    judge(example_id, expected(example), answer, peer.live)


def test_the_table_is_about_examples_and_none_is_missing() -> None:
    assert len(EXAMPLES) == json.loads((HERE / "examples.json").read_text(encoding="utf-8"))["count"]
    assert not DEVIATIONS.keys() - EXAMPLES.keys()
    assert all(isinstance(deviation, Deviation) and deviation.why for deviation in DEVIATIONS.values())


def test_what_differs_everywhere(peer: Peer) -> None:
    fine = peer.gateway.stub.ExecuteTool(request_of(EXAMPLES["result.mix"]["request"]), timeout=DEADLINE)
    wrong = peer.gateway.stub.ExecuteTool(request_of(EXAMPLES["error.raise_custom"]["request"]), timeout=DEADLINE)
    payload = json.loads(wrong.error_message)
    assert set(EVERYWHERE) == {"result_type_url", "error payload", "response metadata", "stacktrace"}
    assert fine.result.type_url == TEXT_URL
    assert {"qualified_type", "category", "cause", "notes", "details"} <= payload.keys()
    assert payload["context"]["caller_session_id"] == "sess-A"
    assert fine.metadata["correlation_id"] == EXAMPLES["result.mix"]["request"]["metadata"]["correlation_id"]
    assert "helper_mod.py" in payload["stacktrace"][1]
