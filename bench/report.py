"""Rows, the machine they were measured on, and how they are printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Row:
    """One measurement. `target` is what the project asks of it, as (comparison, bound); ratios name the row they are a ratio to."""

    id: str
    value: float
    unit: str
    n: int
    p50_us: float | None = None
    p99_us: float | None = None
    ratio: float | None = None
    ratio_to: str | None = None

    def as_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items() if value is not None}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    try:
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    except OSError:
        pass
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def timed(samples_us: Iterable[float], seconds: float, id: str) -> Row:
    """A row of calls per second with its percentiles, from the duration of each call."""
    ordered = sorted(samples_us)
    n = len(ordered)
    return Row(id, n / seconds, "calls/s", n, statistics.median(ordered), ordered[min(n - 1, int(n * 0.99))])


def show(rows: list[Row], as_json: bool) -> None:
    """Prints one JSON object, or a table."""
    if as_json:
        print(json.dumps({"machine": machine(), "rows": [row.as_json() for row in rows]}))
        return
    print(f"{'row':<32}{'value':>14}  {'unit':<9}{'p50 us':>9}{'p99 us':>9}{'ratio':>9}  to")
    for row in rows:
        p50, p99 = (f"{x:.1f}" if x is not None else "" for x in (row.p50_us, row.p99_us))
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        value = f"{row.value:,.{2 if row.unit in ('x', 's') else 1}f}"
        print(f"{row.id:<32}{value:>14}  {row.unit:<9}{p50:>9}{p99:>9}{ratio:>9}  {row.ratio_to or ''}")


def note(text: str) -> None:
    """Progress, on stderr so that --json stays clean."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


Suite = Callable[[], list[Row]]
