"""The conformance vectors through both Python codecs. The Elixir tests run the same files."""

from __future__ import annotations

import datetime
import json
import math
import re
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exactness import same

from bridge_adapter import codec
from bridge_adapter.codec import packed, tagged

FAMILIES = sorted((Path(__file__).parents[2] / "codec" / "vectors").glob("*.json"))
VECTORS = {
    f"{path.stem}: {vector['name']}": vector for path in FAMILIES for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]
}


def precise(moment: Any, digits: int) -> Any:
    """A moment that remembers how many digits of its second Elixir shows."""
    kind = codec.PreciseDatetime if isinstance(moment, datetime.datetime) else codec.PreciseTime
    fields = ("year", "month", "day") if isinstance(moment, datetime.datetime) else ()
    names = (*fields, "hour", "minute", "second", "microsecond", "tzinfo")
    value: Any = kind(*(getattr(moment, name) for name in names))
    value.precision = digits
    return value


SCOPE = {
    **{name: getattr(codec, name) for name in codec.__all__},
    "Decimal": Decimal,
    "Fraction": Fraction,
    "SimpleNamespace": SimpleNamespace,
    "datetime": datetime,
    "math": math,
    "np": np,
    "precise": precise,
    "re": re,
    "zoneinfo": zoneinfo,
}
BOTH = ["python", "elixir"]


def value_of(expression: str) -> Any:
    return eval(expression, dict(SCOPE))  # the vectors are ours


def having(key: str, side_list: str) -> list[str]:
    return [
        name
        for name, vector in VECTORS.items()
        if "python" in vector.get(side_list, BOTH) and key in vector and (key == "tagged" or vector[key])
    ]


@pytest.mark.parametrize("name", having("packed", "from"))
def test_a_value_packs_to_the_bytes_of_its_vector(name: str) -> None:
    vector = VECTORS[name]
    assert packed.Packer().pack(value_of(vector["python"])).hex() == vector["packed"]


@pytest.mark.parametrize("name", having("packed", "decoded_by"))
def test_the_packed_bytes_of_a_vector_give_its_value(name: str) -> None:
    vector = VECTORS[name]
    expected, came = value_of(vector["python"]), packed.Unpacker().unpack(bytes.fromhex(vector["packed"]))
    assert same(came, expected), f"{came!r} came, {expected!r} was expected"


@pytest.mark.parametrize("name", having("tagged", "from"))
def test_a_value_has_the_tagged_form_of_its_vector(name: str) -> None:
    vector = VECTORS[name]
    text = tagged.dumps(value_of(vector["python"]))
    assert text.decode() == json.dumps(vector["tagged"], ensure_ascii=False, separators=(",", ":"))
    assert same(tagged.encode(value_of(vector["python"])), vector["tagged"])


@pytest.mark.parametrize("name", having("tagged", "decoded_by"))
def test_the_tagged_form_of_a_vector_gives_its_value(name: str) -> None:
    vector = VECTORS[name]
    text = json.dumps(vector["tagged"]).encode()
    expected = value_of(vector.get("python_after_tagged") or vector["python"])
    for came in (tagged.loads(text), tagged.decode(vector["tagged"])):
        assert same(came, expected), f"{came!r} came, {expected!r} was expected"


@pytest.mark.parametrize("name", [name for name in having("tagged", "decoded_by") if name.startswith("atoms:")])
def test_atoms_keep_their_class_where_that_is_asked_for(name: str) -> None:
    vector = VECTORS[name]
    if "python_after_tagged" in vector:
        assert same(tagged.loads(json.dumps(vector["tagged"]), atom_class=True), value_of(vector["python"]))


def test_the_vectors_are_well_formed() -> None:
    assert len(VECTORS) >= 120
    fields = {"name", "python", "elixir", "packed", "tagged", "tagged2", "python_after_tagged", "elixir_after_tagged"}
    for name, vector in VECTORS.items():
        assert set(vector) <= fields | {"from", "decoded_by", "note"}, name
        assert vector["packed"] or "tagged" in vector, name
        sides = {*vector.get("from", BOTH), *vector.get("decoded_by", BOTH)}
        assert sides <= set(BOTH) and all(vector[side] for side in sides), name
