"""What Snakepit's server has decoded, as the JSON texts that the executor reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bridge_adapter.gateway.parameters import Asked, trace

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

_SPECIAL = {math.inf: "infinity", -math.inf: "neg_infinity"}


def asked(tool: str, arguments: Mapping[str, Any], context: Any) -> Asked:
    """The call of an `execute_tool`."""
    metadata = {str(name): str(value) for name, value in (getattr(context, "request_metadata", None) or {}).items()}
    texts: dict[str, bytes] = {}
    binary: dict[str, bytes] = {}
    for name, value in arguments.items():
        if metadata.get(f"binary_format:{name}", "").lower() == "pickle":
            binary[name] = b""  # the server has loaded it already; the call is refused all the same
        elif isinstance(value, bytes | bytearray | memoryview):
            binary[name] = bytes(value)
        else:
            texts[name] = json_text(value)
    session = str(getattr(context, "session_id", None) or "")
    return Asked(tool, texts, session, metadata, binary, trace(metadata, ()))


def json_text(value: Any) -> bytes:
    """The JSON text of a decoded parameter. Its `__type__` tags stay what they are."""
    if orjson is not None and not isinstance(value, float):
        try:
            return orjson.dumps(value)
        except TypeError:
            pass  # big integers, lone surrogates, and what is no JSON
    try:
        return json.dumps(value, allow_nan=False, default=_other).encode()
    except ValueError:  # not finite, or too many digits
        return json.dumps(_tagged(value), allow_nan=False, default=_other).encode()


def _tagged(value: Any) -> Any:
    """The same with tags for the floats that JSON has no text for."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"__type__": "special_float", "__schema__": 1, "value": _SPECIAL.get(value, "nan")}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {key: _tagged(item) for key, item in value.items()}
    return value


def _other(value: Any) -> Any:
    """What the server makes of parameters beside JSON: arrays, from the URL `tensor`, and descriptions of values that are elsewhere."""
    if callable(getattr(value, "to_payload", None)):
        return value.to_payload()
    if type(value).__module__.partition(".")[0] == "numpy":
        from bridge_adapter.codec import tagged

        return tagged.encode(value, schema=2)
    raise TypeError(f"a parameter of type {type(value).__qualname__} cannot be sent; send JSON values, or bytes as binary parameters")
