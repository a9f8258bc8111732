"""The script that Snakepit starts: `grpc_server.py --adapter X --port 0 --elixir-address HOST:PORT ...` (docs/gateway.md).

It keeps its name and its flags in the command line, by which Snakepit knows its processes again.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge_adapter.gateway.options import Options


def _own_path() -> None:
    """Started by path, Python puts this folder first in sys.path, where our modules would shadow everybody's. And what PYTHONPATH names
    is there for user code, which runs in the executor: another version of protobuf, say, must not become ours."""
    here = os.path.dirname(os.path.realpath(__file__))
    users = {os.path.realpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    entries = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    sys.path[:] = [entry for entry in entries if os.path.realpath(entry or ".") not in users]
    if not all(map(find_spec, ("bridge_adapter", "grpc", "google", "msgpack"))):
        sys.path[:] = entries  # this is how we are installed


if __name__ == "__main__":
    _own_path()


def main(argv: list[str]) -> int:
    """Runs the gateway, or the health check. Returns the exit status."""
    try:
        from bridge_adapter import lifeline
        from bridge_adapter.gateway import health, options, parent
    except ImportError as error:
        print(f"grpc_server.py: {error}; run: {sys.executable} -m pip install bridge-adapter", file=sys.stderr)
        return 1
    settings = options.parse(argv, os.environ)
    if not settings.health_check:
        if settings.own_group:
            lifeline.own_group()
        if settings.ready_file:
            parent.watch()
    missing = health.problems()
    for problem in missing:
        print(f"bridge_adapter.gateway: {problem}", file=sys.stderr)
    if settings.health_check and not missing and settings.user_adapter:
        problem = health.adapter_problem(settings.user_adapter)
        if problem:
            print(problem, file=sys.stderr)
            return 1
    if missing or settings.health_check:
        return 1 if missing else 0
    return _serve(settings)


def _serve(settings: Options) -> int:
    import logging
    import signal

    from bridge_adapter.gateway import executor_process, options, output, parent

    logging.basicConfig(level=settings.log_level, handlers=[output.LogHandler()])
    if settings.max_message > options.MAX_MESSAGE:
        # Whoever lets larger messages in wants them to reach the executor. What is around the parameters there is not larger than 1 MiB.
        os.environ.setdefault("BRIDGE_ADAPTER_MAX_FRAME", str(settings.max_message + (1 << 20)))
    executor: executor_process.ExecutorProcess | None = None
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if executor is not None:
            executor.kill()
            os._exit(0)

    # Until the server listens to signals itself. The executor does not watch us yet: it is only just starting, or about to.
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        executor = executor_process.ExecutorProcess(settings.executor_arguments)
    except OSError as error:
        print(f"bridge_adapter.gateway: cannot start {sys.executable} or make its socket: {error}", file=sys.stderr)
        return 1
    parent.at_death(executor.kill)
    if ending:
        end()
    # Importing gRPC takes as long as the executor needs to come up: both at once.
    from bridge_adapter.gateway import server

    return server.serve(settings, executor)


def _flush_log() -> None:
    output = sys.modules.get("bridge_adapter.gateway.output")
    if output is not None:
        output.STDERR.flush()


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    _flush_log()
    # Neither gRPC's threads nor anything else may hold up the end.
    os._exit(status)
