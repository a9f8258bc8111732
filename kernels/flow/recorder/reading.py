"""Reading one capsule, at any time: while it is written, after its end, and after its process was killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import columns, journal
from . import events as kinds
from .files import whole_tables


def telemetry(capsule: str | Path) -> pa.Table:
    """The rows in order of iterations; of two rows for one iteration (a resumed or rolled back run) the later one."""
    table = _table(Path(capsule), "telemetry", columns.SCHEMA)
    order = pc.sort_indices(table, [("iter", "ascending"), ("seq", "ascending")])
    table = table.take(order)
    iterations = table["iter"].to_numpy()
    last = np.append(iterations[1:] != iterations[:-1], True) if iterations.size else np.zeros(0, bool)
    return table.filter(pa.array(last))


def events(capsule: str | Path) -> list[dict[str, Any]]:
    """The events in order, payloads parsed: those of events.parquet and its parts, and those so far only in the log."""
    found = {
        row["seq"]: {**row, "payload": json.loads(row["payload"])} for row in _table(Path(capsule), "events", kinds.SCHEMA).to_pylist()
    }
    for record in journal.events(Path(capsule)):
        found.setdefault(record["seq"], {name: record[name] for name in kinds.SCHEMA.names})
    return [found[seq] for seq in sorted(found)]


def numbers(table: pa.Table, column: str) -> np.ndarray[Any, Any]:
    """A column as floats, NaN where it is null."""
    return np.asarray(table[column].to_numpy(zero_copy_only=False), float)


def _table(capsule: Path, name: str, schema: pa.Schema) -> pa.Table:
    # When a run ends its parts become one file; a part that is gone between listing and reading is in the file at the second look.
    for patience in (0.05, 0.2, None):
        paths = whole_tables([capsule / f"{name}.parquet", *sorted((capsule / name).glob("part-*.parquet"))])
        try:
            tables = [pq.read_table(path, partitioning=None) for path in paths]
        except FileNotFoundError:
            if patience is None:
                raise
            time.sleep(patience)
            continue
        return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
    raise AssertionError("unreachable")
