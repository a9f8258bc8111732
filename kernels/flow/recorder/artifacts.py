"""What an artifact becomes on the disk: its file name and its bytes. A redacted capsule holds summaries in the place of arrays."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import events
from .errors import RecordInvalid
from .redaction import LIMIT, Redactor

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def content(name: str, value: Any, redactor: Redactor | None) -> tuple[str, bytes]:
    """The file of an artifact; see `Capsule.artifact`. Raises RecordInvalid for a name that would leave its folder."""
    if not _NAME.fullmatch(name):
        raise RecordInvalid(f"an artifact is called {name!r}; names are letters, digits, '.', '_' and '-', at most 100, no folders")
    if isinstance(value, Mapping):
        held = redactor.shrunk(value) if redactor is not None else value
        return f"{name}.json", json.dumps(events.plain(held, name), indent=1).encode()
    made = value.encode() if isinstance(value, str) else value
    small = not isinstance(made, bytes) and np.size(made) <= LIMIT
    if redactor is not None and not small:
        return f"{name}.json", json.dumps(redactor.summary(made), indent=1).encode()
    if isinstance(made, bytes):
        return name, made
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(made), allow_pickle=False)
    return f"{name}.npy", buffer.getvalue()
