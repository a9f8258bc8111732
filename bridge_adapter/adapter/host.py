"""The executor behind the adapter: one per event loop, and a server has one. It ends with the process of the server, however that ends.

Elixir's functions are called through the stubs that the server has loaded: a second copy of the same messages cannot live beside them.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from bridge_adapter.gateway import options, parent
from bridge_adapter.gateway.bridge import Bridge
from bridge_adapter.gateway.elixir_tools import ElixirTools
from bridge_adapter.gateway.executor_process import ExecutorProcess
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.supervisor import StartFailed, Supervisor
from bridge_adapter.launcher import WORKER_SCRIPTS

STOP_SECONDS = 1.0
_CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
_ADDRESS = "--elixir-address"
_STUBS, _MESSAGES = "snakepit_bridge_pb2_grpc", "snakepit_bridge_pb2"

log = logging.getLogger("bridge_adapter.adapter")

_early: ExecutorProcess | None = None
_hosts: dict[asyncio.AbstractEventLoop, Host] = {}


def no_deadline() -> None:
    """The server cancels a call whose time is up; it does not tell before."""
    return


def start_early() -> None:
    """Starts an executor if this process is a worker of Snakepit's, and sees to it that the process ends when the BEAM that started it is
    gone: the server itself notices that late, and before its first session not at all."""
    global _early
    if os.path.basename(sys.argv[0]) not in WORKER_SCRIPTS or "--health-check" in sys.argv or _early is not None:
        return
    if os.environ.get("SNAKEPIT_READY_FILE"):
        parent.at_death(_kill_all)
        parent.watch()
    try:
        _early = ExecutorProcess()
    except OSError as error:
        log.error("the executor cannot be started now (the first call tries again): %s", error)
        return
    atexit.register(_early.kill)


def _kill_all() -> None:
    if _early is not None:
        _early.kill()
    for host in list(_hosts.values()):
        host.kill()


def current(context: Any) -> Host:
    """The host of the running event loop. `context`: of the call; its stub is used where the address of Elixir is not known."""
    loop = asyncio.get_running_loop()
    host = _hosts.get(loop)
    if host is None:
        for ended in [other for other in _hosts if other.is_closed()]:
            del _hosts[ended]
        host = _hosts[loop] = Host()
    host.stub = getattr(context, "stub", None) or host.stub
    return host


class Host:
    """An executor that is kept running, and what it asks of Elixir."""

    def __init__(self) -> None:
        global _early
        settings = _settings()
        first, _early = _early, None
        supervisor = Supervisor(first or ExecutorProcess(), settings.max_connections, self._ask, kill_after=settings.kill_after_ms / 1000)
        atexit.register(supervisor.kill)
        self.kill = supervisor.kill
        self.bridge = Bridge(supervisor, settings.retry)
        self.stub: Any = None
        self._settings = settings
        self._elixir: ElixirTools | None = None
        self._life = asyncio.get_running_loop().create_task(_live(supervisor))

    async def _ask(self, name: str, params: Mapping[str, Any]) -> Any:
        if self._elixir is None:
            self._elixir = self._connect()
        return await self._elixir.ask(name, dict(params))

    def _connect(self) -> ElixirTools:
        import grpc

        stubs, messages = _loaded(_STUBS), _loaded(_MESSAGES)
        seconds = self._settings.callback_timeout_ms / 1000
        if self._settings.elixir_address:
            stub = stubs.BridgeServiceStub(grpc.aio.insecure_channel(self._settings.elixir_address, options=_CHANNEL))
            return ElixirTools(stub, messages, seconds)
        if self.stub is not None:
            return ElixirTools(_Awaited(self.stub), messages, seconds)
        raise LaneError(
            {
                "category": "callback_gone",
                "type": "RuntimeError",
                "message": "Elixir's functions cannot be called: neither --elixir-address nor SNAKEPIT_GRPC_ADDRESS says where Elixir is",
            }
        )


class _Awaited:
    """A blocking stub as one to await."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Any:
        blocking = getattr(self._stub, method)

        async def call(request: Any, **how: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(None, functools.partial(blocking, request, **how))

        return call


async def _live(supervisor: Supervisor) -> None:
    """Until the event loop ends: the executor is asked to end then, and killed when it does not."""
    try:
        try:
            await supervisor.start()
        except StartFailed as error:
            log.error("%s", error)
        await supervisor.run()
    finally:
        await supervisor.stop(STOP_SECONDS)


def _loaded(name: str) -> Any:
    """The generated module of that name that the server uses; ours when it uses none."""
    for module in list(sys.modules):
        if module == name or (module.endswith(f".{name}") and not module.startswith("bridge_adapter.")):
            return sys.modules[module]
    from bridge_adapter.proto import snakepit_bridge_pb2, snakepit_bridge_pb2_grpc

    return snakepit_bridge_pb2_grpc if name == _STUBS else snakepit_bridge_pb2


def _settings() -> options.Options:
    """The gateway's settings as far as they concern the executor. The command line is the server's: only its address is read."""
    flags = ["--health-check"]  # nothing is required then
    for place, argument in enumerate(sys.argv):
        if argument == _ADDRESS and place + 1 < len(sys.argv):
            flags += [argument, sys.argv[place + 1]]
        elif argument.startswith(f"{_ADDRESS}="):
            flags.append(argument)
    try:
        return options.parse(flags, os.environ)
    except SystemExit:
        raise RuntimeError("a BRIDGE_ADAPTER_... setting cannot be used; the standard error of the server says which") from None
