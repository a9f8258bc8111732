"""What `--health-check` looks at: whether this Python can run a worker. Imports nothing heavy, so that it answers at once."""

from __future__ import annotations

import subprocess
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


def adapter_problem(adapter: str) -> str:
    """Why a user's adapter cannot be used; empty when it can. It is imported in a process like the one it will run in."""
    command = [sys.executable, "-P", "-m", "bridge_adapter.user_adapter", adapter]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace", check=False
    )
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing the adapter {adapter} ended its process with status {done.returncode}"


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
