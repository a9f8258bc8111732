"""Encoding leaves values alone; decoding whatever bytes there are gives a value or a CodecError, in bounded memory."""

from __future__ import annotations

import contextlib
import copy
import random
import tracemalloc
from typing import Any

from across import examples
from exactness import same
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from strategies import ATOMIC, VALUES, containers

from bridge_adapter.codec import CodecError, tagged
from bridge_adapter.codec.packed import Packer, Unpacker

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
SMALL = st.recursive(ATOMIC, containers, max_leaves=4)
# What one message of some hundred bytes may take: Python's own objects are some hundred times larger than their bytes at worst.
MEMORY = 4 << 20


@given(VALUES)
@settings(max_examples=examples(100), suppress_health_check=QUIET)
def test_encoding_never_changes_a_value(value: Any) -> None:
    before = copy.deepcopy(value)
    assume(same(value, before))  # Python itself copies an IPv6 address without its scope
    for encode in (Packer().pack, Packer(canonical=True).pack, Packer(preserve_identity=True).pack):
        encode(value)
        assert same(value, before)
    tagged.dumps(value, schema=2)
    assert same(value, before)


def shuffled(value: Any, source: random.Random) -> Any:
    """An equal value whose dicts and sets have grown in another order."""
    match value:
        case dict() if type(value) is dict:
            items = [(key, shuffled(item, source)) for key, item in value.items()]
            source.shuffle(items)
            return dict(items)
        case set() | frozenset():
            members = list(value)
            source.shuffle(members)
            return type(value)(members)
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)(shuffled(item, source) for item in value)
    return value


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=examples(150), suppress_health_check=QUIET)
def test_equal_values_have_equal_bytes_in_canonical_form(value: Any, source: random.Random) -> None:
    packer = Packer(canonical=True)
    assert packer.pack(value) == packer.pack(shuffled(value, source))


def damaged(data: bytes, source: random.Random) -> list[bytes]:
    """Every truncation, and a corruption of every byte."""
    cut = [data[:size] for size in range(len(data))]
    changed = [data[:at] + bytes([data[at] ^ source.randrange(1, 256)]) + data[at + 1 :] for at in range(len(data))]
    return cut + changed


@given(SMALL, st.randoms(use_true_random=False))
@settings(max_examples=examples(60), suppress_health_check=QUIET, phases=[Phase.generate])
def test_damaged_packed_messages_are_values_or_errors(value: Any, source: random.Random) -> None:
    data = Packer().pack(value)[:600]
    unpacker = Unpacker()
    tracemalloc.start()
    try:
        for message in damaged(data, source):
            with contextlib.suppress(CodecError):
                unpacker.unpack(message)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@given(SMALL, st.randoms(use_true_random=False))
@settings(max_examples=examples(30), suppress_health_check=QUIET, phases=[Phase.generate])
def test_damaged_tagged_messages_are_values_or_errors(value: Any, source: random.Random) -> None:
    text = tagged.dumps(value, schema=2)[:600]
    tracemalloc.start()
    try:
        for message in damaged(text, source):
            with contextlib.suppress(CodecError):
                tagged.loads(message)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
