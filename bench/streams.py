"""`stream_lane`: a lazy stream of 100 000 integers, consumed in Elixir; `stream_memory`: what a million of them leave behind."""

from __future__ import annotations

from . import elixir
from .report import Row, note


def run() -> list[Row]:
    note("streams: Elixir consumes streams over the lane")
    return elixir.run("streams.exs")
