"""Large values: 16 MB of bytes and 1e5 floats through Python and back, and an array of 1e6 doubles to Elixir."""

from __future__ import annotations

from . import elixir
from .report import Row, note


def run() -> list[Row]:
    note("payloads: large values from Elixir and back over the lane")
    return elixir.run("payloads.exs")
