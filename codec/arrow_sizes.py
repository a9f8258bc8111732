"""How large the buffers of an Arrow stream say they are once decompressed: a megabyte of zstd may hold gigabytes.

pyarrow decompresses whatever it reads and has no limit to set, so the metadata of the record batches is looked at first: the few fields
of Message, RecordBatch and Buffer, as flatbuffers lay them out (Arrow's format/Message.fbs).
"""

from __future__ import annotations

import struct
from typing import Any

from .errors import LimitExceeded
from .limits import DEFAULT

_DICTIONARY, _BATCH = 2, 3  # MessageHeader


def check(data: Any) -> None:
    """Raises LimitExceeded for a stream whose buffers together are larger than a frame. What is malformed is for pyarrow to refuse."""
    import pyarrow as pa

    total = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(data)):
        if message.body is None or not message.body.size:
            continue
        total += _uncompressed(bytes(message.metadata), memoryview(message.body))
        if total > DEFAULT.frame:
            raise LimitExceeded(
                f"the compressed buffers of an Arrow stream hold more than max_frame = {DEFAULT.frame} bytes; send it in parts"
            )


def _uncompressed(metadata: bytes, body: memoryview) -> int:
    message = _Table(metadata, struct.unpack_from("<I", metadata)[0])
    kind = message.byte(1)
    header = message.table(2)
    batch = header.table(1) if header is not None and kind == _DICTIONARY else header
    if kind not in (_DICTIONARY, _BATCH) or batch is None or batch.table(3) is None:
        return 0
    sizes = 0
    for offset, length in batch.pairs(2):
        if length >= 8:
            sizes += max(struct.unpack_from("<q", body, offset)[0], length)
    return sizes


class _Table:
    """A table of flatbuffers: fields by their number."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot >= self._size:
            return None
        offset: int = struct.unpack_from("<H", self._data, self._fields + slot)[0]
        return self._at + offset if offset else None

    def byte(self, number: int) -> int:
        at = self._field(number)
        return 0 if at is None else self._data[at]

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return None if at is None else _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0])

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        at = self._field(number)
        if at is None:
            return []
        start = at + struct.unpack_from("<I", self._data, at)[0]
        count = struct.unpack_from("<I", self._data, start)[0]
        return [struct.unpack_from("<qq", self._data, start + 4 + 16 * index) for index in range(count)]
