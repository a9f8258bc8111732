"""Arrow arrays from their buffers and back. What pyarrow offers for it (`pyarrow.array`, `to_numpy`) imports pandas where that is
installed, which takes longer than a short run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_TYPES = {"i": (np.int64, pa.int64()), "f": (np.float64, pa.float64())}


def numbers(values: np.ndarray[Any, Any], empty: np.ndarray[Any, Any] | None = None) -> pa.Array:
    """int64 of whole numbers, float64 of others; null where `empty`."""
    dtype, kind = _TYPES["f" if values.dtype.kind == "f" else "i"]
    data = np.ascontiguousarray(values, dtype)
    return pa.Array.from_buffers(kind, data.size, [_validity(empty), pa.py_buffer(data)])


def texts(values: Sequence[str | None]) -> pa.Array:
    """Strings; null where None."""
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.concatenate([[0], np.cumsum([len(value) for value in encoded], dtype=np.int64)]).astype(np.int32)
    empty = np.array([value is None for value in values])
    buffers = [_validity(empty if empty.any() else None), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def values(array: pa.Array) -> np.ndarray[Any, Any]:
    """What `numbers` made of floats without nulls."""
    return np.frombuffer(array.buffers()[1], np.float64)


def _validity(empty: np.ndarray[Any, Any] | None) -> pa.Buffer | None:
    return None if empty is None else pa.py_buffer(np.packbits(~empty, bitorder="little"))
