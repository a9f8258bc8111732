"""Arrow tables by value, and the frames that Arrow holds exactly."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from shelf import Shelf

from bridge_adapter.codec import DecodeError, Extension
from bridge_adapter.codec.packed import Packer, Unpacker


def back(value: Any, shelf: Shelf | None = None) -> Any:
    return Unpacker(shelf).unpack(Packer(shelf).pack(value))


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"a": [1, None], "b": [["x"], []]}),
        pa.table({"d": pa.array(["a", "b", "a"]).dictionary_encode()}),
        pa.table({}),
        pa.record_batch({"a": pa.array([], pa.timestamp("us", "Europe/Berlin"))}),
        pa.array([{"x": 1}, None]),
        pa.array([], pa.list_(pa.decimal128(5, 2))),
        pa.chunked_array([[1], [2, 3]]),
        pa.scalar("x"),
        pa.scalar(None, pa.int8()),
    ],
)
def test_arrow_values_come_back(value: Any) -> None:
    came = back(value)
    assert type(came) is type(value)
    assert came.equals(value)
    assert getattr(came, "schema", None) == getattr(value, "schema", None)


def test_frames_come_back_with_their_index_and_types() -> None:
    frame = pd.DataFrame(
        {"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True), "d": pd.Categorical(["u", "v"])},
        index=pd.Index(["r", "s"], name="row"),
    )
    pd.testing.assert_frame_equal(back(frame), frame)
    table = pl.DataFrame({"a": [1, None], "b": [[1.5], []], "c": ["x", "y"]})
    assert back(table).equals(table)
    assert back(table).schema == table.schema


def test_frames_that_arrow_would_change_stay_in_python() -> None:
    shelf = Shelf()
    for frame in (
        pd.DataFrame({"a": [object(), 1]}),
        pd.DataFrame({"a": [(1, 2), (3,)]}, dtype=object),
        type("Frame", (pd.DataFrame,), {})({"a": [1]}),
    ):
        assert back(frame, shelf) is frame


@pytest.mark.parametrize("payload", [["table", b"not arrow"], ["table", "text"], ["window", b""], ["table"], 5])
def test_what_is_no_arrow_stream_is_an_error(payload: Any) -> None:
    with pytest.raises(DecodeError, match="'arrow' value cannot be read"):
        Unpacker().unpack(Packer().pack(Extension("arrow", payload)))


def test_offsets_beyond_their_buffer_are_found() -> None:
    good = pa.array(["abc", "de"])
    bad = pa.Array.from_buffers(pa.utf8(), 2, [None, pa.array([0, 1 << 20, 5], pa.int32()).buffers()[1], good.buffers()[2]])
    with pytest.raises(DecodeError, match="'arrow' value cannot be read"):
        back(pa.table({"a": bad}))
