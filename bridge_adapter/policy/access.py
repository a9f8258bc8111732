"""Who may do what: principals, known by a token or a certificate, have roles, and roles have permissions. Where roles are in force, what no
role permits is refused, and whoever is not known has no role.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge_adapter import errors

PERMISSIONS = (
    "kernel-execute",
    "kernel-configure",
    "kernel-monitor",
    "kernel-admin",
    "state-read",
    "state-write",
    "secrets-read",
    "secrets-write",
    "tenant-read",
    "tenant-admin",
)

ROLES: dict[str, frozenset[str]] = {
    "viewer": frozenset(("kernel-monitor", "state-read")),
    "user": frozenset(("kernel-monitor", "state-read", "kernel-execute")),
    "operator": frozenset(("kernel-execute", "kernel-configure", "kernel-monitor", "state-read", "state-write")),
    "admin": frozenset(PERMISSIONS),
    "custom": frozenset(),
}

# What every operation needs; an operation that is not here needs "kernel-admin". None: whoever is let in at all.
OPERATIONS: dict[str, str | None] = {
    "ping": None,
    "heartbeat": None,
    "snakebridge.call": "kernel-execute",
    "snakebridge.batch": "kernel-execute",
    "snakebridge.stream": "kernel-execute",
    "snakebridge.helpers": "kernel-execute",
    "flow.compile": "kernel-execute",
    "flow.certify": "kernel-execute",
    "flow.run": "kernel-execute",
    "flow.resume": "kernel-execute",
    "flow.cancel": "kernel-execute",
    "flow.list": "kernel-monitor",
    "adapter": "kernel-execute",
    "cancel": "kernel-execute",
    "credit": "kernel-execute",
    "recycle": "kernel-execute",
    "snakebridge.release_ref": "state-write",
    "snakebridge.release_session": "state-write",
    "session.initialize": "state-write",
    "session.cleanup": "state-write",
    "session.get": "state-read",
    "stats": "kernel-monitor",
    "telemetry": "kernel-monitor",
    "snakebridge.reload": "kernel-configure",
    "drain": "kernel-admin",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling. `how` this is known: token, certificate, own (the token that the worker was started with) or none."""

    actor: str
    roles: tuple[str, ...] = ()
    how: str = "none"
    tenant: str = ""


SYSTEM = Identity("system", ("system",), "own")
NOBODY = Identity("nobody")


@dataclass(frozen=True, slots=True)
class Principal:
    """One who is known: by the SHA-256 of his token, or by the subject of his certificate."""

    name: str
    roles: tuple[str, ...]
    token_sha256: str = ""
    subject: str = ""
    tenant: str = ""

    def identity(self, how: str) -> Identity:
        return Identity(self.name, self.roles, how, self.tenant)


@dataclass(frozen=True, slots=True)
class Access:
    """The principals and the roles, with those that the settings add. `own`: the roles of whoever started the worker; system bypasses."""

    principals: tuple[Principal, ...] = ()
    roles: Mapping[str, frozenset[str]] = field(default_factory=lambda: ROLES)
    own: tuple[str, ...] = ("system",)

    def by_token(self, token: str) -> Identity | None:
        """The principal with this token; every one is compared, in constant time."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        found = None
        for principal in self.principals:
            if principal.token_sha256 and hmac.compare_digest(principal.token_sha256, digest):
                found = principal
        return None if found is None else found.identity("token")

    def by_subject(self, subject: str) -> Identity | None:
        """The principal with a certificate of this subject."""
        found = next((principal for principal in self.principals if principal.subject and principal.subject == subject), None)
        return None if found is None else found.identity("certificate")

    def by_header(self, authorization: str) -> Identity:
        """The principal of an `authorization: Bearer TOKEN` header; nobody where there is none."""
        kind, _, token = authorization.partition(" ")
        return (self.by_token(token.strip()) if kind.lower() == "bearer" else None) or NOBODY

    @property
    def owner(self) -> Identity:
        """Whoever started the worker."""
        return SYSTEM if self.own == ("system",) else Identity("owner", self.own, "own")

    def permissions(self, roles: Iterable[str]) -> frozenset[str]:
        """What these roles allow together."""
        return frozenset().union(*(self.roles.get(role, frozenset()) for role in roles))

    def check(self, identity: Identity, operation: str) -> None:
        """Raises PermissionDenied for an operation that none of the roles permits."""
        needed = OPERATIONS.get(operation, "kernel-admin")
        if "system" in identity.roles or (needed is None and identity.roles) or needed in self.permissions(identity.roles):
            return
        have = ", ".join(identity.roles) or "no role"
        what = f"the permission {needed}" if needed else "a role"
        raise errors.PermissionDenied(
            f"{identity.actor} ({have}) may not do {operation}, which needs {what}; give him a role that has it in access.principals",
            operation=operation,
            permission=needed or "",
            actor=identity.actor,
        )
