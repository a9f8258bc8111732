"""What SnakeBridge's callers can rely on beyond the recorded examples: every alias of a payload, the version rule, sessions, tags, refs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from beam_side import BeamSide
from gateway_process import Gateway, ToolFailed, value_of
from recorded import HERE, Json, request_of, streamed

WORKER_SESSION = "session_7_1700000000000000"
VERSIONS = {"protocol_version": 1, "min_supported_version": 1}


class Caller:
    """Sends payloads exactly as given, and reads values, errors and streams."""

    def __init__(self, gateway: Gateway) -> None:
        self._stub = gateway.stub

    def __call__(self, tool: str = "snakebridge.call", *, worker_session: str = WORKER_SESSION, **parameters: Any) -> Any:
        request = request_of({"session_id": worker_session, "tool_name": tool, "parameters": parameters})
        return value_of(self._stub.ExecuteTool(request, timeout=20))

    def call(self, function: str, *args: Any, **fields: Any) -> Any:
        """A function of helper_mod, as a generated wrapper calls it."""
        return self(**{**VERSIONS, "session_id": "s", "python_module": "helper_mod", "function": function, "args": list(args), **fields})

    def evaluate(self, text: str, **fields: Any) -> Any:
        return self.call("eval", text, python_module="builtins", **fields)

    def error(self, **parameters: Any) -> Json:
        with pytest.raises(ToolFailed) as caught:
            self(**parameters)
        return caught.value.payload

    def call_error(self, function: str, *args: Any, **fields: Any) -> tuple[str, str]:
        with pytest.raises(ToolFailed) as caught:
            self.call(function, *args, **fields)
        return caught.value.payload["type"], caught.value.payload["message"]

    def items(self, function: str, *args: Any, **fields: Any) -> list[Any]:
        """The items of a stream: what the chunks hold under "data"."""
        parameters = {**VERSIONS, "session_id": "s", "python_module": "helper_mod", "function": function, "args": list(args), **fields}
        request = request_of({"session_id": WORKER_SESSION, "tool_name": "snakebridge.stream", "parameters": parameters, "stream": True})
        answer = streamed(self._stub.ExecuteStreamingTool(request, timeout=20))
        assert "grpc_status" not in answer, answer
        *chunks, last = answer["chunks"]
        assert last["is_final"] and not last["data_utf8"]
        read = [json.loads(chunk["data_utf8"]) for chunk in chunks]
        assert all(chunk.keys() == {"data"} for chunk in read)
        return [chunk["data"] for chunk in read]


@pytest.fixture(scope="module")
def beam() -> Iterator[BeamSide]:
    running = BeamSide()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def caller(beam: BeamSide, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with Gateway(tmp_path_factory.mktemp("gw"), beam, env={"PYTHONPATH": str(HERE / "python")}) as gateway:
        yield Caller(gateway)


def tagged(kind: str, **fields: Any) -> Json:
    return {"__type__": kind, **fields}


def wire_ref(ref: Json) -> Json:
    """A ref as Elixir sends it back."""
    return {key: ref[key] for key in ("__type__", "__schema__", "id", "session_id", "python_module", "library")}


# --- keys of a payload ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["python_module", "module_path", "module"])
def test_the_module_has_three_names(caller: Caller, key: str) -> None:
    assert caller(**VERSIONS, **{key: "math"}, function="sqrt", args=[16]) == 4.0


@pytest.mark.parametrize("kind", [None, "", "function", "dynamic", "dynamic_stream", "no such kind", 5, ["class"]])
def test_an_absent_or_unknown_kind_is_a_function(caller: Caller, kind: Any) -> None:
    assert caller.call("ident", 3, call_type=kind) == 3


@pytest.mark.parametrize("fields", [{}, {"args": None, "kwargs": None}, {"args": [], "kwargs": {}}])
def test_arguments_may_be_absent(caller: Caller, fields: Json) -> None:
    answer = caller(**VERSIONS, python_module="helper_mod", function="kw", **fields)
    assert answer == {"args": [], "kwargs": {}, "types": []}


def test_arguments_are_read_before_the_kind_is_looked_at(caller: Caller) -> None:
    payload = {**VERSIONS, "python_module": "math", "attr": "pi", "call_type": "module_attr", "args": [tagged("ref", session_id="s")]}
    assert caller.error(**payload)["message"] == "SnakeBridge reference missing id"


@pytest.mark.parametrize("kind", [None, "class", "method", "get_attr", "set_attr", "module_attr", "dynamic"])
def test_what_a_call_lacks_is_an_error_and_no_crash(caller: Caller, kind: str | None) -> None:
    error = caller.error(**VERSIONS, call_type=kind)
    assert error["type"] == "ValueError"
    assert error["context"]["session_id"] == WORKER_SESSION


def test_function_paths_and_class_paths_may_have_dots(caller: Caller) -> None:
    assert caller.call("datetime.fromisoformat", "2024-01-02", python_module="datetime")["value"] == "2024-01-02T00:00:00"
    assert caller.call("fromisoformat", "2024-01-02", call_type="dynamic", module_path="datetime.date", python_module=None) == tagged(
        "date", __schema__=1, value="2024-01-02"
    )


# --- kinds, and the styles of both designs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["class", "class_name"])
def test_a_class_has_two_names(caller: Caller, key: str) -> None:
    ref = caller.call("__init__", 5, call_type="class", **{key: "Acc"})
    assert (ref["type_name"], ref["__type_name__"], ref["__type__"], ref["session_id"]) == ("Acc", "Acc", "ref", "s")


def test_an_instance_that_is_a_value_comes_as_one(caller: Caller) -> None:
    assert caller.call("__init__", [["a", 1]], call_type="class", **{"class": "dict"}, python_module="builtins") == {"a": 1}


def test_a_class_by_a_dynamic_call(caller: Caller) -> None:
    assert caller.call("Acc", 1, call_type="dynamic", module_path="helper_mod")["type_name"] == "Acc"


# Today's style, the seed's, and mixtures: the target is under `instance` or `ref`, the name under the kind's own key or `function`.
TARGETS = {
    "instance": lambda ref: {"instance": wire_ref(ref)},
    "ref as a map": lambda ref: {"ref": wire_ref(ref)},
    "ref as an id": lambda ref: {"ref": ref["id"]},
    "no instance but a ref": lambda ref: {"instance": None, "ref": ref["id"]},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["function", "method"])
def test_a_method_in_every_style(caller: Caller, target: str, name: str) -> None:
    ref = caller.call("Acc", 5)
    assert caller(**VERSIONS, session_id="s", call_type="method", **TARGETS[target](ref), **{name: "add"}, args=[2]) == 7


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["attr", "attribute", "function"])
def test_attributes_in_every_style(caller: Caller, target: str, name: str) -> None:
    where = {**VERSIONS, "session_id": "s", **TARGETS[target](caller.call("Acc", 5)), name: "v"}
    assert caller(**where, call_type="get_attr") == 5
    assert caller(**where, call_type="set_attr", args=[[1]]) is True
    assert caller(**where, call_type="get_attr") == [1]
    assert caller(**where, call_type="set_attr") is True  # without a value: None
    assert caller(**where, call_type="get_attr") is None


def test_a_ref_to_a_text_is_no_id(caller: Caller) -> None:
    ref = caller.call("strobj", result="ref")
    assert caller(**VERSIONS, session_id="s", call_type="method", ref=wire_ref(ref), method="upper") == "ABC"


@pytest.mark.parametrize("name", ["attr", "attribute", "function"])
def test_module_attributes(caller: Caller, name: str) -> None:
    assert caller(**VERSIONS, call_type="module_attr", python_module="helper_mod", **{name: "CONST"}) == 42
    of_a_class = caller(**VERSIONS, call_type="module_attr", python_module="helper_mod", **{name: "Acc"})
    assert of_a_class["type_name"] == "type"


def test_a_stream_ref_steps_to_its_end(caller: Caller) -> None:
    stream = caller.call("gen")
    assert (stream["__type__"], stream["stream_type"]) == ("stream_ref", "generator")
    step = {**VERSIONS, "session_id": "s", "call_type": "stream_next", "stream_ref": tagged("ref", id=stream["id"], session_id="s")}
    assert [caller(**step) for _ in range(6)] == [1, "two", None, {"data": 5}, tagged("stop_iteration"), tagged("stop_iteration")]


@pytest.mark.parametrize("tool", ["foo", "snakebridge", "snakebridge.callback", ""])
def test_other_tools_are_refused(caller: Caller, tool: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        caller(tool, **VERSIONS)
    assert caught.value.payload["message"] == f"Tool '{tool}' not supported by SnakeBridgeAdapter"


# --- versions ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "type_name"),
    [
        ({"protocol_version": 1, "min_supported_version": 1}, None),
        ({"protocol_version": 1, "min_supported_version": 0}, None),
        ({"protocol_version": 1}, None),
        ({"protocol_version": 2, "min_supported_version": 1}, None),
        ({"protocol_version": 99, "min_supported_version": 0}, None),
        ({"protocol_version": 2, "min_supported_version": 2}, "SnakeBridgeProtocolError"),
        ({"protocol_version": 0, "min_supported_version": 0}, "SnakeBridgeProtocolError"),
        ({"min_supported_version": 1}, "SnakeBridgeProtocolError"),
        ({}, "SnakeBridgeProtocolError"),
        ({"protocol_version": "1", "min_supported_version": "1"}, "TypeError"),
        ({"protocol_version": 1, "min_supported_version": "1"}, "TypeError"),
    ],
)
def test_the_version_rule(caller: Caller, versions: Json, type_name: str | None) -> None:
    payload = {**versions, "python_module": "math", "function": "sqrt", "args": [4]}
    if type_name is None:
        assert caller(**payload) == 2.0
    else:
        assert caller.error(**payload)["type"] == type_name


@pytest.mark.parametrize("tool", ["snakebridge.release_ref", "snakebridge.release_session", "snakebridge.call"])
def test_the_version_rule_holds_for_every_tool_but_one(caller: Caller, tool: str) -> None:
    with pytest.raises(ToolFailed, match="protocol version mismatch"):
        caller(tool, session_id="s")
    # Before anything else is looked at: another version may send what this one cannot read.
    with pytest.raises(ToolFailed, match="protocol version mismatch"):
        caller(tool, session_id="s", ref=tagged("ref", session_id="s"), protocol_version=2, min_supported_version=2)


def test_the_index_of_helpers_needs_no_version(caller: Caller) -> None:
    config = {"helper_paths": str(HERE / "helper_files"), "helper_pack_enabled": False}
    index = caller("snakebridge.helpers", helper_config=config)
    assert [entry["name"] for entry in index] == ["study.add", "study.everything"]
    assert caller("snakebridge.helpers", **config) == index  # the config itself as the parameters


@pytest.mark.parametrize("switch", ["1", "true", "yes"])
def test_callers_of_the_first_design_are_let_in_where_that_is_wanted(beam: BeamSide, tmp_path: Path, switch: str) -> None:
    env = {"PYTHONPATH": str(HERE / "python"), "SNAKEBRIDGE_ALLOW_LEGACY_PROTOCOL": switch}
    with Gateway(tmp_path, beam, env=env) as gateway:
        old = Caller(gateway)
        assert old(python_module="math", function="sqrt", args=[4]) == 2.0
        assert old.error(protocol_version=0, python_module="math", function="sqrt", args=[4])["type"] == "SnakeBridgeProtocolError"


# --- sessions ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "worker_session", "session"),
    [
        ({"session_id": "mine"}, "worker", "mine"),
        ({"session_id": ""}, "worker", "worker"),
        ({"session_id": None}, "worker", "worker"),
        ({}, "worker", "worker"),
        ({"session_id": ""}, "", "default"),
        ({}, "", "default"),
    ],
)
def test_whose_session_a_call_is_in(caller: Caller, payload: Json, worker_session: str, session: str) -> None:
    ref = caller(worker_session=worker_session, **VERSIONS, python_module="helper_mod", function="obj", **payload)
    assert ref["session_id"] == session
    caller("snakebridge.release_session", **VERSIONS, session_id=session)


def test_a_ref_belongs_to_its_session(caller: Caller) -> None:
    ref = wire_ref(caller.call("Acc", 1, session_id="one"))
    assert caller.call_error("rep", ref, session_id="two") == ("ValueError", "SnakeBridge reference session mismatch")
    # Without a session of its own it is one of the call's session.
    bare = tagged("ref", id=ref["id"])
    assert caller.call("rep", bare, session_id="one") == "Acc(1)"
    assert caller.call_error("rep", bare, session_id="two") == ("KeyError", f"'Unknown SnakeBridge reference: {ref['id']}'")


def test_a_session_is_released_by_its_name_and_not_by_the_beginning_of_it(caller: Caller) -> None:
    refs = {session: wire_ref(caller.call("Acc", 1, session_id=session)) for session in ("a", "a:b", "ab")}
    assert caller("snakebridge.release_session", **VERSIONS, session_id="a") == 1
    assert caller("snakebridge.release_session", **VERSIONS, session_id="a") == 0
    for session in ("a:b", "ab"):
        assert caller.call("rep", refs[session], session_id=session) == "Acc(1)"
    assert caller.call_error("rep", refs["a"], session_id="a")[0] == "KeyError"


def test_a_release_says_whether_there_was_something_to_release(caller: Caller) -> None:
    ref = caller.call("Acc", 1)
    release = {**VERSIONS, "session_id": "s", "ref": wire_ref(ref)}
    assert [caller("snakebridge.release_ref", **release) for _ in range(2)] == [True, False]
    ref = caller.call("Acc", 1)
    assert caller("snakebridge.release_ref", **VERSIONS, session_id="s", ref=ref["id"]) is True
    with pytest.raises(ToolFailed, match="SnakeBridge reference missing id"):
        caller("snakebridge.release_ref", **VERSIONS, session_id="s")


# --- results ----------------------------------------------------------------------------------------------------------------------------

RESULTS = {
    "None": None,
    "[None, {'a': None}]": [None, {"a": None}],
    "True": True,
    "7": 7,
    "-(2**63) - 1": -(2**63) - 1,
    "2**53 + 1": 2**53 + 1,
    "2**64": 2**64,
    "[2**70, -2**70]": [2**70, -(2**70)],
    "10**400": 10**400,
    "7.0": 7.0,
    "[1, 1.0, True]": [1, 1.0, True],
    "float('nan')": tagged("special_float", __schema__=1, value="nan"),
    "[float('-inf')]": [tagged("special_float", __schema__=1, value="neg_infinity")],
    "''": "",
    "'\\0'": "\0",
    "b''": tagged("bytes", __schema__=1, data=""),
    "()": tagged("tuple", __schema__=1, elements=[]),
    "{}": {},
    "{None: 1}": tagged("dict", __schema__=1, pairs=[[None, 1]]),
    "{'id': 1, 'session_id': 2}": tagged("dict", __schema__=1, pairs=[["id", 1], ["session_id", 2]]),
    "{'__type__': 'x'}": tagged("dict", __schema__=1, pairs=[["__type__", "x"]]),
    "(None, b'a')": tagged("tuple", __schema__=1, elements=[None, tagged("bytes", __schema__=1, data="YQ==")]),
    "1+2j": tagged("complex", __schema__=1, real=1.0, imag=2.0),
    "__import__('collections').OrderedDict(b=1, a=2)": {"b": 1, "a": 2},
    "__import__('numpy').float32(0.5)": 0.5,
}


@pytest.mark.parametrize("text", RESULTS)
def test_a_result_is_exactly_what_python_returned(caller: Caller, text: str) -> None:
    answer = caller.evaluate(text)
    assert (answer, repr(answer)) == (RESULTS[text], repr(RESULTS[text]))


def test_minus_zero_stays(caller: Caller) -> None:
    assert repr(caller.evaluate("-0.0")) == "-0.0"
    assert caller.call("rep", -0.0) == "-0.0"


def test_one_object_is_one_ref(caller: Caller) -> None:
    first, second, other = caller.evaluate("[o := object(), o, object()]")
    assert first == second and first["id"] != other["id"]
    assert caller.call("ident", wire_ref(first)) == first  # in the next call, too


def test_a_result_never_evicts_its_own_refs(beam: BeamSide, tmp_path: Path) -> None:
    with Gateway(tmp_path, beam, env={"PYTHONPATH": str(HERE / "python"), "SNAKEBRIDGE_REF_MAX": "3"}) as gateway:
        caller = Caller(gateway)
        refs = [wire_ref(ref) for ref in caller.evaluate("[object() for _ in range(8)]")]
        assert caller.call("kw", *refs)["types"] == ["object"] * 8


# --- arguments --------------------------------------------------------------------------------------------------------------------------

ARGUMENTS: list[tuple[Any, str]] = [
    (2**70, str(2**70)),
    (-(2**63) - 1, str(-(2**63) - 1)),
    (tagged("atom", value="ok"), "'ok'"),
    (tagged("tuple", elements=[]), "()"),
    (tagged("set", elements=[1]), "{1}"),
    (tagged("set", value=[1]), "{1}"),
    (tagged("frozenset", value=[1]), "frozenset({1})"),
    (tagged("bytes", data=""), "b''"),
    (tagged("bytes", value="YQ=="), "b'a'"),
    (tagged("complex", real=0, imag=-1.5), "-1.5j"),
    (tagged("date", value="2024-02-29"), "datetime.date(2024, 2, 29)"),
    (tagged("time", value="03:04:05"), "datetime.time(3, 4, 5)"),
    (tagged("datetime", value="2024-01-02T03:04:05.000006"), "datetime.datetime(2024, 1, 2, 3, 4, 5, 6)"),
    (tagged("special_float", value="infinity"), "inf"),
    (tagged("special_float", value="neg_infinity"), "-inf"),
    (tagged("special_float", value="nan"), "nan"),
    (tagged("infinity"), "inf"),
    (tagged("neg_infinity"), "-inf"),
    (tagged("nan"), "nan"),
    (tagged("dict", pairs=[]), "{}"),
    (tagged("dict", pairs=[[None, 1], [tagged("tuple", elements=[1]), 2]]), "{None: 1, (1,): 2}"),
    (tagged("dict", pairs=[["__type__", "tuple"], ["elements", [1]]]), "{'__type__': 'tuple', 'elements': [1]}"),
    (tagged("mystery", x=1), "{'__type__': 'mystery', 'x': 1}"),
    ({"id": 1, "ref_id": 2}, "{'id': 1, 'ref_id': 2}"),
    (tagged("bytes", __schema__=99, data="YQ=="), "b'a'"),
]


@pytest.mark.parametrize(("argument", "text"), ARGUMENTS, ids=lambda value: str(value)[:60])
def test_an_argument_is_what_its_tag_says(caller: Caller, argument: Any, text: str) -> None:
    assert caller.call("rep", argument) == text
    assert caller.call("kw", k=0, kwargs={"k": [argument]})["types"] == []  # nested, under a keyword


@pytest.mark.parametrize(
    ("argument", "type_name", "words"),
    [
        (tagged("bytes", data="a b"), "ValueError", "base64"),
        (tagged("datetime", value="yesterday"), "ValueError", "Invalid isoformat string: 'yesterday'"),
        (tagged("dict", pairs=[[[1], 2]]), "TypeError", "unhashable type: 'list'"),
        (tagged("dict", pairs=[[1, "a"], [True, "b"]]), "ValueError", "equal in Python"),
        (tagged("set", elements=[1, 1.0]), "ValueError", "equal in Python"),
        (tagged("tuple", elements=5), "ValueError", "a list of elements"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_by_name(caller: Caller, argument: Any, type_name: str, words: str) -> None:
    kind, message = caller.call_error("rep", argument)
    assert kind == type_name and words in message and "in the parameter args" in message


def test_deep_arguments_pass(caller: Caller) -> None:
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    assert caller.call("ident", nested) == nested


def test_refs_are_found_wherever_they_stand(caller: Caller) -> None:
    ref = wire_ref(caller.call("Acc", 1))
    for argument, text in (
        (tagged("set", elements=[ref]), "{Acc(1)}"),
        (tagged("frozenset", elements=[ref]), "frozenset({Acc(1)})"),
        (tagged("dict", pairs=[[ref, ref]]), "{Acc(1): Acc(1)}"),
        (tagged("tuple", elements=[{"a": [ref]}]), "({'a': [Acc(1)]},)"),
    ):
        assert caller.call("rep", argument) == text
    assert caller.call("kw", kwargs={"r": ref})["kwargs"]["r"]["id"] == ref["id"]


def test_a_stream_ref_as_an_argument_is_the_iterator(caller: Caller) -> None:
    stream = caller.call("it")
    assert caller.call("list", stream, python_module="builtins") == [1, 2]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (tagged("ref", session_id="s"), "SnakeBridge reference missing id"),
        (tagged("ref", id="", session_id="s"), "SnakeBridge reference missing id"),
        (tagged("ref", id=5, session_id="s"), "Invalid SnakeBridge reference payload"),
    ],
)
def test_what_is_no_ref_says_so_in_the_words_that_snakebridge_knows(caller: Caller, argument: Any, message: str) -> None:
    assert caller.call_error("rep", argument) == ("ValueError", message)


# --- streams ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[1, 2]", "'ab'", "None", "7", "b'ab'", "{'a': 1}", "(1, 2)", "{1}"])
def test_a_value_is_a_dynamic_stream_of_one(caller: Caller, text: str) -> None:
    whole = caller.evaluate(text)
    assert caller.items("eval", text, call_type="dynamic_stream", module_path="builtins", python_module=None) == [whole]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("iter(['123', '', None, {'data': 5}, 2**70])", ["123", "", None, {"data": 5}, 2**70]),
        ("(i for i in ())", []),
        ("range(3)", [0, 1, 2]),
        ("{'a': 1}.keys()", ["a"]),
        ("__import__('numpy').arange(3)", [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("kind", ["dynamic_stream", None])
def test_the_items_of_a_stream_are_exact(caller: Caller, text: str, items: list[Any], kind: str | None) -> None:
    assert caller.items("eval", text, call_type=kind, python_module="builtins") == items


def test_a_context_manager_is_no_stream(caller: Caller) -> None:
    (item,) = caller.items("open", "/dev/null", call_type="dynamic_stream", python_module="builtins")
    assert item["type_name"] == "TextIOWrapper"


@pytest.mark.parametrize("fields", [{}, {"streaming": True}, {"call_type": ""}])
def test_generated_wrappers_and_the_first_design_stream_without_a_kind(caller: Caller, fields: Json) -> None:
    assert caller.items("gen", **fields) == [1, "two", None, {"data": 5}]
    assert caller.items("listobj", **fields) == ["a", "b"]


def test_a_method_may_stream(caller: Caller) -> None:
    ref = wire_ref(caller.evaluate("__import__('types').SimpleNamespace(f=lambda: iter((1, 2)))"))
    assert caller.items("f", call_type="method", instance=ref) == [1, 2]
