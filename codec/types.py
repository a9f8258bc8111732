"""The type table: how every kind of value travels, and what becomes of it. docs/types.md is generated from it, and the tests hold the codec to it.

Forms of `packed`: a MessagePack type, `ext n` (a leaf), `mark n` (a composite), `typed tag` (a named type); of `tagged`: `json` (plain), or
the tag. `ref` and `stream_ref` mean that the object stays in Python.
"""

from __future__ import annotations

from dataclasses import dataclass

EXACT, CANONICAL, REFERENCE = "exact", "canonical", "by reference"


@dataclass(frozen=True, slots=True)
class Type:
    """One row. `examples` are Python expressions of such values; for a canonical row `becomes` are the expressions of what comes back."""

    python: str
    elixir: str
    packed: str
    schema1: str
    schema2: str
    round_trip: str
    examples: tuple[str, ...]
    becomes: tuple[str, ...] = ()


def _same(form: str) -> tuple[str, str]:
    return form, form


TABLE: dict[str, list[Type]] = {
    "Plain values": [
        Type("None", "nil", "nil", *_same("json"), EXACT, ("None",)),
        Type("bool", "true, false", "bool", *_same("json"), EXACT, ("True", "False")),
        Type("int of 64 bits", "integer", "int", *_same("json"), EXACT, ("0", "-1", "2**63 - 1", "-(2**63)")),
        Type("int of any size", "integer", "ext 1", *_same("json"), EXACT, ("2**64", "-(2**200)")),
        Type("float, -0.0", "float", "float", *_same("json"), EXACT, ("1.5", "-0.0", "5e-324", "1.7976931348623157e308")),
        Type("nan, inf, -inf", ":nan, :infinity, :neg_infinity", "float", *_same("special_float"), EXACT, ("math.nan", "-math.inf")),
        Type("complex", "SnakeBridge.Complex", "ext 5", *_same("complex"), EXACT, ("1.5-2j",)),
        Type("complex with nan or inf", "SnakeBridge.Complex", "ext 5", "ref", "leaf", EXACT, ("complex(math.nan, -math.inf)",)),
        Type("str", "binary that is text", "str", *_same("json"), EXACT, ("''", "'ü\\0'", "'\\U0001f40d'")),
        Type("str with lone surrogates", "SnakeBridge.Text", "ext 4", "ref", "leaf", EXACT, ("'\\ud800x'",)),
        Type("bytes", "SnakeBridge.Bytes", "bin", *_same("bytes"), EXACT, ("b''", "b'a\\xff'")),
        Type("bytearray, memoryview", "SnakeBridge.Bytes", "bin", *_same("bytes"), CANONICAL,
             ("bytearray(b'ab')", "memoryview(b'abcd')[::2]"), ("b'ab'", "b'ac'")),
        Type("Binary", "binary that is not text", "ext 3", "bytes", "leaf", EXACT, ("Binary(b'\\xff')",)),
        Type("Atom", "atom, or SnakeBridge.Atom where no such atom exists", "ext 2", *_same("atom"), EXACT, ("Atom('ok')",)),
    ],
    "Containers": [
        Type("list", "list", "array", *_same("json"), EXACT, ("[]", "[1, [2.5, None]]")),
        Type("tuple", "tuple", "mark 1", *_same("tuple"), EXACT, ("()", "(1, (2,))")),
        Type("dict with text keys", "map (SnakeBridge.OrderedMap with `maps: :ordered`)", "map", *_same("json"), EXACT, ("{}", "{'b': 1, 'a': 2}")),
        Type("dict with any other keys", "map (SnakeBridge.OrderedMap with `maps: :ordered`)", "map", *_same("dict"), EXACT,
             ("{1: 'a', (2, 3): 'b', None: 1.5}", "{'__type__': 'set'}")),
        Type("set", "MapSet", "mark 2", *_same("set"), EXACT, ("set()", "{1, 'a', (2,)}")),
        Type("frozenset", "SnakeBridge.FrozenSet", "mark 3", *_same("frozenset"), EXACT, ("frozenset({1, frozenset()})",)),
        Type("Pairs", "map whose keys Python cannot hash or keep apart", "mark 4", "json", "pairs", EXACT, ("Pairs([([1], 'a'), (1, 2), (True, 3)])",)),
        Type("Members", "MapSet whose elements Python cannot hash or keep apart", "mark 10", "json", "members", EXACT, ("Members([[1], {}])",)),
        Type("namedtuple, NamedTuple, time.struct_time, os.stat_result, ...", "SnakeBridge.NamedTuple", "typed namedtuple", "tuple", "namedtuple", EXACT,
             ("__import__('urllib.parse').parse.SplitResult('http', 'x', '/', '', '')", "__import__('time').gmtime(0)", "__import__('os').stat('/')")),
        Type("SimpleNamespace", "SnakeBridge.Namespace", "typed namespace", "ref", "namespace", EXACT, ("SimpleNamespace(a=1, b=[2])",)),
        Type("OrderedDict, defaultdict, Counter, other dicts", "map", "map", *_same("json"), CANONICAL,
             ("collections.OrderedDict(b=1, a=2)", "collections.defaultdict(int, a=1)", "collections.Counter('a')"),
             ("{'b': 1, 'a': 2}", "{'a': 1}", "{'a': 1}")),
        Type("other subclasses of str, int, float, complex, bytes, list, tuple, set, frozenset", "as their base", "array", *_same("json"), CANONICAL,
             ("type('L', (list,), {})([1])",), ("[1]",)),
    ],
    "Dates and times": [
        Type("date", "Date", "ext 6", *_same("date"), EXACT, ("datetime.date(1, 1, 1)", "datetime.date(9999, 12, 31)")),
        Type("naive time", "Time", "ext 7", *_same("time"), EXACT, ("datetime.time(23, 59, 59, 999999)",)),
        Type("naive datetime", "NaiveDateTime", "ext 8", *_same("datetime"), EXACT, ("datetime.datetime(2024, 2, 29, 12)",)),
        Type("aware datetime, fixed offset", "DateTime", "ext 9", *_same("datetime"), EXACT,
             ("datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)", "datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))")),
        Type("aware datetime, ZoneInfo", "DateTime", "ext 9", "datetime", "leaf", EXACT, ("datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))",)),
        Type("aware datetime, FixedZone (a zone that the data here do not know, or say otherwise)", "DateTime", "ext 9", "datetime", "leaf", EXACT,
             ("datetime.datetime(2024, 7, 1, tzinfo=FixedZone('Mars/Olympus', 'MTC', datetime.timedelta(0, 60), datetime.timedelta(0)))",)),
        Type("PreciseTime, PreciseDatetime", "Time, NaiveDateTime, DateTime with another precision", "ext 7", "time", "leaf", EXACT,
             ("precise(datetime.time(1, 2, 3, 120000), 3)",)),
        Type("naive time or datetime with fold=1", "SnakeBridge.Fold", "typed fold", "ref", "fold", EXACT,
             ("datetime.datetime(2024, 10, 27, 2, 30, fold=1)", "datetime.time(2, 30, fold=1)")),
        Type("aware time", "SnakeBridge.ZonedTime", "typed time", "ref", "time", EXACT, ("datetime.time(1, 2, tzinfo=datetime.timezone.utc)",)),
        Type("aware datetime whose zone has a name of its own, offset of microseconds", "SnakeBridge.ZonedDateTime", "typed datetime", "datetime", "datetime", EXACT,
             ("datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1), 'X'))",)),
        Type("datetime with a tzinfo of another class", "DateTime", "ext 9", *_same("datetime"), CANONICAL,
             ("datetime.datetime(2024, 1, 1, tzinfo=type('Z', (datetime.tzinfo,), {'utcoffset': lambda s, d: datetime.timedelta(hours=1), 'dst': lambda s, d: None})())",),
             ("datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))",)),
        Type("timedelta", "SnakeBridge.TimeDelta", "typed timedelta", "ref", "timedelta", EXACT, ("datetime.timedelta(-1, 2, 3)",)),
        Type("timezone", "SnakeBridge.TimeZone", "typed timezone", "ref", "timezone", EXACT, ("datetime.timezone.utc",)),
        Type("ZoneInfo", "SnakeBridge.ZoneInfo", "typed zoneinfo", "ref", "zoneinfo", EXACT, ("zoneinfo.ZoneInfo('Asia/Kolkata')",)),
        Type("numpy.datetime64", "SnakeBridge.DateTime64", "typed datetime64", "ref", "datetime64", EXACT,
             ("np.datetime64('2024-01-02T03:04:05.123456789')", "np.datetime64('NaT')")),
        Type("numpy.timedelta64", "SnakeBridge.TimeDelta64", "typed timedelta64", "ref", "timedelta64", EXACT, ("np.timedelta64(-3, 'D')",)),
        Type("other subclasses (pandas.Timestamp, ...)", "SnakeBridge.Ref", "mark 5", *_same("ref"), REFERENCE, ("type('D', (datetime.date,), {})(2024, 1, 1)",)),
    ],
    "Numbers and names": [
        Type("Decimal", "Decimal, or SnakeBridge.Decimal where that is not loaded", "typed decimal", "ref", "decimal", EXACT,
             ("Decimal('-1.50E+7')", "Decimal('-0.00')", "Decimal('sNaN12')", "Decimal('-Infinity')")),
        Type("Fraction", "SnakeBridge.Fraction", "typed fraction", "ref", "fraction", EXACT, ("Fraction(-1, 3)",)),
        Type("Enum, IntEnum, StrEnum, Flag members", "SnakeBridge.Enum", "typed enum", "ref", "enum", EXACT, ("__import__('uuid').SafeUUID.safe",)),
        Type("... of str or int, in schema 1", "SnakeBridge.Enum", "typed enum", "json", "enum", EXACT, ("__import__('http').HTTPStatus.OK", "re.RegexFlag(10)")),
        Type("UUID", "SnakeBridge.UUID", "typed uuid", "ref", "uuid", EXACT, ("__import__('uuid').UUID(int=7)",)),
        Type("pathlib paths", "SnakeBridge.Path", "typed path", "ref", "path", EXACT, ("pathlib.Path('/tmp/a')", "pathlib.PureWindowsPath('c:/x')")),
        Type("ipaddress types", "SnakeBridge.IP", "typed ip", "ref", "ip", EXACT,
             ("ipaddress.ip_address('::1')", "ipaddress.ip_network('10.0.0.0/8')", "ipaddress.ip_interface('10.0.0.1/8')")),
        Type("range", "Range", "typed range", "ref", "range", EXACT, ("range(1, 10, 3)", "range(5, 0)")),
        Type("slice", "SnakeBridge.Slice", "typed slice", "ref", "slice", EXACT, ("slice(1, None, -1)",)),
        Type("Ellipsis", "SnakeBridge.Ellipsis", "typed ellipsis", "ref", "ellipsis", EXACT, ("...",)),
        Type("re.Pattern", "Regex, or SnakeBridge.Pattern where PCRE does not say the same", "typed pattern", "ref", "pattern", EXACT,
             ("re.compile('a+', re.I)", "re.compile(b'a')")),
        Type("Regex", "Regex that `re` cannot compile", "typed regex", "ref", "regex", EXACT, ("Regex('a(?|b)', 'u')",)),
        Type("URI, Version", "URI, Version", "typed uri", "json", "uri", EXACT, ("URI('https://x.org/?q')",)),
        Type("DateRange", "Date.Range", "typed date_range", "ref", "date_range", EXACT, ("DateRange(datetime.date(2024, 1, 1), datetime.date(2024, 2, 1), 2)",)),
    ],
    "Arrays and tables": [
        Type("numpy.ndarray: any rank, C or Fortran order, either byte order, structured, datetime64, text, ml_dtypes", "SnakeBridge.Tensor (Nx.Tensor if asked for)",
             "mark 8", "ref", "ndarray", EXACT,
             ("np.arange(6.0).reshape(2, 3)", "np.asfortranarray(np.eye(2, 3))", "np.array([1], '>i4')", "np.array(5)", "np.zeros((0, 3))",
              "np.array([(1, 2.5)], [('a', 'i1'), ('b', '>f8')])", "np.array(['2024-01-01', 'NaT'], 'M8[ns]')", "np.array(['ab', 'c'])",
              "np.array([1.5], ml_dtypes.bfloat16)", "np.array([True])")),
        Type("numpy scalars: bool_, integers, floats to 64 bits, complex, those of ml_dtypes", "as the Python number", "float", *_same("json"), CANONICAL,
             ("np.float32(1.5)", "ml_dtypes.float8_e4m3fn(0.5)"), ("1.5", "0.5")),
        Type("numpy.void (structured scalar)", "SnakeBridge.Tensor of no dimensions", "mark 8", "ref", "ndarray", CANONICAL,
             ("np.array([(1, 2)], 'i1,i1')[0]",), ("np.array((1, 2), 'i1,i1')",)),
        Type("jax.Array", "SnakeBridge.Tensor", "mark 8", "ref", "ndarray", CANONICAL, ("jnp.arange(3.0)",), ("np.arange(3, dtype='float32')",)),
        Type("pyarrow Table, RecordBatch, Array, ChunkedArray, Scalar", "SnakeBridge.Arrow (an Explorer frame if asked for)", "typed arrow", "ref", "arrow", EXACT,
             ("pa.table({'a': [1, None], 'b': ['x', 'y']})", "pa.array([[1], None])", "pa.scalar(1.5)", "pa.record_batch({'a': pa.array([], 'int8')})")),
        Type("pandas and polars DataFrame, where Arrow holds them exactly", "SnakeBridge.Arrow", "typed arrow", "ref", "arrow", EXACT, ()),
        Type("arrays of objects, longdouble, variable-length strings; subclasses of ndarray", "SnakeBridge.Ref", "mark 5", *_same("ref"), REFERENCE,
             ("np.array([object()])", "np.longdouble(1)")),
    ],
    "Everything else": [
        Type("registered class (`codec.register`)", "registered struct, else SnakeBridge.Extension", "typed tests.point", "ref", "tests.point", EXACT, ("Point(1, 2)",)),
        Type("Extension", "term of a registered tag, else SnakeBridge.Extension", "typed some.tag", "ref", "some.tag", EXACT, ("Extension('some.tag', [1])",)),
        Type("OpaqueTerm", "pid, reference, port, bitstring, improper list, exception, any other struct", "ext 11", "ref", "leaf", EXACT,
             ("OpaqueTerm(bytes(32) + b'\\x03pid' + b'...')",)),
        Type("callable that came from Elixir", "function", "mark 7", *_same("callback"), REFERENCE, ("CallbackRef('cb', 1, '<0.1.0>')",)),
        Type("iterator, generator, async generator", "SnakeBridge.StreamRef", "mark 6", *_same("stream_ref"), REFERENCE, ("iter([1])", "(i for i in ())")),
        Type("exception, module, class, function, anything else", "SnakeBridge.Ref", "mark 5", *_same("ref"), REFERENCE,
             ("object()", "ValueError('x')", "len", "math", "type('C', (), {})()")),
    ],
}  # fmt: skip
