"""What a capsule may keep of data that must not be kept: shape, type, summary statistics, and a salted digest.

Numbers and short lists pass; an array of more than `LIMIT` elements does not, wherever it comes from.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

LIMIT = 64
# Events whose reason may be the text of an error, "<type>: <message>".
QUOTING = ("INVARIANT_VALIDATION_ERROR", "TUNING_FAILED")


class Redactor:
    """Summaries under one secret key. Without a key a random one is used and forgotten with the process: digests then compare within the
    run, and nobody can confirm a guess about the data from the capsule."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def digest(self, content: bytes | memoryview) -> str:
        """HMAC-SHA-256 of the content."""
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def summary(self, value: Any) -> dict[str, Any]:
        """What may be kept of an array, or of a file's bytes."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {"bytes": len(value), "sha256_salted": self.digest(bytes(value))}
        return {**statistics(value), "sha256_salted": self.digest(np.ascontiguousarray(value).tobytes())}

    def event(self, kind: str, payload: Mapping[str, Any]) -> Any:
        """What may be kept of an event: of the text of an error, which may quote data, its type."""
        cut = {**payload, "reason": str(payload["reason"]).partition(":")[0]} if kind in QUOTING else payload
        return self.shrunk(cut)

    def shrunk(self, value: Any) -> Any:
        """Plain data with every array of more than `LIMIT` elements replaced by its summary, and digests of arrays salted."""
        if isinstance(value, Mapping):
            if "array" in value and "sha256" in value:
                return {
                    **{key: item for key, item in value.items() if key != "sha256"},
                    "sha256_salted": self.digest(str(value["sha256"]).encode()),
                }
            return {str(key): self.shrunk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return (
                self.summary(np.asarray(value)) if _elements(value) > LIMIT and _numeric(value) else [self.shrunk(item) for item in value]
            )
        if hasattr(value, "__array__"):
            return self.summary(value) if np.size(value) > LIMIT else np.asarray(value).tolist()
        return value


def statistics(value: Any) -> dict[str, Any]:
    """Shape, type, and for numbers the least, greatest and mean value and the standard deviation of the finite ones."""
    array = np.asarray(value)
    told: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if array.dtype.kind in "biuf" and array.size:
        finite = array[np.isfinite(array)].astype(np.float64)
        told["finite"] = int(finite.size)
        if finite.size:
            told |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean()), "std": float(finite.std())}
    return told


def _elements(value: Any) -> int:
    return sum(_elements(item) for item in value) if isinstance(value, (list, tuple)) else 1


def _numeric(value: Any) -> bool:
    return all(_numeric(item) for item in value) if isinstance(value, (list, tuple)) else isinstance(value, (bool, int, float, np.number))
