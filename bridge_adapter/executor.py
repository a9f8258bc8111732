"""The executor: the process that runs user code. Listens on the lane, one thread per connection; ends with its parent.

    python -m bridge_adapter.executor --listen unix:/run/x/w.sock | tcp:127.0.0.1:0 [--config FILE] [--shared DIR]

The token that clients must show is taken from the environment variable SNAKEBRIDGE_TOKEN, which user code does not get to see.
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

from bridge_adapter import lifeline

if TYPE_CHECKING:
    from bridge_adapter.codec import Limits
    from bridge_adapter.codec.segments import Segments
    from bridge_adapter.journal.once import Once
    from bridge_adapter.journal.store import Durability, Journal
    from bridge_adapter.user_adapter import UserAdapter

TOKEN = "SNAKEBRIDGE_TOKEN"
DRAIN_SECONDS = 2.0
FORCE_SECONDS = 1.5


def main(argv: list[str] | None = None) -> int:
    """Runs an executor until it is told to stop. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="bridge_adapter.executor", description="Runs Python for Elixir.")
    parser.add_argument(
        "--listen",
        required=True,
        metavar="ADDRESS",
        help="unix:/path/to.sock, or tcp:127.0.0.1:PORT (0 = any free port)",
    )
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
    parser.add_argument("--stay", action="store_true", help="go on when the parent process ends")
    arguments = parser.parse_args(argv)
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses older ones, but PYTHONPATH does not
        print(f"bridge_adapter needs Python 3.11 or newer; this is {sys.executable}, {sys.version.split()[0]}", file=sys.stderr)
        return 2
    if not arguments.stay:
        lifeline.own_group()
        lifeline.die_with_parent(lambda: _end_with_parent(arguments.listen, arguments.private_directory))
    token = os.environ.pop(TOKEN, "")
    if not token:
        print(f"bridge_adapter.executor: set {TOKEN} to the secret that clients must show", file=sys.stderr)
        return 2

    from bridge_adapter import config

    try:
        settings = config.load(arguments.config)
    except config.ConfigError as error:
        print(f"bridge_adapter.executor: {error}", file=sys.stderr)
        return 2
    try:
        segments = open_segments(arguments.shared)
    except OSError as error:
        print(f"bridge_adapter.executor: no memory can be shared in {arguments.shared}: {error}", file=sys.stderr)
        return 2
    adapter = open_adapter(arguments.adapter, arguments.elixir_address, settings.limits) if arguments.adapter else None
    try:
        listener, address = listen(arguments.listen)
    except (OSError, ValueError) as error:
        print(f"bridge_adapter.executor: cannot listen on {arguments.listen}: {error}", file=sys.stderr)
        return 1
    if arguments.label_output:
        from bridge_adapter import output

        output.install()
    once = open_journal(arguments.journal, arguments.journal_durability) if arguments.journal else None
    executor = Executor(settings, listener, address, token, arguments.private_directory, segments=segments, adapter=adapter, once=once)
    if arguments.watch:
        executor.watch(arguments.watch)
    preload(arguments.preload)
    executor.run()
    return 0


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


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening socket for an address, and the address that clients use. A unix socket is made with mode 0600."""
    kind, _, place = address.partition(":")
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(place)
        finally:
            os.umask(before)
    elif kind == "tcp":
        host, _, port = place.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("a TCP address is tcp:HOST:PORT")
        listener = socket.create_server((host, int(port)), backlog=128)
        address = "tcp:{}:{}".format(*listener.getsockname()[:2])
    else:
        raise ValueError("an address begins with unix: or tcp:")
    listener.listen(128)
    return listener, address


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
        token: str,
        private: bool,
        *,
        segments: Segments | None = None,
        adapter: UserAdapter | None = None,
        once: Once | None = None,
    ) -> None:
        from bridge_adapter.config import Config
        from bridge_adapter.dispatch import Dispatcher

        assert isinstance(settings, Config)
        self._settings = settings
        self._listener = listener
        self._address = address
        self._token = token
        self._private = private
        self._dispatcher = Dispatcher(settings, segments, adapter, once)
        self._ids = itertools.count(1)
        self._open = 0
        self._stopping = threading.Event()

    def watch(self, directories: list[str]) -> None:
        """Reloads modules from these directories when their files change."""
        self._dispatcher.watch_files(directories)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Does not return: the process ends here, whatever user code does."""
        from bridge_adapter import calls, elixir, threads

        calls.install_sleep()
        threads.install_start()
        elixir.bind(self._dispatcher)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        os.register_at_fork(after_in_child=self._in_child)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        print("snakebridge-ready " + json.dumps({"address": self._address, "pid": os.getpid()}), flush=True)
        self._stopping.wait()
        self._drain()
        lifeline.leave(0)

    def _on_signal(self, *_: object) -> None:
        if self._stopping.is_set():
            lifeline.leave(0)  # asked twice
        self._stopping.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of file descriptors, most likely: wait for connections to close.
                print(f"bridge_adapter.executor: cannot accept a connection: {error}", file=sys.stderr)
                time.sleep(0.1)
                continue
            if self._open >= self._settings.max_connections:
                client.close()
                continue
            self._open += 1
            client = away_from_standard_streams(client)
            threading.Thread(target=self._serve, args=(client,), name="connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        from bridge_adapter.connection import Connection
        from bridge_adapter.lane import LaneSocket

        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            Connection(next(self._ids), LaneSocket(client, self._settings.max_frame), self._dispatcher, self._token).serve()
        finally:
            self._open -= 1

    def _drain(self) -> None:
        """New calls are refused; running ones get time to finish, then are interrupted."""
        dispatcher = self._dispatcher
        dispatcher.draining = True
        self._listener.close()
        _tidy(self._address, self._private)
        for seconds, reason in ((DRAIN_SECONDS, None), (FORCE_SECONDS, "cancelled")):
            if reason is not None:
                dispatcher.calls.cancel_all(reason)
            until = time.monotonic() + seconds
            while dispatcher.calls.active() and time.monotonic() < until:
                time.sleep(0.01)

    def _in_child(self) -> None:
        from bridge_adapter.lane import LaneSocket

        # A forked child must not keep the listener open: clients would wait for an executor that is gone.
        self._listener.close()
        LaneSocket.end_in_child()


if __name__ == "__main__":
    sys.exit(main())
