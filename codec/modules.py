"""Looking at modules without importing them: a class can only be met once its module is loaded."""

from __future__ import annotations

import sys
from typing import Any


def loaded(module: str, *names: str) -> tuple[Any, ...] | None:
    """Attributes of a module that somebody has imported; None when nobody has, or another thread is still at it."""
    found = tuple(getattr(sys.modules.get(module), name, None) for name in names)
    return None if None in found else found
