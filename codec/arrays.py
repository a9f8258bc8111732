"""numpy arrays and scalars by value: their element types as text, their bytes as they lie in memory (docs/wire.md, rule "dtype").

Every dtype but object, longdouble and variable-length strings; any rank; C or Fortran order; either byte order; structured ones too.
numpy is imported only when an array is met.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from .errors import DecodeError, LimitExceeded
from .named import BY_REFERENCE, Named, row

_NUMBERS = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)
_TEXTUAL = re.compile(r"(datetime64|timedelta64)(?:\[([0-9]{0,9}[A-Za-z]{1,2})\])?|(str|bytes|void)([0-9]{1,9})", re.ASCII)
_MAX_RANK = 64


class Unusable(ValueError):
    """A dtype that does not travel by value, or text that is none."""


def dtype_form(dtype: Any) -> Any:
    """The wire form of a dtype: text, or a map for a structured one. Raises Unusable for one that goes by reference."""
    if dtype.names is not None:
        return _structured_form(dtype)
    kind = dtype.kind
    if dtype.type.__module__ == "ml_dtypes":
        text = dtype.name
    elif kind in "biufc":
        text = dtype.name
        if text not in _NUMBERS:
            raise Unusable(text)
    elif kind in "Mm":
        text = dtype.name
    elif kind in "USV" and dtype.subdtype is None:
        text = f"{ {'U': 'str', 'S': 'bytes', 'V': 'void'}[kind] }{dtype.itemsize // 4 if kind == 'U' else dtype.itemsize}"
    else:
        raise Unusable(str(dtype))
    return f">{text}" if dtype.byteorder == ">" else text


def _structured_form(dtype: Any) -> Any:
    formats = []
    for name in dtype.names:
        field = dtype.fields[name]
        if len(field) > 2:
            raise Unusable("a dtype with titles")
        base, shape = field[0].subdtype or (field[0], ())
        formats.append([dtype_form(base), list(shape)] if shape else dtype_form(base))
    offsets = [dtype.fields[name][1] for name in dtype.names]
    return {"names": list(dtype.names), "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize}


def dtype_of(form: Any) -> Any:
    """The dtype of a wire form. Raises Unusable."""
    import numpy as np

    if isinstance(form, dict):
        return _structured(form)
    if not isinstance(form, str):
        raise Unusable(f"a dtype is text or a map, not {type(form).__name__}")
    name = form.removeprefix(">")
    if name in _NUMBERS:
        dtype = np.dtype(name)
    elif match := _TEXTUAL.fullmatch(name):
        moment, unit, text, size = match.groups()
        code = {"str": "U", "bytes": "S", "void": "V"}[text] + size if text else f"{moment}[{unit}]" if unit else moment
        try:
            dtype = np.dtype(code)
        except (TypeError, ValueError, OverflowError) as error:
            raise Unusable(str(error)) from None
    else:
        dtype = _ml_dtype(name)
    return dtype.newbyteorder(">" if form.startswith(">") else "<")


def _ml_dtype(name: str) -> Any:
    try:
        import ml_dtypes
        import numpy as np

        cls = getattr(ml_dtypes, name, None) if name.isidentifier() and not name.startswith("_") else None
        if isinstance(cls, type) and issubclass(cls, np.generic):
            return np.dtype(cls)
    except (ImportError, TypeError):
        pass
    raise Unusable(
        f"unknown dtype {name[:60]!r}; the dtypes are {', '.join(sorted(_NUMBERS))}, datetime64[unit], timedelta64[unit], str<n>, "
        "bytes<n>, void<n>, those of ml_dtypes, and maps of them"
    )


def _structured(form: dict[Any, Any]) -> Any:
    import numpy as np

    try:
        names, formats, offsets, itemsize = form["names"], form["formats"], form["offsets"], form["itemsize"]
        fields = [(dtype_of(item[0]), tuple(item[1])) if isinstance(item, list) else dtype_of(item) for item in formats]
        return np.dtype({"names": [str(name) for name in names], "formats": fields, "offsets": offsets, "itemsize": itemsize})
    except Unusable:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise Unusable(f"a structured dtype needs names, formats, offsets and itemsize that fit together: {error}") from None


def parts(array: Any) -> list[Any] | None:
    """[dtype, shape, bytes] of an array, with "F" when it lies in Fortran order. None: it goes by reference."""
    import numpy as np

    dtype = array.dtype
    name = dtype.name
    if name not in _NUMBERS or dtype.byteorder == ">":
        try:
            name = dtype_form(dtype)
        except Unusable:
            return None
    if dtype.names is not None:
        array = _without_gaps(array)
    shape = list(array.shape)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    data = flat.view(np.uint8).data if flat.nbytes else b""
    return [name, shape, data, "F"] if fortran else [name, shape, data]


def _without_gaps(array: Any) -> Any:
    """A copy whose bytes between the fields are zero: there lies what the memory held before, which is nobody's business."""
    import numpy as np

    clean = np.zeros_like(array)
    _copy_fields(array, clean)
    return clean


def _copy_fields(source: Any, target: Any) -> None:
    for name in source.dtype.names:
        if source.dtype[name].base.names is None:
            target[name] = source[name]
        else:
            _copy_fields(source[name], target[name])


def build(items: Sequence[Any]) -> Any:
    """The array of its wire parts (without the mark). Raises DecodeError.

    bytes become the array's own memory, which may be written to: nobody else holds them. A memoryview (shared memory) stays what it is.
    """
    import numpy as np

    if len(items) not in (3, 4) or not isinstance(items[1], list) or not isinstance(items[2], (bytes, memoryview)):
        raise DecodeError(f"an array must hold a dtype, a shape and its bytes; this one holds {ascii(items[:2])[:80]}")
    form, dims, data = items[:3]
    order: Any = items[3] if len(items) == 4 else "C"
    if order not in ("C", "F"):
        raise DecodeError(f"the order of an array is 'C' or 'F', not {ascii(order)[:40]}")
    if len(dims) > _MAX_RANK or not all(type(dim) is int and 0 <= dim < 1 << 62 for dim in dims):
        raise DecodeError(f"the shape of an array must hold at most {_MAX_RANK} integers >= 0, not {ascii(dims)[:80]}")
    try:
        dtype = dtype_of(form)
    except Unusable as error:
        raise DecodeError(f"an array cannot be read: {error}") from None
    count = element_count(dims)
    if count * dtype.itemsize != len(data):
        raise DecodeError(
            f"an array of shape {tuple(dims)} and dtype {form} has {count * dtype.itemsize} bytes, but {len(data)} came; "
            "the message is corrupt or the sender's encoder broken"
        )
    try:
        if not len(data):
            return np.ndarray(dims, dtype, order=order)
        if isinstance(data, memoryview):
            return _with_text(np.frombuffer(data, dtype).reshape(dims, order=order))
        if not dtype.isnative:
            return _with_text(np.frombuffer(data, dtype).reshape(dims, order=order).copy(order="K"))
        array: Any = np.ndarray.__new__(np.ndarray, (0,), dtype)
        # What numpy does when it unpickles: the bytes become the array's memory without a copy.
        array.__setstate__((1, tuple(dims), dtype, order == "F", data))
    except (ValueError, MemoryError) as error:
        raise LimitExceeded(f"an array of shape {tuple(dims)} cannot be made: {error}") from None
    return _with_text(array)


def _with_text(array: Any) -> Any:
    """The array, once its texts are known to be text: numpy takes any four bytes for a character, and fails when somebody looks."""
    import numpy as np

    dtype = array.dtype
    if dtype.names is not None:
        for name in dtype.names:
            _with_text(array[name])
    elif dtype.kind == "U" and array.size and dtype.itemsize:
        codes = np.ascontiguousarray(array).reshape(-1).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if codes.max() > sys.maxunicode:
            raise DecodeError(f"an array of text holds {codes.max():#x}, which is no character; the message is corrupt")
    return array


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of an array of this shape."""
    count = 1
    for dim in shape:
        count *= dim
    return count


# --- scalars ----------------------------------------------------------------------------------------------------------------------------

_PLAIN = (bool, int, float, complex)


def scalar(value: Any) -> Any:
    """A numpy scalar as what travels: a Python number, text or bytes, a datetime64, a 0-d array; BY_REFERENCE for a longdouble."""
    kind = value.dtype.kind
    if kind in "Mm":
        return value
    if value.dtype.names is not None or (kind == "V" and value.dtype.type.__module__ == "numpy"):
        import numpy as np

        return np.asarray(value)
    plain = value.item()
    if type(plain) in _PLAIN:
        return plain
    try:
        return float(value) if value.dtype.type.__module__ == "ml_dtypes" else BY_REFERENCE
    except (TypeError, ValueError):
        return BY_REFERENCE


def _from_moment(value: Any) -> Any:
    import numpy as np

    unit, step = np.datetime_data(value.dtype)
    count = None if np.isnat(value) else int(value.astype(np.int64))
    return [count, unit if step == 1 else f"{step}{unit}"]


def _to_moment(name: str) -> Any:
    def read(payload: Any) -> Any:
        import numpy as np

        count, unit = payload
        if unit != "generic" and not re.fullmatch(r"[0-9]{0,9}[A-Za-z]{1,2}", str(unit), re.ASCII):
            raise ValueError(f"a unit of {unit!r}")
        dtype = np.dtype(name if unit == "generic" else f"{name}[{unit}]")
        if count is None:
            return np.array("NaT", dtype)[()]
        return np.array([count], np.int64).view(dtype)[0]

    return read


row(Named("datetime64", _from_moment, _to_moment("datetime64")), "numpy:datetime64")
row(Named("timedelta64", _from_moment, _to_moment("timedelta64")), "numpy:timedelta64")
