"""JSON as Snakepit's server reads and writes it, losses included: parameters in, results out."""

from __future__ import annotations

import json
import math
from typing import Any

from google.protobuf import any_pb2
from snakepit_bridge import ZeroCopyRef

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

URL = "type.googleapis.com/snakepit."


def decode(parameter: any_pb2.Any) -> Any:
    """A parameter. The last part of its URL may force a type."""
    text = parameter.value.decode()
    value = orjson.loads(text) if orjson is not None else json.loads(text)
    kind = parameter.type_url.rpartition("/")[2].rpartition(".")[2]
    if kind == "float":
        return float(value)
    if kind == "integer":
        return int(value)
    if kind == "tensor":
        import numpy

        return numpy.array(value["data"]).reshape(value["shape"])
    if isinstance(value, dict) and value.get("__snakepit_zero_copy__") is True:
        return ZeroCopyRef(**{name: value[name] for name in ("kind", "device", "dtype", "shape")})
    return value


def encode(result: Any) -> any_pb2.Any:
    """A result, by the Python type of its outermost value."""
    if isinstance(result, ZeroCopyRef):
        kind, value = "map", result
    elif isinstance(result, bool):
        kind, value = "boolean", result
    elif isinstance(result, dict):
        kind, value = "map", result
    elif isinstance(result, str):
        kind, value = "string", str(result)
    elif isinstance(result, int | float):
        kind, value = "float", _float(float(result))
    elif isinstance(result, list):
        kind, value = "list", result
    else:
        kind, value = "string", str(result)
    return any_pb2.Any(type_url=URL + kind, value=dumps(value))


def dumps(value: Any) -> bytes:
    """JSON text. The hook comes first, at every depth."""
    if isinstance(value, ZeroCopyRef):
        value = value.to_payload()
    if orjson is not None:
        return orjson.dumps(value, default=_default, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=_default).encode()


def _default(value: Any) -> Any:
    if isinstance(value, ZeroCopyRef):
        return value.to_payload()
    return {"__ffi_unserializable__": True, "__type__": f"{type(value).__module__}.{type(value).__qualname__}"}


def _float(value: float) -> Any:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
