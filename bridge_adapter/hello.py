"""The first message of every connection: who the client is, what it understands, and what this worker answers (docs/wire.md section 2.1).

A client that does not know the token, or speaks no version of the lane that this worker does, is refused here.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge_adapter import __version__, errors, lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge_adapter.codec import Limits
    from bridge_adapter.lane import Message
    from bridge_adapter.policy.access import Identity
    from bridge_adapter.policy.guard import Guard
    from bridge_adapter.tokens import Tokens

INSTANCE = secrets.token_hex(8)  # this very process: what a client has left here is there as long as this is what it is told
FEATURES = ("stream", "callback", "cancel", "tagged")  # of every connection


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client said of itself. texts: its functions take and give JSON texts; shared: it can read shared memory."""

    role: str
    texts: bool
    shared: bool
    features: Sequence[Any]
    identity: Identity | None = None

    @classmethod
    def of(cls, message: Message, tokens: Tokens, guard: Guard | None = None, subject: str = "") -> Hello:
        """`subject`: that of the client's certificate.

        Raises ProtocolError, Unauthorized or UnsupportedVersion for a client that is not served."""
        params = message.body
        if message.kind != lane.REQUEST or message.name != "hello" or not isinstance(params, dict):
            raise errors.ProtocolError(f"the first message must be the request hello, not {message.name or 'something else'}")
        shown = str(params.get("token", ""))
        owns = tokens.accepts(shown)
        identity = guard.identify(shown, owns, subject) if guard is not None else None
        if not owns and identity is None:
            raise errors.Unauthorized("wrong token; a client must send the token that this worker was started with")
        versions = params.get("versions")
        if not isinstance(versions, list) or lane.VERSION not in versions:
            raise errors.UnsupportedVersion(
                f"this worker speaks version {lane.VERSION} of the lane, the client {versions}; update the older one"
            )
        features = params.get("features")
        return cls(
            role=str(params.get("role", "call")),
            texts=params.get("texts") is True,
            shared=params.get("shared") is True,
            features=features if isinstance(features, list) else (),
            identity=identity,
        )


def welcome(id: int, limits: Limits, features: Sequence[str]) -> dict[str, Any]:
    """The answer: which connection this is, and what it will do beyond FEATURES."""
    return {
        "version": lane.VERSION,
        "conn": id,
        "pid": os.getpid(),
        "instance": INSTANCE,
        "adapter_version": __version__,
        "features": [*FEATURES, *features],
        "max_frame": limits.frame,
        "max_depth": limits.depth,
    }
