"""Where we answer otherwise than Snakepit 0.13 with SnakeBridge 0.16 did when the examples were recorded, and why. The one place for that.

`DEVIATIONS` names every example whose recorded answer is wrong: it lost something, failed, hung or cannot be told from another value.
All other examples are answered as recorded. `EVERYWHERE` says what differs in every answer. The tests hold both: an entry that is not
needed fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"


@dataclass(frozen=True)
class Deviation:
    """`answer`: ours, in the form of the recordings. `why`: what is wrong with the recorded one."""

    answer: Json
    why: str


def value(result: Any) -> Json:
    return {"success": True, "result": result}


def ref(type_name: str, module: str = "helper_mod") -> Json:
    """A ref to an object; `<ref>` stands for its id."""
    return {
        "__type__": "ref",
        "__schema__": 1,
        "id": "0" * 32,
        "session_id": "sess-A",
        "python_module": module,
        "library": module,
        "type_name": type_name,
        "__type_name__": type_name,
    }


def failure(kind: str, message: str, function: str) -> Json:
    return {"success": False, "error_message_json": error(kind, message, "snakebridge.call", function)}


def error(kind: str, message: str, tool: str, function: str) -> Json:
    context = {"tool_name": tool, "session_id": "session_2_1700000000000000", "library": "helper_mod", "function": function}
    return {"type": kind, "message": message, "context": context}


def chunks(tool: str, *texts: str, ends: bool = True) -> Json:
    """The chunks of a stream, with the empty final one when it `ends` well."""
    data = [(text, False) for text in texts] + ([("", True)] if ends else [])
    return {
        "chunks": [
            {"chunk_id": f"{tool}-{number}", "data_utf8": text, "is_final": final, "metadata": {}}
            for number, (text, final) in enumerate(data, 1)
        ]
    }


def event(name: str, measurement: str) -> Json:
    """A telemetry event of a call, without the numbers that no two runs share."""
    return {
        "event_parts": ["python", "call", name],
        "measurements": {measurement: {"int_value": 1}},
        "metadata": {
            "tool": "snakebridge.call",
            "session_id": "sess-A",
            "library": "helper_mod",
            "module": "helper_mod",
            "python_module": "helper_mod",
            "function": "__call__",
            "call_type": "method",
        },
        "timestamp_ns": 1,
        "correlation_id": "sp-1",
    }


EVERYWHERE = {
    "result_type_url": "The recorded URLs (snakepit.float, snakepit.map, ...) come with the conversions that lose values. Elixir "
    "ignores the URL and reads the value as JSON; ours is always the URL of a StringValue, under which Elixir "
    "itself sends JSON.",
    "error payload": "Ours also has qualified_type, category, cause, notes and details, and caller_session_id in the context: "
    "the recorded one cannot tell two classes of one name apart, and drops the cause and the notes of an "
    "exception.",
    "response metadata": "Ours has correlation_id and how often the call was tried; the recorded answers have none, so an answer "
    "cannot be found in the logs.",
    "stacktrace": "Ours begins where the user's code begins; the recorded ones begin with frames of the worker.",
}

_EXACT = (
    "The recorded answer is a float because their server turns every number at the top level into one. Integers"
    " above 2**53 lose digits, and integers that Elixir pattern-matches on do not match. Ours is the integer "
    "that Python returned."
)
_SURROGATE = (
    "The recorded call fails because a str with a lone surrogate is no valid text. The call itself has run, "
    "with whatever it did; ours answers with a ref to the str, which Elixir can pass on or ask to encode."
)
_NUMPY_SCALAR = (
    "The recorded answer is a ref although a numpy float64 comes by value: a number that Elixir cannot calculate with. Ours is the number."
)
_CHUNK = (
    'The recorded chunks hold the bare value. Elixir cannot tell the text "123" from the number, loses None, '
    'takes a dict with a "data" key apart, and turns text that is no JSON into base64. Ours hold {"data": '
    "value}, which SnakeBridge unwraps whatever the value is."
)

DEVIATIONS: dict[str, Deviation] = {
    # --- numbers, None and text at the top level: their server's conversions ---
    "call.method": Deviation(value(7), _EXACT),
    "call.stream_next.int": Deviation(value(1), _EXACT),
    "release_session": Deviation(value(5), _EXACT),
    "result.big": Deviation(value(2**70), _EXACT),
    "result.maxsafe1": Deviation(value(2**53 + 1), _EXACT),
    "result.none": Deviation(
        value(None),
        'The recorded answer is the text "None", because their server knows no None at the top level. Ours is '
        "null, which Elixir reads as nil.",
    ),
    "result.sen": Deviation(
        value("red"),
        "The recorded answer is str() of the enum member, the name of its class and member. The value of a str "
        "enum is its text, which is what the same member gives in a list.",
    ),
    # --- values that came as refs, and a value that was none ---
    "result.np_i": Deviation(value(7), _NUMPY_SCALAR),
    "result.np_b": Deviation(value(True), _NUMPY_SCALAR),
    "result.coro": Deviation(
        value(1),
        "The recorded answer is a ref to a coroutine, with which Elixir can do nothing. Ours awaits the "
        "coroutine and answers with its result.",
    ),
    "result.ti_tz": Deviation(
        value(ref("time")),
        "The recorded answer is a time tag with an offset, of which Elixir drops the offset without a word: "
        "another time of day. Ours keeps the time in Python.",
    ),
    "result.typekey": Deviation(
        value({"__type__": "dict", "__schema__": 1, "pairs": [["__type__", "tuple"], ["elements", [1]]]}),
        "The recorded answer is the user's dict as it stands, and Elixir makes the tuple {1} of it. Ours is a "
        "dict tag, which Elixir reads as the map that Python returned.",
    ),
    # --- results on which the recorded call fails after it has run ---
    "result.surr": Deviation(value(ref("str")), _SURROGATE),
    "result.nested.surrogate_in_list": Deviation(value([ref("str", "builtins")]), _SURROGATE),
    "result.nested.big_in_list": Deviation(
        value([2**64]),
        "The recorded call fails because their JSON library knows no integers beyond 64 bits. Elixir reads integers of any size.",
    ),
    "result.nested.str_enum_key": Deviation(
        value({"red": 1}),
        "The recorded call fails because their JSON library takes no subclass of str as a key. The key's text is its value.",
    ),
    # --- arguments ---
    "arg.bytes_empty": Deviation(
        value("b''"),
        "The recorded call gets a dict, because empty data counts as no data. Elixir sends it for empty bytes, and ours are empty bytes.",
    ),
    "arg.dict_bad_pair": Deviation(
        failure("ValueError", "a dict tag must hold pairs of a key and a value, not a list of 1 (in the parameter args)", "rep"),
        "The recorded call gets a dict without what was no pair: data is lost without a word. Ours refuses the argument.",
    ),
    "arg.id_and_session_keys": Deviation(
        value("{'id': 'u1', 'session_id': 's1'}"),
        "The recorded call fails because every map with these two keys is taken for a ref. It is a user's map; refs have a tag.",
    ),
    "arg.ref_in_set": Deviation(
        value("{Acc(1)}"),
        "The recorded call fails because refs are looked up after sets are made, when they are still dicts. Ours is a set of the object.",
    ),
    "arg.stream_ref_as_arg": Deviation(
        failure("KeyError", "'Unknown SnakeBridge reference: x'", "rep"),
        "The recorded call gets the tag as a dict, because their decoder knows no stream_ref. Ours is the "
        "iterator, or, as here, says that there is none of that id.",
    ),
    "arg.set_unhashable": Deviation(
        failure(
            "TypeError",
            "a set element of type list cannot be hashed in Python (unhashable type: 'list'); send a list instead (in the parameter args)",
            "rep",
        ),
        "The recorded text says neither which argument is meant nor what to do. Ours is of the same type and holds the same words.",
    ),
    "arg.date_bad": Deviation(
        failure(
            "ValueError",
            "Invalid isoformat string: 'nope'; a date tag must hold ISO 8601 text of the years 1 to 9999 (in the parameter args)",
            "rep",
        ),
        "The recorded text says neither which argument is meant nor what would be valid. Ours is of the same "
        "type and begins with the same words.",
    ),
    # --- errors ---
    "error.stop_iteration_hang": Deviation(
        failure("StopIteration", "", "raise_stop"),
        "The recorded call never ends: their server cannot hand on a StopIteration, and the caller waits until "
        "the deadline. Ours is an error like any other.",
    ),
    # --- streams ---
    "stream.dynamic_list": Deviation(chunks("snakebridge.stream", '{"data":["a","b"]}'), _CHUNK),
    "stream.dynamic_error": Deviation(
        {
            **chunks("snakebridge.stream", '{"data":1}', ends=False),
            "grpc_status": "INTERNAL",
            "grpc_message_json": error("ValueError", "boom mid-stream", "snakebridge.stream", "gen_err"),
        },
        _CHUNK,
    ),
    "captured.stream.none": Deviation(
        chunks("snakebridge.stream", '{"data":1}', '{"data":"two"}', '{"data":null}', '{"data":{"data":5}}'),
        "The recorded adapter answers a stream of a generated wrapper with a stream_ref, and their server "
        "streams the names of its keys. Ours streams the items of the generator.",
    ),
    # --- adapters of a user's own ---
    "plain.result.none": Deviation(
        value(None),
        'The recorded answer is the text "None", because their server knows no None at the top level. Ours is null, which Elixir reads '
        "as nil.",
    ),
    "plain.result.bytes": Deviation(
        {"success": True, "binary_result": "ab"},
        "The recorded answer is the text of the bytes' repr, of which nobody can make the bytes again. Ours is binary_result, which "
        "Elixir gives its caller as {:binary, bytes}.",
    ),
    "plain.result.int_key": Deviation(
        value({"1": 2}),
        "The recorded call fails after it has run, because their JSON library takes no other keys than text. Ours writes the key as text.",
    ),
    "plain.result.set_in_list": Deviation(
        value([[1, 2]]),
        "The recorded answer has a marker where the set was: its members are lost. Ours is a list of them.",
    ),
    # --- telemetry and callbacks ---
    "rpc.telemetry": Deviation(
        {
            "events_tail": [
                event("start", "system_time"),
                event("stop", "duration"),
                {"grpc_status": "DEADLINE_EXCEEDED"},
            ]
        },
        "The recorded events have no correlation id, so those of one call cannot be found among those of others. Ours have the call's, "
        "and its session and tool.",
    ),
    "callback.wire": Deviation(
        {
            "request": {
                "session_id": "sess-A",
                "tool_name": "snakebridge.callback",
                "metadata": {"correlation_id": "sp-1"},
                "parameters": {
                    "callback_id": {"type_url": TEXT_URL, "value_utf8": '"cb_1_1700000000000"'},
                    "args": {"type_url": TEXT_URL, "value_utf8": "[21]"},
                },
            },
            "result": 42,
        },
        "The recorded request has no metadata, so what Elixir does for a call cannot be found under the call's "
        "correlation id. Ours has it.",
    ),
}
