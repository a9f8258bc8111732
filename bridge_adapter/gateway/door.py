"""Who calls the gateway, and whether he may: the principal of the request's `authorization` header, or of its client certificate.

Without roles and without an audit, there is no door at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc

from bridge_adapter import errors
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.policy.access import NOBODY, Identity
from bridge_adapter.policy.guard import Guard, operation, resource

_SUBJECT = "x509_common_name"
_NAMES = ("python_module", "module_path", "module", "class", "function", "method", "attr", "helper")


class Door:
    """The door of one gateway."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def identity(self, context: Any) -> Identity:
        """Who is calling: a certificate that was verified says more than a header."""
        access = self._guard.access
        if access is None:
            return NOBODY
        for subject in context.auth_context().get(_SUBJECT, ()):
            if (known := access.by_subject(subject.decode("utf-8", "replace"))) is not None:
                return known
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return access.by_header(headers.get("authorization", ""))

    async def admit(self, context: Any, name: str, about: str = "worker") -> None:
        """Aborts an RPC that the caller may not use, with PERMISSION_DENIED or UNAUTHENTICATED."""
        identity = self.identity(context)
        try:
            self._guard.check(identity, name, about)
        except errors.BridgeError as error:
            self._guard.denied(identity, name, about, error)
            await _abort(context, identity, error)

    def admit_call(self, context: Any, call: Asked) -> Identity:
        """Who makes a call. Raises LaneError for one that he may not make."""
        identity = self.identity(context)
        try:
            self._guard.check(identity, operation(call.tool), _about(call), call.correlation)
        except errors.BridgeError as error:
            self._guard.denied(identity, operation(call.tool), _about(call), error, call.correlation)
            raise LaneError(errors.to_wire(error)) from error
        return identity

    def failed(self, identity: Identity, call: Asked, fields: Mapping[str, Any]) -> None:
        """Records what the executor's policy has refused."""
        if fields.get("category") == "permission_denied":
            told = {key: value for key, value in (fields.get("details") or {}).items() if key in ("object", "rule", "source")}
            error = errors.PermissionDenied("", **told)
            self._guard.denied(identity, operation(call.tool), _about(call), error, call.correlation)


def _about(call: Asked) -> str:
    if not call.tool.startswith("snakebridge."):
        return call.tool[:256]
    texts = {name: call.texts[name].decode("utf-8", "replace").strip('"') for name in _NAMES if name in call.texts}
    return resource(texts)


async def _abort(context: Any, identity: Identity, error: errors.BridgeError) -> NoReturn:
    code = grpc.StatusCode.UNAUTHENTICATED if identity is NOBODY else grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, errors.Unavailable):
        code = grpc.StatusCode.UNAVAILABLE
    await context.abort(code, str(error))
    raise AssertionError("abort raises")
