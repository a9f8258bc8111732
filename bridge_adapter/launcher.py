"""`bridge-adapter-python`: a Python interpreter for `SNAKEPIT_PYTHON` that starts our gateway where Snakepit starts its own worker script.

`grpc_server.py` and `grpc_server_threaded.py` become `bridge_adapter/gateway/grpc_server.py` with the same flags. Everything else (`-c`,
`-m`, `--version`, other scripts, `--health-check`) is the plain interpreter's. Imports nothing but os and sys: Snakepit runs it often.
"""

from __future__ import annotations

import os
import sys

WORKER_SCRIPTS = ("grpc_server.py", "grpc_server_threaded.py")
GATEWAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gateway", "grpc_server.py")
_HEALTH_CHECK = "--health-check"
# Of the interpreter's options: those that end the options, and those that take a value.
_PROGRAMS = "cm"
_WITH_VALUE = "WX"
_LONG_WITH_VALUE = "--check-hash-based-pycs"


def command(arguments: list[str]) -> list[str]:
    """The arguments for the plain interpreter that do what `arguments` ask of this one."""
    place = script_place(arguments)
    if place is None or os.path.basename(arguments[place]) not in WORKER_SCRIPTS or _HEALTH_CHECK in arguments[place:]:
        return arguments
    return [*arguments[:place], GATEWAY, *arguments[place + 1 :]]


def script_place(arguments: list[str]) -> int | None:
    """Where among the interpreter's arguments the script stands; None when they run something else."""
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        if argument == "--":
            return place + 1 if place + 1 < len(arguments) else None
        if argument == "-" or not argument.startswith("-"):
            return None if argument == "-" else place
        place += 1
        if argument.startswith("--"):
            place += argument == _LONG_WITH_VALUE
            continue
        for at, letter in enumerate(argument[1:], start=2):
            if letter in _PROGRAMS:
                return None
            if letter in _WITH_VALUE:
                place += at == len(argument)  # the value is the rest of this argument, or the whole next one
                break
    return None


def main() -> None:
    """Becomes the plain interpreter, which keeps the process id and the name `python`."""
    os.execv(sys.executable, [sys.executable, *command(sys.argv[1:])])


if __name__ == "__main__":
    main()
