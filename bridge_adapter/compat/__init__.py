"""The names under which Snakepit's configurations know SnakeBridge's adapter, for those that shall stay as they are:

    snakebridge_adapter.SnakeBridgeAdapter                  as SnakeBridge has it now
    snakepit_bridge.adapters.default.DefaultAdapter         as it was before

Our gateway takes any name. Snakepit's own server imports the name, and finds ours when this folder stands in PYTHONPATH before those of
Snakepit and SnakeBridge; `python -m bridge_adapter.compat` prints it. Nothing is shadowed otherwise: installed, the folder is on no path.
What the original modules hold besides stays reachable under their names, and the executor, where user code runs, sees only the originals.

Python puts the folder of the server's script before PYTHONPATH. Where that folder holds a `snakepit_bridge`, as Snakepit's does, the older
name is out of reach: use the newer one, or `bridge_adapter.SnakeBridgeAdapter`, which needs no folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))


def withdrawn(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without this folder in PYTHONPATH, for processes that shall see the originals."""
    path = environment.get("PYTHONPATH")
    if not path:
        return dict(environment)
    entries = [entry for entry in path.split(os.pathsep) if not _is_ours(entry)]
    return {**environment, "PYTHONPATH": os.pathsep.join(entries)}


def original(name: str, path: list[str] | None = None) -> ModuleSpec | None:
    """Where the module lies that ours stands before, if there is one. `path`: of the package it belongs to."""
    spec = PathFinder.find_spec(name, [entry for entry in (sys.path if path is None else path) if not _is_ours(entry)])
    return spec if spec is not None and spec.loader is not None else None


def extend(namespace: dict[str, Any]) -> None:
    """Makes a package of ours one with the original: its modules come after ours, its own code runs here."""
    name, own = namespace["__name__"], namespace["__path__"]
    parent = sys.modules.get(name.rpartition(".")[0])
    spec = original(name, list(parent.__path__) if parent is not None else None)
    if spec is None:
        return
    own += spec.submodule_search_locations or ()
    code = getattr(spec.loader, "get_code", lambda _: None)(name)
    if code is not None:
        namespace["__file__"] = spec.origin
        exec(code, namespace)


def _is_ours(entry: str) -> bool:
    place = os.path.realpath(entry or os.getcwd())
    ours = os.path.realpath(FOLDER)
    return place == ours or place.startswith(ours + os.sep)
