"""The gateway as a client of Elixir: one Ping until it answers, then heartbeats. Elixir that stays away ends a dependent worker.

Each session that Elixir makes here is beaten for, since a heartbeat also keeps it alive; they share one loop and one connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from bridge_adapter.gateway.elixir_tools import ElixirTools
from bridge_adapter.gateway.options import Heartbeat
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

FIRST_DELAY = 0.05
LAST_DELAY = 2.0
PING_SECONDS = 1.0
MAX_SESSIONS = 64  # beaten for; more than that are not Snakepit's doing
LONGEST_ID = 512  # characters, as in the executor
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

log = logging.getLogger("bridge_adapter.gateway")


class ElixirGone(Exception):
    """Elixir does not answer; the message says since when and where."""


class ElixirSide:
    """Snakepit's own gRPC server, as seen from the worker."""

    def __init__(self, address: str, tries: int, heartbeat: Heartbeat, callback_seconds: float) -> None:
        self._address = address
        self._tries = tries
        self._heartbeat = heartbeat
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self._stub: Any = rpc.BridgeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._sessions: dict[str, None] = {}
        self._first = asyncio.Event()
        self.tools = ElixirTools(self._stub, pb, callback_seconds)

    def session(self, session_id: str) -> None:
        """A session of this worker: from now on there is a heartbeat for it."""
        if 0 < len(session_id) <= LONGEST_ID and session_id not in self._sessions and len(self._sessions) < MAX_SESSIONS:
            self._sessions[session_id] = None
            self._first.set()

    def forget(self, session_id: str) -> None:
        """The session has ended."""
        self._sessions.pop(session_id, None)

    async def watch(self) -> None:
        """Runs until Elixir is gone. Raises ElixirGone then."""
        await self._greet()
        if self._heartbeat.enabled:
            await self._first.wait()
            await self._beat()

    async def _greet(self) -> None:
        delay, last = FIRST_DELAY, ""
        for attempt in range(1, self._tries + 1):
            try:
                await self._stub.Ping(pb.PingRequest(message="worker_startup"), timeout=PING_SECONDS)
                return
            except grpc.aio.AioRpcError as error:
                log.info("Elixir at %s does not answer (try %d of %d): %s", self._address, attempt, self._tries, error.details())
                last = error.details() or error.code().name
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)
        raise ElixirGone(f"Elixir at {self._address} did not answer {self._tries} pings: {last}; check --elixir-address")

    async def _beat(self) -> None:
        settings = self._heartbeat
        await asyncio.sleep(settings.initial_delay_ms / 1000)
        missed = 0
        while True:
            failure = await self._beat_once(settings.timeout_ms / 1000)
            if failure is None:
                missed = 0
            else:
                missed += 1
                log.warning("heartbeat %d to Elixir at %s failed: %s", missed, self._address, failure)
                if missed == settings.max_missed:
                    reason = f"Elixir at {self._address} missed {missed} heartbeats in a row: {failure}"
                    if settings.dependent:
                        raise ElixirGone(reason)
                    log.error("%s; going on, as this worker is independent", reason)
            await asyncio.sleep(settings.interval_ms / 1000)

    async def _beat_once(self, timeout: float) -> str | None:
        """One round for all sessions; what is wrong, if anything. That a session is not valid any more is no failure of Elixir's."""

        async def beat(session_id: str) -> None:
            await self._stub.Heartbeat(pb.HeartbeatRequest(session_id=session_id), timeout=timeout)

        answers = await asyncio.gather(*map(beat, list(self._sessions)), return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if not failures:
            return None
        return failures[0].details() or "no reason given" if isinstance(failures[0], grpc.aio.AioRpcError) else repr(failures[0])
