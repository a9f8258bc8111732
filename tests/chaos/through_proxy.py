"""Stands between a pool and its executor: what the pool takes for Python. It starts the executor on another socket, and a proxy on the one
that the pool has named, which passes on every byte until an order says otherwise.

    python -S -E through_proxy.py -m bridge_adapter.executor --listen unix:/run/x/w.sock ...

An order at the point `wire-up` (to the executor) or `wire-down` is `cut BYTES` (so many more, then the connection is gone), `stall BYTES
SECONDS` (then nothing for a while) or `trickle BYTES` (one at a time). It meets the next connection on which something travels that way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "python"))

import chaos_points

PR_SET_PDEATHSIG = 1
CHUNK = 65536


def main() -> None:
    arguments = sys.argv[1:]
    at = arguments.index("--listen") + 1
    front = arguments[at].removeprefix("unix:")
    behind = f"{front}.behind"
    arguments[at] = f"unix:{behind}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(front)
    os.chmod(front, 0o600)
    listener.listen(64)
    parent = os.getpid()
    # The executor is this process, so that whoever kills it by its pid kills what he means.
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            _serve(listener, behind)
        os._exit(0)
    listener.close()
    os.execv(sys.executable, [sys.executable, *arguments])


def _serve(listener: socket.socket, behind: str) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    while True:
        client = listener.accept()[0]
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(behind)
        except OSError:
            client.close()
            continue
        for source, sink, direction in ((client, server, "up"), (server, client, "down")):
            threading.Thread(target=_pump, args=(source, sink, direction), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, direction: str) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            if (Path(chaos_points.DIRECTORY) / f"wire-{direction}").exists():
                _disturbed(data, sink, chaos_points.taken(f"wire-{direction}") or [])
            else:
                sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _disturbed(data: bytes, sink: socket.socket, words: list[str]) -> None:
    """Passes bytes on as an order says. Raises OSError when the connection is to go."""
    match words:
        case ["cut", count]:
            sink.sendall(data[: int(count)])
            raise BrokenPipeError("cut, as ordered")
        case ["stall", count, seconds]:
            sink.sendall(data[: int(count)])
            time.sleep(float(seconds))
            sink.sendall(data[int(count) :])
        case ["trickle", count]:
            for at in range(min(int(count), len(data))):
                sink.sendall(data[at : at + 1])
                time.sleep(0.001)
            sink.sendall(data[int(count) :])
        case _:
            sink.sendall(data)


if __name__ == "__main__":
    main()
