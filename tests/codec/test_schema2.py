"""`tagged` schema 2 carries what `packed` carries; schema 1 never emits a tag that its peers do not know."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from exactness import same
from shelf import Shelf
from test_vectors import VECTORS, having, value_of

from bridge_adapter.codec import Extension, tagged
from bridge_adapter.codec.packed import Packer, Unpacker

KNOWN_TO_SCHEMA_1 = {
    *("atom", "tuple", "set", "frozenset", "bytes", "complex", "datetime", "date", "time", "special_float"),
    *("dict", "callback", "ref", "stream_ref"),
}


@pytest.mark.parametrize("name", having("packed", "decoded_by"))
def test_schema_2_gives_back_what_packed_gives_back(name: str) -> None:
    value = Unpacker().unpack(bytes.fromhex(VECTORS[name]["packed"]))
    text = tagged.dumps(value, schema=2)
    came = tagged.loads(text, atom_class=True)
    assert same(came, value), f"{text!r} gave {came!r}"
    assert same(tagged.decode(json.loads(text), atom_class=True), value)


@pytest.mark.parametrize("name", having("packed", "decoded_by"))
def test_schema_1_writes_only_tags_that_its_peers_know(name: str) -> None:
    text = tagged.dumps(value_of(VECTORS[name]["python"]), Shelf()).decode()
    assert set(re.findall(r'"__type__":"(\w+)"', text)) <= KNOWN_TO_SCHEMA_1
    assert set(re.findall(r'"__schema__":(\d+)', text)) <= {"1"}


def test_an_unknown_tag_is_an_extension_in_schema_2_and_a_map_in_schema_1() -> None:
    assert tagged.loads('{"__type__":"nobody.knows","__schema__":2,"value":{"x":[1]}}') == Extension("nobody.knows", {"x": [1]})
    assert tagged.loads('{"__type__":"range","__schema__":1,"value":[1,2,3]}') == {"__type__": "range", "__schema__": 1, "value": [1, 2, 3]}


def test_there_are_two_schemas() -> None:
    with pytest.raises(ValueError, match="no tagged schema 3"):
        tagged.dumps(1, schema=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"__type__":"leaf","__schema__":2,"code":99,"data":""}', "unknown extension type 99"),
        ('{"__type__":"leaf","__schema__":2,"code":"x","data":""}', "integer under 'code'"),
        ('{"__type__":"leaf","__schema__":2,"code":6,"data":"AAA="}', "malformed extension type 6"),
        ('{"__type__":"ndarray","__schema__":2,"dtype":"int8","shape":[2],"data":"AA=="}', "has 2 bytes, but 1 came"),
        ('{"__type__":"pairs","__schema__":2,"elements":[1]}', "key without a value"),
        ('{"__type__":"range","__schema__":2,"value":[1,2]}', "'range' value cannot be read"),
    ],
)
def test_malformed_tags_of_schema_2_are_errors(text: str, message: str) -> None:
    with pytest.raises(tagged.DecodeError, match=message):
        tagged.loads(text)


def test_arrays_and_nested_named_types() -> None:
    import numpy as np

    value: dict[str, Any] = {"a": np.arange(4, dtype=">i2").reshape(2, 2, order="F"), "b": [range(3), {slice: 1}.__len__(), ...]}
    assert same(tagged.loads(tagged.dumps(value, schema=2)), value)
    assert same(Unpacker().unpack(Packer().pack(value)), value)
