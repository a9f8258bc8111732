"""Dynamic batching: 32 concurrent Elixir callers of a JAX model, each with one row at a time, with and without a batcher."""

from __future__ import annotations

from . import elixir
from .report import Row, note


def run() -> list[Row]:
    """Every row of the suite: calls per second either way, and their ratio `batching_gain`."""
    note("batching: a JAX model and 32 callers, with and without batching, in turns")
    return elixir.run("batching.exs")
