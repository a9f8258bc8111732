"""The gateway put together: executor, gRPC server, ready file, and the ways it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc

from bridge_adapter.gateway import parent, security
from bridge_adapter.gateway.beam import ElixirGone, ElixirSide
from bridge_adapter.gateway.bridge import Bridge
from bridge_adapter.gateway.door import Door
from bridge_adapter.gateway.executor_process import ExecutorProcess
from bridge_adapter.gateway.lifecycle import Lifecycle, State
from bridge_adapter.gateway.options import Options
from bridge_adapter.gateway.recycling import recycle
from bridge_adapter.gateway.running import StartFailed
from bridge_adapter.gateway.sampling import Sampler
from bridge_adapter.gateway.service import BridgeService
from bridge_adapter.gateway.supervisor import Supervisor
from bridge_adapter.gateway.telemetry import Telemetry
from bridge_adapter.policy import guard_of
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc
from bridge_adapter.tls import BadCertificate
from bridge_adapter.tokens import BadToken, Tokens

FORCE_SECONDS = 0.5

log = logging.getLogger("bridge_adapter.gateway")


class CannotServe(Exception):
    """The gateway cannot do its work; the message says why and what to do."""


def serve(options: Options, first: ExecutorProcess) -> int:
    """Serves until it is told to stop. Returns the exit status; the executor is gone then."""
    supervisor: Supervisor | None = None

    async def main() -> None:
        nonlocal supervisor
        elixir = ElixirSide(options.elixir_address, options.elixir_tries, options.heartbeat, options.callback_timeout_ms / 1000)
        telemetry = Telemetry()
        supervisor = Supervisor(
            first,
            options.max_connections,
            elixir.tools.ask,
            care=options.care,
            start_next=partial(ExecutorProcess, options.executor_arguments),
            died=telemetry.died,
            opened=telemetry.opened,
        )
        parent.at_death(supervisor.kill)
        await _serve(options, supervisor, elixir, telemetry)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    except (CannotServe, ElixirGone, StartFailed) as error:
        print(f"bridge_adapter.gateway: {error}", file=sys.stderr)
        return 1
    finally:
        (supervisor or first).kill()
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop: a sixth more calls a second than asyncio's own, which serves where uvloop cannot be loaded."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(options: Options, supervisor: Supervisor, elixir: ElixirSide, telemetry: Telemetry) -> None:
    stopped, forced = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (forced if stopped.is_set() else stopped).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    lifecycle = Lifecycle()
    bridge = Bridge(supervisor, options.thread_sensitive, has_adapter=bool(options.user_adapter), lifecycle=lifecycle)
    sampler = Sampler(telemetry, lambda: supervisor.running, options.telemetry_interval_ms / 1000)
    guard = guard_of(options.policy)
    door = Door(guard) if guard is not None else None
    service = BridgeService(bridge, elixir, telemetry, sampler, lifecycle, worker_id=options.worker_id, door=door)
    server = grpc.aio.server(
        interceptors=_guards(options),
        options=[
            ("grpc.max_receive_message_length", options.max_message),
            ("grpc.max_send_message_length", options.max_message),
            ("grpc.so_reuseport", 0),
            # HTTP/2 pings of the client are no attack: Elixir may send them as often as it likes.
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    rpc.add_BridgeServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = _bind(server, options)
    stop = asyncio.ensure_future(stopped.wait())
    started = asyncio.ensure_future(supervisor.start())
    await asyncio.wait({stop, started}, return_when=asyncio.FIRST_COMPLETED)
    if started.done():
        started.result()
        await server.start()
        announce(options, port)
        lifecycle.state = State.RUNNING
        recycler = asyncio.ensure_future(recycle(supervisor))
        tasks = {stop, asyncio.ensure_future(supervisor.run()), asyncio.ensure_future(_attend(elixir))}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        recycler.cancel()
        await drain(lifecycle, supervisor, options.care.drain_ms / 1000, forced)
        service.stopping.set()
        await server.stop(FORCE_SECONDS / 2)
        if guard is not None:
            guard.close()
        for task in done:
            task.result()


async def drain(lifecycle: Lifecycle, supervisor: Supervisor, seconds: float, forced: asyncio.Event) -> None:
    """Takes no new calls; running ones may finish, then they are cancelled, then their executor is ended. All at once when it is forced."""
    lifecycle.drain(seconds)
    await lifecycle.idle(seconds, forced)
    finished, left = lifecycle.ended, lifecycle.in_flight
    if left and not forced.is_set():
        supervisor.cancel_all("cancelled")
        await lifecycle.idle(FORCE_SECONDS, forced)
    lifecycle.state = State.STOPPED
    killed = lifecycle.in_flight
    await supervisor.stop(0 if forced.is_set() else FORCE_SECONDS)
    log.log(
        logging.WARNING if left else logging.INFO,
        "drained: %d calls finished, %d cancelled, %d killed, %d refused",
        *(finished, left - killed, killed, lifecycle.refused),
    )


async def _attend(elixir: ElixirSide) -> None:
    """Ends only by an exception: when Elixir is gone."""
    await elixir.watch()
    await asyncio.Event().wait()


def _guards(options: Options) -> list[grpc.aio.ServerInterceptor]:
    """None without a token: Snakepit's calls pass through nothing."""
    if not options.security.token_file:
        return []
    try:
        return [security.guard(Tokens.of_file(options.security.token_file, options.security.token_grace))]
    except BadToken as error:
        raise CannotServe(str(error)) from None


def _bind(server: grpc.aio.Server, options: Options) -> int:
    """Listens; returns the port. Raises CannotServe."""
    address = f"[{options.host}]" if ":" in options.host else options.host
    try:
        place = f"{address}:{options.port}"
        if options.security.encrypted:
            port: int = server.add_secure_port(place, security.credentials(options.security.files()))
        else:
            port = server.add_insecure_port(place)
        reason = "the address cannot be used"
    except BadCertificate as error:
        raise CannotServe(str(error)) from None
    except RuntimeError as error:
        port, reason = 0, str(error)
    if not port:
        reason = _why_not(options.host, options.port) or reason
        raise CannotServe(f"cannot listen on {address}:{options.port}: {reason}; free the port, or use --port 0 for any free one")
    return port


def _why_not(host: str, port: int) -> str:
    """The system's reason for refusing an address: gRPC does not tell."""
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def announce(options: Options, port: int) -> None:
    """Tells who waits that the server listens: the port, in the ready file, which appears whole or not at all. Raises CannotServe."""
    if not options.ready_file:
        print(f"bridge_adapter.gateway: listening on {options.host}:{port}", file=sys.stderr)
        return
    temporary = f"{options.ready_file}.tmp"
    try:
        with open(temporary, "w", encoding="ascii") as file:
            file.write(str(port))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, options.ready_file)
    except OSError as error:
        with suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise CannotServe(
            f"cannot write the ready file {options.ready_file}: {error.strerror or error}; "
            "Snakepit waits for it (SNAKEPIT_READY_FILE): make its directory writable and give it space"
        ) from error
