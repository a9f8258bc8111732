"""`snakebridge_adapter.SnakeBridgeAdapter` is ours; any other name comes from SnakeBridge's own module, which is loaded only then."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

from bridge_adapter.adapter import SnakeBridgeAdapter
from bridge_adapter.compat import original

__all__ = ["SnakeBridgeAdapter"]


def __getattr__(name: str) -> Any:
    theirs = None if name.startswith("__") else _theirs()
    if theirs is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(theirs, name)


@cache
def _theirs() -> ModuleType | None:
    spec = original(__name__.rpartition(".")[2])
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
