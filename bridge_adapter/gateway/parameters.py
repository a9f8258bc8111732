"""One tool call as Elixir asks for it, and as the lane takes it: parameters stay the JSON texts that they are, a few conventions of
Snakepit are honoured, and what the metadata asks for becomes options of the call."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, wrappers_pb2

from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.retry import REQUEST_KEYS

if TYPE_CHECKING:  # inside Snakepit's own server the messages are those that it has loaded
    from bridge_adapter.proto import snakepit_bridge_pb2 as pb

KEY = "idempotency_key"
# Parameters that say where and how, not what is called.
_CIRCUMSTANCES = (KEY, "session_id", "idempotent", "protocol_version", "min_supported_version", *REQUEST_KEYS)
CORRELATION = "correlation_id"
CORRELATION_HEADER = "x-snakepit-correlation-id"
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")  # W3C Trace Context and Baggage
SNAKEBRIDGE_TOOLS = frozenset(
    (
        *(f"snakebridge.{name}" for name in ("call", "batch", "stream", "release_ref", "release_session", "helpers")),
        *(f"flow.{name}" for name in ("compile", "certify", "run", "resume", "cancel", "list")),
    )
)
# Names of types that change how a parameter of an adapter of a user's is read.
_KINDS = ("float", "integer", "tensor")
_TRUE = ("1", "true", "t", "yes", "y", "on")
_LONGEST_ID = 512
_EMPTY = (b'""', b"null")
# Metadata by which a request limits the refs of its session, under the names that Snakepit and SnakeBridge have for them.
_MAX_REFS = ("max_refs", "session_max_refs", "ref_max")
_REF_TTL = ("ref_ttl", "ref_ttl_seconds", "ttl_seconds")
# First bytes of packed wrapper messages. Three of them are JSON whitespace too, so they only raise a suspicion.
_WRAPPER_STARTS = frozenset(b"\x08\x09\x0a\x0d")
_WRAPPERS = {
    name: getattr(wrappers_pb2, name)
    for name in (
        *("DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value"),
        *("BoolValue", "StringValue", "BytesValue"),
    )
}


@dataclass(slots=True)
class Asked:
    """A tool call. `texts`: the parameters as JSON texts; `binary`: those that came as bytes; `worker_session`: the session of the worker,
    used where the parameters name none; `trace`: correlation id and W3C trace headers."""

    tool: str
    texts: dict[str, bytes]
    worker_session: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    binary: Mapping[str, bytes] = field(default_factory=dict)
    trace: dict[str, str] = field(default_factory=dict)
    attempts: int = 0  # how often it was given to an executor
    problem: LaneError | None = None  # why it cannot be passed on
    types: dict[str, str] = field(default_factory=dict)  # type names of parameters, of tools that are not SnakeBridge's
    runs: int = 0  # of a call with a key that was answered: how often it was run, here or elsewhere
    replayed: bool = False  # its answer is one that was recorded

    @property
    def correlation(self) -> str:
        return self.trace.get(CORRELATION, "")

    @property
    def idempotent(self) -> bool:
        keyed = self.texts.get(KEY, b"null") not in _EMPTY or bool(self.metadata.get(KEY))
        return keyed or self.texts.get("idempotent") == b"true"


def asked(request: pb.ExecuteToolRequest, headers: Iterable[tuple[str, Any]] | None) -> Asked:
    """The call of a gRPC request."""
    texts = {name: parameter.value for name, parameter in request.parameters.items()}
    call = Asked(
        request.tool_name,
        texts,
        request.session_id,
        dict(request.metadata),
        dict(request.binary_parameters),
        trace(request.metadata, headers or ()),
    )
    if request.tool_name not in SNAKEBRIDGE_TOOLS:
        kinds = {name: parameter.type_url.rpartition("/")[2].rpartition(".")[2] for name, parameter in request.parameters.items()}
        call.types = {name: kind for name, kind in kinds.items() if kind in _KINDS}
    try:
        for name, value in texts.items():
            if not value or value[0] in _WRAPPER_STARTS:
                texts[name] = json_text(name, request.parameters[name])
    except LaneError as error:
        call.problem = error
    return call


def trace(metadata: Mapping[str, str], headers: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Correlation id (made up when there is none) and W3C trace headers: from the metadata, else from the gRPC headers."""
    known = {name: metadata[name] for name in (CORRELATION, *TRACE_HEADERS) if metadata.get(name)}
    for key, value in headers:
        if key == CORRELATION_HEADER:
            known.setdefault(CORRELATION, str(value))
        elif key in TRACE_HEADERS:
            known.setdefault(key, str(value))
    for name, value in known.items():
        # They go on in headers and in front of lines of output: what is no plain text there must not become any.
        if len(value) > _LONGEST_ID or not value.isascii() or not value.isprintable():
            known[name] = "".join(letter if " " <= letter <= "~" else "?" for letter in value[:_LONGEST_ID])
    if CORRELATION not in known:
        known[CORRELATION] = uuid.uuid4().hex
    return known


def lane_params(call: Asked) -> dict[str, Any]:
    """The params of the lane's `call` or `stream`. Raises LaneError for what cannot be honoured."""
    if call.problem is not None:
        raise call.problem
    metadata, payload = call.metadata, call.texts
    # The request names the session of the worker, the payload that of the caller.
    if payload.get("session_id", b"null") in _EMPTY and call.worker_session:
        payload = {**payload, "session_id": json.dumps(call.worker_session).encode()}
    params: dict[str, Any] = {"tool": call.tool, "payload": payload, "encoding": "tagged", "trace": call.trace}
    if call.binary:
        params["binary"] = _binary(call)
    key = _key(call)
    if key is not None:
        params["key"] = key
    if metadata:
        if metadata.get("codec_schema", "") == "2":
            params["schema"] = 2
        options = _session_options(metadata)
        if options:
            params["session_options"] = options
    return params


def _key(call: Asked) -> list[str] | None:
    """The idempotency key of the parameters, or of the metadata, and a digest of what is called."""
    text = call.texts.get(KEY) or b"null"
    try:
        key = json.loads(text)
    except (ValueError, RecursionError):
        key = text.decode("utf-8", "replace")
    if key is None or key == "":
        key = call.metadata.get(KEY)
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise _invalid(f"{KEY} is {str(key)[:40]}; it must be a text")
    digest = hashlib.sha256(call.tool.encode())
    for name, value in sorted({**call.texts, **call.binary}.items()):
        if name not in _CIRCUMSTANCES:
            digest.update(b"%d %s %d " % (len(name), name.encode(), len(value)))
            digest.update(value)
    return [key, digest.hexdigest()]


def adapter_params(call: Asked) -> dict[str, Any]:
    """The same for a tool of a user's own adapter: plain JSON, in the session of the worker."""
    if call.problem is not None:
        raise call.problem
    asked = {
        "session": call.worker_session,
        "metadata": {**call.metadata, **call.trace},
        "types": call.types,
        "one_thread": call.metadata.get("thread_sensitive", "").lower() in _TRUE,
    }
    params: dict[str, Any] = {"tool": call.tool, "payload": call.texts, "encoding": "plain", "adapter": asked, "trace": call.trace}
    if call.binary:
        params["binary"] = _binary(call)
    return params


def _session_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if metadata.get("thread_sensitive", "").lower() in _TRUE:
        options["pinned"] = True
    for option, names, kind in (("max_refs", _MAX_REFS, int), ("ref_ttl", _REF_TTL, float)):
        name = next((name for name in names if name in metadata), None)
        if name is not None:
            try:
                options[option] = kind(metadata[name])
            except ValueError:
                wanted = "an integer" if kind is int else "a number of seconds"
                raise _invalid(f"{name} in the request's metadata is {metadata[name][:40]!r}; it must be {wanted}") from None
    if metadata.get("recover"):
        options.update({name: metadata[name] for name in ("recover", "on_difference") if metadata.get(name)})
        options["replayable"] = metadata.get("replayable", "").lower() in _TRUE
    return options


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


def _binary(call: Asked) -> dict[str, bytes]:
    for name in call.binary:
        if call.metadata.get(f"binary_format:{name}", "").lower() == "pickle":
            raise _invalid(
                f"the binary parameter {name} is a pickle; pickles run code of the sender and are not loaded. "
                "Send raw bytes, or values as parameters"
            )
    return dict(call.binary)


def _invalid(message: str, category: str = "invalid_request") -> LaneError:
    return LaneError({"category": category, "type": "ValueError", "message": message})
