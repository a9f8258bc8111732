"""The door of a process that serves callers: whether this identity may do this, and the line about it in the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_adapter import errors
from bridge_adapter.policy.access import NOBODY, OPERATIONS, SYSTEM, Access, Identity
from bridge_adapter.policy.audit import Audit

_NAMES = ("python_module", "module_path", "module", "library", "class", "function", "method", "attr", "helper", "tool")
_UNRECORDED = ("ping", "heartbeat", "credit")  # every stream and every second has them
_TYPES = {"kernel-configure": "config-change", "kernel-admin": "admin-action", "state-read": "data-access", "state-write": "data-access"}


class Guard:
    """`access` is None where no roles are in force: then only refusals of the policy come to the audit."""

    def __init__(self, access: Access | None, audit: Audit | None) -> None:
        self.access = access
        self.audit = audit

    def identify(self, token: str, owns: bool, subject: str = "") -> Identity | None:
        """Who shows this token, or else the certificate of this subject; None where nobody does. `owns`: the token is the worker's own."""
        found = None
        if self.access is not None:
            found = self.access.by_token(token) or self.access.by_subject(subject)
        if found is None and owns:
            found = self.access.owner if self.access is not None else SYSTEM
        if self.audit is not None and found is None:
            self.audit.record("authentication", NOBODY, "worker", "hello", "denied")
        return found

    def check(self, identity: Identity, operation: str, resource: str, request_id: str = "") -> None:
        """Raises PermissionDenied for what the identity may not do; records what it may."""
        if self.access is None:
            return
        self.access.check(identity, operation)
        if self.audit is not None and self.audit.settings.allowed and operation not in _UNRECORDED:
            self.audit.record(_type(operation), identity, resource, operation, "success", request_id=request_id)

    def denied(self, identity: Identity, operation: str, resource: str, error: BaseException, request_id: str = "") -> None:
        """Records a refusal, of whatever rule."""
        if self.audit is not None and isinstance(error, errors.PermissionDenied):
            details = {key: value for key, value in error.details.items() if key != "outcome"}
            self.audit.record("authorization", identity, resource, operation, "denied", details=details, request_id=request_id)

    def hears(self, identity: Identity) -> bool:
        """Whether what calls ask and print may go to this client: only to one who may call himself."""
        if self.access is None:
            return True
        return "system" in identity.roles or "kernel-execute" in self.access.permissions(identity.roles)

    def permits(self, identity: Identity, operation: str) -> bool:
        """The same for what is not answered: a refusal is recorded and the message has no effect."""
        try:
            self.check(identity, operation, "worker")
        except errors.BridgeError as error:
            self.denied(identity, operation, "worker", error)
            return False
        return True

    def close(self) -> None:
        """At the end of the process."""
        if self.audit is not None:
            self.audit.flush()


def resource(payload: Mapping[str, Any]) -> str:
    """What a call is about, as far as its payload names it: never its arguments."""
    parts = [str(payload[name])[:256] for name in _NAMES if isinstance(payload.get(name), (str, bytes)) and name != "library"]
    return ".".join(parts) or "worker"


def asked(method: str | None, params: Any) -> tuple[str, str, str]:
    """The operation, the resource and the correlation id of a request on the lane."""
    if method not in ("call", "stream") or not isinstance(params, dict):
        return str(method), "worker", ""
    payload, trace = params.get("payload"), params.get("trace")
    corr = str(trace.get("correlation_id", "")) if isinstance(trace, dict) else ""
    return operation(str(params.get("tool"))), resource(payload if isinstance(payload, dict) else {}), corr


def operation(tool: str) -> str:
    """What a tool is called in the table of operations."""
    return tool if tool.startswith("snakebridge.") or tool in OPERATIONS else "adapter"


def _type(name: str) -> str:
    return _TYPES.get(OPERATIONS.get(name, "kernel-admin") or "", "kernel-access")
