"""The executor: the process that runs user code. Listens on the lane, one thread per connection; ends with its parent.

    python -m bridge_adapter.executor --listen unix:/run/x/w.sock | tcp:127.0.0.1:0 | tls:HOST:PORT [--config FILE] [--shared DIR]

The token that clients must show is taken from the environment variable SNAKEBRIDGE_TOKEN, which user code does not get to see, or from a
file: --token-file or SNAKEBRIDGE_TOKEN_FILE (docs/security.md).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bridge_adapter import credentials, lifeline, listening

if TYPE_CHECKING:
    from bridge_adapter.codec import Limits
    from bridge_adapter.codec.segments import Segments
    from bridge_adapter.journal.once import Once
    from bridge_adapter.journal.store import Durability, Journal
    from bridge_adapter.lane import Transport
    from bridge_adapter.policy.decisions import Policy
    from bridge_adapter.policy.guard import Guard
    from bridge_adapter.tls import Certificates
    from bridge_adapter.tokens import Tokens
    from bridge_adapter.user_adapter import UserAdapter

FORCE_SECONDS = 1.5
ACCEPT_PAUSE_SECONDS = 0.1
TURNED_AWAY_AT_ONCE = 16  # clients beyond max_connections that are told so; further ones are just closed
COMPLAINT_SECONDS = 10.0
# A call beside one that computes in Python waits this long for the interpreter each time it has to. Python's own 5 ms would be felt;
# what the more frequent change of threads costs those that compute cannot be measured.
SWITCH_SECONDS = 0.0005


def main(argv: list[str] | None = None) -> int:
    """Runs an executor until it is told to stop. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses older ones, but PYTHONPATH does not
        print(f"bridge_adapter needs Python 3.11 or newer; this is {sys.executable}, {sys.version.split()[0]}", file=sys.stderr)
        return 2
    if not arguments.stay:
        lifeline.own_group()
        lifeline.die_with_parent(lambda: _end_with_parent(arguments.listen, arguments.private_directory))
    try:
        tokens, certificates = credentials.open_tokens(arguments), credentials.open_certificates(arguments)
    except ValueError as error:
        print(f"bridge_adapter.executor: {error}", file=sys.stderr)
        return 2

    from bridge_adapter import config

    try:
        settings = config.load(arguments.config)
        policy, guard = open_policy(arguments)
    except config.ConfigError as error:
        print(f"bridge_adapter.executor: {error}", file=sys.stderr)
        return 2
    if settings.memory_hard_limit != "off":
        from bridge_adapter.memory import bound_hard

        try:
            bound_hard(settings.memory_hard_limit)
        except (OSError, ValueError) as error:
            print(f"bridge_adapter.executor: the memory_hard_limit {settings.memory_hard_limit} cannot be set: {error}", file=sys.stderr)
            return 2
    try:
        segments = open_segments(arguments.shared)
    except OSError as error:
        print(f"bridge_adapter.executor: no memory can be shared in {arguments.shared}: {error}", file=sys.stderr)
        return 2
    adapter = open_adapter(arguments.adapter, arguments.elixir_address, settings.limits) if arguments.adapter else None
    try:
        listener, address = listening.listen(arguments.listen, insecure_remote=arguments.insecure_remote)
    except (OSError, ValueError) as error:
        print(f"bridge_adapter.executor: cannot listen on {arguments.listen}: {error}", file=sys.stderr)
        return 1
    if arguments.label_output:
        from bridge_adapter import output

        output.install()
    once = open_journal(arguments.journal, arguments.journal_durability) if arguments.journal else None
    executor = Executor(
        settings,
        listener,
        address,
        tokens,
        arguments.private_directory,
        segments=segments,
        adapter=adapter,
        once=once,
        certificates=certificates,
        policy=policy,
        guard=guard,
    )
    if arguments.watch:
        executor.watch(arguments.watch)
    preload(arguments.preload)
    executor.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bridge_adapter.executor", description="Runs Python for Elixir.")
    parser.add_argument(
        "--listen",
        required=True,
        metavar="ADDRESS",
        help="unix:/path/to.sock, tcp:127.0.0.1:PORT (0 = any free port), or tls:HOST:PORT for other machines",
    )
    credentials.add_flags(parser)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument("--private-directory", action="store_true", help="the socket's directory is ours: remove it at the end")
    parser.add_argument("--shared", metavar="DIR", help="private directory, on a tmpfs, of the segments of shared memory")
    parser.add_argument("--label-output", action="store_true", help="begin each line that a call prints with the call's correlation id")
    parser.add_argument("--adapter", metavar="MODULE.CLASS", help="an adapter for Snakepit: serves the tools that are not SnakeBridge's")
    parser.add_argument("--elixir-address", default="", metavar="HOST:PORT", help="the gRPC server of Elixir, for that adapter")
    parser.add_argument("--watch", action="append", default=[], metavar="DIR", help="reload modules from there when their files change")
    parser.add_argument("--journal", metavar="FILE", help="where idempotent calls are recorded; the workers of a pool share it")
    parser.add_argument(
        "--journal-durability",
        choices=("process", "power"),
        default="process",
        help="what an answer in the journal survives: the end of any process, or also that of power",
    )
    parser.add_argument("--preload", action="append", default=[], metavar="MODULE", help="import this module before the worker is ready")
    parser.add_argument(
        "--policy", metavar="FILE", help="what may be called: default, open, listed, or a TOML file (BRIDGE_ADAPTER_POLICY)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="RULE", help="module.name, module.* or re:PATTERN that may be called"
    )
    parser.add_argument("--deny", action="append", default=[], metavar="RULE", help="the same, of what may not be called")
    parser.add_argument("--checked", action="store_true", help="whoever calls was checked by the gateway: no roles and no audit here")
    parser.add_argument("--stay", action="store_true", help="go on when the parent process ends")
    return parser


def open_policy(arguments: argparse.Namespace) -> tuple[Policy | None, Guard | None]:
    """What callers may name, and who they may be. Raises ConfigError."""
    from bridge_adapter import policy

    named = arguments.policy or os.environ.get("BRIDGE_ADAPTER_POLICY", "")
    return policy.opened(named, arguments.allow, arguments.deny, checked=arguments.checked)


def open_journal(path: str, durability: Durability) -> Once:
    """The journal in that file. It is opened by the first call that needs it: a worker without one does not load SQLite."""
    from bridge_adapter.journal.once import Once

    def opened() -> Journal:
        from bridge_adapter.journal.store import Journal

        return Journal(path, durability)

    return Once(opened)


def preload(names: list[str]) -> None:
    """Imports modules, so that no call waits for it. Ends the process when one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(
                f"bridge_adapter.executor: cannot import {name}: {type(error).__name__}: {error}; install it, or take it out of preload",
                file=sys.stderr,
                flush=True,
            )
            lifeline.leave(1)  # threads that its module has started do not hold up the end


def open_adapter(name: str, elixir_address: str, limits: Limits) -> UserAdapter:
    """The user's adapter of that name. Ends the process when it cannot be loaded."""
    from bridge_adapter.user_adapter import CannotLoad, UserAdapter, load

    try:
        return UserAdapter(load(name), elixir_address, limits)
    except CannotLoad as error:
        print(f"bridge_adapter.executor: {error}", file=sys.stderr, flush=True)
        lifeline.leave(1)  # threads that its module has started do not hold up the end


def open_segments(directory: str | None) -> Segments | None:
    """The shared memory of a directory. Raises OSError when it is not private to this user."""
    if directory is None:
        return None
    from bridge_adapter.codec.segments import Segments

    return Segments(directory)


def _end_with_parent(address: str, private: bool) -> None:
    _tidy(address, private)
    lifeline.leave(0)


def _tidy(address: str, private: bool) -> None:
    """Removes the socket, and its directory when that was made for it alone."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            if private:
                path.parent.rmdir()


def away_from_standard_streams(client: socket.socket) -> socket.socket:
    """A connection that does not have the number of a standard stream, which is free when user code has closed that stream.

    What anybody prints would else end up in the middle of our messages.
    """
    fd = client.fileno()
    if fd > 2:
        return client
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    if null != fd:
        os.close(null)
    family, kind = client.family, client.type
    client.detach()
    return socket.socket(family, kind, fileno=moved)


class Executor:
    """Accepts connections and ends in order: no new calls, running ones finish, then they are interrupted, then the process ends."""

    def __init__(
        self,
        settings: object,
        listener: socket.socket,
        address: str,
        tokens: Tokens,
        private: bool,
        *,
        segments: Segments | None = None,
        adapter: UserAdapter | None = None,
        once: Once | None = None,
        certificates: Certificates | None = None,
        policy: Policy | None = None,
        guard: Guard | None = None,
    ) -> None:
        from bridge_adapter.config import Config
        from bridge_adapter.dispatch import Dispatcher

        assert isinstance(settings, Config)
        self._settings = settings
        self._listener = listener
        self._address = address
        self._tokens = tokens
        self._certificates = certificates
        self._private = private
        self._once = once
        self._dispatcher = Dispatcher(settings, segments, adapter, once, policy=policy, guard=guard)
        self._ids = itertools.count(1)
        self._open = 0
        self._signals = 0
        self._strangers = listening.Strangers()

    def watch(self, directories: list[str]) -> None:
        """Reloads modules from these directories when their files change."""
        self._dispatcher.watch_files(directories)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Does not return: the process ends here, whatever user code does."""
        from bridge_adapter import calls, elixir, threads

        sys.setswitchinterval(SWITCH_SECONDS)
        calls.install_sleep()
        threads.install_start()
        elixir.bind(self._dispatcher)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        os.register_at_fork(after_in_child=self._in_child)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        self._dispatcher.lifecycle.run()
        print("snakebridge-ready " + json.dumps({"address": self._address, "pid": os.getpid()}), flush=True)
        self._dispatcher.lifecycle.wait_to_drain()
        self._drain()
        if self._once is not None:
            self._once.close()  # what was noted beside the journal goes into it
        if self._dispatcher.guard is not None:
            self._dispatcher.guard.close()
        lifeline.leave(0)

    def _on_signal(self, *_: object) -> None:
        self._signals += 1
        if self._signals > 1:
            lifeline.leave(0)  # asked twice
        self._dispatcher.lifecycle.ask_to_drain()

    def _accept(self) -> None:
        complained = 0.0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._listener.fileno() < 0:
                    return  # closed: the process ends
                # Out of file descriptors or memory, most likely: wait for connections to close.
                if time.monotonic() - complained > COMPLAINT_SECONDS:
                    complained = time.monotonic()
                    print(f"bridge_adapter.executor: cannot accept a connection, and goes on trying: {error}", file=sys.stderr, flush=True)
                time.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            most = self._settings.max_connections
            if self._open >= most + TURNED_AWAY_AT_ONCE:
                client.close()
                continue
            crowded = self._open >= most
            self._open += 1
            try:
                client = away_from_standard_streams(client)
                threading.Thread(target=self._serve, args=(client, crowded), name="connection", daemon=True).start()
            except (OSError, RuntimeError) as error:
                # No descriptor, or no thread. The client sees its connection end, and may come again.
                self._open -= 1
                client.close()
                print(f"bridge_adapter.executor: cannot serve a connection: {error}", file=sys.stderr, flush=True)

    def _serve(self, client: socket.socket, crowded: bool) -> None:
        from bridge_adapter.connection import Connection
        from bridge_adapter.lane import LaneSocket

        peer = "somebody"
        try:
            peer = listening.peer(client)
            listening.tune(client)
            transport: Transport = client if self._certificates is None else self._certificates.secure(client)
            connection = Connection(next(self._ids), LaneSocket(transport, self._settings.max_frame), self._dispatcher, self._tokens)
            if crowded:
                connection.refusal = listening.crowded(self._settings.max_connections)
            connection.serve()
            if connection.intruder:
                self._strangers.tell(f"{peer} was turned away: it has shown a wrong token")
        except OSError as error:
            self._strangers.tell(f"{peer} was turned away: {error}")
            client.close()
        finally:
            self._open -= 1

    def _drain(self) -> None:
        """New calls are refused; those that were let in get time to finish, then they are cancelled.

        Connections are taken until the end: what a running call asks of Elixir may call back over a new one.
        """
        calls, lifecycle = self._dispatcher.calls, self._dispatcher.lifecycle
        if not lifecycle.settle():
            lifecycle.cut(len(calls.active()))
            calls.cancel_all("drained")
            lifecycle.settle(time.monotonic() + FORCE_SECONDS)
        self._listener.close()
        _tidy(self._address, self._private)
        account = lifecycle.stop()
        if self._private and not lifecycle.cancelled:
            return  # a gateway's: it has counted the calls itself, and the output is that of user code
        with contextlib.suppress(Exception):  # user code may have closed it, or put there what it likes
            print(f"bridge_adapter.executor: {account}", file=sys.stderr, flush=True)

    def _in_child(self) -> None:
        from bridge_adapter.lane import LaneSocket

        # A forked child must not keep the listener open: clients would wait for an executor that is gone.
        self._listener.close()
        LaneSocket.end_in_child()


if __name__ == "__main__":
    sys.exit(main())
