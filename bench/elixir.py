"""Runs an Elixir benchmark script and reads its rows: tab-separated lines
`ROW id value unit n p50_us p99_us ratio ratio_to`, empty fields allowed. A line `NOTE text` is passed on to the user.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .report import Row, note

ROOT = Path(__file__).parent.parent


def run(script: str, *options: str) -> list[Row]:
    """The rows of bench/<script>, run by mix with options of its own. Raises RuntimeError with what the script printed when it fails."""
    environment = {**os.environ, "MIX_ENV": "prod", "SNAKEBRIDGE_PYTHON": sys.executable, "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")}
    command = ["mix", "run", *options, f"bench/{script}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("NOTE\t"):
            note(line.removeprefix("NOTE\t"))
    rows = [_row(line) for line in done.stdout.splitlines() if line.startswith("ROW\t")]
    if done.returncode or not rows:
        raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return rows


def _row(line: str) -> Row:
    _, id, value, unit, n, *optional, ratio_to = line.split("\t")
    p50, p99, ratio = (float(field) if field else None for field in optional)
    return Row(id, float(value), unit, int(n), p50, p99, ratio, ratio_to or None)
