"""What callers may name: rules over modules, functions and attributes (`decisions`), roles (`access`) and their record (`audit`).

It is no sandbox: what is allowed runs with all the rights of the process. docs/permissions.md says what is refused and what is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge_adapter.policy.decisions import Policy
    from bridge_adapter.policy.guard import Guard
    from bridge_adapter.policy.settings import PolicySettings

__all__ = ["opened"]


def opened(
    named: str = "", allow: Iterable[str] = (), deny: Iterable[str] = (), *, checked: bool = False
) -> tuple[Policy | None, Guard | None]:
    """The policy of that name or file, and the guard of the door; None for what is off. `checked`: another process is the door.

    Raises ConfigError.
    """
    from bridge_adapter.policy.decisions import Policy

    if not named and not allow and not deny:
        return Policy(), None  # a plain worker reads no files
    from bridge_adapter import redaction
    from bridge_adapter.policy import settings

    given = settings.load(named, allow, deny)
    redaction.configure(given.secret_names, given.secret_patterns)
    policy = None if given.refuses_nothing else Policy.of(given)
    return policy, None if checked else guard_of(given)


def guard_of(given: PolicySettings) -> Guard | None:
    """The guard of the door, where roles are in force or refusals are recorded."""
    if given.access is None and given.audit is None:
        return None
    from bridge_adapter.policy.audit import Audit
    from bridge_adapter.policy.guard import Guard

    return Guard(given.access, Audit(given.audit) if given.audit is not None else None)
