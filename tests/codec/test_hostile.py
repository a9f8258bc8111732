"""Messages made to hurt: each is refused, with an error that names the rule, before it has taken much time or memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from across import Beam

from bridge_adapter.codec import CodecError, LimitExceeded, OpaqueTerm, Ref, tagged
from bridge_adapter.codec.packed import Packer, Unpacker

MODULUS = 2**61 - 1  # of Python's hashes of numbers
MANY = 4000  # many times as many as may share a hash
MARK = b"\xd4\x10"


def refused(message: bytes, text: str, error: type[CodecError] = CodecError, memory: int = 1 << 20) -> None:
    """Checks that a packed message is refused; the test's own time limit is the bound on time."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=text):
            Unpacker().unpack(message)
        assert tracemalloc.get_traced_memory()[1] < memory + 12 * len(message)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xc0", b"\x92" + MARK + b"\x01", b"\x93" + MARK + b"\x09\xa1t", b"\x92" + MARK + b"\x0e"])
def test_nesting_is_bounded(head: bytes) -> None:
    refused(head * 100_000 + b"\xc0", "deeper|depth|nests", LimitExceeded)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"__type__":"tuple","elements":[', '{"__type__":"x","__schema__":2,"value":'])
def test_nesting_of_tagged_is_bounded(opening: str) -> None:
    with pytest.raises(CodecError, match="depth"):
        tagged.loads(opening * 100_000)


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_lengths_that_lie_allocate_nothing(head: bytes) -> None:
    for size in (1 << 20, 0x7FFFFFFF, 0xFFFFFFFF):
        refused(head + struct.pack(">I", size) + b"\x01" * 20, "claims more|malformed|truncated|elements")
        refused((head + struct.pack(">I", size)) * 200, "claims more|malformed|truncated|elements|depth|UTF-8|extension|larger")


def test_arrays_are_no_larger_than_their_bytes() -> None:
    def array(dtype: Any, dims: list[int], data: bytes = b"") -> bytes:
        return b"\x95" + MARK + b"\x08" + b"".join(map(Packer().pack, (dtype, dims, data))) + b"\xa1C"

    for dims in ([1 << 40], [1 << 31, 1 << 31, 4], [0, 1 << 61], [1] * 65):
        refused(array("float64", dims), "array|shape")
    refused(array("str99999999", [1]), "bytes")
    huge = {"names": ["a"], "formats": [["int8", [1 << 30, 1 << 30]]], "offsets": [0], "itemsize": 1}
    refused(array(huge, [1], b"\0"), "structured|array")


def test_integers_are_bounded() -> None:
    refused(b"\xc9" + struct.pack(">I", 1 << 20) + b"\x01" + b"\x7f" * (1 << 20), "max_int_bits", LimitExceeded)
    with pytest.raises(LimitExceeded, match="max_int_bits"):
        tagged.loads("9" * 2_000_000)
    with pytest.raises(LimitExceeded, match="max_int_bits"):
        Packer().pack(1 << (1 << 23))


COLLIDING: dict[str, Callable[[int], Any]] = {
    "integers": lambda n: n * MODULUS,
    "negative integers": lambda n: -n * MODULUS,
    "tuples": lambda n: (n * MODULUS, 1),
    "tuples in tuples": lambda n: ((n * MODULUS,), ()),
    "frozensets": lambda n: frozenset([n * MODULUS]),
    "complex numbers": lambda n: complex(n * 1_000_003, -n),
    "fractions": lambda n: Fraction(n * MODULUS + 1, 1),
    "ranges": lambda n: range(n * MODULUS, n * MODULUS + 5),
}


@pytest.mark.parametrize("kind", COLLIDING)
def test_keys_that_share_a_hash_are_refused(kind: str) -> None:
    keys = [COLLIDING[kind](n) for n in range(1, MANY)]
    assert len(set(map(hash, keys))) < 5
    pack = Packer().pack
    packed = [pack(key) for key in keys]
    count = struct.pack(">I", len(keys))
    refused(b"\xdf" + count + b"".join(key + b"\xc0" for key in packed), "have the same hash", LimitExceeded, 64 << 20)
    for mark in (2, 3):
        items = b"\xdd" + struct.pack(">I", len(keys) + 1) + MARK + bytes([mark]) + b"".join(packed)
        refused(items, "have the same hash", LimitExceeded, 64 << 20)
    texts = [tagged.dumps(key, schema=2) for key in keys]
    for text in (
        b'{"__type__":"set","elements":[' + b",".join(texts) + b"]}",
        b'{"__type__":"dict","pairs":[' + b",".join(b"[" + key + b",1]" for key in texts) + b"]}",
    ):
        with pytest.raises(LimitExceeded, match="have the same hash"):
            tagged.loads(text)


def test_keys_of_a_graph_that_share_a_hash_are_refused() -> None:
    nodes = b"".join(Packer().pack(n * MODULUS) for n in range(1, 2001))
    keys = b"".join(b"\x92" + MARK + b"\x0d" + Packer().pack(index) + b"\xc0" for index in range(2000))
    graph = b"\x93" + MARK + b"\x0c" + b"\xde" + struct.pack(">H", 2000) + keys + b"\xdc" + struct.pack(">H", 2001) + MARK + b"\x0e" + nodes
    refused(graph, "have the same hash", LimitExceeded, 8 << 20)


def test_many_keys_that_do_not_share_a_hash_are_fine() -> None:
    grid = {(x, y): complex(x, y) for x in range(-100, 100) for y in range(-100, 100)}
    assert Unpacker().unpack(Packer().pack(grid)) == grid
    assert tagged.loads(tagged.dumps(grid)) == grid
    assert Unpacker().unpack(Packer().pack(set(grid.values()))) == set(grid.values())


def test_few_nodes_do_not_make_a_large_value() -> None:
    laughs: Any = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    came = Unpacker().unpack(Packer(preserve_identity=True).pack(laughs))
    assert came[0] is came[1]


def test_compressed_tables_do_not_grow_beyond_the_frame() -> None:
    table = pa.table({"zeros": np.zeros(1 << 27, np.int32)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write(table)
    data = sink.getvalue().to_pybytes()
    assert len(data) < 1 << 20
    message = Packer().pack(["table", data])
    before = pa.total_allocated_bytes()
    refused(b"\x93" + MARK + b"\x09\xa5arrow" + message, "compressed|bytes", CodecError)
    assert pa.total_allocated_bytes() <= before + (1 << 20)


def test_atoms_and_refs_that_are_made_up() -> None:
    names = [f"atom {number}" for number in range(100_000)]
    atoms = b"\xdd" + struct.pack(">I", len(names)) + b"".join(b"\xc7" + bytes([len(name)]) + b"\x02" + name.encode() for name in names)
    assert len(Unpacker().unpack(atoms)) == len(names)
    assert Unpacker().unpack(Packer().pack(Ref("r1", "not mine"))) == Ref("r1", "not mine")  # the session refuses it: tests/worker
    refused(b"\x91" + MARK + b"\x05", "ref")


def test_opaque_terms_that_are_forged_or_of_another_node(beam: Beam) -> None:
    [mine, *_] = beam.through("t", [])
    term = Unpacker().unpack(mine)
    assert isinstance(term, OpaqueTerm)
    changed = [term.data[:at] + bytes([term.data[at] ^ 1]) + term.data[at + 1 :] for at in range(len(term.data))]
    forged = [b"\xc7" + bytes([len(data)]) + b"\x0b" + data for data in (*changed, bytes(32) + b"\x03pid\x83\x64\x00\x01x", b"")]
    for answer in beam.ask("p", forged):
        assert answer[:1] == b"-" and b"opaque term" in answer


def test_elixir_makes_no_atoms_of_names_that_come_in(beam: Beam) -> None:
    before = int(beam.through("n", [b""])[0])
    names = [b"flood %d" % number for number in range(200_000)]
    flood = b"\xdd" + struct.pack(">I", len(names)) + b"".join(b"\xc7" + bytes([len(name)]) + b"\x02" + name for name in names)
    [back] = beam.through("p", [flood])
    assert Unpacker().unpack(back) == Unpacker().unpack(flood)
    assert int(beam.through("n", [b""])[0]) - before < len(names) // 10  # those of modules that were loaded meanwhile


HOSTILE_TO_ELIXIR = [
    b"\x91" * 100_000 + b"\xc0",
    (b"\x92" + MARK + b"\x01") * 100_000 + b"\xc0",
    b"\xdd\x7f\xff\xff\xff" * 100,
    b"\xdf\xff\xff\xff\xff" + b"\x01" * 50,
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\x00\x10\x00\x00\x01" + b"\x7f" * (1 << 20),
    b"\x93" + MARK + b"\x09\xa5range\x93\x00\x01\x00",
    b"\x94" + MARK + b"\x08\xa4int8\x91\xcf" + b"\x3f" * 8 + b"\xc4\x00",
]


def test_elixir_refuses_the_same(beam: Beam) -> None:
    for message, answer in zip(HOSTILE_TO_ELIXIR, beam.ask("p", HOSTILE_TO_ELIXIR), strict=True):
        assert answer[:1] == b"-", (message[:20], answer[:200])
        with pytest.raises(CodecError):
            Unpacker().unpack(message)


def test_json_keys_cannot_be_made_to_collide() -> None:
    keys = {str(n * MODULUS): n for n in range(50_000)}
    assert tagged.loads(json.dumps(keys)) == keys


def test_a_refused_message_leaves_nothing_behind_for_the_next() -> None:
    unpacker = Unpacker()
    large = b"\xdf" + struct.pack(">I", 2000) + b"".join(Packer().pack(n * MODULUS) + b"\xc0" for n in range(1, 2001))
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            unpacker.unpack(large)
        assert unpacker.unpack(Packer().pack([(1,)] * 100)) == [(1,)] * 100
