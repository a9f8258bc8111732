"""Classes for values that Python has no class for: what an Elixir term becomes here so that it goes back as it came.

Each is usable as the plain Python value that it is nearest to; where there is none (`OpaqueTerm`) it can only be kept and sent back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from functools import reduce
from operator import xor
from typing import Any


class Atom(str):
    """An Elixir atom. It is a `str`, so that `dtype=Atom("float32")` simply works; its type keeps the way back to Elixir exact."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Atom({str.__repr__(self)})"


class Binary(bytes):
    """An Elixir binary that is not valid UTF-8. Usable as `bytes`; goes back to Elixir as a plain binary."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Binary({bytes.__repr__(self)})"


class Pairs(list[Any]):
    """An Elixir map whose keys Python cannot hash or cannot keep apart: a list of (key, value) tuples. Goes back as the map."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Pairs({list.__repr__(self)})"


class Members(list[Any]):
    """An Elixir MapSet whose elements Python cannot hash or cannot keep apart: a list. Goes back as the MapSet."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Members({list.__repr__(self)})"


class OpaqueTerm:
    """An Elixir term without a counterpart here: a pid, a reference, a bitstring, an improper list, another struct.

    It can be kept, compared, used as a key and sent back; only the client that sent it can read it (it is signed). `kind` says what it is.
    """

    __slots__ = ("data", "kind")
    data: bytes
    kind: str

    def __init__(self, data: bytes) -> None:
        size = data[32] if len(data) > 32 else 255
        if len(data) < 33 + size:
            raise ValueError("an OpaqueTerm is made by an Elixir client only; this is not one")
        object.__setattr__(self, "data", bytes(data))
        object.__setattr__(self, "kind", data[33 : 33 + size].decode())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an OpaqueTerm cannot be changed ({name})")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, OpaqueTerm) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.data)

    def __repr__(self) -> str:
        return f"<OpaqueTerm {self.kind}>"

    def __reduce__(self) -> tuple[type[OpaqueTerm], tuple[bytes]]:
        return OpaqueTerm, (self.data,)


@dataclass(frozen=True, slots=True)
class Extension:
    """A value of a named type that is not registered here: its tag and its content. Goes back as it came (`codec.register`)."""

    tag: str
    value: Any

    def __hash__(self) -> int:
        return hash((self.tag, _hashable(self.value)))


def _hashable(value: Any) -> Any:
    """Something to hash for a value that may hold lists and maps: equal for equal values."""
    match value:
        case list() | tuple():
            return tuple(map(_hashable, value))
        case dict():
            # No set of what a peer may have chosen to share a hash.
            return reduce(xor, (hash((_hashable(key), _hashable(item))) for key, item in value.items()), len(value))
        case set():
            return frozenset(value)
    return value


@dataclass(frozen=True, slots=True)
class Regex:
    """An Elixir regular expression that Python's `re` cannot compile, or whose options it does not have."""

    source: str
    options: str

    def compile(self) -> re.Pattern[str]:
        """The same source as a Python pattern, options dropped. Raises re.error where the syntax differs."""
        return re.compile(self.source)


class URI(str):
    """An Elixir URI: its text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"URI({str.__repr__(self)})"


class Version(str):
    """An Elixir Version: its text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Version({str.__repr__(self)})"


@dataclass(frozen=True, slots=True)
class DateRange:
    """An Elixir Date.Range: first and last day, both included, and the step in days."""

    first: date
    last: date
    step: int

    def __iter__(self) -> Any:
        one = 1 if self.step > 0 else -1
        return (date.fromordinal(day) for day in range(self.first.toordinal(), self.last.toordinal() + one, self.step))


class FixedZone(tzinfo):
    """The time zone of an Elixir DateTime at its moment, where the zone data here do not say the same: a name with a fixed offset."""

    __slots__ = ("abbreviation", "key", "offset", "saving")

    def __init__(self, key: str, abbreviation: str, offset: timedelta, saving: timedelta) -> None:
        self.key = key
        self.abbreviation = abbreviation
        self.offset = offset
        self.saving = saving

    def utcoffset(self, _: datetime | None) -> timedelta:
        return self.offset

    def dst(self, _: datetime | None) -> timedelta:
        return self.saving

    def tzname(self, _: datetime | None) -> str:
        return self.abbreviation

    def _fields(self) -> tuple[str, str, timedelta, timedelta]:
        return self.key, self.abbreviation, self.offset, self.saving

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, FixedZone) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return "FixedZone({!r}, {!r}, {!r}, {!r})".format(*self._fields())

    def __reduce__(self) -> Any:
        return FixedZone, self._fields()


class PreciseTime(time):
    """A `time` that remembers how many digits of its fraction of a second Elixir shows; goes back with the same."""

    precision: int

    def __reduce_ex__(self, protocol: Any) -> Any:  # a copy remembers it, too
        return *super().__reduce_ex__(protocol), dict(self.__dict__)


class PreciseDatetime(datetime):
    """A `datetime` that remembers how many digits of its fraction of a second Elixir shows; goes back with the same."""

    precision: int

    def __reduce_ex__(self, protocol: Any) -> Any:  # a copy remembers it, too
        return *super().__reduce_ex__(protocol), dict(self.__dict__)


def replaced(moment: Any, **fields: Any) -> Any:
    """`moment.replace(**fields)`, with its precision."""
    value = moment.replace(**fields)
    if isinstance(moment, (PreciseTime, PreciseDatetime)):
        value.precision = getattr(moment, "precision", None)
    return value
