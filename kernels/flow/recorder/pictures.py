"""Arrays as PNG images inside a page: enough of the format (RFC 2083) for 8 bit grey and colour, so a report needs no image library."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

SIDE = 900


def picture_of(array: np.ndarray[Any, Any], least: int = 8) -> np.ndarray[Any, Any] | None:
    """An array as (height, width) or (height, width, 3), whether its channels are first or last; None where it is no image, with another
    number of channels or a side of fewer than `least`."""
    if array.ndim == 3 and array.shape[2] != 3:
        array = np.moveaxis(array, 0, -1)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    return array if fits and array.dtype.kind in "biuf" and min(array.shape[:2]) >= least else None


def shown_range(*arrays: np.ndarray[Any, Any]) -> tuple[float, float]:
    """What is black and what is white, the same for images that are compared: 0 and 1 or 0 and 255 where they fit, else the extremes."""
    finite = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    for white in (1.0, 255.0):
        # Ringing a little beyond the range of a photograph does not make it another range.
        if low >= -0.25 * white and 0.3 * white < high <= 1.25 * white:
            return 0.0, white
    return low, high if high > low else low + 1.0


def data_uri(array: np.ndarray[Any, Any], low: float, high: float) -> str:
    """An image as a data URI; larger ones are made smaller by whole factors, averaging."""
    values = np.nan_to_num(np.asarray(array, np.float64), nan=low, posinf=high, neginf=low)
    factor = -(-max(values.shape[:2]) // SIDE)
    if factor > 1:
        rows, columns = (side // factor * factor for side in values.shape[:2])
        shape = (rows // factor, factor, columns // factor, factor, *values.shape[2:])
        values = values[:rows, :columns].reshape(shape).mean(axis=(1, 3))
    levels = np.clip(np.rint(255 * (values - low) / (high - low)), 0, 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(levels)).decode()


def png(levels: np.ndarray[Any, Any]) -> bytes:
    """An array of bytes, (height, width) or (height, width, 3), as a PNG file. Each row is stored as differences to the row above."""
    height, width = levels.shape[:2]
    rows = levels.reshape(height, -1)
    up = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))  # wraps modulo 256, as the filter wants
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), up], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if levels.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
