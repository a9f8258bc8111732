"""`python -P -m bridge_adapter.tools.introspect REQUEST ANSWER`: reads one packed request, writes the packed answer."""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path

from bridge_adapter.codec.errors import CodecError
from bridge_adapter.codec.packed import Packer, Unpacker

from .describe import describe
from .request import InvalidRequest

USAGE = "usage: python -P -m bridge_adapter.tools.introspect REQUEST ANSWER   (two files, each of one packed term)"


def main(arguments: list[str]) -> int:
    """The exit status: 0 when ANSWER is written, 1 when there is nothing to answer, 2 for a wrong command line."""
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    _undisturbed()
    try:
        asked = Unpacker().unpack(source.read_bytes())
        answer = Packer().pack(describe(asked))
        # Whole or not at all: a reader never meets half an answer.
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(answer)
        partial.replace(target)
    except (OSError, CodecError, InvalidRequest) as error:
        print(f"introspection of {source} failed: {error}", file=sys.stderr)
        return 1
    return 0


def _undisturbed() -> None:
    """A library that reads input on import meets its end instead of waiting; one that crashes in C leaves a trace."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    faulthandler.enable()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and exit handlers of the libraries have nothing to add.
    os._exit(status)
