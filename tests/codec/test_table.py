"""The type table is true: every example of every row travels in the forms that the row names, and comes back as it says."""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import json
import pathlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import msgpack
import pyarrow as pa
import pytest
from exactness import same
from shelf import Shelf
from test_vectors import SCOPE

from bridge_adapter.codec import document, named, register, tagged
from bridge_adapter.codec.marks import MARK, STREAM_REF, TYPED
from bridge_adapter.codec.packed import Packer, Unpacker
from bridge_adapter.codec.types import EXACT, REFERENCE, TABLE, Type


@dataclasses.dataclass
class Point:
    x: int
    y: int


register(Point, "tests.point")
NAMES = {
    **SCOPE,
    **{
        "Point": Point,
        "collections": collections,
        "ipaddress": ipaddress,
        "jnp": jnp,
        "ml_dtypes": ml_dtypes,
        "pa": pa,
        "pathlib": pathlib,
    },
}
EXAMPLES = {
    f"{row.python[:40]}: {example}": (row, index) for rows in TABLE.values() for row in rows for index, example in enumerate(row.examples)
}


def value(expression: str) -> Any:
    return eval(expression, dict(NAMES))  # the table is ours


def packed_form(data: bytes) -> str:
    """The form of a packed value, as the table names it."""
    parsed = msgpack.unpackb(data, ext_hook=msgpack.ExtType, strict_map_key=False, object_pairs_hook=lambda _: {})
    if isinstance(parsed, msgpack.ExtType):
        return f"ext {parsed.code}"
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], msgpack.ExtType) and parsed[0].code == MARK:
        return f"typed {parsed[1]}" if parsed[0].data[0] == TYPED else f"mark {parsed[0].data[0]}"
    names = {type(None): "nil", bool: "bool", int: "int", float: "float", str: "str", bytes: "bin", list: "array", dict: "map"}
    return names[type(parsed)]


def tagged_form(text: bytes) -> str:
    parsed = json.loads(text)
    return str(parsed["__type__"]) if isinstance(parsed, dict) and "__type__" in parsed else "json"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_of_the_table_is_true(name: str) -> None:
    row, index = EXAMPLES[name]
    original = value(row.examples[index])
    shelf = Shelf()
    data = Packer(shelf).pack(original)
    stream = row.packed == f"mark {STREAM_REF}"
    assert packed_form(data) == row.packed
    assert tagged_form(tagged.dumps(original, shelf)) == ("stream_ref" if stream else row.schema1)
    text = tagged.dumps(original, shelf, schema=2)
    assert tagged_form(text) == row.schema2
    for came in (Unpacker(shelf).unpack(data), tagged.loads(text, shelf, atom_class=True)):
        if row.round_trip == REFERENCE:
            assert came is original or came == original
        else:
            expected = original if row.round_trip == EXACT else value(row.becomes[index])
            assert same(came, expected), f"{came!r} came, {expected!r} was expected"


def test_every_named_type_has_a_row() -> None:
    rows = {row.packed.removeprefix("typed ") for row in all_rows() if row.packed.startswith("typed ")}
    ours = {tag for tag, row in named.BY_TAG.items() if not row.by_user}
    assert ours - rows <= {"version"}


def test_the_page_is_generated_from_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")
    assert document.inserted(page) == page, "run: python -m bridge_adapter.codec.document docs/types.md"


def all_rows() -> list[Type]:
    return [row for rows in TABLE.values() for row in rows]
