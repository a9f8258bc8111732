"""What `--health-check` looks at: whether this Python can run a worker. Imports nothing heavy, so that it answers at once."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = {
    "bridge_adapter.executor": "bridge-adapter",
    "bridge_adapter.codec": "bridge-adapter",
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
    "msgpack": "msgpack",
}


def problems() -> list[str]:
    """What is missing in this Python installation, as sentences."""
    return [
        f"{module} is not installed for {sys.executable}; run: {sys.executable} -m pip install {package}"
        for module, package in _NEEDED.items()
        if not _found(module)
    ]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
