"""Every kind of call, in today's payload style and in the seed's."""

from __future__ import annotations

import asyncio
import datetime
import math
from pathlib import Path
from typing import Any

import pytest
from lane_client import HELPERS, Client, LaneError, no_threads, payload

from bridge_adapter.calls import Call, CallTable
from bridge_adapter.codec import Ref, StreamRef
from bridge_adapter.errors import CallTimeout
from bridge_adapter.loop import EventLoop


def error_of(client: Client, fields: dict[str, Any], tool: str = "snakebridge.call") -> dict[str, Any]:
    with pytest.raises(LaneError) as caught:
        client.tool(tool, fields)
    return caught.value.fields


def test_a_function_is_called_with_args_and_kwargs(client: Client) -> None:
    assert client.call("math", "sqrt", 16) == 4.0
    assert client.call("sample", "kinds", 1, "a", opt=b"x") == {"args": ["int", "str"], "kwargs": {"opt": "bytes"}}


def test_the_module_may_come_under_any_of_its_names(client: Client) -> None:
    for key in ("python_module", "module", "module_path"):
        assert client.tool("snakebridge.call", {key: "math", "function": "sqrt", "args": [4]}) == 2.0


def test_function_paths_and_class_paths_may_be_dotted(client: Client) -> None:
    assert isinstance(client.call("datetime", "datetime.now"), datetime.datetime)
    assert client.call("pathlib.Path", "cwd") == Path.cwd()
    assert client.call("sample", "Acc.of", 3).type_name == "Acc"


def test_class_method_attributes_and_identity(client: Client) -> None:
    made = client.tool("snakebridge.call", payload("sample", "__init__", [5]) | {"call_type": "class", "class": "Acc"})
    assert isinstance(made, Ref)
    assert (made.session, made.module, made.library, made.type_name) == ("s", "sample", "sample", "Acc")
    assert client.method(made, "add", 2) == 7
    get = {"call_type": "get_attr", "instance": made, "attr": "double", "session_id": "s"}
    assert client.tool("snakebridge.call", get) == 14
    put = {"call_type": "set_attr", "instance": made, "attr": "value", "args": [1], "session_id": "s"}
    assert client.tool("snakebridge.call", put) is True
    assert client.method(made, "add", 1) == 2
    assert client.method(made, "me") == made  # the same object is the same ref


def test_the_seed_style_names_the_target_by_id_and_method(client: Client) -> None:
    made = client.tool(
        "snakebridge.call", {"call_type": "class", "python_module": "sample", "class_name": "Acc", "args": [1], "session_id": "s"}
    )
    fields = {"call_type": "method", "ref": made.id, "method": "add", "args": [4], "session_id": "s"}
    assert client.tool("snakebridge.call", fields) == 5
    assert client.tool("snakebridge.call", {"call_type": "get_attr", "ref": made.id, "attribute": "value", "session_id": "s"}) == 5
    as_map = {"__type__": "ref", "id": made.id}
    assert (
        client.tool("snakebridge.call", {"call_type": "method", "instance": as_map, "method": "add", "args": [1], "session_id": "s"}) == 6
    )


def test_module_attributes_and_dynamic_calls(client: Client) -> None:
    assert client.tool("snakebridge.call", {"call_type": "module_attr", "python_module": "math", "attr": "pi"}) == math.pi
    assert client.tool("snakebridge.call", {"call_type": "dynamic", "module_path": "math", "function": "sqrt", "args": [9]}) == 3.0


def test_coroutines_are_awaited_and_async_generators_are_streams(client: Client) -> None:
    assert client.call("sample", "coroutine", 1) == 2
    held = client.call("sample", "agen", 3)
    assert isinstance(held, StreamRef)
    assert held.stream_type == "async_generator"
    steps = [client.tool("snakebridge.call", {"call_type": "stream_next", "stream_ref": held, "session_id": "s"}) for _ in range(4)]
    assert steps == [0, 1, 2, {"__type__": "stop_iteration"}]


def test_stream_next_steps_batches_and_takes_back(client: Client) -> None:
    held = client.call("sample", "gen", 10)
    step = {"call_type": "stream_next", "stream_ref": held, "session_id": "s"}
    assert client.tool("snakebridge.call", step) == 0
    assert client.tool("snakebridge.call", step | {"batch": 4}) == {"items": [1, 2, 3, 4], "done": False}
    assert client.tool("snakebridge.call", step | {"unread": 3}) is True
    assert client.tool("snakebridge.call", step) == 2
    assert client.tool("snakebridge.call", step | {"batch": 100}) == {"items": [3, 4, 5, 6, 7, 8, 9], "done": True}
    assert client.tool("snakebridge.call", step) == {"__type__": "stop_iteration"}


def test_items_before_an_error_come_before_the_error(client: Client) -> None:
    held = client.call("sample", "gen_error", 2)
    step = {"call_type": "stream_next", "stream_ref": held, "session_id": "s", "batch": 10}
    assert client.tool("snakebridge.call", step) == {"items": [0, 1], "done": False}
    assert error_of(client, step)["message"] == "boom mid-stream"


def test_helpers_are_listed_and_called(client: Client) -> None:
    config = {"helper_paths": [str(HELPERS / "helper_files")], "helper_pack_enabled": False, "helper_allowlist": "all"}
    listed = client.tool("snakebridge.helpers", {"helper_config": config})
    assert [helper["name"] for helper in listed] == ["study.add"]
    assert listed[0]["parameters"][1]["default"] == "1.0"
    assert listed[0]["docstring"] == "Adds."
    fields = {"call_type": "helper", "helper": "study.add", "args": [1.5], "kwargs": {"b": 2.0}, "helper_config": config}
    assert client.tool("snakebridge.call", fields) == 3.5
    missing = error_of(client, fields | {"helper": "study.none"})
    assert missing["type"] == "SnakeBridgeHelperNotFoundError"
    assert missing["message"] == "Helper 'study.none' not found"


def test_a_helper_file_that_changes_is_loaded_again(client: Client, tmp_path: Path) -> None:
    import os

    file = tmp_path / "mine.py"
    fields = {"call_type": "helper", "helper": "one", "helper_config": {"helper_paths": str(tmp_path)}}
    file.write_text("HELPERS = {'one': lambda: 1}")
    assert client.tool("snakebridge.call", fields) == 1
    file.write_text("HELPERS = {'one': lambda: 22}")
    os.utime(file, ns=(1, 1))
    assert client.tool("snakebridge.call", fields) == 22


@pytest.mark.parametrize(
    "name",
    [
        "StopIteration",
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "RecursionError",
        "MemoryError",
        "StopAsyncIteration",
        "KeyError",
    ],
)
def test_every_base_exception_is_an_answer(client: Client, name: str) -> None:
    fields = error_of(client, payload("sample", "raise_it", [name]))
    assert (fields["category"], fields["type"]) == ("python_error", name)
    assert "asked for" in fields["message"]
    assert client.call("math", "sqrt", 4) == 2.0


@pytest.mark.parametrize(
    ("how", "text"), [("a number for a module", "it happened"), ("no module at all", "an exception that cannot be told")]
)
def test_exceptions_whose_classes_say_nonsense_are_answers_too(client: Client, how: str, text: str) -> None:
    with pytest.raises(LaneError, match=text) as raised:
        client.call("sample", "raise_nonsense", how)
    assert raised.value.category == "python_error" and raised.value.fields["type"].isascii()
    assert client.call("math", "sqrt", 4) == 2.0


def test_errors_carry_type_notes_cause_traceback_and_context(client: Client) -> None:
    fields = error_of(client, payload("sample", "raise_custom"))
    assert fields["type"] == "sample.Custom"
    assert fields["notes"] == ["a note"]
    assert fields["cause"]["type"] == "ValueError"
    assert "raise error from cause" in fields["traceback"]
    assert "bridge_adapter" not in fields["traceback"]
    assert fields["context"] == {
        "tool_name": "snakebridge.call",
        "session_id": "s",
        "library": "sample",
        "python_module": "sample",
        "function": "raise_custom",
    }
    assert error_of(client, payload("sample", "recurse"))["type"] == "RecursionError"


def test_output_of_user_code_does_not_disturb_the_wire(client: Client) -> None:
    assert client.call("sample", "print_a_lot") == 7
    assert client.call("os", "write", 1, b"raw bytes on fd 1\n") == 18
    assert client.call("math", "sqrt", 4) == 2.0


@pytest.mark.parametrize(
    ("fields", "category", "text"),
    [
        ({"python_module": "no_such_module_x", "function": "f"}, "python_error", "No module named 'no_such_module_x'"),
        ({"python_module": "math", "function": "nope"}, "python_error", "has no attribute 'nope'"),
        ({"python_module": "math", "function": "sqrt", "args": [1, 2]}, "python_error", "takes exactly one argument"),
        ({"function": "sqrt"}, "invalid_request", "snakebridge.call requires python_module"),
        ({"python_module": "math"}, "invalid_request", "function must be a name"),
        ({"python_module": "math", "function": "sqrt", "args": 3}, "invalid_request", "args must be a list, not int"),
        ({"python_module": "math", "function": "sqrt", "kwargs": [1]}, "invalid_request", "kwargs must be a map"),
        ({"python_module": "math", "function": "sqrt", "session_id": 3}, "invalid_request", "session_id must be a string"),
        ({"call_type": "method", "function": "x"}, "invalid_ref", "SnakeBridge reference missing id"),
        ({"call_type": "method", "ref": "ab" * 16, "method": "x"}, "unknown_ref", "'Unknown SnakeBridge reference: " + "ab" * 16 + "'"),
        ({"call_type": "stream_next", "stream_ref": 5}, "invalid_ref", "Invalid SnakeBridge reference payload"),
        ({"call_type": "class", "python_module": "math"}, "invalid_request", "requires the key class"),
        ({"protocol_version": 2, "min_supported_version": 2, "python_module": "math", "function": "sqrt"}, "protocol_mismatch", "mismatch"),
        ({"python_module": "sample", "function": "cyclic"}, "encode_error", "cycle"),
        ({"python_module": "sample", "function": "deep", "args": [2000]}, "limit_exceeded", "max_depth = 512"),
    ],
)
def test_bad_requests_get_an_error_that_says_what_is_wrong(client: Client, fields: dict[str, Any], category: str, text: str) -> None:
    error = error_of(client, fields)
    assert error["category"] == category
    assert text in error["message"]
    assert client.call("math", "sqrt", 4) == 2.0


def test_a_misspelt_name_gets_a_suggestion(client: Client) -> None:
    assert error_of(client, payload("math", "sqtr"))["notes"] == ["Did you mean sqrt or isqrt?"]


def test_an_unknown_tool_is_named(client: Client) -> None:
    error = error_of(client, {}, "foo")
    assert (error["category"], error["message"]) == ("unknown_tool", "Tool 'foo' not supported by SnakeBridgeAdapter")
    assert "snakebridge.call" in error["details"]["tools"]


def test_depth_512_passes(client: Client) -> None:
    value = client.call("sample", "deep", 512)
    for _ in range(511):
        (value,) = value
    assert value == []


def test_deadlines_and_coroutines_that_found_no_thread_find_one_later() -> None:
    table, loop = CallTable(), EventLoop()
    late = Call((1, 1), timeout_ms=0)
    first, second = asyncio.sleep(0, "first"), asyncio.sleep(0, "second")
    with no_threads():
        with pytest.raises(RuntimeError, match="can't start new thread"):
            table.add(late)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            loop.run(first)
    first.close()
    assert loop.run(second) == "second"
    table.add(late)
    with pytest.raises(CallTimeout):
        late.run(lambda: late.sleep(20))
