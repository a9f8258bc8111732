"""Tables by value, as Arrow IPC streams: pyarrow's own types, and frames of pandas and polars (docs/wire.md, tag arrow)."""

from __future__ import annotations

from typing import Any

from . import arrow_sizes
from .named import BY_REFERENCE, Named, row

TAG = "arrow"
_COLUMN = "item"


def _stream(table: Any) -> Any:
    """The IPC stream of a table or record batch, as a buffer."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return memoryview(sink.getvalue())


def _read(data: Any) -> Any:
    import pyarrow as pa

    arrow_sizes.check(data)
    table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
    table.validate(full=True)  # offsets beyond their buffer would be read as garbage, or crash
    return table


def _from_table(value: Any) -> Any:
    return ["table", _stream(value)]


def _from_batch(value: Any) -> Any:
    return ["record_batch", _stream(value)]


def _from_array(value: Any) -> Any:
    import pyarrow as pa

    kind = "chunked_array" if isinstance(value, pa.ChunkedArray) else "array"
    return [kind, _stream(pa.Table.from_arrays([value], [_COLUMN]))]


def _from_scalar(value: Any) -> Any:
    import pyarrow as pa

    return ["scalar", _stream(pa.Table.from_arrays([pa.repeat(value, 1)], [_COLUMN]))]


def _from_pandas(value: Any) -> Any:
    import pyarrow as pa

    try:
        table = pa.Table.from_pandas(value)
        # Columns of Python objects may come back as something else: then the frame itself is the only exact answer.
        if any(str(dtype) == "object" for dtype in value.dtypes) and not _same_frame(table.to_pandas(), value):
            return BY_REFERENCE
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return BY_REFERENCE
    return ["pandas", _stream(table)]


def _same_frame(left: Any, right: Any) -> bool:
    if not (left.dtypes.equals(right.dtypes) and left.equals(right)):
        return False
    kinds = (left[name].map(type).equals(right[name].map(type)) for name in left.columns if str(left[name].dtype) == "object")
    return left.columns.is_unique and all(kinds)


def _from_polars(value: Any) -> Any:
    import pyarrow as pa

    try:
        return ["polars", _stream(value.to_arrow())]
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError):
        return BY_REFERENCE


def _single(table: Any) -> Any:
    if table.num_columns != 1:
        raise ValueError("one column is wanted")
    return table.column(0)


def _to_arrow(payload: Any) -> Any:
    kind, data = payload
    if not isinstance(data, (bytes, memoryview)):
        raise TypeError("the bytes of an Arrow stream are wanted")
    table = _read(data)
    match kind:
        case "table":
            return table
        case "record_batch":
            batches = table.to_batches()
            return batches[0] if len(batches) == 1 else table.combine_chunks().to_batches()[0] if batches else _empty_batch(table)
        case "array":
            return _joined(_single(table))
        case "chunked_array":
            return _single(table)
        case "scalar":
            return _joined(_single(table))[0]
        case "pandas":
            return table.to_pandas()
        case "polars":
            import polars

            return polars.from_arrow(table)
    raise ValueError(f"unknown kind {kind!r}")


def _joined(column: Any) -> Any:
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _empty_batch(table: Any) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)


row(Named(TAG, _from_table, _to_arrow), "pyarrow.lib:Table")
row(Named(TAG, _from_batch, _to_arrow), "pyarrow.lib:RecordBatch")
row(Named(TAG, _from_pandas, _to_arrow), "pandas:DataFrame")
row(Named(TAG, _from_polars, _to_arrow), "polars:DataFrame")
ARRAY = Named(TAG, _from_array, _to_arrow)
SCALAR = Named(TAG, _from_scalar, _to_arrow)
