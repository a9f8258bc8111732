"""A helper file in the pack that lies beside SnakeBridge's adapter."""

from __future__ import annotations

import re
from typing import Any


def list_with_pattern() -> list[Any]:
    return [1, re.compile("a"), 3]


__snakebridge_helpers__ = {"graceful_serialization.list_with_pattern": list_with_pattern}
