"""A tool call on its way from Elixir to the executor and back, the same for every way in: retries, what the caller hears of a crash.

The gRPC service (`service.py`) and the adapter inside Snakepit's own server only translate.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from bridge_adapter.gateway.attempts import Attempts, Remaining
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.lifecycle import Lifecycle
from bridge_adapter.gateway.parameters import SNAKEBRIDGE_TOOLS, Asked, adapter_params, lane_params
from bridge_adapter.gateway.retry import NEVER, Retry
from bridge_adapter.gateway.supervisor import Supervisor

STREAM_TOOL = "snakebridge.stream"
# What streams when it is asked for by the RPC for streams.
STREAM_TOOLS = frozenset((STREAM_TOOL, "flow.run", "flow.resume"))


class Bridge:
    """Tool calls for the executor of a supervisor. `remaining` tells the seconds that a caller still waits; None = for ever.

    `thread_sensitive`: modules, and functions as `module.function`, whose calls stay on one thread of their session. `has_adapter`: the
    executor has an adapter of the user's for the tools that are not SnakeBridge's.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        thread_sensitive: frozenset[str] = frozenset(),
        *,
        has_adapter: bool = False,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        self._turns = supervisor.turns
        self._attempts = Attempts(supervisor)
        self._work = lifecycle or Lifecycle()
        self._retry = supervisor.care.retry
        self._thread_sensitive = thread_sensitive
        self._has_adapter = has_adapter

    def for_adapter(self, call: Asked) -> bool:
        """True for a tool of the user's own adapter."""
        return self._has_adapter and call.tool not in SNAKEBRIDGE_TOOLS

    async def execute(self, call: Asked, remaining: Remaining, *, tidies: bool = False) -> bytes:
        """The JSON text of a call's result. Raises LaneError. `tidies`: it ends what was done before, and is let in while we drain."""
        params, retry = self._params(call), self._policy(call)
        session = _session(params)
        with self._work.call(nested=tidies or self._turns.waits_for_elixir(session)):
            async with self._turns.of(session, None if tidies else remaining()):
                return await self._attempts.call(params, remaining, retry, call, session)  # type: ignore[no-any-return]

    async def execute_adapter(self, call: Asked, remaining: Remaining) -> tuple[bytes | None, bytes | None]:
        """The result of a tool of the user's adapter: its JSON text, or bytes that are no JSON. Raises LaneError."""
        session = call.worker_session
        with self._work.call(nested=self._turns.waits_for_elixir(session)):
            text, binary = await self._attempts.call(adapter_params(call), remaining, self._policy(call), call, session)
        return text, binary

    async def stream(self, call: Asked, remaining: Remaining) -> AsyncGenerator[list[Any], None]:
        """The JSON texts of a stream's items, in batches as they come; [data, is final, metadata] for items of the user's adapter.

        Raises LaneError. Closing it ends the stream.
        """
        params, retry = self._params(call), self._policy(call)
        # Calls of a user's adapter have no order.
        session = f"\0{id(call)}" if self.for_adapter(call) else _session(params)
        with self._work.call(nested=self._turns.waits_for_elixir(session)):
            turn = self._turns.of(session, remaining())
            # Once it has begun the session is its caller's again, between its items.
            async with turn, aclosing(self._attempts.stream(params, remaining, retry, call, session, begun=turn.leave)) as batches:
                async for items in batches:
                    yield items

    async def release_session(self, session_id: str, remaining: Remaining) -> int:
        """Ends a session in the executor; the number of refs that it held. Raises LaneError."""
        texts = {"session_id": json.dumps(session_id).encode(), "protocol_version": b"1", "min_supported_version": b"1"}
        call = Asked("snakebridge.release_session", {**texts, "idempotent": b"true"})
        return int(json.loads(await self.execute(call, remaining, tidies=True)))

    def _params(self, call: Asked) -> dict[str, Any]:
        if self.for_adapter(call):
            return adapter_params(call)
        params = lane_params(call)
        if self._thread_sensitive and not self._thread_sensitive.isdisjoint(_names(call)):
            params["session_options"] = {**params.get("session_options", {}), "pinned": True}
        return params

    def _policy(self, call: Asked) -> Retry:
        if not call.idempotent:
            return NEVER
        try:
            return self._retry.with_request(call.metadata, call.texts)
        except ValueError as error:
            raise LaneError({"category": "invalid_request", "type": "ValueError", "message": str(error)}) from error


def _session(params: dict[str, Any]) -> str:
    """The session that a call is going to run in."""
    text: bytes = params["payload"].get("session_id", b"")
    try:
        session = json.loads(text) if text else ""
    except ValueError:
        session = ""
    return session if isinstance(session, str) and session else "default"


def _names(call: Asked) -> Iterator[str]:
    """The module that a call names, and its function with it."""
    function = call.texts.get("function", b"").decode("utf-8", "replace").strip('"')
    for key in ("python_module", "module_path", "module"):
        if key in call.texts:
            module = call.texts[key].decode("utf-8", "replace").strip('"')
            yield from (module, f"{module}.{function}")


def outcome(call: Asked) -> dict[str, str]:
    """What the answer's metadata says of how the call went."""
    known: dict[str, Any] = {"correlation_id": call.correlation}
    if max(call.attempts, call.runs) > 1:
        known["attempts"] = str(max(call.attempts, call.runs))
    if call.replayed:
        known["replayed"] = "true"
    return known
