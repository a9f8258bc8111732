"""The gateway as a client of Elixir: one Ping until it answers, then heartbeats. Elixir that stays away ends a dependent worker."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from bridge_adapter.gateway.options import Heartbeat
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

FIRST_DELAY = 0.05
LAST_DELAY = 2.0
PING_SECONDS = 1.0
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

    def __init__(self, address: str, tries: int, heartbeat: Heartbeat) -> None:
        self._address = address
        self._tries = tries
        self._heartbeat = heartbeat
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self._stub: Any = rpc.BridgeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._session: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def session(self, session_id: str) -> None:
        """The session that Elixir made for this worker: heartbeats start with it. One loop serves all, they share the connection."""
        if not self._session.done():
            self._session.set_result(session_id)

    async def watch(self) -> None:
        """Runs until Elixir is gone. Raises ElixirGone then."""
        await self._greet()
        if self._heartbeat.enabled:
            await self._beat(await self._session)

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

    async def _beat(self, session_id: str) -> None:
        settings = self._heartbeat
        await asyncio.sleep(settings.initial_delay_ms / 1000)
        missed = 0
        while True:
            try:
                await self._stub.Heartbeat(pb.HeartbeatRequest(session_id=session_id), timeout=settings.timeout_ms / 1000)
                missed = 0
            except grpc.aio.AioRpcError as error:
                missed += 1
                log.warning("heartbeat %d to Elixir at %s failed: %s", missed, self._address, error.details())
                if missed == settings.max_missed:
                    reason = f"Elixir at {self._address} missed {missed} heartbeats in a row: {error.details()}"
                    if settings.dependent:
                        raise ElixirGone(reason) from error
                    log.error("%s; going on, as this worker is independent", reason)
            await asyncio.sleep(settings.interval_ms / 1000)
