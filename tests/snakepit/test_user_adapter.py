"""Adapters of users' own (`--adapter my_app.MyAdapter`) behind our gateway: how they are called, what they get and what Elixir gets."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from beam_side import BeamSide, Tool
from eventually import eventually
from google.protobuf import any_pb2
from server_process import TEXT_URL, WORKER_SESSION, Server, stubs

import bridge_adapter
from bridge_adapter.proto import snakepit_bridge_pb2 as pb

SCRIPT = Path(bridge_adapter.__file__).parent / "gateway" / "grpc_server.py"
ADAPTERS = Path(__file__).parent / "python"
METADATA = {"correlation_id": "sp-7", "python_version": "3.11.7"}

Start = Callable[..., Server]


@pytest.fixture(scope="module")
def beam() -> Iterator[BeamSide]:
    with BeamSide() as running:
        yield running


def started(directory: Path, beam: BeamSide, adapter: str, *path: Path) -> Server:
    command = [sys.executable, str(SCRIPT), "--adapter", f"own_adapters.{adapter}"]
    return Server(directory, beam, command, python_path=[ADAPTERS, *path], cwd=SCRIPT.parent)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(beam: BeamSide, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("ua"), beam, "Adapter") as running:
        yield running


@pytest.fixture
def start(beam: BeamSide, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda adapter, *path: stack.enter_context(started(tmp_path, beam, adapter, *path))


def asked(
    tool: str,
    parameters: dict[str, Any] | None = None,
    *,
    urls: dict[str, str] | None = None,
    binary: dict[str, bytes] | None = None,
    session: str = WORKER_SESSION,
    metadata: dict[str, str] | None = None,
) -> pb.ExecuteToolRequest:
    message = pb.ExecuteToolRequest(session_id=session, tool_name=tool, metadata={**METADATA, **(metadata or {})})
    for name, value in (parameters or {}).items():
        url = (urls or {}).get(name, TEXT_URL)
        message.parameters[name].CopyFrom(any_pb2.Any(type_url=url, value=json.dumps(value).encode()))
    message.binary_parameters.update(binary or {})
    return message


def execute(server: Server, tool: str, parameters: dict[str, Any] | None = None, **options: Any) -> pb.ExecuteToolResponse:
    return server.stub.ExecuteTool(asked(tool, parameters, **options), timeout=30)


def value(server: Server, tool: str, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
    answer = execute(server, tool, parameters, **options)
    assert answer.success, answer.error_message
    assert answer.result.type_url == TEXT_URL
    return json.loads(answer.result.value)


def failure(server: Server, tool: str, parameters: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    answer = execute(server, tool, parameters, **options)
    assert not answer.success
    found: dict[str, Any] = json.loads(answer.error_message)
    return found


def chunks(server: Server, tool: str, parameters: dict[str, Any] | None = None) -> list[tuple[str, bytes, bool, dict[str, str]]]:
    stream = server.stub.ExecuteStreamingTool(asked(tool, parameters), timeout=30)
    return [(chunk.chunk_id, chunk.data, chunk.is_final, dict(chunk.metadata)) for chunk in stream]


# --- results ---

RESULTS = [
    ("None", "null"),
    ("True", "true"),
    ("6", "6"),
    ("2**70", str(2**70)),
    ("1.5", "1.5"),
    ("'text'", '"text"'),
    ("''", '""'),
    ("float('nan')", '"NaN"'),
    ("float('-inf')", '"-Infinity"'),
    ("[float('nan'), float('inf'), 1.0]", "[null,null,1.0]"),
    ("(1, 2)", "[1,2]"),
    ("[{2, 1}]", "[[1,2]]"),
    ("{1: 2, None: 3, True: 4}", '{"1":4,"null":3}'),
    ("{2: 'b', 1.5: 'c', False: 'd'}", '{"2":"b","1.5":"c","false":"d"}'),
    ("{'d': __import__('datetime').date(2024, 1, 1)}", '{"d":"2024-01-01"}'),
    ("__import__('datetime').datetime(2024, 1, 1, 12, tzinfo=__import__('datetime').UTC)", '"2024-01-01T12:00:00+00:00"'),
    ("__import__('datetime').timedelta(seconds=90)", "90.0"),
    ("__import__('decimal').Decimal('1.10')", '"1.10"'),
    ("__import__('uuid').UUID(int=1)", '"00000000-0000-0000-0000-000000000001"'),
    ("__import__('pathlib').PurePosixPath('/a')", '"/a"'),
    ("__import__('http').HTTPStatus.OK", "200"),
    ("{__import__('http').HTTPMethod.GET: __import__('http').HTTPMethod.PUT}", '{"GET":"PUT"}'),
    ("{'n': __import__('numpy').arange(3)}", '{"n":[0,1,2]}'),
    ("__import__('numpy').float32(0.5)", "0.5"),
    ("[__import__('numpy').datetime64('2024-01-01')]", '["2024-01-01"]'),
    ("[1j]", '[{"real":0.0,"imag":1.0}]'),
    ("[b'ab']", '["YWI="]'),
    ("range(3)", "[0,1,2]"),
    ("{'a': 1}.keys()", '["a"]'),
    ("__import__('collections').deque([1])", "[1]"),
    ("Part(1)", '{"data":1,"is_final":false,"metadata":{}}'),
    ("[object]", '[{"__ffi_unserializable__":true,"__type__":"builtins.type"}]'),
    ("int", "\"<class 'int'>\""),
    ("'\\u00e9\\U0001f600\\x00'", '"é😀\\u0000"'),
    ("iter([1])", '{"error":"Streaming tool called on non-streaming endpoint."}'),
]


@pytest.mark.parametrize(("expression", "text"), RESULTS)
def test_a_result_becomes_the_json_that_says_it(server: Server, expression: str, text: str) -> None:
    answer = execute(server, "ret", {"e": expression})
    assert answer.success, answer.error_message
    assert answer.result.value.decode() == text


def test_a_result_of_bytes_goes_as_bytes(server: Server) -> None:
    answer = execute(server, "ret", {"e": "b'a\\xff'"})
    assert answer.success and answer.binary_result == b"a\xff" and not answer.HasField("result")


def test_bytes_within_a_result_are_base64(server: Server) -> None:
    assert base64.b64decode(value(server, "ret", {"e": "{'image': bytearray(range(256))}"})["image"]) == bytes(range(256))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{1: 'a', '1': 'b'}", "two keys of a dict of the result have the JSON text '1'"),
        ("[(a := []), a.append(a)]", "a list of the result holds itself"),
        ("['\\ud800']", "lone surrogate"),
        ("__import__('functools').reduce(lambda inner, _: [inner], range(2000), [])", "nests"),
        ("[10**9999]", "integer that is too long"),
    ],
)
def test_what_json_cannot_hold_is_a_clear_error_and_no_crash(server: Server, expression: str, message: str) -> None:
    payload = failure(server, "ret", {"e": expression})
    assert payload["type"] == "ValueError" and message in payload["message"]


# --- arguments ---


def test_arguments_are_plain_json(server: Server) -> None:
    parameters = {"a": 2**70, "b": {"__type__": "tuple", "elements": [1]}, "c": None, "d": [1.5, "x"], "session_id": "mine"}
    assert value(server, "echo", parameters) == {
        "a": ["int", str(2**70)],
        "b": ["dict", "{'__type__': 'tuple', 'elements': [1]}"],
        "c": ["NoneType", "None"],
        "d": ["list", "[1.5, 'x']"],
        "session_id": ["str", "'mine'"],
    }


def test_the_type_name_of_a_parameter_is_honoured(server: Server) -> None:
    urls = {name: f"type.googleapis.com/snakepit.{name}" for name in ("float", "integer", "tensor", "string")}
    parameters = {"float": 3, "integer": 3.0, "tensor": {"shape": [1, 2], "data": [1.0, 2.0]}, "string": "text"}
    assert value(server, "echo", parameters, urls=urls) == {
        "float": ["float", "3.0"],
        "integer": ["int", "3"],
        "tensor": ["ndarray", "array([[1., 2.]])"],
        "string": ["str", "'text'"],
    }


def test_binary_parameters_are_bytes_and_win(server: Server) -> None:
    assert value(server, "echo", {"a": 1}, binary={"a": b"\xff", "b": b""}) == {"a": ["bytes", "b'\\xff'"], "b": ["bytes", "b''"]}


@pytest.mark.parametrize("text", [b" ", b"{", b"NaN", b"\xff"])
def test_a_parameter_that_is_no_json_is_named(server: Server, text: bytes) -> None:
    message = asked("echo")
    message.parameters["odd"].CopyFrom(any_pb2.Any(type_url=TEXT_URL, value=text))
    answer = server.stub.ExecuteTool(message, timeout=30)
    assert not answer.success and "the parameter odd cannot be read" in answer.error_message


# --- the life of a call ---


def test_every_call_is_a_new_instance_and_each_session_is_registered_once(start: Start, beam: BeamSide) -> None:
    server = start("Adapter")
    value(server, "ret", {"e": "1"})
    failure(server, "fail", {"message": "no"})
    assert value(server, "log") == [
        *("new", f"register {WORKER_SESSION} BridgeServiceStub", "initialize", "cleanup"),
        *("new", "initialize", "cleanup", "new", "initialize"),
    ]
    assert value(server, "log", session="another")[-3:] == ["new", "register another BridgeServiceStub", "initialize"]
    assert {WORKER_SESSION, "another"} <= beam.sessions.keys()


def test_an_error_keeps_its_class_and_names_the_call(server: Server) -> None:
    payload = failure(server, "fail", {"message": "shelf 9"})
    assert (payload["type"], payload["message"], payload["category"]) == ("LookupError", "shelf 9", "python_error")
    assert payload["context"] == {"tool_name": "fail", "session_id": WORKER_SESSION}
    assert "own_adapters.py" in payload["traceback"]


def test_numbers_of_an_ml_error_are_in_its_details(server: Server) -> None:
    payload = failure(server, "ret", {"e": "__import__('numpy').dot([[1, 2]], [[1, 2]])"})
    assert payload["message"] == "shapes (1,2) and (1,2) not aligned: 2 (dim 1) != 1 (dim 0)"
    assert payload["details"]["ml"]["shape_a"] == [1, 2]


def test_async_adapters_run_too(start: Start) -> None:
    server = start("AsyncAdapter")
    assert value(server, "hello") == {"tool": "hello", "ready": True}
    assert chunks(server, "numbers", {"n": 2}) == [
        ("numbers-1", b"0", False, {}),
        ("numbers-2", b"1", False, {}),
        ("numbers-3", b"", True, {}),
    ]
    assert value(server, "numbers", {"n": 2}) == {"error": "Streaming tool called on non-streaming endpoint."}


def test_calls_run_side_by_side(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: value(server, "meet"), range(2)))


def test_thread_sensitive_calls_share_one_thread(server: Server) -> None:
    threads = {value(server, "thread", metadata={"thread_sensitive": "true"}, session=session) for session in ("a", "b", "a")}
    assert len(threads) == 1


def test_a_call_ends_with_its_deadline(server: Server) -> None:
    call = server.stub.ExecuteTool.future(asked("wait"), timeout=1)
    # Whoever is first: the worker's answer or gRPC's own clock.
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED or json.loads(call.result().error_message)["category"] == "timeout"
    assert value(server, "ret", {"e": "1"}) == 1


def test_a_crash_costs_one_call_and_an_idempotent_one_is_run_again(server: Server, tmp_path: Path) -> None:
    payload = failure(server, "die", {"marker": str(tmp_path / "first")})
    assert payload["type"] == "WorkerCrash"
    assert value(server, "ret", {"e": "'next'"}) == "next"
    assert value(server, "die", {"marker": str(tmp_path / "second"), "idempotent": True}) == "survived"


def test_snakebridges_tools_are_served_as_well(server: Server) -> None:
    assert server.call("sqrt", 16, module="math") == 4.0


# --- streams ---


def test_items_travel_as_they_are_and_may_say_more_of_themselves(server: Server) -> None:
    assert chunks(server, "parts") == [
        ("parts-1", b'{"a":1}', False, {"k": "1"}),
        ("parts-2", b"", False, {}),
        ("parts-3", b"\x00\xff", False, {}),
        ("parts-4", b"text", False, {}),
        ("parts-5", b'[1,"two"]', False, {}),
        ("parts-6", b"", True, {}),
    ]


def test_lists_are_taken_apart_and_what_is_no_stream_is_one_chunk(server: Server) -> None:
    assert [data for _, data, _, _ in chunks(server, "ret", {"e": "[1, 'a']"})] == [b"1", b"a", b""]
    for expression, data in (("{'a': 1}", b'{"a":1}'), ("'text'", b"text"), ("b'raw'", b"raw"), ("7", b"7"), ("None", b"")):
        assert chunks(server, "ret", {"e": expression}) == [("ret-1", data, False, {}), ("ret-2", b"", True, {})]


def test_a_long_stream_comes_whole_and_in_order(server: Server) -> None:
    assert [json.loads(data)["n"] for _, data, final, _ in chunks(server, "count", {"n": 2000}) if not final] == list(range(2000))


def test_an_error_in_a_stream_follows_its_items(server: Server) -> None:
    stream = server.stub.ExecuteStreamingTool(asked("count", {"n": 2, "fail": True}), timeout=30)
    seen = []
    with pytest.raises(grpc.RpcError) as caught:
        for chunk in stream:
            seen.append(chunk.data)
    assert seen == [b'{"n":0}', b'{"n":1}']
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert json.loads(caught.value.details())["type"] == "ValueError"


def test_a_stream_that_is_left_closes_its_generator_and_cleans_up(start: Start) -> None:
    server = start("Adapter")
    stream = server.stub.ExecuteStreamingTool(asked("count", {"n": 10**9}), timeout=30)
    next(stream)
    stream.cancel()
    log = eventually(lambda: value(server, "log"), lambda log: "generator closed" in log)
    at = log.index("generator closed")
    assert "cleanup" in log[at:]


# --- Elixir ---


def test_elixir_tools_take_and_give_any_json(server: Server, beam: BeamSide) -> None:
    session = "with-tools"
    beam.register_tool(session, Tool("echo", lambda **parameters: parameters, description="says it again"))
    beam.register_tool(session, Tool("picture", lambda: b"\x89PNG"))
    parameters = {"name": "echo", "text": "é", "none": None, "list": [1, {"a": 2.5}], "flag": True}
    expected = {key: parameters[key] for key in ("text", "none", "list", "flag")}
    assert value(server, "ask", parameters, session=session) == expected
    assert execute(server, "ask", {"name": "picture"}, session=session).binary_result == b"\x89PNG"
    payload = failure(server, "ask", {"name": "missing"}, session=session)
    assert payload["type"] == "RuntimeError" and payload["message"] == "the Elixir tool missing failed: not_found"
    received = beam.requests("ExecuteElixirTool")[-1]
    assert received.headers["x-snakepit-correlation-id"] == "sp-7" and received.message.metadata["correlation_id"] == "sp-7"


def test_a_call_knows_its_session_its_metadata_and_elixirs_tools(server: Server, beam: BeamSide) -> None:
    beam.register_tool("knowing", Tool("double", lambda n: 2 * n, description="twice"))
    found = value(server, "call", session="knowing")
    assert found["session"] == "knowing"
    assert found["metadata"] == METADATA
    assert found["tools"]["double"]["description"] == "twice"


def test_snakepits_own_stubs_are_used_where_they_are_on_the_path(start: Start, tmp_path: Path) -> None:
    server = start("Adapter", stubs(tmp_path / "stubs"))
    assert value(server, "modules") == {"grpc": True, "snakepit_bridge_pb2": True, "bridge_adapter.proto.snakepit_bridge_pb2": False}


def test_an_adapter_without_need_of_elixir_does_not_load_grpc(start: Start) -> None:
    server = start("AsyncAdapter")
    value(server, "hello")
    assert server.call("list", module="builtins", call_type="dynamic") == []
    loaded = server.call("eval", "'grpc' in __import__('sys').modules", module="builtins")
    assert loaded is False


# --- starting ---

BAD = [
    ("no_such_module.Adapter", "there is no module no_such_module"),
    ("own_adapters.Missing", "own_adapters has no Missing; the classes of own_adapters are Adapter, AsyncAdapter, Incomplete, Part"),
    ("own_adapters.not_a_class", "it is no class"),
    ("own_adapters.Incomplete", "the class has no execute_tool"),
    ("broken_adapter.Adapter", "RuntimeError: the model file is missing"),
    ("Adapter", "give the class with its module"),
]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ADAPTERS)}
    return subprocess.run([sys.executable, str(SCRIPT), *flags], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("adapter", "reason"), BAD)
def test_an_adapter_that_cannot_be_used_ends_the_start_with_the_reason(adapter: str, reason: str, beam: BeamSide) -> None:
    done = run("--adapter", adapter, "--elixir-address", beam.address)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(("adapter", "reason"), BAD)
def test_the_health_check_says_the_same(adapter: str, reason: str) -> None:
    done = run("--health-check", "--adapter", adapter)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    "adapter", ["own_adapters.Adapter", "any_module.SnakeBridgeAdapter", "snakepit_bridge.adapters.default.DefaultAdapter"]
)
def test_the_health_check_is_content_with_what_can_be_used(adapter: str) -> None:
    assert run("--health-check", "--adapter", adapter).returncode == 0
