"""Dates and times as leaves: their binary layouts, and the choice of form for those that a leaf cannot say (docs/wire.md section 1).

`leaf_of` and `LEAVES` are used by both encodings: `tagged` schema 2 carries a leaf as base64.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, TypeVar

from .errors import DecodeError
from .marks import DATE, DATETIME, NAIVE, TIME
from .named import Named
from .standard import FOLD, ZONED_DATETIME, ZONED_TIME, own_name
from .wrappers import FixedZone, PreciseDatetime, PreciseTime, replaced

_DATE = struct.Struct(">iBB")
_TIME = struct.Struct(">BBBIB")
_NAIVE = struct.Struct(">iBBBBBIB")
_DATETIME = struct.Struct(">iBBBBBIBiiB")

Form = tuple[int, bytes] | Named | None
"""How a moment travels: code and payload of a leaf, a named type, or by reference."""


def leaf_of(value: date | time | datetime) -> Form:
    """The form of a date, time or datetime of exactly these classes (or their Precise ones)."""
    if isinstance(value, datetime):
        return _datetime(value)
    if isinstance(value, time):
        return _time(value)
    return DATE, _DATE.pack(value.year, value.month, value.day)


def _fraction(value: time | datetime) -> tuple[int, int]:
    """Microsecond and precision: what a Precise value remembers, while it can still be true, else 6 digits or none."""
    us = value.microsecond
    precision: int | None = getattr(value, "precision", None)
    if precision is None or us % 10 ** (6 - precision):
        precision = 6 if us else 0
    return us, precision


def _time(value: time) -> Form:
    if value.tzinfo is not None and not _travels(value.tzinfo):
        return None
    if value.fold:
        return FOLD
    if value.tzinfo is not None:
        return ZONED_TIME
    return TIME, _TIME.pack(value.hour, value.minute, value.second, *_fraction(value))


def _travels(zone: tzinfo) -> bool:
    return type(zone) is timezone or (type(zone) is not FixedZone and isinstance(getattr(zone, "key", None), str))


def _datetime(value: datetime) -> Form:
    zone = value.tzinfo
    if zone is None:
        return FOLD if value.fold else (NAIVE, _NAIVE.pack(*_fields(value)))
    offset = value.utcoffset()
    if offset is None:
        return None
    name, abbreviation, dst = "", b"", 0
    if type(zone) is timezone:
        exact = not offset.microseconds and own_name(zone) is None and not value.fold
    else:
        name = _zone_name(zone)
        if name:
            abbreviation, dst = (value.tzname() or "").encode(), _seconds(value.dst() or timedelta(0))
        exact = not offset.microseconds and (not value.fold or replaced(value, fold=0).utcoffset() != offset)
    if not exact:
        return ZONED_DATETIME if _travels(zone) else None
    head = _DATETIME.pack(*_fields(value), _seconds(offset), dst, len(name.encode()))
    return DATETIME, head + name.encode() + abbreviation


def _zone_name(zone: tzinfo) -> str:
    """The IANA name of a ZoneInfo, or of a pytz zone; "" where there is none and only the offset can travel."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    return name if isinstance(name, str) and len(name.encode()) < 256 else ""


def _fields(value: datetime) -> tuple[int, ...]:
    return (value.year, value.month, value.day, value.hour, value.minute, value.second, *_fraction(value))


def _seconds(delta: timedelta) -> int:
    return delta.days * 86400 + delta.seconds


# --- reading ----------------------------------------------------------------------------------------------------------------------------


def _read_date(data: bytes) -> date:
    fields = _DATE.unpack(data)
    return _in_range(date, fields[0], *fields)


def _read_time(data: bytes) -> time:
    hour, minute, second, us, precision = _TIME.unpack(data)
    if precision == (6 if us else 0):
        return _in_range(time, 1, hour, minute, second, us)
    return _precise(_in_range(PreciseTime, 1, hour, minute, second, us), precision)


def _read_naive(data: bytes) -> datetime:
    return _naive(_NAIVE.unpack(data))


def _naive(fields: tuple[int, ...]) -> datetime:
    *fields_of_time, us, precision = fields
    if precision == (6 if us else 0):
        return _in_range(datetime, fields[0], *fields_of_time, us)
    return _precise(_in_range(PreciseDatetime, fields[0], *fields_of_time, us), precision)


_Precise = TypeVar("_Precise", PreciseTime, PreciseDatetime)


def _precise(value: _Precise, precision: int) -> _Precise:
    if precision > 6 or value.microsecond % 10 ** (6 - precision):
        raise DecodeError(
            f"a fraction of {value.microsecond} microseconds does not have {precision} digits; the sender's encoder is broken"
        )
    value.precision = precision
    return value


def _read_datetime(data: bytes) -> datetime:
    *fields, seconds, dst, zone_size = _DATETIME.unpack_from(data)
    rest = data[_DATETIME.size :]
    if len(rest) < zone_size:
        raise DecodeError("a datetime whose zone is cut off; the message is truncated or corrupt")
    zone = rest[:zone_size].decode()
    abbreviation = rest[zone_size:].decode()
    moment = _naive(tuple(fields))
    if abs(seconds) >= 86400 or abs(dst) >= 86400:
        raise DecodeError(f"an offset of {seconds} seconds from UTC ({dst} of daylight saving time); it must be less than a day")
    offset, saving = timedelta(seconds=seconds), timedelta(seconds=dst)
    if zone:
        local = _in_zone(moment, zone, offset)
        if local is None or local.tzname() != abbreviation or (local.dst() or timedelta(0)) != saving:
            return replaced(moment, tzinfo=FixedZone(zone, abbreviation, offset, saving))  # type: ignore[no-any-return]
        return local
    fixed: tzinfo = UTC
    if offset:
        fixed = timezone(offset, abbreviation) if abbreviation else timezone(offset)
    return replaced(moment, tzinfo=fixed)  # type: ignore[no-any-return]


def _in_zone(moment: datetime, zone: str, offset: timedelta) -> datetime | None:
    """The moment in a named zone, or None where this machine does not know the zone or gives it another offset."""
    from zoneinfo import ZoneInfo

    try:
        info = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return None
    for fold in (0, 1):
        candidate: datetime = replaced(moment, tzinfo=info, fold=fold)
        if candidate.utcoffset() == offset:
            return candidate
    return None


_T = TypeVar("_T")


def _in_range(make: Callable[..., _T], year: int, *fields: int) -> _T:
    if not 1 <= year <= 9999:
        raise DecodeError(f"the year {year} is outside Python's range 1 to 9999; send it as text or as a tuple")
    try:
        return make(*fields)
    except ValueError as error:
        raise DecodeError(f"not a date or time: {error} (fields {fields})") from None


LEAVES: dict[int, Callable[[bytes], Any]] = {DATE: _read_date, TIME: _read_time, NAIVE: _read_naive, DATETIME: _read_datetime}
