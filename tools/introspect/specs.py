"""Type hints as Elixir types: what a value of the hinted type becomes on its way (docs/types.md).

A result says what may come, an argument what may be given; both say `term()` as soon as something is not known for certain, for a spec
that is wrong is worse than none. In arguments, what is known stays visible before `term()`.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import fractions
import ipaddress
import os
import pathlib
import re
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .hints import Hint

TERM = "term()"
REF = "SnakeBridge.Ref.t()"
STREAM = "Enumerable.t()"
_FLOAT = ("number()", ":infinity", ":neg_infinity", ":nan")
_MAX_ALTERNATIVES = 8
_CALLABLE: Any = collections.abc.Callable
_LISTS = (collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection, collections.abc.Iterable)
_AWAITED = (collections.abc.Awaitable, collections.abc.Coroutine)


@dataclass(frozen=True, slots=True)
class Spec:
    """Alternatives of an Elixir type; open: and anything else."""

    alternatives: tuple[str, ...] = ()
    open: bool = False


OPEN = Spec(open=True)

# What comes and what may be given, for types without arguments.
_Row = tuple[tuple[str, ...], tuple[str, ...]]
_MOMENT = ("NaiveDateTime.t()", "DateTime.t()", "SnakeBridge.Fold.t()", "SnakeBridge.ZonedDateTime.t()")
_TIME = ("Time.t()", "SnakeBridge.Fold.t()", "SnakeBridge.ZonedTime.t()")
_TEXT = ("String.t()", "atom()")
_BYTES = ("SnakeBridge.Bytes.t()", "binary()")
_PATH = ("SnakeBridge.Path.t()",)
_COMPLEX = ("SnakeBridge.Complex.t()", "number()")
_ZONE = ("SnakeBridge.TimeZone.t()", "SnakeBridge.ZoneInfo.t()", REF)


def _same(*alternatives: str) -> _Row:
    return alternatives, alternatives


_IPS: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
_TYPES: dict[type, _Row] = {
    type(None): _same("nil"),
    bool: _same("boolean()"),
    int: _same("integer()"),
    float: _same(*_FLOAT),
    complex: (_COMPLEX[:1], _COMPLEX),
    str: (("String.t()",), _TEXT),
    bytes: _same(*_BYTES),
    bytearray: _same(*_BYTES),
    memoryview: _same(*_BYTES),
    range: _same("Range.t()"),
    slice: _same("SnakeBridge.Slice.t()"),
    type(...): _same("SnakeBridge.Ellipsis.t()"),
    datetime.date: _same("Date.t()"),
    datetime.datetime: _same(*_MOMENT),
    datetime.time: _same(*_TIME),
    datetime.timedelta: _same("SnakeBridge.TimeDelta.t()"),
    datetime.timezone: _same("SnakeBridge.TimeZone.t()"),
    datetime.tzinfo: _same(*_ZONE),
    zoneinfo.ZoneInfo: _same("SnakeBridge.ZoneInfo.t()"),
    decimal.Decimal: _same("SnakeBridge.Decimal.t()", "struct()"),
    fractions.Fraction: _same("SnakeBridge.Fraction.t()"),
    uuid.UUID: _same("SnakeBridge.UUID.t()"),
    re.Pattern: _same("Regex.t()", "SnakeBridge.Pattern.t()"),
    types.SimpleNamespace: _same("SnakeBridge.Namespace.t()"),
    **dict.fromkeys(_IPS, _same("SnakeBridge.IP.t()")),
}
# These are compared by their bases, whatever subclass it is.
_FAMILIES: tuple[tuple[type, _Row], ...] = (
    (enum.Enum, _same("SnakeBridge.Enum.t()")),
    (pathlib.PurePath, (_PATH, _PATH)),
)
# By name, for libraries that need not be loaded: a hint that names them was made by one that is.
_BY_NAME: dict[str, _Row] = {
    "numpy.ndarray": (("SnakeBridge.Tensor.t()", REF), ("SnakeBridge.Tensor.t()", TERM)),
    "jax.Array": (("SnakeBridge.Tensor.t()", REF), ("SnakeBridge.Tensor.t()", TERM)),
    "pandas.DataFrame": (("SnakeBridge.Arrow.t()", REF), ("SnakeBridge.Arrow.t()", REF)),
    "polars.DataFrame": (("SnakeBridge.Arrow.t()", REF), ("SnakeBridge.Arrow.t()", REF)),
    "pyarrow.Table": _same("SnakeBridge.Arrow.t()"),
    "pyarrow.RecordBatch": _same("SnakeBridge.Arrow.t()"),
    "numpy.datetime64": _same("SnakeBridge.DateTime64.t()"),
    "numpy.timedelta64": _same("SnakeBridge.TimeDelta64.t()"),
    "numpy.bool": _same("boolean()"),
    "numpy.integer": _same("integer()"),
    "numpy.floating": ((*_FLOAT, REF), _FLOAT),  # a longdouble stays in Python
    "numpy.complexfloating": ((*_COMPLEX[:1], REF), _COMPLEX),
    "numpy.longdouble": (_REF := (REF,), _FLOAT),
    "numpy.clongdouble": (_REF, _COMPLEX),
    "numpy.void": _same("SnakeBridge.Tensor.t()", REF),
    "numpy.str_": (("String.t()",), _TEXT),
    "numpy.bytes_": _same(*_BYTES),
}
_NAMES = {
    "numpy.bool_": "numpy.bool",
    "jax._src.basearray.Array": "jax.Array",
    "jaxlib._jax.Array": "jax.Array",
    "jax.jaxlib._jax.Array": "jax.Array",
    "jaxlib.xla_extension.Array": "jax.Array",
    "pandas.core.frame.DataFrame": "pandas.DataFrame",
    "polars.dataframe.frame.DataFrame": "polars.DataFrame",
    "pyarrow.lib.Table": "pyarrow.Table",
    "pyarrow.lib.RecordBatch": "pyarrow.RecordBatch",
}
# What an argument may be where Python asks for no more than that an object can do something.
_ABLE: dict[Any, tuple[str, ...]] = {
    typing.SupportsInt: ("number()",),
    typing.SupportsIndex: ("integer()",),
    typing.SupportsFloat: _FLOAT,
    typing.SupportsComplex: _COMPLEX,
    typing.SupportsAbs: ("number()",),
    typing.SupportsRound: ("number()",),
    os.PathLike: _PATH,
}


def argument(hint: Hint) -> str:
    """What may be given for a parameter. A ref to such an object always may."""
    spec = _spec(hint, _argument)
    if len(spec.alternatives) > _MAX_ALTERNATIVES or (spec.open and not set(spec.alternatives) - {REF, "nil"}):
        return TERM
    return _text([*spec.alternatives, TERM if spec.open else REF]) if spec.alternatives else TERM


def result(hint: Hint) -> str:
    """What comes back."""
    spec = _spec(hint, _result)
    return TERM if spec.open or not spec.alternatives or len(spec.alternatives) > _MAX_ALTERNATIVES else _text(spec.alternatives)


def instance(cls: type) -> str:
    """What comes back when a class is called."""
    return STREAM if is_stream(Hint(cls)) else result(Hint(cls))


def value(constant: Any) -> str:
    """What comes back for a constant."""
    return result(Hint(type(constant)))


def is_stream(hint: Hint) -> bool:
    """Whether what a function returns is read item by item."""
    if _is(hint.origin, *_AWAITED) and hint.args:
        return is_stream(hint.args[-1])
    if hint.origin is typing.Union:
        return all(is_stream(item) for item in hint.args)
    return isinstance(hint.origin, type) and _is_iterator(hint.origin)


def _text(alternatives: Iterable[str]) -> str:
    unique = list(dict.fromkeys(alternatives))
    unique.sort(key=lambda item: (REF, "nil", TERM).index(item) if item in (REF, "nil", TERM) else -1)
    if "atom()" in unique:
        unique = [item for item in unique if not item.startswith(":") and item not in ("nil", "boolean()", "true", "false")]
    if "boolean()" in unique:
        unique = [item for item in unique if item not in ("true", "false")]
    if "integer()" in unique:
        unique = [item for item in unique if not item.lstrip("-").isdigit()]
    if "number()" in unique:
        unique = [item for item in unique if item != "integer()" and not item.lstrip("-").isdigit()]
    if "binary()" in unique:
        unique = [item for item in unique if item != "String.t()"]
    return " | ".join(unique)


_Side = Callable[[Hint], Spec]


def _spec(hint: Hint, side: _Side) -> Spec:
    if hint.origin is typing.Union:
        specs = [_spec(item, side) for item in hint.args]
        return Spec(tuple(dict.fromkeys(text for spec in specs for text in spec.alternatives)), any(spec.open for spec in specs))
    if hint.origin is typing.Literal:
        return _literal(hint.values, side)
    return side(hint)


def _literal(values: tuple[Any, ...], side: _Side) -> Spec:
    texts: list[str] = []
    for item in values:
        if item is None or isinstance(item, bool):
            texts.append({None: "nil", True: "true", False: "false"}[item])
        elif type(item) is int:
            texts.append(str(item))
        else:
            spec = side(Hint(type(item)))
            if spec.open:
                return spec
            texts += spec.alternatives
    return Spec(tuple(dict.fromkeys(texts)))


def _inner(hint: Hint, side: _Side) -> str:
    """The spec of an element. What is open has nothing to tell there."""
    spec = _spec(hint, side)
    if spec.open or not spec.alternatives or len(spec.alternatives) > _MAX_ALTERNATIVES:
        return TERM
    return _text([*spec.alternatives, REF] if side is _argument else spec.alternatives)


def _row(cls: Any) -> _Row | None:
    """The row of a class: its own, or that of the family it belongs to."""
    found = _TYPES.get(cls)
    if found is not None:
        return found
    for family, row in _FAMILIES:
        if _subclass(cls, family):
            return row
    for base in _mro(cls):
        found = _BY_NAME.get(_name(base))
        if found is not None:
            # A subclass of ndarray or DataFrame is a class of its own, which stays in Python; one of a scalar is a scalar.
            return found if base is cls or any(_name(item) == "numpy.generic" for item in _mro(cls)) else ((REF,), found[1])
    return None


def _name(cls: type) -> str:
    """The name under which a class is known, whichever module it lives in."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    return _NAMES.get(name, name)


def _container(hint: Hint, side: _Side) -> Spec | None:
    """Lists, tuples, dicts and sets, which travel by value on either side."""
    args = hint.args
    match hint.origin:
        case t if t is list:
            return Spec((f"[{_inner(args[0], side)}]",) if args and _inner(args[0], side) != TERM else ("list()",))
        case t if t is tuple:
            if args and not any(arg.origin is ... for arg in args):
                return Spec(("{" + ", ".join(_inner(arg, side) for arg in args) + "}",))
            return Spec(("tuple()",))
        case t if t is dict:
            if len(args) == 2 and (pair := (_inner(args[0], side), _inner(args[1], side))) != (TERM, TERM):
                return Spec((f"%{{optional({pair[0]}) => {pair[1]}}}",))
            return Spec(("map()",))
        case t if t is set:
            return Spec((f"MapSet.t({_inner(args[0], side)})" if args and _inner(args[0], side) != TERM else "MapSet.t()",))
        case t if t is frozenset:
            return Spec(("SnakeBridge.FrozenSet.t()",))
        case _:
            return None


def _result(hint: Hint) -> Spec:
    cls = hint.origin
    if isinstance(cls, str):
        named = _BY_NAME.get(_NAMES.get(cls, cls))
        return Spec(named[0]) if named is not None else OPEN
    if not isinstance(cls, type):
        return OPEN
    if _is(cls, *_AWAITED):
        return _spec(hint.args[-1], _result) if hint.args else OPEN
    if _is_iterator(cls):
        return Spec((STREAM,))
    container = _container(hint, _result)
    if container is not None:
        return container
    row = _row(cls)
    if row is not None:
        return Spec(row[0])
    return _of_class(cls)


def _of_class(cls: type) -> Spec:
    """A class without a row: a subclass of a plain type travels as its base, an instance of anything else as a ref."""
    if cls is type:
        return Spec((REF,))
    if cls is object or _is_abstract(cls):
        return OPEN
    for base in _mro(cls):
        if base is tuple:
            is_named = any("_fields" in item.__dict__ or "n_sequence_fields" in item.__dict__ for item in _mro(cls))
            return Spec(("SnakeBridge.NamedTuple.t()",)) if is_named else OPEN
        if _is(base, str, bytes, int, float, complex, dict, list, set, frozenset):
            return _result(Hint(base))
    return Spec((REF,))


def _argument(hint: Hint) -> Spec:
    cls = hint.origin
    if isinstance(cls, str):
        named = _BY_NAME.get(_NAMES.get(cls, cls))
        return _closed(named[1]) if named is not None else OPEN
    able = _ABLE.get(cls) if isinstance(cls, collections.abc.Hashable) else None
    if able is not None:
        return Spec(able, True)
    if not isinstance(cls, type):
        return OPEN
    container = _container(hint, _argument)
    if container is not None:
        # Python seldom insists: a tuple does for a list, a range for a set. What is hinted is told first.
        return Spec(container.alternatives, True)
    if _is(cls, *_LISTS):
        element = _inner(hint.args[0], _argument) if hint.args else TERM
        return Spec((f"[{element}]",) if element != TERM else ("list()",), True)
    if _is(cls, collections.abc.Mapping, collections.abc.MutableMapping):
        return Spec(("map()",), True)
    if cls is _CALLABLE:
        return Spec(("function()",), True)
    row = _row(cls)
    if row is not None:
        return _closed(row[1])
    if _is_abstract(cls) or _is(cls, object, type):
        return OPEN
    return Spec((REF,), True)


def _closed(alternatives: tuple[str, ...]) -> Spec:
    return Spec(tuple(text for text in alternatives if text != TERM), TERM in alternatives)


# The abstract scalars of numpy, whose instances are of all kinds.
_ABSTRACT = frozenset(f"numpy.{name}" for name in ("generic", "number", "inexact", "flexible", "character", "object_"))


def _is_abstract(cls: type) -> bool:
    """A class that says what an instance can do, not what it is: instances are of other classes."""
    if cls.__module__ == "numbers" or f"{cls.__module__}.{cls.__qualname__}" in _ABSTRACT:
        return True
    return bool(getattr(cls, "__abstractmethods__", None)) or getattr(cls, "_is_protocol", False) is True


def _mro(cls: Any) -> tuple[type, ...]:
    try:
        return type.__dict__["__mro__"].__get__(cls)  # type: ignore[no-any-return]
    except TypeError:
        return ()


def _subclass(cls: Any, base: type) -> bool:
    """By inheritance alone: what a metaclass would say is not asked."""
    return any(item is base for item in _mro(cls))


def _is(cls: Any, *classes: Any) -> bool:
    """Identity: some classes say that they equal others."""
    return any(cls is item for item in classes)


def _is_iterator(cls: type) -> bool:
    """As the codec sees it: an iterator that is no context manager. Files are both, and stay objects."""
    known = {name for base in _mro(cls) for name in base.__dict__}
    return {"__anext__", "__aiter__"} <= known or ({"__next__", "__iter__"} <= known and "__enter__" not in known)
