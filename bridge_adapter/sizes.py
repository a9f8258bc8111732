"""How many bytes an object holds, as far as that is known without walking through all of it, in microseconds.

Arrays and tables of the usual libraries say it themselves. Containers and plain objects are looked into one level deep, and at a sample
of their members. Code of the user's (a property `nbytes`, a `__sizeof__`) is never run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from itertools import islice
from types import FunctionType
from typing import Any

Size = tuple[int, bool]  # bytes; whether they lie on an accelerator

_SAMPLE = 64  # members that are looked at; the others are taken to be like them
_CONTAINERS = (list, tuple, set, frozenset)


def size_of(obj: Any) -> Size:
    """The bytes of an object, and whether they lie on an accelerator. Of what cannot be measured: those of the object itself."""
    known = _library(obj)
    if known is not None:
        try:
            size = known(obj)
            if size is not None:
                return size
        except Exception:
            # A deleted or donated array, say: it holds nothing any more.
            return 0, False
    return _shallow(obj) + _members(obj), False


def _members(obj: Any) -> int:
    """The bytes of what lies right inside, by a sample."""
    kind = type(obj)
    if kind is dict:
        return _sampled(obj.keys()) + _sampled(obj.values())
    if kind in _CONTAINERS:
        return _sampled(obj)
    try:
        attributes = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return 0
    return _sampled(attributes.values()) if type(attributes) is dict else 0


def _sampled(members: Collection[Any]) -> int:
    count = len(members)
    try:
        sizes = [_member(member) for member in islice(members, _SAMPLE)]
    except RuntimeError:  # another thread changes it
        return 0
    return sum(sizes) * count // len(sizes) if sizes else 0


def _member(obj: Any) -> int:
    known = _library(obj)
    if known is not None:
        try:
            size = known(obj)
        except Exception:
            return 0
        if size is not None:
            return size[0]
    return _shallow(obj)


def _shallow(obj: Any) -> int:
    if isinstance(getattr(type(obj), "__sizeof__", None), FunctionType):  # one written in Python
        return object.__sizeof__(obj)
    try:
        return sys.getsizeof(obj)
    except Exception:
        return 0


def _library(obj: Any) -> Callable[[Any], Size | None] | None:
    """What asks an object of a known library for its size."""
    module = type(obj).__module__
    return _LIBRARIES.get(module.partition(".")[0]) if isinstance(module, str) else None


def _numpy(obj: Any) -> Size | None:
    import numpy as np

    return (int(np.ndarray.nbytes.__get__(obj)), False) if isinstance(obj, np.ndarray) else None


def _jax(obj: Any) -> Size | None:
    if not hasattr(obj, "addressable_shards"):
        return None
    return int(obj.nbytes), any(device.platform != "cpu" for device in obj.devices())


def _torch(obj: Any) -> Size | None:
    return (obj.element_size() * obj.nelement(), obj.device.type != "cpu") if hasattr(obj, "element_size") else None


def _pandas(obj: Any) -> Size | None:
    if not hasattr(obj, "memory_usage"):
        return None
    usage = obj.memory_usage()
    return int(usage.sum() if hasattr(usage, "sum") else usage), False


def _nbytes(obj: Any) -> Size | None:
    return (int(obj.nbytes), False) if isinstance(getattr(obj, "nbytes", None), int) else None


def _polars(obj: Any) -> Size | None:
    return (int(obj.estimated_size()), False) if hasattr(obj, "estimated_size") else None


def _scipy(obj: Any) -> Size | None:
    parts = [getattr(obj, name, None) for name in ("data", "indices", "indptr", "row", "col")]
    found = [size for size in map(_numpy, parts) if size is not None]
    return (sum(size for size, _ in found), False) if found else None


# The first part of a class's module -> what its objects say. They are loaded: there is an object of theirs.
_LIBRARIES: dict[str, Callable[[Any], Size | None]] = {
    "numpy": _numpy,
    "jax": _jax,
    "jaxlib": _jax,
    "torch": _torch,
    "pandas": _pandas,
    "pyarrow": _nbytes,
    "polars": _polars,
    "scipy": _scipy,
}
