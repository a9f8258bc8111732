"""Default values as text, the same in every run: no addresses, sets in order, nothing longer than a line can hold."""

from __future__ import annotations

import enum
import types
from typing import Any

_MAX = 80
UNSHOWN = "..."


def shown(value: Any) -> str:
    """The text of a default value; "..." for what has none that tells anything."""
    try:
        text = _shown(value, 0)
    except Exception:  # a repr of the user's that fails
        return UNSHOWN
    return text if len(text) <= _MAX else UNSHOWN


def _shown(value: Any, depth: int) -> str:
    if depth > 4:
        return UNSHOWN
    kind = type(value)
    if kind in (list, tuple):
        items = ", ".join(_shown(item, depth + 1) for item in value)
        return f"[{items}]" if kind is list else f"({items},)" if len(value) == 1 else f"({items})"
    if kind is dict:
        return "{" + ", ".join(f"{_shown(key, depth + 1)}: {_shown(item, depth + 1)}" for key, item in value.items()) + "}"
    if kind in (set, frozenset):
        items = "{" + ", ".join(sorted(_shown(item, depth + 1) for item in value)) + "}" if value else "set()"
        return items if kind is set else f"frozenset({items if value else ''})"
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value.name}"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return value.__qualname__ if value.__module__ in ("builtins", None) else f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, types.ModuleType):
        return value.__name__
    text = repr(value)
    if not isinstance(text, str) or "\n" in text or text.startswith("<") or " at 0x" in text:
        return UNSHOWN
    return text
