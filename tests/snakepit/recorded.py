"""The recorded examples: how one becomes a request, how an answer is written down, and what counts as the same.

An answer is written in the form of the recordings (`success`, `result`, `error_message_json`, `chunks`, `grpc_status`). What differs from
one run to the next is a pattern in both: ids of refs, traces, times.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

HERE = Path(__file__).parent
TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
HELPER_FILES = HERE / "helper_files"

EXAMPLES: dict[str, dict[str, Any]] = {
    example["id"]: example for example in json.loads((HERE / "examples.json").read_text(encoding="utf-8"))["examples"]
}

Json = dict[str, Any]


class Live:
    """The objects that stand for those of the recordings: recorded id of a ref -> id of the one that this run made."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def learn(self, recorded: Any, answered: Any) -> None:
        """Takes the ids of an answer for those of the recorded one, wherever both have a ref."""
        if isinstance(recorded, dict) and isinstance(answered, dict):
            if recorded.get("__type__") in ("ref", "stream_ref") and answered.get("id"):
                self.ids[recorded["id"]] = answered["id"]
            for key in recorded.keys() & answered.keys():
                self.learn(recorded[key], answered[key])
        elif isinstance(recorded, list) and isinstance(answered, list):
            for left, right in zip(recorded, answered, strict=False):
                self.learn(left, right)

    def put(self, value: Any) -> Any:
        """A recorded value or text with this run's ids and folders in place of the recorded ones."""
        text = json.dumps(value).replace("HELPERS_DIR", str(HELPER_FILES))
        for recorded, live in self.ids.items():
            text = text.replace(recorded, live)
        return json.loads(text)


def request_of(fields: Json) -> pb.ExecuteToolRequest:
    """The request of an example: every parameter as JSON text under the URL that Snakepit gives it."""
    request = pb.ExecuteToolRequest(
        session_id=fields["session_id"],
        tool_name=fields["tool_name"],
        metadata=fields.get("metadata", {}),
        stream=fields.get("stream", False),
    )
    for name, value in fields["parameters"].items():
        request.parameters[name].CopyFrom(any_pb2.Any(type_url=TEXT_URL, value=json.dumps(value).encode()))
    return request


def unary(response: pb.ExecuteToolResponse) -> Json:
    """The answer of ExecuteTool, written down."""
    if response.binary_result:
        return {"success": response.success, "binary_result": response.binary_result.decode("latin-1")}
    if response.success:
        return {"success": True, "result_type_url": response.result.type_url, "result": json.loads(response.result.value)}
    return {"success": False, "error_message_json": json.loads(response.error_message)}


def streamed(chunks: Any) -> Json:
    """The answer of ExecuteStreamingTool, written down: its chunks, and the status it ended with when that was an error."""
    written: Json = {"chunks": []}
    try:
        for chunk in chunks:
            data = chunk.data.decode()
            written["chunks"].append(
                {"chunk_id": chunk.chunk_id, "data_utf8": data, "is_final": chunk.is_final, "metadata": dict(chunk.metadata)}
            )
    except grpc.RpcError as error:
        written |= status(error)
    return written


def status(error: Any) -> Json:
    """A gRPC status, written down."""
    try:
        return {"grpc_status": error.code().name, "grpc_message_json": json.loads(error.details())}
    except ValueError:
        return {"grpc_status": error.code().name, "grpc_message": error.details()}


def differences(expected: Any, answered: Any, where: str = "answer") -> list[str]:
    """What tells an answer from the expected one. Numbers are the same only when they are of the same type."""
    return list(_compare(_numbered(expected), _numbered(answered), where))


def _compare(expected: Any, answered: Any, where: str) -> Any:
    if expected == "<list of helper index entries>":
        if not (answered and all({"name", "parameters"} <= entry.keys() for entry in answered)):
            yield f"{where}: expected an index of helpers, answered {answered!r}"
    elif where.endswith((".error_message_json", ".grpc_message_json")):
        yield from _errors(expected, answered, where)
    elif isinstance(expected, dict) and isinstance(answered, dict):
        # The URL is a label that nobody reads (`EVERYWHERE` in deviations.py), the text is shown as `result`, and what a status says is
        # compared where it was recorded.
        ignored = {"result_type_url", "result_json_text"} | ({"grpc_message"} - expected.keys())
        for key in sorted((expected.keys() | answered.keys()) - ignored):
            if key not in expected or key not in answered:
                yield f"{where}.{key}: expected {expected.get(key, 'nothing')!r}, answered {answered.get(key, 'nothing')!r}"
            else:
                yield from _compare(expected[key], answered[key], f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(answered, list) and len(expected) == len(answered):
        for number, (left, right) in enumerate(zip(expected, answered, strict=True)):
            yield from _compare(left, right, f"{where}[{number}]")
    elif type(expected) is not type(answered) or expected != answered:
        yield f"{where}: expected {expected!r}, answered {answered!r}"


def _errors(expected: Json, answered: Any, where: str) -> Any:
    """An error payload: type, message and context as recorded; traces of one's own. It may tell more."""
    if not isinstance(answered, dict):
        yield f"{where}: expected an error payload, answered {answered!r}"
        return
    if answered["type"] != expected["type"]:
        yield f"{where}.type: expected {expected['type']!r}, answered {answered['type']!r}"
    # `<advice sentence>` stands for a sentence of the peer's own.
    pattern = ".+".join(map(re.escape, expected["message"].split("<advice sentence>")))
    if not re.fullmatch(pattern, answered["message"], re.DOTALL):
        yield f"{where}.message: expected {expected['message']!r}, answered {answered['message']!r}"
    for key, value in expected["context"].items():
        if answered["context"].get(key) != value:
            yield f"{where}.context.{key}: expected {value!r}, answered {answered['context'].get(key)!r}"
    trace = answered["stacktrace"]
    if not (isinstance(trace, list) and trace and all(isinstance(line, str) for line in trace)):
        yield f"{where}.stacktrace: expected a list of strings, answered {trace!r}"
    elif answered["traceback"] != "".join(trace):
        yield f"{where}.traceback: expected the strings of the stacktrace, answered {answered['traceback']!r}"
    elif not any(answered["type"] in line for line in trace):
        yield f"{where}.stacktrace: expected it to name {answered['type']}, answered {trace!r}"


def _numbered(value: Any) -> Any:
    """The value with its refs' ids numbered in the order in which they are met: one object twice is one number twice."""
    numbers: dict[str, str] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        walked = {key: walk(item) for key, item in value.items()}
        if value.get("__type__") in ("ref", "stream_ref") and re.fullmatch("[0-9a-f]{32}", str(value.get("id"))):
            walked["id"] = numbers.setdefault(value["id"], f"<ref {len(numbers) + 1}>")
        return walked

    return walk(value)
