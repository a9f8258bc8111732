"""The Python domain of the codec (docs/wire.md section 1) as hypothesis strategies: every row of the type table, nested in each other.

`VALUES` come back exactly from either encoding and from Elixir. `KEYS` are those of them that can be keys of a dict. `CANONICAL` gives
pairs of a value and what comes back for it. What lives in one process only is asked for by name: `values_with(by_reference())`.
"""

from __future__ import annotations

import collections
import decimal
import enum
import ipaddress
import math
import pathlib
import re
import string
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bridge_adapter.codec import (
    URI,
    Atom,
    Binary,
    CallbackRef,
    DateRange,
    Extension,
    Members,
    Pairs,
    PreciseDatetime,
    PreciseTime,
    Ref,
    Regex,
    StreamRef,
    Version,
)
from bridge_adapter.codec.standard import _to_namedtuple

Values = st.SearchStrategy[Any]

# --- scalars ----------------------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=12)
SURROGATES = st.text(st.characters(categories=["Cs", "L"]), min_size=1, max_size=4)
ANY_TEXT = TEXT | SURROGATES
FLOATS = st.floats(allow_nan=False)
EDGES = [
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**31),
    -(2**63),
    -(2**63) - 1,
    -33,
    -32,
    127,
    128,
    255,
    256,
    65535,
    65536,
]
INTEGERS = st.integers(-300, 300) | st.sampled_from(EDGES) | st.integers(-(2**70), 2**70) | st.integers(-(2**300), 2**300)
PLAIN = (
    st.none()
    | st.booleans()
    | INTEGERS
    | FLOATS
    | TEXT
    | SURROGATES
    | st.binary(max_size=40)
    | st.complex_numbers(allow_nan=False)
    | ANY_TEXT.map(Atom)
    | st.sampled_from(["ok", "nil", "true", "nan", "infinity", "Elixir.String", "kein Atom von hier"]).map(Atom)
    | st.binary(max_size=10).map(lambda data: Binary(data + b"\xff"))  # with text in it, Elixir would say that it is text
)

# --- dates and times --------------------------------------------------------------------------------------------------------------------

OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
WHOLE_SECONDS = OFFSETS.map(lambda offset: timezone(timedelta(seconds=offset // timedelta(seconds=1))))
WHOLE_MINUTES = OFFSETS.map(lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1))))
TIMEZONES = WHOLE_SECONDS | OFFSETS.map(timezone) | st.builds(timezone, OFFSETS, TEXT.filter(bool)) | st.just(UTC)
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "Pacific/Apia", "Etc/GMT+5"]).map(zoneinfo.ZoneInfo)
FOLDS = st.integers(0, 1)


def _folded(moment: Any, fold: int) -> Any:
    return moment.replace(fold=fold)


def _told_apart(moment: datetime) -> datetime:
    """Without a fold that changes nothing: whether such a one equals another datetime is known in Python only."""
    return moment if moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset() else moment.replace(fold=0)


@st.composite
def precise(draw: st.DrawFn) -> Any:
    """A time or datetime that Elixir has sent with a precision of its own."""
    digits = draw(st.integers(1, 5))
    microsecond = draw(st.integers(0, 10**digits - 1)) * 10 ** (6 - digits)
    moment = draw(st.times() | st.datetimes() | st.datetimes(timezones=WHOLE_SECONDS | ZONES).map(_told_apart))
    if isinstance(moment, datetime):
        fields = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, microsecond, moment.tzinfo)
        value: Any = PreciseDatetime(*fields)
    else:
        value = PreciseTime(moment.hour, moment.minute, moment.second, microsecond)
    value.precision = digits
    return value


MOMENTS = (
    st.dates()
    | st.builds(_folded, st.times(), FOLDS)
    | st.builds(_folded, st.times(timezones=TIMEZONES | ZONES), FOLDS)
    | st.builds(_folded, st.datetimes(), FOLDS)
    | st.builds(_folded, st.datetimes(timezones=TIMEZONES), FOLDS)
    | st.datetimes(timezones=ZONES).map(_told_apart)
    | precise()
    | st.timedeltas()
    | TIMEZONES
    | ZONES
)
UNITS = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "10ms", "7D"]


@st.composite
def numpy_moments(draw: st.DrawFn) -> Any:
    kind, unit = draw(st.sampled_from(["M8", "m8"])), draw(st.sampled_from(UNITS))
    count = draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-1000, 1000))  # the smallest is NaT
    return np.array([count]).view(f"{kind}[{unit}]")[0]


# --- numbers and names ------------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "the colour red"
    GREEN = (1, None)
    VERT = GREEN


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2**70


class Mode(enum.StrEnum):
    READ = "r"
    WRITE = "w"


class Access(enum.Flag):
    """Of numbers that nothing else here has: a member next to its own number is a key that Elixir cannot tell from it."""

    READ = 1 << 40
    WRITE = 1 << 41
    EXECUTE = 1 << 42


class Bits(enum.IntFlag):
    A = 1
    B = 8


class Point(NamedTuple):
    x: Any
    y: Any = 0


Empty = collections.namedtuple("Empty", ())

ENUMS = st.sampled_from(
    [*Colour, *Level, *Mode, *Access, Access(0), Access.READ | Access.WRITE, Access(7 << 40), *Bits, Bits.A | Bits.B, Bits(0), Bits(6)]
)
DECIMALS = (
    st.decimals(allow_nan=False)
    | st.sampled_from(["NaN", "-NaN", "NaN7", "-sNaN12", "Infinity", "-Infinity", "-0", "0E+3", "0E-7"]).map(decimal.Decimal)
    | st.builds(lambda n, exponent: decimal.Decimal(n).scaleb(exponent), st.integers(-(10**9), 10**9), st.integers(-300, 300))
)
PATHS = st.builds(
    lambda cls, parts: cls("/".join(parts)),
    st.sampled_from([pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath]),
    st.lists(st.text(st.characters(codec=None, exclude_characters="\0"), max_size=5), max_size=3),
).filter(lambda path: type(path)(str(path)) == path)  # Windows shares without a name are not what their text says; they go by reference
ADDRESSES = (
    st.ip_addresses()
    | st.builds(lambda ip, bits: ipaddress.ip_network((ip, bits), strict=False), st.ip_addresses(), st.integers(0, 32))
    | st.builds(lambda ip, bits: ipaddress.ip_interface((ip, bits)), st.ip_addresses(), st.integers(0, 32))
    | st.just(ipaddress.ip_address("fe80::1%eth0"))
)
SOURCES = [
    "",
    "a+",
    "[a-c]{2,3}",
    r"\d+\.\w*",
    "(a|b)?c",
    "^x$",
    "(?P<n>ü)",
    r"\bé\b",
    "(?<=a)b",
    "(?s:.)",
    r"(a)\1",
    "{",
    r"\Z",
    "a{,3}",
    "# c\n a",
]
FLAGS = st.builds(
    lambda *flags: sum(flags), *(st.sampled_from([0, int(flag)]) for flag in (re.I, re.M, re.S, re.X)), st.sampled_from([0, int(re.A)])
)
PATTERNS = (
    st.builds(re.compile, st.sampled_from(SOURCES), FLAGS)
    | st.builds(lambda source, flags: re.compile(source.encode(), flags & ~int(re.A)), st.sampled_from(["", "a+", ".", "(x)?"]), FLAGS)
    | st.builds(re.compile, st.sampled_from(["(?i)a", "(?m)^a$"]))
)
LABELS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
NUMBERS = st.integers(0, 99)
VERSIONS = st.builds(
    lambda numbers, pre, build: Version(".".join(map(str, numbers)) + (f"-{pre}" if pre else "") + (f"+{build}" if build else "")),
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.none() | st.sampled_from(["rc.1", "alpha", "0.3.7"]),
    st.none() | LABELS,
)
URIS = st.builds(
    lambda scheme, host, path, query: URI(f"{scheme}://{host}/{path}" + (f"?{query}" if query else "")),
    st.sampled_from(["http", "https", "ftp", "custom"]),
    LABELS,
    LABELS,
    st.none() | LABELS,
)
STEPS = st.integers(-9, 9).filter(bool)
RANGES = st.builds(range, INTEGERS, INTEGERS, STEPS)
DATE_RANGES = st.builds(DateRange, st.dates(), st.dates(), STEPS)
NAMES = (
    ENUMS
    | DECIMALS
    | st.fractions()
    | st.uuids()
    | PATHS
    | ADDRESSES
    | PATTERNS
    | st.sampled_from([Regex("a(?|b)", "u"), Regex(r"\h+", ""), Regex("a++b", "iu"), Regex("(?<y>a)", "msx")])
    | URIS
    | VERSIONS
    | RANGES
    | DATE_RANGES
    | st.just(...)
)
REFS = (
    st.builds(Ref, LABELS, LABELS, TEXT, TEXT, TEXT)
    | st.builds(StreamRef, LABELS, LABELS, TEXT, TEXT, TEXT, st.sampled_from(["iterator", "generator", "async_generator"]))
    | st.builds(CallbackRef, LABELS, st.integers(0, 255), TEXT)
)

# --- arrays and tables ------------------------------------------------------------------------------------------------------------------

SIMPLE = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64"]
DTYPES = st.sampled_from(
    [*map(np.dtype, [*SIMPLE, "complex128", ">i2", ">u8", ">f4", ">c16", "M8[ns]", "m8[D]", ">M8[s]", "M8", "U3", ">U2", "S4", "V3"])]
    + [np.dtype(name) for name in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4)]
    + [
        np.dtype([("a", "i1"), ("b", ">f8"), ("c", "U2", (2,))]),
        np.dtype({"names": ["x", "ÿ"], "formats": ["<u2", [("in", "?")]], "offsets": [4, 1], "itemsize": 9}),
        np.dtype([]),
    ]
)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Any dtype, any bytes, any rank, either order."""
    dtype = draw(DTYPES)
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size)) if size <= 64 else np.random.default_rng(size).bytes(size)
    if dtype.kind == "b" or dtype.fields is not None or dtype.name in ("int4", "uint4"):
        data = bytes(byte & 1 for byte in data)
    if dtype.kind == "U" or dtype.fields is not None:
        data = bytes(size)  # any four bytes are not a character
    array = np.frombuffer(data, dtype).reshape(shape).copy() if size else np.zeros(shape, dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


def _frames() -> list[Any]:
    import pandas
    import polars

    return [
        pandas.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pandas.DataFrame({"t": pandas.to_datetime(["2024-01-01", None])}, index=pandas.Index([7, 9], name="i")),
        polars.DataFrame({"a": [1.5, None], "s": ["ü", ""]}),
    ]


TABLES = st.sampled_from(
    [
        pa.table({"a": [1, None], "b": ["x", "y"]}),
        pa.table({}),
        pa.record_batch({"a": pa.array([], "int8")}),
        pa.record_batch({"t": pa.array([datetime(2024, 1, 1), None])}),
        pa.array([[1], None, []]),
        pa.array([{"x": 1, "y": b"z"}]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.chunked_array([[1, 2], [], [3]]),
        pa.scalar(1.5),
        pa.scalar(None, "string"),
        *_frames(),
    ]
)

# --- containers -------------------------------------------------------------------------------------------------------------------------

HASHABLE = PLAIN | MOMENTS | numpy_moments() | NAMES | REFS
KEYS = st.recursive(
    HASHABLE.filter(lambda value: not (isinstance(value, decimal.Decimal) and value.is_snan())),
    lambda inner: (
        st.tuples(inner, inner) | st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3) | st.builds(Point, inner, inner)
    ),
    max_leaves=3,
)
ATOMIC = (
    PLAIN
    | HASHABLE
    | arrays()
    | TABLES
    | st.just(math.nan)
    | st.builds(_folded, st.datetimes(timezones=ZONES), FOLDS)
    | st.builds(complex, st.sampled_from([math.nan, math.inf, -0.0]), st.sampled_from([math.nan, -math.inf, 1.5]))
)
OF_TAGGED = st.sampled_from(["__type__", "__schema__", "id", "session_id", "ref_id", "__snakebridge_ref__", "value", "x"])
TAGS = LABELS.map(lambda name: f"somewhere.{name}")
UNKNOWN_ENUM = st.builds(lambda name, value: Extension("enum", ["nowhere:Enum", name, value]), LABELS, INTEGERS)


def _stranger(fields: list[str], values: list[Any]) -> Any:
    return _to_namedtuple(["nowhere:Record", fields, values[: len(fields)]])


def _pairs(unhashable: Any, entries: dict[Any, Any], value: Any) -> Pairs:
    return Pairs([([unhashable], value), *entries.items()])


def containers(inner: Values) -> Values:
    """Everything that holds other values."""
    return (
        st.lists(inner, max_size=8)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(OF_TAGGED, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
        | st.frozensets(KEYS, max_size=3)
        | st.builds(_pairs, inner, st.dictionaries(KEYS, inner, max_size=3), inner)
        | st.builds(lambda one, others: Members([[one], *others]), inner, st.sets(KEYS, max_size=3))
        | st.builds(Point, inner, inner)
        | st.builds(Empty)
        | st.builds(_stranger, st.sampled_from([["a"], ["a", "b"], []]), st.lists(inner, min_size=2, max_size=2))
        | st.builds(slice, inner, inner, inner)
        | st.dictionaries(LABELS | TEXT, inner, max_size=3).map(lambda fields: SimpleNamespace(**fields))
        | st.builds(Extension, TAGS, inner)
        | UNKNOWN_ENUM
    )


VALUES: Values = st.recursive(ATOMIC, containers, max_leaves=8)


# What schema 1 of `tagged` carries exactly.
_LEAVES_1 = (
    st.none()
    | st.booleans()
    | INTEGERS
    | FLOATS
    | ANY_TEXT
    | st.binary(max_size=40)
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.times().map(lambda moment: _folded(moment, 0))
    | st.datetimes().map(lambda moment: _folded(moment, 0))
    | st.datetimes(timezones=WHOLE_MINUTES)
)
_KEYS_1 = st.recursive(_LEAVES_1, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=3)
SCHEMA_1 = st.recursive(
    _LEAVES_1 | st.just(math.nan),
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(_KEYS_1 | OF_TAGGED, inner, max_size=4)
        | st.sets(_KEYS_1, max_size=3)
        | st.frozensets(_KEYS_1, max_size=3)
    ),
    max_leaves=25,
)


def values_with(*others: Values) -> Values:
    """VALUES with these among them."""
    return st.recursive(st.one_of(ATOMIC, *others), containers, max_leaves=8)


def by_reference() -> Values:
    """Objects that stay in Python; a new one each time."""
    return st.one_of(
        st.builds(object),
        st.builds(lambda: iter([1])),
        st.builds(lambda: (item for item in ())),
        st.builds(ValueError, TEXT),
        st.builds(lambda: np.array([object()])),
        st.sampled_from([math, len, dict, np.longdouble(1)]),
    )


# --- values that come back as another class ---------------------------------------------------------------------------------------------


class Words(list[Any]):
    """A subclass that the codec does not know."""


class Title(str):
    __slots__ = ()


CANONICAL: st.SearchStrategy[tuple[Any, Any]] = st.one_of(
    st.binary(max_size=20).map(lambda data: (bytearray(data), data)),
    st.binary(max_size=20).map(lambda data: (memoryview(data)[::2], data[::2])),
    st.dictionaries(TEXT, INTEGERS, max_size=3).map(lambda items: (collections.OrderedDict(items), items)),
    st.dictionaries(KEYS, INTEGERS, max_size=3).map(lambda items: (collections.defaultdict(int, items), items)),
    st.text("abc", max_size=5).map(lambda text: (collections.Counter(text), dict(collections.Counter(text)))),
    st.lists(INTEGERS, max_size=3).map(lambda items: (Words(items), items)),
    ANY_TEXT.map(lambda text: (Title(text), text)),
    st.sampled_from([np.int8, np.uint64, np.float16, np.float32, np.float64, np.bool_, np.complex64, ml_dtypes.bfloat16])
    .flatmap(lambda kind: st.integers(0, 100).map(kind))
    .map(lambda scalar: (scalar, float(scalar) if scalar.dtype.name == "bfloat16" else scalar.item())),
    st.integers(0, 9).map(lambda n: (np.array([(n, 2)], "i1,i1")[0], np.array((n, 2), "i1,i1"))),
)
