"""What a caller may name: the default policy, its exceptions, listed policies, and the ways around them that are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lane_client import HELPERS, Client, LaneError, Worker, payload

CODE = Path(__file__).parent / "python"
ENV = {"PYTHONPATH": f"{HELPERS}:{CODE}"}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(ENV, args=("--policy", "default")) as running:
        yield running


def refused(client: Client, **fields: Any) -> dict[str, Any]:
    tool = fields.pop("tool", "snakebridge.call")
    with pytest.raises(LaneError) as raised:
        client.tool(tool, {"protocol_version": 1, "min_supported_version": 1, "session_id": "s", "args": [], "kwargs": {}, **fields})
    assert raised.value.category == "permission_denied", raised.value
    return raised.value.fields


@pytest.mark.parametrize(
    ("module", "function", "args"),
    [
        ("builtins", "eval", ["1"]),
        ("builtins", "exec", ["1"]),
        ("builtins", "compile", ["1", "x", "eval"]),
        ("builtins", "__import__", ["os"]),
        ("os", "system", ["true"]),
        ("posix", "system", ["true"]),
        ("subprocess", "run", [["true"]]),
        ("subprocess", "Popen", [["true"]]),
        ("asyncio.subprocess", "create_subprocess_exec", ["true"]),
        ("pickle", "loads", [b""]),
        ("_pickle", "loads", [b""]),
        ("marshal", "loads", [b""]),
        ("ctypes", "CDLL", [None]),
        ("runpy", "run_path", ["x"]),
        ("types", "FunctionType", []),
        ("operator", "methodcaller", ["eval", "1"]),
        ("gc", "get_objects", []),
        ("bridge_adapter.tools.modules", "run_again", [[]]),
        ("aliases", "harmless", ["1"]),
        ("aliases", "shell", ["true"]),
        ("aliases", "read", [b""]),
        ("aliases", "os.system", ["true"]),
        ("aliases", "functools.reduce.__globals__", []),
        ("aliases", "bound", []),
        ("aliases", "nested", []),
        ("aliases", "handed", [["1"]]),
        ("aliases", "remembered", ["1"]),
        ("aliases", "wrapped", ["1"]),
        ("aliases", "Tool.static", ["1"]),
        ("aliases", "Tool._private", []),
        ("aliases", "fine.__globals__", []),
        ("aliases", "fine.__code__", []),
        ("aliases", "__builtins__", []),
        ("aliases", "Tool.__class__.__subclasses__", []),
        ("aliases", "Tool.__getattribute__", [1, "x"]),
        ("sys", "_getframe", []),
        ("sys", "modules", []),
        ("numpy", "load", ["x.npy", None, True]),
        ("builtins", "str.format", ["{0.__globals__}", 1]),
        ("builtins", "str.format", ["{0[x].gi_frame!r}", 1]),
        ("builtins.eval", "__call__", ["1"]),
        ("aliases.os", "system", ["true"]),
        ("aliases.Tool", "static", ["1"]),
        ("string", "Formatter", []),
    ],
)
def test_what_runs_text_loads_code_or_starts_programs_is_refused_under_every_name(
    client: Client, module: str, function: str, args: list[Any]
) -> None:
    fields = refused(client, call_type="function", python_module=module, function=function, args=args)
    assert fields["details"]["outcome"] == "not_started"
    assert "default" in fields["message"] and "allow" in fields["message"]


@pytest.mark.parametrize("kind", ["dynamic", "class", "module_attr", "dynamic_stream"])
def test_every_kind_of_call_is_looked_at(client: Client, kind: str) -> None:
    names = {"function": "eval", "class": "eval", "attr": "eval"}
    refused(client, call_type=kind, python_module="builtins", **names, args=["1"])
    with pytest.raises(LaneError, match="permission_denied"):
        client.answer(client.open_stream(payload("builtins", "eval", ["1"], {}, "s") | {"call_type": kind, **names}))


def test_a_batch_is_looked_at(client: Client) -> None:
    refused(client, tool="snakebridge.batch", python_module="builtins", function="eval", calls=[[["1"]]])


def test_a_module_is_not_reloaded_that_may_not_be_named(client: Client) -> None:
    refused(client, tool="snakebridge.reload", module="subprocess")


def test_a_refused_module_is_not_even_imported(client: Client) -> None:
    refused(client, call_type="function", python_module="cProfile", function="run", args=["1"])
    assert client.call("aliases", "is_loaded", "cProfile") is False


@pytest.mark.parametrize("function", ["evaluator"])
def test_no_reference_to_a_refused_function_is_given_out(client: Client, function: str) -> None:
    fields = refused(client, call_type="function", python_module="aliases", function=function)
    assert fields["details"]["outcome"] == "unknown", "the function has run; only its answer is refused"
    refused(client, call_type="function", python_module="aliases", function="TABLE.get", args=["run"])


def test_a_module_held_by_reference_is_no_way_around(client: Client) -> None:
    held = client.call("aliases", "module", session="s")
    for name, args in (("system", ["true"]), ("sys.modules", []), ("__dict__", []), ("path.os.popen", ["true"])):
        refused(client, call_type="method", instance=held, method=name, args=args)
        refused(client, call_type="get_attr", instance=held, attr=name)
    refused(client, call_type="function", python_module="builtins", function="getattr", args=[held, "system"])
    assert client.call("builtins", "getattr", held, "sep", session="s") == "/"
    assert client.call("builtins", "getattr", held, "nothing_of_that_name", 7, session="s") == 7


def test_attributes_that_lead_to_frames_are_refused(client: Client) -> None:
    tool = client.call("aliases", "Tool", session="s")
    assert client.tool("snakebridge.call", {**_method(tool, "run"), "args": [1]}) == 2
    running = client.tool("snakebridge.call", _method(tool, "numbers"))
    for name in ("gi_frame", "gi_code", "__class__.__base__", "__reduce__"):
        refused(client, call_type="get_attr", instance=running, attr=name)


def test_special_and_private_names_are_not_set(client: Client) -> None:
    tool = client.call("aliases", "Tool", session="s")
    for name in ("__class__", "_private", "run.__globals__", "__dict__.x"):
        refused(client, call_type="set_attr", instance=tool, attr=name, args=[1])
    assert client.tool("snakebridge.call", {**_method(tool, ""), "call_type": "set_attr", "attr": "name", "args": ["x"]}) is True
    refused(client, call_type="function", python_module="builtins", function="setattr", args=[tool, "__class__", 1])


def test_formats_are_paths_and_held_texts_are_no_way_around(client: Client) -> None:
    text = client.tool("snakebridge.call", {**payload("builtins", "str", ["{0.__class__.__mro__}"], {}, "s"), "result": "ref"})
    refused(client, call_type="method", instance=text, method="format", args=[1])
    assert client.call("builtins", "str.format", "{0:>3}-{x.real}", 1, x=2) == "  1-2"


def test_a_guarded_function_is_not_given_away(client: Client) -> None:
    refused(client, call_type="module_attr", python_module="builtins", attr="getattr", result="ref")
    refused(client, call_type="function", python_module="importlib", function="import_module", args=["subprocess"])
    assert client.call("importlib", "import_module", "math", session="s") is not None


def _method(target: Any, name: str) -> dict[str, Any]:
    return {
        "protocol_version": 1,
        "min_supported_version": 1,
        "session_id": "s",
        "call_type": "method",
        "instance": target,
        "method": name,
        "args": [],
        "kwargs": {},
    }


def test_what_callers_need_of_special_names_is_allowed(client: Client) -> None:
    numbers = client.tool("snakebridge.call", {**payload("collections", "Counter", [[1, 1, 2]], {}, "s"), "result": "ref"})
    assert client.tool("snakebridge.call", _method(numbers, "__len__")) == 2
    assert client.tool("snakebridge.call", {**_method(numbers, "__getitem__"), "args": [1]}) == 2
    assert client.call("math", "sqrt.__name__.upper") == "SQRT"
    assert isinstance(client.call("numpy", "__version__.upper"), str)
    assert client.call("datetime", "datetime.fromisoformat", "2026-01-01T00:00:00").year == 2026


# --- other policies ---


def test_an_exact_name_allows_what_the_default_refuses(tmp_path: Path) -> None:
    with Worker(ENV, args=("--allow", "builtins.eval")) as worker, closing(worker.connect()) as client:
        assert client.call("builtins", "eval", "1 + 1") == 2
        assert client.call("aliases", "wrapped", "2 + 2") == 4
        refused(client, call_type="function", python_module="builtins", function="exec", args=["1"])


def test_open_allows_everything_but_what_is_denied() -> None:
    with Worker(ENV, args=("--policy", "open", "--deny", "aliases.Tool", "--deny", "os")) as worker, closing(worker.connect()) as client:
        assert client.call("builtins", "eval", "1 + 1") == 2
        assert (
            client.tool(
                "snakebridge.call", {**_method(None, ""), "call_type": "module_attr", "python_module": "aliases", "attr": "_hidden"}
            )
            == 1
        )
        assert client.call("aliases", "fine.__code__.co_name.upper") == "FINE"
        for function in ("Tool", "Tool.run", "os.getcwd", "module"):
            assert "--deny" in refused(client, call_type="function", python_module="aliases", function=function)["message"]


def test_a_listed_policy_allows_what_it_lists_and_no_door_in_it() -> None:
    rules = ("--policy", "listed", "--allow", "aliases.*", "--allow", "re:math\\.(sqrt|floor)")
    with Worker(ENV, args=rules) as worker, closing(worker.connect()) as client:
        assert client.call("aliases", "fine", 2) == 4
        assert client.call("math", "sqrt", 16) == 4.0
        tool = client.call("aliases", "Tool", session="s")
        assert client.tool("snakebridge.call", {**_method(tool, "run"), "args": [1]}) == 2
        for module, function in (("math", "cos"), ("aliases", "math.cos"), ("aliases", "os.getcwd"), ("statistics", "mean")):
            refused(client, call_type="function", python_module=module, function=function, args=[1])
        refused(client, call_type="function", python_module="aliases", function="module")
        refused(client, call_type="helper", helper="x", helper_config={"helper_paths": ["/tmp"]})


def test_a_policy_file_and_its_problems(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[policy]\nallow = ["os.getpid"]\nbase = "listed"\ndeny = ["os.getcwd"]\n')
    with Worker({**ENV, "BRIDGE_ADAPTER_POLICY": str(file)}, args=("--allow", "os.getcwd")) as worker, closing(worker.connect()) as client:
        assert client.call("os", "getpid") == worker.process.pid
        assert f"{file}: policy.deny[0]" in refused(client, call_type="function", python_module="os", function="getcwd")["message"]
    file.write_text('[polcy]\n[policy]\nallow = ["os.*.x", 3, "re:("]\nbase = "none"\n')
    with pytest.raises(RuntimeError) as raised:
        Worker(args=("--policy", str(file)))
    for part in ("did you mean policy?", "policy.allow[0]", "policy.allow[1]", "policy.allow[2]", "policy.base"):
        assert part in str(raised.value)
