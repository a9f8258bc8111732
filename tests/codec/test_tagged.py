"""What users of `tagged` can rely on beyond the vectors: repairs, refusals, limits, and no dependence on the stack."""

from __future__ import annotations

import contextlib
import copy
import enum
import json
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from exactness import same
from shelf import Shelf

from bridge_adapter.codec import Atom, CallbackRef, CodecError, DecodeError, EncodeError, LimitExceeded, Limits, StreamRef, tagged
from bridge_adapter.codec.errors import InvalidRef


class Colour(str, enum.Enum):  # noqa: UP042 (users have both kinds)
    RED = "red"


def nested(levels: int, kind: type = list) -> Any:
    value = kind()
    for _ in range(levels - 1):
        value = {"k": value} if kind is dict else kind([value])
    return value


def with_deep_stack(call: Any, spare: int) -> Any:
    """Runs a call where only `spare` frames are left of Python's recursion limit."""
    depth = 0
    frame = sys._getframe()
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1

    def descend(levels: int) -> Any:
        return call() if levels <= 0 else descend(levels - 1)

    return descend(sys.getrecursionlimit() - depth - spare)


# --- values that do not travel --------------------------------------------------------------------------------------------------------


def numbers() -> Any:
    yield 1


OPAQUE = {
    "object": object(),
    "timedelta": timedelta(1),
    "range": range(3),
    "complex with nan": complex(float("nan"), 0),
    "complex with infinity": complex(0, float("inf")),
    "aware time": time(1, tzinfo=UTC),
    "time with fold": time(1, fold=1),
    "naive datetime with fold": datetime(2024, 1, 1, fold=1),
    "datetime with seconds in its offset": datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=21208))),
    "datetime subclass": type("Stamp", (datetime,), {})(2024, 1, 1),
    "plain Enum": enum.Enum("Plain", "A").A,
    "array": np.zeros(2),
    "numpy datetime64": np.datetime64("2024-01-01"),
    "lone surrogate": "a\ud800",
    "atom with a lone surrogate": Atom("\ud800"),
    "class": dict,
    "function": numbers,
}


@pytest.mark.parametrize("name", OPAQUE)
@pytest.mark.parametrize("place", ["top", "list", "tuple", "value", "key"])
def test_what_has_no_tagged_form_travels_by_reference_and_comes_back_itself(name: str, place: str) -> None:
    shelf, value = Shelf(), OPAQUE[name]
    if place == "key" and name == "array":
        return  # not hashable
    wrapped = {"top": value, "list": [1, value], "tuple": (value,), "value": {"a": value}, "key": None}[place]
    if place == "key":
        wrapped = {value: 1}
    back = tagged.loads(tagged.dumps(wrapped, shelf), shelf)
    found = {
        "top": lambda: back,
        "list": lambda: back[1],
        "tuple": lambda: back[0],
        "value": lambda: back["a"],
        "key": lambda: next(iter(back)),
    }
    assert found[place]() is value


def test_jax_arrays_travel_by_reference() -> None:
    jax_numpy = pytest.importorskip("jax.numpy")
    value = jax_numpy.zeros(2)
    assert tagged.encode(value, Shelf())["__type__"] == "ref"


def test_iterators_travel_as_stream_refs_and_resolve_as_arguments() -> None:
    shelf, generator = Shelf(), numbers()
    structure = tagged.encode([generator], shelf)
    assert structure[0]["__type__"] == "stream_ref" and structure[0]["stream_type"] == "generator"
    assert tagged.decode(structure, shelf)[0] is generator


def test_the_same_object_twice_is_the_same_ref() -> None:
    value = object()
    first, second = tagged.encode([value, value], Shelf())
    assert first == second


def test_refs_work_in_sets_and_as_map_keys() -> None:
    shelf, value = Shelf(), object()
    for wrapped in ({value}, {value: 1}, frozenset([value])):
        assert tagged.loads(tagged.dumps(wrapped, shelf), shelf) == wrapped


def test_without_a_session_an_opaque_object_is_a_clear_error() -> None:
    with pytest.raises(EncodeError, match=r"builtins\.object does not travel by value"):
        tagged.dumps([object()])


# --- exactness --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 300, 700, 4299, 4301, 20_000, 200_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_are_exact_at_any_size(digits: int, sign: int) -> None:
    value = sign * (10**digits + 12345)
    for wrapped in (value, [value], {"a": value}, [value] * 9):
        assert tagged.loads(tagged.dumps(wrapped)) == wrapped
    assert tagged.encode([value]) == [value]


def test_long_uniform_lists_are_exact() -> None:
    for wrapped in (
        [float("nan"), -0.0] * 10,
        [0.1] * 20,
        ["a", "é"] * 10,
        ['\x00"\\'] * 20,
        [2**70, -(2**70)] * 10,
        [True, 1] * 10,
        [None] * 20,
    ):
        assert same(tagged.loads(tagged.dumps(wrapped)), wrapped)


def test_str_enum_members_are_their_text_everywhere() -> None:
    for wrapped in (Colour.RED, [Colour.RED], (Colour.RED,), {Colour.RED: Colour.RED}, {1: Colour.RED}, [Colour.RED] * 20):
        assert b"Colour" not in tagged.dumps(wrapped) and b'"red"' in tagged.dumps(wrapped)


def test_keys_that_would_become_one_text_are_refused() -> None:
    class Odd(str):
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(EncodeError, match="same text"):
        tagged.dumps({Odd("a"): 1, "a": 2})


def test_encoding_changes_nothing() -> None:
    value = {"a": [1, {2: {3}}], "b": bytearray(b"x"), "c": (1, [None])}
    before = copy.deepcopy(value)
    tagged.dumps(value)
    assert same(value, before)


def test_a_callback_is_made_once_even_when_a_message_is_read_twice() -> None:
    shelf = Shelf()
    text = b'[{"__type__":"callback","ref_id":"c","arity":1,"pid":"p"},' + b"1" * 5000 + b"]"
    assert tagged.loads(text, shelf)[0] == CallbackRef("c", 1, "p")
    assert len(shelf.callbacks) == 1


def test_atoms_are_text_unless_their_class_is_asked_for() -> None:
    text = b'{"__type__":"atom","value":"ok"}'
    assert type(tagged.loads(text)) is str
    assert type(tagged.loads(text, atom_class=True)) is Atom


def test_a_stream_ref_keeps_its_kind() -> None:
    text = b'{"__type__":"stream_ref","id":"x","session_id":"s","stream_type":"async_generator"}'
    assert tagged.loads(text) == StreamRef("x", "s", stream_type="async_generator")


def test_text_may_come_as_str_bytes_or_memoryview() -> None:
    for text in ('["é"]', '["é"]'.encode(), memoryview('["é"]'.encode()), bytearray('["é"]'.encode())):
        assert tagged.loads(text) == ["é"]


# --- refusals ---------------------------------------------------------------------------------------------------------------------------

MALFORMED = {
    "bare NaN": ("[NaN]", "NaN is not JSON"),
    "bare Infinity": ("-Infinity", "-Infinity is not JSON"),
    "float overflow": ("1e400", "larger than any float64"),
    "nothing at all": (" ", "malformed JSON"),
    "truncated": ('{"a":', "malformed JSON"),
    "trailing data": ("1 2", "Extra data"),
    "byte order mark": ("\ufeff1", "malformed JSON"),
    "double key": ('{"a":1,"a":2}', "'a' comes twice"),
    "base64 with other characters": ('{"__type__":"bytes","data":"AP8$"}', "bytes tag holds malformed base64"),
    "base64 without padding": ('{"__type__":"binary","data":"AP8"}', "binary tag holds malformed base64"),
    "base64 beyond ASCII": ('{"__type__":"bytes","data":"é"}', "bytes tag holds malformed base64"),
    "bytes of a number": ('{"__type__":"bytes","data":5}', "bytes tag must hold base64 text under 'data', not int 5"),
    "bad date": ('{"__type__":"date","value":"nope"}', "Invalid isoformat string: 'nope'"),
    "bad datetime": ('{"__type__":"datetime","value":"nope"}', "Invalid isoformat string: 'nope'"),
    "bad time": ('{"__type__":"time","value":"25:00"}', "hour must be in"),
    "year zero": ('{"__type__":"date","value":"0000-01-01"}', "years 1 to 9999"),
    "date without value": ('{"__type__":"date"}', "not NoneType"),
    "short pair": ('{"__type__":"dict","pairs":[[1]]}', "not a list of 1"),
    "long pair": ('{"__type__":"dict","pairs":[[1,2,3]]}', "not a list of 3"),
    "pair that is none": ('{"__type__":"dict","pairs":["ab"]}', "not str 'ab'"),
    "dict without pairs": ('{"__type__":"dict"}', "must hold a list of pairs under 'pairs'"),
    "unhashable set member": ('{"__type__":"set","elements":[[1]]}', "set element of type list cannot be hashed .* send a list instead"),
    "unhashable map key": ('{"__type__":"dict","pairs":[[{},1]]}', "map key of type dict cannot be hashed"),
    "keys that collapse": ('{"__type__":"dict","pairs":[[1,"a"],[true,"b"]]}', "two map keys are equal in Python: 1 and True"),
    "members that collapse": ('{"__type__":"frozenset","elements":[1,1.0]}', r"two set elements are equal in Python: 1 and 1\.0"),
    "tuple of text": ('{"__type__":"tuple","elements":"ab"}', "tuple tag must hold a list of elements"),
    "atom of a number": ('{"__type__":"atom","value":1}', "atom tag must hold the name"),
    "unknown special float": ('{"__type__":"special_float","value":"inf"}', "must hold nan, infinity or neg_infinity"),
    "complex of text": ('{"__type__":"complex","real":"1","imag":0}', "complex tag must hold numbers"),
    "complex beyond float64": ('{"__type__":"complex","real":1' + "0" * 400 + ',"imag":0}', "larger than any float64"),
    "callback without id": ('{"__type__":"callback","arity":1}', "the id of a callback"),
    "callback with a bad arity": ('{"__type__":"callback","ref_id":"c","arity":-1}', "integer >= 0"),
    "invalid UTF-8": (b'"\xff"', "not valid UTF-8"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_input_is_refused_with_its_reason(name: str) -> None:
    text, reason = MALFORMED[name]
    with pytest.raises(DecodeError, match=reason):
        tagged.loads(text)
    deep = b"[" * 200 + b"0," + (text if isinstance(text, bytes) else text.encode()) + b"]" * 200
    with pytest.raises(DecodeError):
        tagged.loads(deep)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"__type__":"ref"}', "SnakeBridge reference missing id"),
        ('{"__type__":"stream_ref","id":""}', "SnakeBridge reference missing id"),
        ('{"__snakebridge_ref__":true}', "SnakeBridge reference missing id"),
        ('{"__type__":"ref","id":5}', "Invalid SnakeBridge reference payload"),
        ('{"__type__":"ref","id":"x","session_id":5}', "Invalid SnakeBridge reference payload"),
    ],
)
def test_a_broken_ref_is_an_invalid_ref(text: str, reason: str) -> None:
    with pytest.raises(InvalidRef) as caught:
        tagged.loads(text)
    assert str(caught.value) == reason and caught.value.category == "invalid_ref"


# --- cycles and limits ------------------------------------------------------------------------------------------------------------------


def test_a_cycle_is_named_with_its_path() -> None:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    with pytest.raises(EncodeError, match=r"cycle: the dict at value\['a'\]\[1\] contains itself"):
        tagged.dumps(value)


def test_a_peer_that_cannot_ask_for_refs_gets_one_where_a_value_contains_itself() -> None:
    shelf = Shelf()
    loop: list[Any] = [1]
    loop.append(loop)
    shared = [2]
    text = tagged.dumps({"a": loop, "b": [shared, shared]}, shelf, graceful=True)
    assert json.loads(text)["a"][0] == 1
    assert tagged.loads(text, shelf)["a"][1] is loop
    assert json.loads(text)["b"] == [[2], [2]]  # what is only shared stays a value


def test_a_peer_that_cannot_ask_for_refs_gets_one_for_a_value_that_is_too_deep() -> None:
    shelf = Shelf()
    deep = nested(513)
    assert tagged.loads(tagged.dumps(deep, shelf, graceful=True), shelf) is deep


KINDS = {"list": list, "tuple": tuple, "dict": dict, "frozenset": frozenset}


@pytest.mark.parametrize("kind", KINDS)
def test_512_levels_pass_and_513_do_not(kind: str) -> None:
    fine, deep = nested(512, KINDS[kind]), nested(513, KINDS[kind])
    text = tagged.dumps(fine)
    assert tagged.dumps(tagged.loads(text)) == text
    assert tagged.dumps(tagged.decode(tagged.encode(fine))) == text
    with pytest.raises(LimitExceeded, match="max_depth = 512"):
        tagged.dumps(deep)
    with pytest.raises(LimitExceeded, match="max_depth = 512"):
        tagged.loads(tagged.dumps(deep, limits=Limits(depth=513)))


def test_dicts_with_other_keys_may_nest_as_deep() -> None:
    value: Any = 1
    for _ in range(512):
        value = {1: value}
    text = tagged.dumps(value)
    assert tagged.dumps(tagged.loads(text)) == text
    with pytest.raises(LimitExceeded):
        tagged.loads(text, limits=Limits(depth=511))


def test_leaf_tags_are_no_level() -> None:
    limits = Limits(depth=1)
    for value in (Atom("a"), [b""], {1: b""}, (1.5, float("nan"))):
        assert tagged.loads(tagged.dumps(value, limits=limits), limits=limits) is not None
    with pytest.raises(LimitExceeded):
        tagged.loads("[[]]", limits=limits)


@pytest.mark.parametrize("spare", [60, 40, 30])
def test_depth_does_not_depend_on_the_stack_of_the_caller(spare: int) -> None:
    value = nested(512, tuple)
    text = tagged.dumps(value)
    assert with_deep_stack(lambda: tagged.dumps(value), spare) == text
    back = with_deep_stack(lambda: tagged.loads(text), spare)
    assert tagged.dumps(back) == text


def test_an_exhausted_stack_is_a_limit_and_no_recursion_error() -> None:
    text = b'[{"__type__":"set","elements":[1]},' + b"[" * 60 + b"]" * 60 + b"]"
    for spare in range(60, 15, -1):
        try:
            with_deep_stack(lambda: tagged.loads(text), spare)
        except LimitExceeded:
            pass
        except RecursionError:
            assert spare < 25, "a call needs a few frames of its own"


def test_a_flood_of_brackets_is_refused_before_it_is_parsed() -> None:
    for flood in (b"[" * 1_000_000, b'{"a":' * 300_000, b'["' + b"[" * 10 + b'",' + b"[" * 100_000):
        with pytest.raises(LimitExceeded):
            tagged.loads(flood)


def test_brackets_inside_strings_are_no_levels() -> None:
    value = ["[" * 2000, '\\"[{' * 500, {"{" * 700: "\\"}]
    assert tagged.loads(tagged.dumps(value)) == value


def test_the_element_limit_holds_both_ways() -> None:
    limits = Limits(elements=1000)
    assert len(tagged.loads(tagged.dumps([1] * 999, limits=limits), limits=limits)) == 999
    with pytest.raises(LimitExceeded, match="max_elements = 1000"):
        tagged.dumps([[0] * 501, (0,) * 501], limits=limits)
    with pytest.raises(LimitExceeded, match="max_elements = 1000"):
        tagged.loads(tagged.dumps([[0] * 501, [0] * 501]), limits=limits)
    assert tagged.loads(tagged.dumps("," * 5000), limits=limits) == "," * 5000


def test_the_frame_limit_holds_both_ways() -> None:
    limits = Limits(frame=1024)
    with pytest.raises(LimitExceeded, match="max_frame = 1024"):
        tagged.dumps("a" * 1024, limits=limits)
    with pytest.raises(LimitExceeded, match="max_frame = 1024"):
        tagged.loads(tagged.dumps("a" * 1024), limits=limits)


@pytest.mark.parametrize("bits", [64, 1000, 100_000])
def test_the_integer_limit_holds_both_ways(bits: int) -> None:
    limits = Limits(int_bits=bits)
    fine, large = (1 << bits) - 1, 1 << bits
    assert tagged.loads(tagged.dumps([-fine] * 9, limits=limits), limits=limits) == [-fine] * 9
    for wrapped in (large, [large] * 9):
        with pytest.raises(LimitExceeded, match="max_int_bits"):
            tagged.dumps(wrapped, limits=limits)
        with pytest.raises(LimitExceeded, match="max_int_bits"):
            tagged.loads(tagged.dumps(wrapped), limits=limits)


# --- hostile input ----------------------------------------------------------------------------------------------------------------------

MESSAGES = [
    tagged.dumps({"a": [1, (2.5, b"xy"), {3}], 4: date(2024, 1, 2), "z": "é\n"}),
    tagged.dumps([CallbackRef("c", 1, "p"), StreamRef("x", "s"), Atom("ok"), complex(1, 2), {"__type__": "x"}]),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_truncation_is_a_decode_error(message: bytes) -> None:
    for end in range(len(message)):
        with pytest.raises(DecodeError):
            tagged.loads(message[:end])


@pytest.mark.parametrize("message", MESSAGES)
def test_every_corrupted_byte_gives_a_value_or_a_codec_error(message: bytes) -> None:
    for index in range(len(message)):
        for byte in b'\x00"[]{},:\\09e-aZ\x80\xff':
            corrupt = message[:index] + bytes([byte]) + message[index + 1 :]
            with contextlib.suppress(CodecError):
                tagged.loads(corrupt)
        # The same bytes for the parser of what nests deeply, which takes long: those that it looks at, and two that it does not.
        for byte in b'"]},:\\0\xff':
            corrupt = message[:index] + bytes([byte]) + message[index + 1 :]
            with contextlib.suppress(CodecError):
                tagged.loads(b"[" * 120 + corrupt + b"]" * 120)


def test_structures_that_are_no_json_text_can_still_be_decoded() -> None:
    structure = json.loads(MESSAGES[1])
    assert same(tagged.decode(structure), tagged.loads(MESSAGES[1]))
