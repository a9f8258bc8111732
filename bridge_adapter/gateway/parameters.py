"""The parameters of an ExecuteTool request as the lane takes them: JSON texts as they are, a few conventions of Snakepit honoured."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2

from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.proto import snakepit_bridge_pb2 as pb

_TRUE = ("1", "true", "t", "yes", "y", "on")
_EMPTY_SESSION = (b'""', b"null")
# First bytes of packed wrapper messages. Three of them are JSON whitespace too, so they only raise a suspicion.
_WRAPPER_STARTS = frozenset(b"\x08\x09\x0a\x0d")
_WRAPPERS = {
    name: getattr(wrappers_pb2, name)
    for name in (
        *("DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value"),
        *("BoolValue", "StringValue", "BytesValue"),
    )
}


def lane_params(request: pb.ExecuteToolRequest) -> dict[str, Any]:
    """The params of the lane's `call` or `stream`. Raises LaneError for parameters that cannot be passed on."""
    payload = texts(request)
    for name, value in payload.items():
        if not value or value[0] in _WRAPPER_STARTS:
            payload[name] = json_text(name, request.parameters[name])
    # The request names the session of the worker, the payload that of the caller.
    if payload.get("session_id", b"null") in _EMPTY_SESSION and request.session_id:
        payload["session_id"] = json.dumps(request.session_id).encode()
    params: dict[str, Any] = {"tool": request.tool_name, "payload": payload, "encoding": "tagged"}
    if request.binary_parameters:
        params["binary"] = _binary(request)
    if request.metadata.get("thread_sensitive", "").lower() in _TRUE:
        params["session_options"] = {"pinned": True}
    if request.metadata.get("codec_schema", "") == "2":
        params["schema"] = 2
    return params


def texts(request: pb.ExecuteToolRequest) -> dict[str, bytes]:
    """The parameters as they came."""
    return {name: parameter.value for name, parameter in request.parameters.items()}


def json_text(name: str, parameter: any_pb2.Any) -> bytes:
    """The JSON text of a parameter that does not look like one: it may be a real, packed wrapper message."""
    try:
        json.loads(parameter.value)
        return parameter.value
    except ValueError:
        wrapper = _WRAPPERS.get(parameter.type_url.rpartition(".")[2])
    if wrapper is None:
        return parameter.value  # the executor says what is wrong with it
    try:
        message = wrapper.FromString(parameter.value)
    except Exception as error:
        raise _invalid(
            f"the parameter {name} is neither JSON text nor a packed {parameter.type_url}: {error}; send JSON text as the value of the Any",
            "decode_error",
        ) from error
    if isinstance(message.value, bytes):
        from bridge_adapter.codec import Limits, PlainResolver, tagged

        return tagged.dumps(message.value, PlainResolver(), Limits())
    return json.dumps(message.value).encode()


def _binary(request: pb.ExecuteToolRequest) -> dict[str, bytes]:
    for name in request.binary_parameters:
        if request.metadata.get(f"binary_format:{name}", "").lower() == "pickle":
            raise _invalid(
                f"the binary parameter {name} is a pickle; pickles run code of the sender and are not loaded. "
                "Send raw bytes, or values as parameters",
                "invalid_request",
            )
    return dict(request.binary_parameters)


def _invalid(message: str, category: str) -> LaneError:
    return LaneError({"category": category, "type": "ValueError", "message": message})
