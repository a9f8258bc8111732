"""Named types: classes that travel as a tag and a payload made of other values (docs/wire.md section 1.1), ours and users'.

One row serves both encodings: `packed` writes `[MARK 0x09, tag, payload]`, `tagged` schema 2 `{"__type__": tag, "value": payload}`.
Classes of modules that may never be imported are rows by name, looked up once per class.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from .errors import CodecError, DecodeError, EncodeError
from .wrappers import Extension


class _ByReference:
    def __repr__(self) -> str:
        return "BY_REFERENCE"


BY_REFERENCE: Any = _ByReference()
"""What `to_wire` returns for the one value of its class that has no payload: it becomes a ref."""


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A named type. `to_wire(value)` gives the payload, `from_wire(payload)` the value; what from_wire raises is a malformed payload."""

    tag: str
    to_wire: Callable[[Any], Any]
    from_wire: Callable[[Any], Any]
    by_user: bool = False


BY_TAG: dict[str, Named] = {}
BY_CLASS: dict[type, Named] = {}
_BY_NAME: dict[str, dict[str, Named]] = {}  # module -> name of a class in it -> row
_registering = threading.Lock()
_count = 0
_listeners: list[Callable[[type], None]] = []


def row(named: Named, *classes: type | str) -> None:
    """Adds a row of ours; a class as text, "module:Name", is recognised once that module is loaded."""
    BY_TAG[named.tag] = named
    for cls in classes:
        if isinstance(cls, str):
            module, _, name = cls.partition(":")
            _BY_NAME.setdefault(module, {})[name] = named
        else:
            BY_CLASS[cls] = named


def of_class(cls: type) -> Named | None:
    """The row of exactly this class; subclasses may hold more than we know of and have none."""
    found = BY_CLASS.get(cls)
    if found is not None:
        return found
    for module, names in _BY_NAME.items():
        named = names.get(cls.__name__)
        if named is not None and getattr(sys.modules.get(module), cls.__name__, None) is cls:
            return named
    return None


def read(tag: Any, payload: Any) -> Any:
    """The value of a tag and its payload. Raises DecodeError; a tag that nobody knows gives an Extension."""
    if type(tag) is not str:
        raise DecodeError(f"the tag of a named type must be a string, not {type(tag).__name__}; the sender's encoder is broken")
    named = BY_TAG.get(tag)
    if named is None:
        return Extension(tag, payload)
    try:
        return named.from_wire(payload)
    except CodecError:
        raise
    except Exception as error:
        who = f"from_wire of the registered type {tag!r}" if named.by_user else f"a {tag!r} value"
        raise DecodeError(f"{who} cannot be read: {type(error).__name__}: {str(error)[:200]} (payload {_short(payload)})") from error


def _short(payload: Any) -> str:
    text = ascii(payload)
    return text if len(text) <= 80 else text[:80] + "..."


# --- users' types -----------------------------------------------------------------------------------------------------------------------

_NATIVE = (type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset, complex, type, object)


def register(
    cls: type,
    tag: str,
    to_wire: Callable[[Any], Any] | None = None,
    from_wire: Callable[[Any], Any] | None = None,
) -> type:
    """Makes instances of a class travel by value, under a tag that the Elixir side knows too (`SnakeBridge.Types.register/2`).

    `to_wire(instance)` returns the payload, any value that travels; `from_wire(payload)` makes the instance again. A dataclass needs
    neither: its fields travel as a dict; an exception class neither: its `args` do. Exactly this class is meant, not its subclasses.
    Registering a class again (a reloaded module) replaces it. Returns the class, so it can be used in a decorator.

    Raises ValueError for a tag that is taken or reserved, or a class that travels by itself; TypeError for what is not a class.
    """
    global _count
    if not isinstance(cls, type):
        raise TypeError(f"register takes a class, not {_short(cls)}")
    if cls in _NATIVE:
        raise ValueError(f"{cls.__name__} travels by itself and cannot be registered; register a class of your own")
    if not isinstance(tag, str) or not tag or len(tag) > 200:
        raise ValueError(f"a tag is a text of 1 to 200 characters, not {_short(tag)}")
    if to_wire is None or from_wire is None:
        default_to, default_from = _defaults(cls)
        to_wire, from_wire = to_wire or default_to, from_wire or default_from
    if isinstance(to_wire, property) or not callable(to_wire) or not callable(from_wire):
        raise TypeError(f"to_wire and from_wire of {tag!r} must be functions of one argument")
    with _registering:
        taken = BY_TAG.get(tag)
        if tag in RESERVED or (taken is not None and not taken.by_user):
            raise ValueError(f"the tag {tag!r} is the codec's own; choose another, such as 'myapp.{tag}'")
        owner = next((known for known, named in BY_CLASS.items() if named.tag == tag), None)
        if owner is not None and (owner.__module__, owner.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"the tag {tag!r} belongs to {owner.__module__}.{owner.__qualname__}; choose another tag")
        if owner is not None:
            del BY_CLASS[owner]
        named = Named(tag, to_wire, from_wire, by_user=True)
        previous = BY_CLASS.get(cls)
        if previous is not None:
            BY_TAG.pop(previous.tag, None)
        BY_TAG[tag] = BY_CLASS[cls] = named
        _count += 1
        for forget in _listeners:
            forget(cls)
    return cls


def on_register(forget: Callable[[type], None]) -> None:
    """Calls `forget(cls)` whenever a class is registered: encoders remember how they write a class."""
    _listeners.append(forget)


def _defaults(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        initial = {field.name for field in dataclasses.fields(cls) if field.init}

        def fields_of(value: Any) -> dict[str, Any]:
            return {name: getattr(value, name) for name in names}

        def from_fields(payload: Any) -> Any:
            if not isinstance(payload, dict):
                raise TypeError(f"the fields of {cls.__name__} come as a map, not as {type(payload).__name__}")
            given = {str(name): value for name, value in payload.items()}
            value = cls(**{name: item for name, item in given.items() if name in initial or name not in names})
            for name in names:
                if name not in initial and name in given:
                    object.__setattr__(value, name, given[name])
            return value

        return fields_of, from_fields
    if issubclass(cls, BaseException):
        return (lambda error: list(error.args)), (lambda arguments: cls(*arguments))
    raise TypeError(f"{cls.__qualname__} is neither a dataclass nor an exception: give register both to_wire and from_wire")


def registrations() -> int:
    """How often a class has been registered so far."""
    return _count


def known(value: Any) -> Any:
    """A value in which Extensions whose type is known by now are what they stand for; the value itself when there are none.

    For arguments that came in before the module was imported that registers their type, or holds their enum.
    """
    return _known(value, set())


def _known(value: Any, around: set[int]) -> Any:
    kind = type(value)
    if kind is Extension:
        return read(value.tag, _known(value.value, around)) if value.tag in BY_TAG else value
    if kind not in (list, tuple, dict, set, frozenset) or not value or id(value) in around:
        return value
    around.add(id(value))
    parts = [*value, *value.values()] if kind is dict else list(value)
    found = [_known(part, around) for part in parts]
    around.discard(id(value))
    if all(new is old for new, old in zip(found, parts, strict=True)):
        return value
    return dict(zip(found[: len(value)], found[len(value) :], strict=True)) if kind is dict else kind(found)


# Tags that `tagged` uses for other things.
RESERVED = frozenset(
    [
        "atom",
        "tuple",
        "set",
        "frozenset",
        "bytes",
        "binary",
        "complex",
        "datetime",
        "date",
        "special_float",
        "infinity",
        "neg_infinity",
        "nan",
        "dict",
        "callback",
        "ref",
        "stream_ref",
        "ndarray",
        "leaf",
        "pairs",
        "members",
        "naive_datetime",
        "stop_iteration",
    ]
)


# --- classes by name --------------------------------------------------------------------------------------------------------------------

_seen: WeakValueDictionary[str, type] = WeakValueDictionary()


def type_name(cls: type) -> str:
    """ "module:qualified name" of a class, remembered so that `find_type` finds it even when it is local to a function."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _seen.get(name) is not cls:
        _seen[name] = cls
    return name


def find_type(name: Any, base: type) -> type | None:
    """The loaded class of that name, a subclass of `base`; None when there is none. Imports nothing and runs no code of the class."""
    if not isinstance(name, str):
        raise EncodeError(f"the name of a class must be text, not {_short(name)}")
    seen = _seen.get(name)
    if seen is not None:
        return seen if issubclass(seen, base) else None
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for step in path.split("."):
        found = getattr(found, "__dict__", {}).get(step)
    return found if isinstance(found, type) and issubclass(found, base) else None
