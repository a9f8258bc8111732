"""Runs an Elixir benchmark script and reads its rows: tab-separated lines `ROW id value unit n p50_us p99_us`, empty fields allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .report import Row

ROOT = Path(__file__).parent.parent


def run(script: str) -> list[Row]:
    """The rows of bench/<script>. Raises RuntimeError with what the script printed when it fails."""
    environment = {**os.environ, "MIX_ENV": "prod", "SNAKEBRIDGE_PYTHON": sys.executable, "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")}
    command = ["mix", "run", f"bench/{script}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    rows = [_row(line) for line in done.stdout.splitlines() if line.startswith("ROW\t")]
    if done.returncode or not rows:
        raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return rows


def _row(line: str) -> Row:
    _, id, value, unit, n, p50, p99 = line.split("\t")
    return Row(id, float(value), unit, int(n), float(p50) if p50 else None, float(p99) if p99 else None)
