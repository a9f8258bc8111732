"""Round trips of generated values through both codecs: equal, and of the same type."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from across import examples
from exactness import same
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shelf import Shelf
from strategies import SCHEMA_1, VALUES

from bridge_adapter.codec import CodecError, Ref, deep_json, tagged
from bridge_adapter.codec.packed import Packer, Unpacker


@given(VALUES)
@example({frozenset({"\ud800"}): None})
@example({(None, "\ud800"): [{"\udfff": b""}]})
@settings(max_examples=examples(100), deadline=None)
def test_packed_gives_back_the_same_value(value: Any) -> None:
    assert same(Unpacker().unpack(Packer().pack(value)), value)


@given(VALUES)
@settings(max_examples=examples(100), deadline=None)
def test_schema_2_gives_back_the_same_value(value: Any) -> None:
    assert same(tagged.loads(tagged.dumps(value, schema=2), atom_class=True), value)


@given(SCHEMA_1)
@settings(max_examples=examples(200), deadline=None)
def test_tagged_gives_back_the_same_value(value: Any) -> None:
    shelf = Shelf()
    text = tagged.dumps(value, shelf)
    assert same(tagged.loads(text, shelf), value)
    structure = tagged.encode(value, shelf)
    assert json.dumps(structure, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() == text
    assert same(tagged.decode(structure, shelf), value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON, st.sampled_from([None, 1]), st.integers(0, 200), st.text('[]{},:"\\ 019ntf', max_size=3))
@settings(max_examples=examples(200), deadline=None)
def test_deep_json_reads_what_the_standard_parser_reads(value: Any, indent: int | None, at: int, noise: str) -> None:
    text = json.dumps(value, indent=indent)
    decoder = json.JSONDecoder(object_pairs_hook=dict)
    for candidate in (text, text[:at] + noise + text[at:], text[:at]):
        try:
            expected = decoder.decode(candidate)
        except json.JSONDecodeError:
            expected = json.JSONDecodeError
        try:
            came = deep_json.loads(candidate, decoder)
        except json.JSONDecodeError:
            came = json.JSONDecodeError
        assert repr(came) == repr(expected)


@given(JSON)
@settings(deadline=None)
def test_the_survey_counts_levels_and_elements(value: Any) -> None:
    def levels(node: Any) -> int:
        children = node.values() if isinstance(node, dict) else node
        return 1 + max(map(levels, children), default=0) if isinstance(node, (list, dict)) else 0

    text = json.dumps(value).encode()
    nesting, elements = deep_json.survey(text)
    assert nesting == levels(value)
    assert elements >= (len(value) if isinstance(value, (list, dict)) else 0)


FIELDS = ("value", "elements", "data", "pairs", "id", "ref_id", "session_id", "real", "imag", "arity", "pid", "stream_type")
TAG_NAMES = st.sampled_from([*tagged.TAGS, "mystery"])
TAGGED = st.fixed_dictionaries({"__type__": TAG_NAMES}, optional=dict.fromkeys(FIELDS, JSON))


@given(st.recursive(TAGGED | JSON, lambda inner: st.lists(inner, max_size=3) | st.fixed_dictionaries({"k": inner}), max_leaves=6))
@settings(max_examples=examples(200), deadline=None)
def test_any_json_is_a_value_or_a_codec_error(structure: Any) -> None:
    with contextlib.suppress(CodecError):
        tagged.loads(json.dumps(structure))
    with contextlib.suppress(CodecError):
        tagged.decode(structure)


@given(st.binary(max_size=60))
@settings(max_examples=examples(500), deadline=None)
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        Unpacker().unpack(data)
    with contextlib.suppress(CodecError):
        tagged.loads(data)


@given(st.sets(st.integers(0, 9), min_size=1).map(lambda ids: {Ref(str(n), "s") for n in ids}))
def test_refs_are_values_where_there_is_no_session(refs: set[Ref]) -> None:
    assert Unpacker().unpack(Packer().pack(refs)) == refs
    assert tagged.loads(tagged.dumps(refs)) == refs
