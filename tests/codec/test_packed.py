"""What users of `packed` can rely on beyond the vectors: limits, cycles, hostile input, and values left as they are."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
from exactness import same
from shelf import Shelf

from bridge_adapter.codec import Atom, CodecError, DecodeError, EncodeError, LimitExceeded, Limits, Ref
from bridge_adapter.codec.packed import Packer, Unpacker


def nested(levels: int, kind: Any) -> Any:
    value = kind()
    for _ in range(levels - 1):
        value = {"k": value} if kind is dict else kind([value])
    return value


def test_opaque_objects_come_back_as_themselves() -> None:
    shelf, value = Shelf(), object()
    for wrapped in (value, [value, value], {value}, {value: (value,)}):
        assert Unpacker(shelf).unpack(Packer(shelf).pack(wrapped)) == wrapped


def test_a_cycle_is_named_with_its_path() -> None:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    with pytest.raises(EncodeError, match=r"cycle: the dict at value\['a'\]\[1\] contains itself"):
        Packer().pack(value)


@pytest.mark.parametrize("kind", [list, tuple, dict, frozenset])
def test_512_levels_pass_and_513_do_not(kind: Any) -> None:
    data = Packer().pack(nested(512, kind))
    assert Packer().pack(Unpacker().unpack(data)) == data
    with pytest.raises(LimitExceeded, match="max_depth = 512"):
        Unpacker().unpack(Packer().pack(nested(513, kind)))


@pytest.mark.parametrize("kind", [list, tuple, dict, frozenset])
def test_a_writer_has_the_levels_of_its_limit(kind: Any) -> None:
    Packer(limits=Limits(depth=40)).pack([nested(39, kind), "x" * 100])
    with pytest.raises(LimitExceeded, match="max_depth = 40"):
        Packer(limits=Limits(depth=40)).pack([nested(40, kind), "x" * 100])
    with pytest.raises(LimitExceeded, match="nests deeper"):
        Packer().pack(nested(2000, kind))


def test_the_element_limit_holds_both_ways() -> None:
    limits, value = Limits(elements=1000), [[0] * 501, (0,) * 501]
    with pytest.raises(LimitExceeded, match="max_elements = 1000"):
        Packer(limits=limits).pack(value)
    with pytest.raises(LimitExceeded, match="max_elements = 1000"):
        Unpacker(limits=limits).unpack(Packer().pack(value))


def test_the_frame_limit_holds_both_ways() -> None:
    limits = Limits(frame=1024)
    with pytest.raises(LimitExceeded, match="max_frame = 1024"):
        Packer(limits=limits).pack("a" * 1024)
    with pytest.raises(LimitExceeded, match="max_frame = 1024"):
        Unpacker(limits=limits).unpack(Packer().pack("a" * 1024))


def test_the_integer_limit_holds_both_ways() -> None:
    limits = Limits(int_bits=1000)
    assert Unpacker(limits=limits).unpack(Packer(limits=limits).pack(-(1 << 1000) + 1)) == -(1 << 1000) + 1
    with pytest.raises(LimitExceeded, match="max_int_bits = 1000"):
        Packer(limits=limits).pack(1 << 1000)
    with pytest.raises(LimitExceeded, match="max_int_bits = 1000"):
        Unpacker(limits=limits).unpack(Packer().pack(1 << 1010))


def test_a_received_array_can_be_written_to() -> None:
    array = Unpacker().unpack(Packer().pack(np.zeros((2, 3))))
    array[0, 0] = 1.0
    assert array.sum() == 1.0


def test_encoding_changes_nothing() -> None:
    value = {"a": [1, {2: {3}}, "\ud800"], "b": bytearray(b"x"), "c": np.arange(6).reshape(2, 3).T}
    before = copy.deepcopy(value)
    Packer().pack(value)
    assert same(value, before)


REFUSED = {
    "nothing": "",
    "left over": "0101",
    "truncated list": "92 01",
    "list longer than its message": "dd ffffffff",
    "reserved byte": "c1",
    "text that is not UTF-8": "a1 ff",
    "unknown extension": "d4 7f 00",
    "unknown composite": "91 d4 10 7f",
    "mark as a value": "d4 10 01",
    "mark inside a list": "92 01 d4 10 01",
    "mark as a map value": "81 01 d4 10 01",
    "integer of no bytes": "c7 00 01",
    "short complex": "d4 05 00",
    "month 13": "c7 06 06 000007e8 0d 01",
    "year zero": "c7 06 06 00000000 01 01",
    "hour 24": "d7 07 18 00 00 00000000 00",
    "offset of a day": "c7 17 09 000007e8 01 02 03 04 05 00000000 00 00015180 00000000 00",
    "unhashable set member": "92 d4 10 02 90",
    "unhashable map key": "81 90 01",
    "members that are equal": "93 d4 10 02 01 c3",
    "ref without fields": "91 d4 10 05",
    "ref with a number as id": "96 d4 10 05 01 a0 a0 a0 a0",
    "callback with text as arity": "94 d4 10 07 a161 a161 a0",
    "array with the wrong number of bytes": "94 d4 10 08 a5 75696e7438 91 02 c4 01 00",
    "array of objects": "94 d4 10 08 a6 6f626a656374 91 01 c4 01 00",
    "array with a negative dimension": "94 d4 10 08 a5 75696e7438 91 ff c4 01 00",
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_input_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        Unpacker().unpack(bytes.fromhex(REFUSED[name]))


def test_a_flood_of_brackets_is_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        Unpacker().unpack(b"\x91" * 100_000 + b"\x00")


MESSAGE = Packer().pack({"a": [1, (2.5, b"xy"), {3}], 4: Atom("ok"), "z": [2**70, Ref("r", "s"), 1j], "n": np.zeros(2, "int8")})


def test_every_truncation_is_a_decode_error() -> None:
    for end in range(len(MESSAGE)):
        with pytest.raises(DecodeError):
            Unpacker().unpack(MESSAGE[:end])


def test_every_corrupted_byte_gives_a_value_or_a_codec_error() -> None:
    unpacker = Unpacker()
    for index in range(len(MESSAGE)):
        for byte in range(256):
            with contextlib.suppress(CodecError):
                unpacker.unpack(MESSAGE[:index] + bytes([byte]) + MESSAGE[index + 1 :])


def test_large_buffers_are_written_whole_wherever_they_stand() -> None:
    import numpy as np
    import pyarrow as pa

    block = np.arange(100_000, dtype="int64")
    blob = bytes(range(256)) * 400
    value = [blob, {"a": block, "b": (block[::2], [blob])}, block.reshape(4, -1, order="F"), "\ud800", pa.table({"x": block})]
    for packer in (Packer(), Packer(canonical=True), Packer(preserve_identity=True)):
        came = Unpacker().unpack(packer.pack(value))
        assert same(came[:4], value[:4])
        assert came[4].equals(value[4])
    assert Unpacker().unpack(Packer().pack(blob)) == blob
    packer = Packer(limits=Limits(frame=600_000))
    with pytest.raises(LimitExceeded, match="max_frame = 600000"):
        packer.pack([block])
    assert same(Unpacker().unpack(packer.pack([block[:9000]])), [block[:9000]])
