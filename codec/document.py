"""The tables of docs/types.md, generated from `types.TABLE`: `python -m bridge_adapter.codec.document docs/types.md` writes them anew."""

from __future__ import annotations

import sys
from pathlib import Path

from .types import CANONICAL, TABLE, Type

BEGIN, END = "<!-- generated: the table -->", "<!-- end of the generated table -->"


def tables() -> str:
    """The type table as Markdown."""
    parts = []
    for family, rows in TABLE.items():
        parts += [f"### {family}", "", "| Python | Elixir | Round trip | `packed` | `tagged` 1 | `tagged` 2 |", "|---|---|---|---|---|---|"]
        parts += [_row(row) for row in rows]
        parts.append("")
    return "\n".join(parts)


def _row(row: Type) -> str:
    round_trip = f"canonical: {', '.join(f'`{text}`' for text in row.becomes)}" if row.round_trip == CANONICAL else row.round_trip
    cells = (row.python, row.elixir, round_trip, row.packed, row.schema1, row.schema2)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def inserted(page: str) -> str:
    """The page with the table in its place. Raises ValueError when the page has no place for it."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{head}{begin}\n\n{tables()}\n{end}{tail}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(inserted(path.read_text(encoding="utf-8")), encoding="utf-8")
