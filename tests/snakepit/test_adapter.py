"""SnakeBridge inside Snakepit's own server, as its double in `their_server` has it: in its process mode and in its threaded one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from beam_side import BeamSide
from process_tree import children, gone
from server_process import THEIR_SERVER, WORKER_SESSION, Server, ToolFailed, callback, request, stubs, their_server

SCRIPTS = ("grpc_server.py", "grpc_server_threaded.py")
NOT_STREAMED = {"error": "Streaming tool called on non-streaming endpoint."}


@pytest.fixture(scope="module")
def elixir() -> Iterator[BeamSide]:
    with BeamSide() as running:
        yield running


@pytest.fixture(scope="module", params=SCRIPTS, ids=["process", "threaded"])
def server(request: pytest.FixtureRequest, elixir: BeamSide, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with their_server(tmp_path_factory.mktemp("server"), elixir, script=request.param) as running:
        yield running


def evaluate(server: Server, code: str) -> Any:
    """The JSON value that Elixir gets for a Python expression."""
    return server.call("eval", code, module="builtins")


def executor_pid(server: Server) -> int:
    return int(server.call("getpid", module="os"))


# --- values ---


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("None", None),
        ("True", True),
        ("6", 6),
        ("2**53 + 1", 2**53 + 1),
        ("2**70", 2**70),
        ("-(10**400)", -(10**400)),
        ("0.1", 0.1),
        ("'text'", "text"),
        ("'Inf'", "Inf"),
        ("[]", []),
        ("{}", {}),
        ("[None, {'a': 2**65}, [1.0, 1]]", [None, {"a": 2**65}, [1.0, 1]]),
        ("b'\\xff'", {"__type__": "bytes", "__schema__": 1, "data": "/w=="}),
        ("(1, None)", {"__type__": "tuple", "__schema__": 1, "elements": [1, None]}),
        ("float('nan')", {"__type__": "special_float", "__schema__": 1, "value": "nan"}),
        ("float('-inf')", {"__type__": "special_float", "__schema__": 1, "value": "neg_infinity"}),
        ("{'__type__': 'x'}", {"__type__": "dict", "__schema__": 1, "pairs": [["__type__", "x"]]}),
        ("'x' * 1_000_000", "x" * 1_000_000),
    ],
)
def test_results_arrive_as_they_are(server: Server, code: str, value: Any) -> None:
    answer = evaluate(server, code)
    assert answer == value
    assert type(answer) is type(value)


def test_numbers_keep_more_digits_than_python_prints(server: Server) -> None:
    sys.set_int_max_str_digits(0)
    try:
        assert evaluate(server, "10**5000") == 10**5000
    finally:
        sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)


def test_a_negative_zero_stays_one(server: Server) -> None:
    assert math.copysign(1, evaluate(server, "-0.0")) == -1


@pytest.mark.parametrize(
    ("argument", "seen"),
    [
        (None, "None"),
        (7, "7"),
        (0.5, "0.5"),
        ([1, {"a": None}], "[1, {'a': None}]"),
        ({"__type__": "tuple", "elements": [1, 2]}, "(1, 2)"),
        ({"__type__": "bytes", "data": ""}, "b''"),
        ({"__type__": "special_float", "value": "nan"}, "nan"),
        ("zwölf 🐍", "'zwölf 🐍'"),
    ],
)
def test_arguments_arrive_as_they_are(server: Server, argument: Any, seen: str) -> None:
    assert server.call("repr", argument, module="builtins") == seen


def test_bytes_beside_the_parameters_arrive_as_bytes_and_win(server: Server) -> None:
    with pytest.raises(ToolFailed, match="args must be a list, not bytes"):
        server.call("len", [1], module="builtins", binary={"args": b"\x00\xff"})


def test_pickles_are_refused(server: Server) -> None:
    with pytest.raises(ToolFailed, match="pickle"):
        server.call("len", [1], module="builtins", binary={"extra": b"\x80\x04N."}, metadata={"binary_format:extra": "pickle"})


# --- errors ---


@pytest.mark.parametrize(
    "name",
    ["ValueError", "KeyError", "StopIteration", "StopAsyncIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"],
)
def test_errors_keep_their_class_and_the_server_lives_on(server: Server, name: str) -> None:
    with pytest.raises(ToolFailed) as failed:
        server.call("raise_it", name)
    payload = failed.value.payload
    assert payload["type"] == name
    assert payload["message"] == ("'asked for'" if name == "KeyError" else "asked for")
    assert "in raise_it" in payload["traceback"]
    assert "bridge_adapter/" not in payload["traceback"].partition("direct cause")[0]
    assert payload["context"]["session_id"] == WORKER_SESSION
    assert payload["context"]["function"] == "raise_it"
    assert evaluate(server, "1") == 1


def test_a_class_of_the_users_own_keeps_its_bare_name_its_notes_and_its_cause(server: Server) -> None:
    with pytest.raises(ToolFailed) as failed:
        server.call("raise_with_cause")
    payload = failed.value.payload
    assert (payload["type"], payload["message"]) == ("Mine", "mine")
    for part in ("gateway_sample.Mine: mine", "a note", "KeyError: 'k'"):
        assert part in payload["traceback"]


def test_an_unknown_tool_says_what_snakebridge_says(server: Server) -> None:
    with pytest.raises(ToolFailed) as failed:
        server.call("f", tool="nonsense")
    payload = failed.value.payload
    assert (payload["type"], payload["message"]) == ("AttributeError", "Tool 'nonsense' not supported by SnakeBridgeAdapter")


# --- crashes ---


@pytest.mark.parametrize(("how", "told"), [("exit", "exit status 3"), ("SIGSEGV", "SIGSEGV"), ("SIGKILL", "SIGKILL")])
def test_a_crash_of_user_code_is_an_error_of_one_call(server: Server, how: str, told: str) -> None:
    before = executor_pid(server)
    with pytest.raises(ToolFailed) as failed:
        server.call("die", how)
    payload = failed.value.payload
    assert payload["type"] == "WorkerCrash"
    assert told in payload["message"]
    assert f"about to die by {how}" in payload["message"]
    assert server.process.poll() is None
    assert executor_pid(server) != before


def test_an_idempotent_call_is_run_again(server: Server, tmp_path: Path) -> None:
    assert server.call("die_once", str(tmp_path / "died"), idempotent=True) == executor_pid(server)


def test_any_other_call_runs_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="WorkerCrash"):
        server.call("count_and_die", str(tmp_path / "count"))
    assert (tmp_path / "count").read_text() == "x"


def test_objects_live_in_the_executor_and_die_with_it(server: Server) -> None:
    made = server.call("__init__", 5, call_type="class", module="decimal", **{"class": "Context"})
    assert (made["__type__"], made["type_name"]) == ("ref", "Context")
    assert server.call("prec", call_type="get_attr", attr="prec", instance=made, module="decimal") == 5
    with pytest.raises(ToolFailed, match="WorkerCrash"):
        server.call("die", "exit")
    with pytest.raises(ToolFailed, match=f"KeyError: .*Unknown SnakeBridge reference: {made['id']}"):
        server.call("prec", call_type="get_attr", attr="prec", instance=made, module="decimal")


def test_calls_at_the_same_time_do_not_mix(server: Server) -> None:
    """All sixteen are in Python together, or none comes back."""
    with ThreadPoolExecutor(16) as pool:
        met = [pool.submit(server.call, "meet", 16, session_id=f"session-{number}") for number in range(16)]
        assert sorted(answer.result() for answer in met) == list(range(16))
        echoes = [pool.submit(server.call, "repr", number, module="builtins", session_id=f"session-{number}") for number in range(16)]
        assert [answer.result() for answer in echoes] == [str(number) for number in range(16)]


def test_a_call_whose_caller_has_left_is_interrupted(server: Server, pipe: Path) -> None:
    call = server.stub.ExecuteTool.future(request("hold_after_interruption", str(pipe)), timeout=60)
    assert int(pipe.read_text()) > 0
    call.cancel()
    assert pipe.read_text() == "interrupted"


# --- streams ---


def items(chunks: Any) -> list[Any]:
    """The values of a stream; the empty chunk at the end is checked and left out."""
    *chunks, last = chunks
    assert (last.is_final, last.data) == (True, b"")
    assert not any(chunk.is_final for chunk in chunks)
    for chunk in chunks:
        assert list(json.loads(chunk.data)) == ["data"]
    return [json.loads(chunk.data)["data"] for chunk in chunks]


def test_streams_are_exact_whatever_their_items(server: Server) -> None:
    chunks = list(server.stream("mixed", call_type="dynamic_stream", module_path="gateway_sample"))
    encoded = {"__type__": "bytes", "__schema__": 1, "data": "/w=="}
    assert items(chunks) == [1, None, "text", "123", {"data": 5}, [1, 2], encoded]
    assert [chunk.chunk_id for chunk in chunks] == [f"snakebridge.stream-{number}" for number in range(1, 9)]


def test_a_stream_of_generated_code_streams_too(server: Server) -> None:
    assert items(server.stream("many", 3000)) == list(range(3000))


def test_an_ordinary_call_on_the_streaming_method_is_one_chunk(server: Server) -> None:
    assert items(server.stream("eval", "2**70", module="builtins", tool="snakebridge.call")) == [2**70]


def test_the_stream_tool_on_the_unary_method_says_so(server: Server) -> None:
    response = server.execute("many", 3, tool="snakebridge.stream", call_type="dynamic_stream", module_path="gateway_sample")
    assert response.result.type_url == "type.googleapis.com/snakepit.map"
    assert json.loads(response.result.value) == NOT_STREAMED


@pytest.mark.parametrize(
    ("function", "args", "first", "message"), [("fail_after", (2,), 2, "boom mid-stream"), ("fail_at_length", (), 1, "long: ")]
)
def test_an_error_in_a_stream_ends_it_with_its_payload(server: Server, function: str, args: Any, first: int, message: str) -> None:
    stream, received = server.stream(function, *args), []
    with pytest.raises(grpc.RpcError) as failed:
        received.extend(stream)
    assert len(received) == first
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    payload = json.loads(failed.value.details())
    assert payload["type"] == "ValueError"
    assert payload["message"].startswith(message)
    assert payload["context"]["function"] == function


def test_a_crash_in_a_stream_ends_it_with_its_reason(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        list(server.stream("stream_and_die"))
    assert json.loads(failed.value.details())["type"] == "WorkerCrash"
    assert evaluate(server, "1") == 1


def test_a_stream_whose_reader_leaves_closes_its_generator(server: Server, pipe: Path) -> None:
    stream = server.stream("endless", str(pipe))
    assert json.loads(next(stream).data) == {"data": 0}
    stream.cancel()
    assert pipe.read_text() == "closed"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe through which user code speaks to the test."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# --- Elixir's functions ---


def test_functions_of_elixir_are_called_with_the_stubs_of_the_server(server: Server, elixir: BeamSide) -> None:
    elixir.functions["cb_double"] = lambda number: number * 2
    elixir.functions["cb_length"] = len
    assert server.call("map", callback("cb_double"), [1, 21], module="builtins")["__type__"] == "stream_ref"
    assert server.call("sorted", [3, 1, 2], kwargs={"key": callback("cb_double")}, module="builtins") == [1, 2, 3]
    assert elixir.asked[-1].session == "sess-A"
    assert elixir.asked[-1].tool == "snakebridge.callback"
    assert "sess-A" in elixir.sessions
    # Larger than what gRPC takes by default, both ways.
    elixir.functions["cb_echo"] = lambda text: [text, text]
    code = "lambda echo: [len(part) for part in echo('x' * 5_000_000)]"
    measure = evaluate(server, code)
    answer = server.call("__call__", callback("cb_echo"), call_type="method", instance=measure, module="builtins")
    assert answer == [5_000_000, 5_000_000]


def test_what_elixir_answers_instead_is_an_error_in_python(server: Server, elixir: BeamSide) -> None:
    def fail(_: Any) -> None:
        raise ValueError("boo")

    elixir.functions["cb_fail"] = fail
    for name, message in (("cb_fail", "boo"), ("cb_gone", "Callback failed: not_found")):
        with pytest.raises(ToolFailed, match=message) as failed:
            server.call("sorted", [1], kwargs={"key": callback(name)}, module="builtins")
        assert failed.value.payload["type"] == "RuntimeError"


def test_a_function_of_elixir_may_call_python_again(server: Server, elixir: BeamSide) -> None:
    elixir.functions["cb_again"] = lambda number: server.call("sqrt", number, module="math", session_id="another")
    assert server.call("sorted", [16, 4], kwargs={"key": callback("cb_again")}, module="builtins") == [4, 16]


# --- the server's Python, as it may be ---


def run(directory: Path, code: str, *path: Path) -> str:
    """What a program prints, with these folders before all others in its search path."""
    script = directory / "program.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "TMPDIR": str(directory)}
    ran = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_without_orjson_results_are_as_exact(elixir: BeamSide, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "orjson.py").write_text("raise ImportError('there is no orjson here')")
    with their_server(tmp_path, elixir, python_path=[tmp_path / "none"]) as server:
        values = ("None", "6", "2**70", "10**400", "[None, 2**65, -0.0]", "'text'")
        assert [evaluate(server, code) for code in values] == [None, 6, 2**70, 10**400, [None, 2**65, -0.0], "text"]
        assert evaluate(server, "float('nan')")["value"] == "nan"
        assert server.call("repr", [2**70, {"a": None}], module="builtins") == f"[{2**70}, {{'a': None}}]"
        assert items(server.stream("many", 3)) == [0, 1, 2]


@pytest.mark.parametrize("module", ["zero_copy", "somewhere.deep"])
@pytest.mark.parametrize("decorator", ["@dataclass(frozen=True)", "@dataclass(frozen=True, slots=True)", "@dataclass"])
def test_the_hook_is_found_whatever_it_is_like(module: str, decorator: str, tmp_path: Path) -> None:
    package = tmp_path / "snakepit_bridge"
    (package / "somewhere").mkdir(parents=True)
    (package / "__init__.py").touch()
    source = (THEIR_SERVER / "snakepit_bridge" / "zero_copy.py").read_text().replace("@dataclass(frozen=True)", decorator)
    (package / f"{module.replace('.', '/')}.py").write_text(source)
    code = f"""
from snakepit_bridge.{module} import ZeroCopyRef
from bridge_adapter.adapter.results import exact
made = exact(b"[1]")
print(isinstance(made, ZeroCopyRef), type(made.to_payload()).__name__, made.data, made.is_final, made.metadata, made == made, made)
"""
    assert run(tmp_path, code, tmp_path) == "True Fragment b'{\"data\":[1]}' False {} True <a result of 3 bytes of JSON>"


def test_without_the_hook_the_server_gets_plain_values(tmp_path: Path) -> None:
    code = "from bridge_adapter.adapter.results import exact; print(exact(b'[null,' + str(2**70).encode() + b']'))"
    assert run(tmp_path, code) == f"[None, {2**70}]"


# --- the process ---


def test_the_health_check_starts_no_executor(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(stubs(tmp_path)), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(THEIR_SERVER / "grpc_server.py"), "--health-check", "--adapter", "bridge_adapter.SnakeBridgeAdapter"]
    subprocess.run(command, env=environment, check=True)
    assert not list(tmp_path.glob("snakebridge-*"))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_no_executor_outlives_its_server(elixir: BeamSide, tmp_path: Path, script: str, number: int, pipe: Path) -> None:
    with their_server(tmp_path, elixir, script=script) as server:
        waiting = server.stub.ExecuteTool.future(request("swallow_forever", str(pipe)), timeout=60)
        executor = int(pipe.read_text())
        server.process.send_signal(number)
        assert gone(executor, 10)
        assert server.process.wait(10) == (0 if number == signal.SIGTERM else -number)
        with pytest.raises(grpc.RpcError):
            waiting.result()


def test_an_executor_that_nobody_has_called_ends_with_its_server(elixir: BeamSide, tmp_path: Path) -> None:
    with their_server(tmp_path, elixir) as server:
        (executor,) = children(server.process.pid)
        server.process.kill()
        assert gone(executor, 10)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_worker_ends_with_the_beam_even_before_its_first_session(elixir: BeamSide, tmp_path: Path, script: str) -> None:
    with their_server(tmp_path, elixir, script=script) as server:
        below = children(server.process.pid)
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(5) == 0
        assert all(gone(child, 10) for child in below)
