"""Checkpoints: what goes in comes out bit for bit, and what is not intact or not of this run is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bridge_adapter.kernels.flow.pytrees import node, static
from bridge_adapter.kernels.flow.recorder.checkpoints import Checkpoints, read, restored
from bridge_adapter.kernels.flow.recorder.errors import CheckpointRefused

HEADER: dict[str, Any] = {"iteration": 3, "phase": "AMBER", "dtype": "float64", "spec_digest": "a" * 64}


class Inner(NamedTuple):
    x: Any
    count: Any


@node
class Outer:
    name: str = static()
    inner: Inner
    weight: jax.Array


ARRAYS = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int32, np.bool_, np.complex128]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=5) | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


@given(st.dictionaries(st.text(max_size=4), PLAIN, max_size=4))
@settings(max_examples=60, deadline=None)
def test_plain_data_and_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]) -> None:
    folder = Checkpoints(tmp_path_factory.mktemp("round"))
    folder.save(record, HEADER)
    assert same(record, folder.load_latest().record)


def test_records_come_back_in_the_structure_of_a_like_one(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    value = Outer("kept", Inner({"x": np.arange(4.0)}, np.int32(7)), jax.numpy.float32(2.5))
    key = jax.random.key(5)
    folder.save({"run": value, "rng_key": key}, HEADER)
    found = folder.load_latest().record
    like = Outer("of the flow", Inner({"x": np.zeros(4)}, np.int32(0)), jax.numpy.float32(0))
    back = restored(like, found["run"])
    assert (back.name, type(back.inner), back.inner.count.dtype) == ("of the flow", Inner, np.int32)
    assert back.inner.x["x"].tolist() == [0.0, 1.0, 2.0, 3.0] and float(back.weight) == 2.5
    assert jax.random.bits(found["rng_key"]) == jax.random.bits(key)


@pytest.mark.parametrize(
    ("like", "told"),
    [
        (Inner({"x": np.zeros(5)}, np.int32(0)), r"record\.x\.x is float64\[4\]; the flow's is float64\[5\]"),
        (Inner({"x": np.zeros(4, np.float32)}, np.int32(0)), r"float64\[4\]; the flow's is float32\[4\]"),
        (Inner({"z": np.zeros(4)}, np.int32(0)), r"record\.x has x; the flow's has z"),
        ({"x": {"x": np.zeros(4)}}, "the flow's has x"),
    ],
)
def test_another_structure_is_refused_by_place(tmp_path: Path, like: Any, told: str) -> None:
    folder = Checkpoints(tmp_path)
    folder.save({"run": Inner({"x": np.zeros(4)}, np.int32(0))}, HEADER)
    with pytest.raises(CheckpointRefused, match=told):
        restored(like, folder.load_latest().record["run"])


@given(st.floats(0, 1), st.integers(1, 255), st.booleans())
@example(0.94921875, 1, False)  # says that a member is encrypted
@settings(max_examples=40, deadline=None)
def test_any_damage_is_noticed_and_the_one_before_is_taken(
    tmp_path_factory: pytest.TempPathFactory, where: float, change: int, cut: bool
) -> None:
    folder = Checkpoints(tmp_path_factory.mktemp("damaged"))
    record = {"state": {"x": np.arange(50.0)}}
    folder.save(record, HEADER)
    newest = folder.folder.parent / folder.folder.name / Path(folder.save(record, {**HEADER, "iteration": 4}).file).name
    content = bytearray(newest.read_bytes())
    place = min(int(where * len(content)), len(content) - 1)
    if cut:
        del content[place:]
    else:
        content[place] ^= change
    newest.write_bytes(content)
    # Some bytes of an archive mean nothing (dates, attributes): with one of those changed, all that counts is still proven intact.
    try:
        intact = same(read(newest).record, record)
    except Exception:
        intact = False
    if intact:
        assert folder.load_latest().iteration == 4
    else:
        with pytest.warns(RuntimeWarning, match="is damaged"):
            assert folder.load_latest().iteration == 3


def test_with_none_intact_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    with pytest.raises(CheckpointRefused, match="there is none"):
        folder.load_latest()
    folder.save({}, HEADER)
    folder.files()[0].write_bytes(b"PK")
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointRefused, match=r"all are damaged: .*under another name"):
        folder.load_latest()


@pytest.mark.parametrize(
    ("header", "asked", "told"),
    [
        ({"schema_version": "4"}, {}, "schema version '4'"),
        ({}, {"dtype": "float32"}, "never converted"),
        ({}, {"spec_digest": "b" * 64}, "is of the spec aaaaaaaaaaaa"),
    ],
)
def test_another_version_dtype_or_spec_is_refused(tmp_path: Path, header: dict[str, Any], asked: dict[str, str], told: str) -> None:
    folder = Checkpoints(tmp_path)
    folder.save({}, {**HEADER, **header})
    with pytest.raises(CheckpointRefused, match=told):
        folder.load_latest(**asked)


def test_the_newest_few_are_kept_and_the_last_green_one(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path, keep=3)
    for at, phase in enumerate(["GREEN", "GREEN", "AMBER", "AMBER", "AMBER", "AMBER"]):
        folder.save({"at": at}, {**HEADER, "iteration": at, "phase": phase})
    assert [read(path).iteration for path in folder.files()] == [5, 4, 3, 1]
    assert folder.load_latest(green=True).record == {"at": 1}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"a": [{1: 2}]}, r"record\.a\[0\] has a key that is no string"),
        ({"a": object()}, r"record\.a is of type object"),
        ({"a": np.array(["text"])}, r"record\.a is an array of <U4"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused_by_place(tmp_path: Path, record: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointRefused, match=told):
        Checkpoints(tmp_path).save(record, HEADER)
    assert not list(tmp_path.iterdir())
