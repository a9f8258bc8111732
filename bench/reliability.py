"""What crash safety costs: the journal of idempotent calls on the path of a call."""

from __future__ import annotations

from . import elixir
from .report import Row, note


def run() -> list[Row]:
    """`journal_us` and `journal_fsync_us`: how much longer an idempotent call takes than the same call without a key."""
    note("reliability: calls with and without the journal, in turns")
    return elixir.run("reliability.exs")
