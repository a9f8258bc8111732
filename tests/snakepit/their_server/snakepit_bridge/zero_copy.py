"""The hook of results: what an instance says in `to_payload` is sent in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ZeroCopyRef:
    """A value that stays where it is; Elixir gets its description."""

    kind: str
    device: str
    dtype: str
    shape: tuple[int, ...]
    owner: str = "python"
    ref: str = ""
    copy: bool = False
    bytes: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_payload(self) -> Any:
        return {"__snakepit_zero_copy__": True, **self.__dict__}
