"""The three ways into this product that Snakepit can be configured for, as launchers of the stand-in's pool."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pool_worker import Launcher
from server_process import THEIR_SERVER, USER_CODE, stubs

OWN_USER_CODE = Path(__file__).parent / "python"
USERS = (USER_CODE, OWN_USER_CODE)

GATEWAY, LAUNCHER, ADAPTER = "gateway", "launcher", "adapter"
WAYS = (GATEWAY, LAUNCHER, ADAPTER)


def launcher(way: str, directory: Path, *flags: str, env: Mapping[str, str] | None = None) -> Launcher:
    """`directory` becomes the worker's TMPDIR parent: what the worker leaves in `directory/tmp` it has forgotten to remove."""
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(temporary), **(env or {})}
    if way == GATEWAY:
        return Launcher(flags=flags, python_path=USERS, env=environment)
    theirs = THEIR_SERVER / "grpc_server.py"
    path = (_stubs(), *USERS)
    if way == LAUNCHER:
        python = str(Path(sys.executable).parent / "bridge-adapter-python")
        return Launcher(
            python=python, script=theirs, adapter="bridge_adapter.SnakeBridgeAdapter", flags=flags, python_path=path, env=environment
        )
    return Launcher(script=theirs, adapter="bridge_adapter.SnakeBridgeAdapter", flags=flags, python_path=path, env=environment)


@cache
def _stubs() -> Path:
    """Made once, so that each of the workers finds them compiled."""
    directory = Path(tempfile.mkdtemp(prefix="stubs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return stubs(directory)
