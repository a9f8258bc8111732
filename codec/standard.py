"""The named types of Python's standard library and of Elixir's: one row each, in the order of docs/wire.md section 1.1."""

from __future__ import annotations

import re
import types
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import Enum, Flag
from typing import Any

from .named import BY_REFERENCE, Named, find_type, row, type_name
from .wrappers import URI, DateRange, Extension, Regex, Version, replaced

# --- namedtuple, enum -------------------------------------------------------------------------------------------------------------------


def is_namedtuple(cls: type) -> bool:
    """Whether a class was made by namedtuple, or NamedTuple, or inherits from such a one."""
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and isinstance(fields, tuple) and hasattr(cls, "_make") and all(type(name) is str for name in fields)


def is_structseq(cls: type) -> bool:
    """Whether a class is one of those of C, like time.struct_time: a tuple some of whose fields only have names. (sys.flags and the like
    are, too, but cannot be made again.)"""
    return cls.__mro__[1:] == (tuple, object) and hasattr(cls, "n_sequence_fields") and "__new__" in vars(cls)


def _from_namedtuple(value: Any) -> Any:
    cls = type(value)
    if not is_structseq(cls):
        return [type_name(cls), list(value._fields), list(tuple.__iter__(value))]
    visible, hidden = value.__reduce__()[1]
    names = [*cls.__match_args__, *(f"field{index}" for index in range(len(cls.__match_args__), len(visible)))]
    return [type_name(cls), [*names, *hidden], [*visible, *hidden.values()]]


def _to_namedtuple(payload: Any) -> Any:
    name, fields, values = payload
    fields = [str(field) for field in fields]
    cls: Any = find_type(name, tuple)
    if cls is not None and is_structseq(cls):
        visible = cls.n_sequence_fields
        return cls(values[:visible], dict(zip(fields[visible:], values[visible:], strict=True)))
    if cls is None or list(getattr(cls, "_fields", ())) != fields:
        try:
            cls = _stand_in(name, tuple(fields))
        except ValueError:  # names that Python does not allow
            return Extension("namedtuple", payload)
    return tuple.__new__(cls, _exactly(values, len(fields)))


def _exactly(values: list[Any], count: int) -> list[Any]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values for {count} fields")
    return values


_stand_ins: dict[tuple[str, tuple[str, ...]], type] = {}


def _stand_in(name: str, fields: tuple[str, ...]) -> type:
    """A namedtuple class for one that is not loaded here. Bounded: a peer must not be able to fill the memory with classes."""
    from collections import namedtuple

    cls: Any = _stand_ins.get((name, fields))
    if cls is None:
        if len(_stand_ins) >= 1024:
            _stand_ins.clear()
        module, _, path = name.partition(":")
        last = path.rpartition(".")[2]
        make: Any = namedtuple
        cls = make(last if last.isidentifier() else "Record", fields, module=module)
        cls.__qualname__ = path or "Record"
        _stand_ins[name, fields] = cls
        type_name(cls)
    return cls  # type: ignore[no-any-return]


NAMEDTUPLE = Named("namedtuple", _from_namedtuple, _to_namedtuple)
row(NAMEDTUPLE)


def _from_enum(value: Any) -> Any:
    return [type_name(type(value)), value._name_, value._value_]


def _to_enum(payload: Any) -> Any:
    name, member, value = payload
    cls: Any = find_type(name, Enum)
    if cls is None:
        return Extension("enum", payload)
    if member in cls._member_map_:
        return cls._member_map_[member]
    if issubclass(cls, Flag):
        return cls(value)
    raise ValueError(f"{cls.__name__} has no member {member!r}")


ENUM = Named("enum", _from_enum, _to_enum)
row(ENUM)

# --- builtins ---------------------------------------------------------------------------------------------------------------------------

row(Named("range", lambda value: [value.start, value.stop, value.step], lambda payload: range(*_exactly(payload, 3))), range)
row(Named("slice", lambda value: [value.start, value.stop, value.step], lambda payload: slice(*_exactly(payload, 3))), slice)


def _to_ellipsis(payload: Any) -> Any:
    if payload is not None:
        raise ValueError("an ellipsis has no content")
    return ...


row(Named("ellipsis", lambda _: None, _to_ellipsis), type(...))

# --- time -------------------------------------------------------------------------------------------------------------------------------

row(
    Named(
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda payload: timedelta(*_exactly(payload, 3)),
    ),
    timedelta,
)


def _to_fold(payload: Any) -> Any:
    if not isinstance(payload, (time, datetime)):
        raise TypeError(f"not a time: {type(payload).__name__}")
    return replaced(payload, fold=1)


# Written by moments.py, which sees times and datetimes first.
FOLD = Named("fold", lambda value: replaced(value, fold=0), _to_fold)
row(FOLD)


def _from_timezone(value: timezone) -> Any:
    offset = value.utcoffset(None)
    return [offset.days * 86400 + offset.seconds, offset.microseconds, own_name(value)]


def own_name(value: timezone) -> str | None:
    """The name that a fixed offset was given; None for the one that Python makes up."""
    arguments: tuple[Any, ...] = value.__getinitargs__()  # type: ignore[attr-defined]
    return arguments[1] if len(arguments) > 1 else None


def _to_timezone(payload: Any) -> timezone:
    seconds, microseconds, name = payload
    offset = timedelta(seconds=seconds, microseconds=microseconds)
    if name is not None:
        return timezone(offset, name)
    return timezone(offset) if offset else UTC


row(Named("timezone", _from_timezone, _to_timezone), timezone)


def _from_zoneinfo(value: Any) -> Any:
    return value.key if value.key is not None else BY_REFERENCE


def _to_zoneinfo(key: Any) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(key)


row(Named("zoneinfo", _from_zoneinfo, _to_zoneinfo), "zoneinfo:ZoneInfo")


def _to_zoned_time(payload: Any) -> time:
    local, zone = payload
    if type(local) is not time and not isinstance(local, time):
        raise TypeError("not a time")
    return replaced(local, tzinfo=zone)  # type: ignore[no-any-return]


ZONED_TIME = Named("time", lambda value: [replaced(value, tzinfo=None), value.tzinfo], _to_zoned_time)
row(ZONED_TIME)


def _to_zoned_datetime(payload: Any) -> datetime:
    local, zone, fold = payload
    if not isinstance(local, datetime):
        raise TypeError("not a datetime")
    return replaced(local, tzinfo=zone, fold=fold)  # type: ignore[no-any-return]


ZONED_DATETIME = Named("datetime", lambda value: [replaced(value, tzinfo=None, fold=0), value.tzinfo, value.fold], _to_zoned_datetime)
row(ZONED_DATETIME)

# --- numbers ----------------------------------------------------------------------------------------------------------------------------


def _from_decimal(value: Any) -> Any:
    sign, digits, exponent = value.as_tuple()
    return [sign, _join(digits), exponent]


def _join(digits: tuple[int, ...]) -> int:
    from .digits import from_text

    return from_text("".join(map(str, digits)) or "0")


def _to_decimal(payload: Any) -> Any:
    from decimal import Decimal

    from .digits import to_text

    sign, coefficient, exponent = payload
    if sign not in (0, 1) or type(coefficient) is not int or coefficient < 0:
        raise ValueError("a sign of 0 or 1 and a coefficient >= 0 are wanted")
    if exponent not in ("F", "n", "N") and type(exponent) is not int:
        raise ValueError(f"an exponent of {exponent!r}")
    special = exponent in ("n", "N") and coefficient == 0
    try:
        return Decimal((sign, () if special else tuple(map(int, to_text(coefficient))), exponent))
    except ArithmeticError:  # an exponent that is too large
        return Extension("decimal", payload)


row(Named("decimal", _from_decimal, _to_decimal), "decimal:Decimal")


def _to_fraction(payload: Any) -> Any:
    from fractions import Fraction

    numerator, denominator = payload
    if type(numerator) is not int or type(denominator) is not int:
        raise TypeError("two integers are wanted")
    return Fraction(numerator, denominator)


row(Named("fraction", lambda value: [value.numerator, value.denominator], _to_fraction), "fractions:Fraction")

# --- names and addresses ----------------------------------------------------------------------------------------------------------------


def _to_uuid(payload: Any) -> Any:
    from uuid import UUID

    return UUID(payload)


row(Named("uuid", str, _to_uuid), "uuid:UUID")

_PATHS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")


def _to_path(payload: Any) -> Any:
    import os
    import pathlib

    name, text = payload
    if name not in _PATHS:
        raise ValueError(f"a class of path is one of {', '.join(_PATHS)}")
    native = "WindowsPath" if os.name == "nt" else "PosixPath"
    if name in ("PosixPath", "WindowsPath") and name != native:
        name = f"Pure{name}"
    return getattr(pathlib, name)(text)


def _from_path(value: Any) -> Any:
    text = str(value)
    if "Windows" in type(value).__name__ and type(value)(text) != value:  # a share without a name, whose text reads as something else
        return BY_REFERENCE
    return [type(value).__name__, text]


row(Named("path", _from_path, _to_path), *(f"pathlib:{name}" for name in _PATHS))


def _from_namespace(value: Any) -> Any:
    return dict(vars(value))


def _to_namespace(payload: Any) -> Any:
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        raise TypeError("a map with text keys is wanted")
    return types.SimpleNamespace(**{str(key): value for key, value in payload.items()})


row(Named("namespace", _from_namespace, _to_namespace), types.SimpleNamespace)

_ADDRESSES = ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network", "IPv4Interface", "IPv6Interface")


def _to_address(payload: Any) -> Any:
    import ipaddress

    name, text = payload
    if name not in _ADDRESSES or not isinstance(text, str):
        raise ValueError(f"an address is one of {', '.join(_ADDRESSES)} and its text")
    return getattr(ipaddress, name)(text)


row(Named("ip", lambda value: [type(value).__name__, str(value)], _to_address), *(f"ipaddress:{name}" for name in _ADDRESSES))

# --- regular expressions ----------------------------------------------------------------------------------------------------------------

# What both sides mean the same by: i m s x, and u for the re.UNICODE that text patterns have (its absence is re.ASCII).
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE | re.UNICODE | re.ASCII | re.LOCALE


def _from_pattern(value: re.Pattern[Any]) -> Any:
    return [value.pattern, int(value.flags)]


def _to_pattern(payload: Any) -> Any:
    source, flags = payload
    if not isinstance(source, (str, bytes)) or type(flags) is not int or flags & ~int(_FLAGS):
        raise ValueError("a source and the flags of re are wanted")
    try:
        return re.compile(str(source) if isinstance(source, str) else bytes(source), flags)
    except (re.error, RecursionError, OverflowError, ValueError):
        if isinstance(source, str):
            return Regex(source, _options(flags))
        raise


def _options(flags: int) -> str:
    names = (("u", re.UNICODE), ("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE))
    return "".join(name for name, flag in names if flags & flag)


row(Named("pattern", _from_pattern, _to_pattern), re.Pattern)


def _to_regex(payload: Any) -> Regex:
    source, options = payload
    if not isinstance(source, str) or not isinstance(options, str):
        raise TypeError("two texts are wanted")
    return Regex(source, options)


row(Named("regex", lambda value: [value.source, value.options], _to_regex), Regex)

# --- Elixir's -----------------------------------------------------------------------------------------------------------------------------


def _text(kind: type[str]) -> Any:
    def make(payload: Any) -> Any:
        if not isinstance(payload, str):
            raise TypeError(f"text is wanted, not {type(payload).__name__}")
        return kind(payload)

    return make


row(Named("uri", str.__str__, _text(URI)), URI)
row(Named("version", str.__str__, _text(Version)), Version)


def _to_date_range(payload: Any) -> DateRange:
    first, last, step = payload
    if type(first) is not date or type(last) is not date or type(step) is not int or step == 0:
        raise TypeError("two dates and a step are wanted")
    return DateRange(first, last, step)


row(Named("date_range", lambda value: [value.first, value.last, value.step], _to_date_range), DateRange)
