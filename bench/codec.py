"""The codec by itself, in both languages: speed, size on the wire, and ratios to what else could carry the same values.

In Python `packed` takes turns with msgpack without our types (the floor), orjson (bytes as base64) and pickle 5; bench/codec.exs does the
same in Elixir with the external term format and jiffy. A ratio is the other's time over ours: above 1 we are faster. The rows without a
shape are the worst of their kind.
"""

from __future__ import annotations

import base64
import gc
import pickle
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import numpy as np
import orjson
import pyarrow as pa

from bridge_adapter.codec.packed import Packer, Unpacker

from . import elixir
from .report import Row, note

ROUNDS = 9
SAMPLE = 0.004  # seconds; a sample of something short is as many runs as fit in this

Contender = Callable[[], object]
MIXED = ("small", "records", "strings")
NUMERIC = ("floats", "ints")
BINARY = ("bytes", "array")


def run() -> list[Row]:
    """Every row of the suite."""
    note("codec: Python")
    rows = [row for shape, value in shapes().items() for row in python_rows(shape, value)]
    note("codec: Elixir")
    rows += elixir.run("codec.exs", "--no-start")
    note("codec: shared memory")
    rows += elixir.run("shared.exs")
    return rows + summary(rows)


def shapes() -> dict[str, Any]:
    """The values; those of bench/codec.exs are the same."""
    return {
        "small": {
            "library": "math",
            "python_module": "math",
            "function": "sqrt",
            "args": [16],
            "kwargs": {},
            "session_id": "session_12_1",
            "call_type": "function",
            "idempotent": False,
        },
        "records": {"page": 1, "records": [_record(i) for i in range(1000)]},
        "floats": [i / 7 for i in range(1, 100_001)],
        "ints": list(range(1_000_000)),
        "strings": [f"string number {i:016}" for i in range(10_000)],
        "bytes": b"\x00\xff\x80\x07" * 4_000_000,
        "array": np.arange(1_000_000, dtype=np.float64),
        "table": pa.table(
            {"key": range(100_000), "price": [i / 3 for i in range(100_000)], "name": [f"item {i}" for i in range(100_000)]},
        ),
    }


def _record(i: int) -> dict[str, Any]:
    return {
        "id": 1_000_003 * i,
        "name": f"Reader Number {i}",
        "email": f"reader.{i}@example.org",
        "score": i / 7,
        "active": i % 2 == 0,
        "parent": None,
        "tags": ["alpha", "beta", f"tag-{i % 10}"],
        "address": {"street": f"{i} Long Street", "zip": str(10_000 + i), "position": [i / 11 - 45, i / 13 + 8]},
    }


def python_rows(shape: str, value: Any) -> list[Row]:
    packer, unpacker = Packer(), Unpacker()
    wire = packer.pack(value)
    encode: dict[str, Contender] = {"packed": lambda: packer.pack(value)}
    decode: dict[str, Contender] = {"packed": lambda: unpacker.unpack(wire)}
    for name, (write, read) in peers(shape, value).items():
        data = write()
        encode[name] = write
        decode[name] = partial(read, data)
    rows = [Row(f"{shape}.wire", float(len(wire)), "bytes", 1)]
    for direction, contenders in (("encode", encode), ("decode", decode)):
        rows += _rows(f"{shape}.python.{direction}", len(wire), medians(contenders))
    return rows


def peers(shape: str, value: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How the others write and read a shape. msgpack is left out where it has no form for the value."""
    found: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {}
    if shape in BINARY:
        data = memoryview(value).cast("B")
        found["copy"] = (lambda: bytes(data), lambda copied: bytes(memoryview(copied)))
    if shape not in ("array", "table"):
        plain = msgpack.Packer()
        found["msgpack"] = (lambda: plain.pack(value), lambda data: msgpack.unpackb(data, strict_map_key=False))
    match value:
        case bytes():
            found["orjson"] = (lambda: orjson.dumps(_text(value)), lambda data: base64.b64decode(orjson.loads(data)))
        case np.ndarray():
            found["orjson"] = (lambda: orjson.dumps([value.dtype.str, value.shape, _text(value)]), _array_of_json)
        case pa.Table():
            found["orjson"] = (lambda: orjson.dumps(value.to_pylist()), lambda data: pa.Table.from_pylist(orjson.loads(data)))
        case _:
            found["orjson"] = (lambda: orjson.dumps(value), orjson.loads)
    found["pickle"] = (lambda: pickle.dumps(value, protocol=5), pickle.loads)
    return found


def _text(data: Any) -> str:
    return base64.b64encode(data).decode()


def _array_of_json(data: bytes) -> object:
    dtype, dims, text = orjson.loads(data)
    return np.frombuffer(bytearray(base64.b64decode(text)), dtype).reshape(dims)


def _rows(id: str, size: int, taken: dict[str, float]) -> list[Row]:
    """The first peer stands in the row of the speed, the others have rows of their own."""
    seconds = taken.pop("packed")
    (name, other), *others = taken.items()
    rows = [Row(id, size / seconds / 1e6, "MB/s", ROUNDS, ratio=other / seconds, ratio_to=name)]
    return rows + [Row(f"{id}.vs_{name}", other / seconds, "x", ROUNDS, ratio=other / seconds, ratio_to=name) for name, other in others]


def medians(contenders: dict[str, Contender]) -> dict[str, float]:
    """Seconds of each. They take turns, with a garbage collection before each, so that noise meets them alike."""
    counts = {name: repeats(once) for name, once in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, once in contenders.items():
            gc.collect()
            samples[name].append(seconds(once, counts[name]))
    return {name: statistics.median(taken) for name, taken in samples.items()}


def repeats(once: Contender) -> int:
    once()
    return max(1, int(SAMPLE / seconds(once, 3)))


def seconds(once: Contender, n: int) -> float:
    started = time.perf_counter()
    for _ in range(n):
        once()
    return (time.perf_counter() - started) / n


def summary(rows: list[Row]) -> list[Row]:
    """What the project asks of the codec, each the worst row of its kind; without jiffy there is none about it."""
    kinds = {
        "py_floor": [row for row in rows if row.ratio_to == "msgpack"],
        "ex_generic": [row for row in rows if row.ratio_to == "etf" and row.id.startswith(MIXED)],
        "ex_numeric": [row for row in rows if row.ratio_to == "etf" and row.id.startswith(NUMERIC)],
        "ex_vs_jiffy": [row for row in rows if row.ratio_to == "jiffy"],
    }
    found = [_worst(name, of_kind) for name, of_kind in kinds.items() if of_kind]
    slowest = _worst("array_vs_copy", [row for row in rows if row.ratio_to == "copy"])
    times = 1 / slowest.value
    return [*found, Row(slowest.id, times, "x", ROUNDS, ratio=times, ratio_to=slowest.ratio_to)]


def _worst(name: str, rows: list[Row]) -> Row:
    worst = min(rows, key=lambda row: row.ratio or 0.0)
    ratio = worst.ratio or 0.0
    return Row(name, ratio, "x", ROUNDS, ratio=ratio, ratio_to=f"{worst.ratio_to} ({worst.id})")
