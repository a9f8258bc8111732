"""What crash safety costs, the journal on the path of a call, and what it gives: recovery, calls that fail, restarts, fairness."""

from __future__ import annotations

from . import elixir
from .report import Row, note


def run() -> list[Row]:
    """`journal_us` and `journal_fsync_us` (how much longer an idempotent call takes than the same call without a key), and what a kill
    -9, a rolling restart, a drain and a flood do to callers."""
    note("reliability: calls with and without the journal, in turns")
    rows = elixir.run("reliability.exs")
    note("reliability: workers are killed, for three minutes")
    return rows + elixir.run("recovery.exs")
