"""What a module or a class offers: its names, what each of them is, and the Elixir name that it gets.

Attributes of classes are read from the classes' own dictionaries, so properties and descriptors do not run. Surfaces are made once.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import keyword
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import docstrings, importing, naming, reading

FUNCTION, NEW, METHOD, CLASS_METHOD, STATIC_METHOD, PROPERTY, CONSTANT, SET_PROPERTY = (
    "function",
    "new",
    "method",
    "class_method",
    "static_method",
    "property",
    "constant",
    "set_property",
)
INIT = "__init__"
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Member:
    """A name of a module or class. `value` is what is called or read (a descriptor as it stands in the class); `owner` has it."""

    python: str
    elixir: str
    kind: str
    value: Any
    owner: type | None = None
    doc: str | None = None


@dataclass(slots=True)
class ModuleSurface:
    """`members` by Python name; `classes` too, with their segments; `submodules` by name. All of what is public."""

    module: types.ModuleType
    members: dict[str, Member] = field(default_factory=dict)
    classes: dict[str, type] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)
    submodules: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ClassSurface:
    """`members` by Python name, the setters under "set_" and the name of the property; `classes` are those inside of the class."""

    cls: type
    members: dict[str, Member] = field(default_factory=dict)
    classes: dict[str, type] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)


# --- modules ---


@functools.cache
def of_module(module: types.ModuleType) -> ModuleSurface:
    """The public surface of a module."""
    surface = ModuleSurface(module, submodules=reading.submodules(module))
    values: dict[str, Any] = {}
    for name in reading.public_names(module):
        try:
            value = reading.attribute(module, name, current=True)
            is_module, is_class = isinstance(value, types.ModuleType), isinstance(value, type)
        except reading.Deprecated:
            continue
        except Exception as error:  # a name that cannot be had, or an object that cannot even be asked what it is
            surface.failed[name] = f"{type(error).__name__}: {importing.said(error)}"
            continue
        if is_class:
            surface.classes[name] = value
        elif not is_module:
            values[name] = value
    surface.segments = naming.class_segments(surface.classes, surface.submodules)
    names = naming.function_names(values)
    surface.members = {name: _of_module(name, names[name], value) for name, value in values.items()}
    return surface


def _of_module(name: str, elixir: str, value: Any) -> Member:
    return Member(name, elixir, FUNCTION if _is_callable(value) else CONSTANT, value)


def unlisted(surface: ModuleSurface, name: str) -> Member | type | None:
    """A name that the module has but does not offer, when somebody asks for it: a member or a class. None when there is none."""
    try:
        value = reading.attribute(surface.module, name)
    except AttributeError:
        return None
    if isinstance(value, types.ModuleType):
        return None
    if isinstance(value, type):
        return value
    names = naming.function_names([name], (member.elixir for member in surface.members.values()))
    return _of_module(name, names[name], value)


def main_classes(surface: ModuleSurface) -> list[str]:
    """The classes under their main names: `double`, where `float64` is there and the same, is left out."""
    groups: dict[int, list[str]] = {}
    for name, cls in surface.classes.items():
        groups.setdefault(id(cls), []).append(name)
    chosen = []
    for names in groups.values():
        own = surface.classes[names[0]].__name__
        chosen.append(own if own in names else min(names))
    return sorted(chosen)


def _is_callable(value: Any) -> bool:
    try:
        return callable(value)
    except Exception:
        return False


# --- classes ---


# By identity: classes of some libraries say that they equal others.
_classes: dict[int, ClassSurface] = {}


def of_class(cls: type) -> ClassSurface:
    """The public surface of a class, with what it inherits from anything but object."""
    known = _classes.get(id(cls))
    if known is None or known.cls is not cls:
        known = _classes[id(cls)] = _of_class(cls)
    return known


def _of_class(cls: type) -> ClassSurface:
    surface = ClassSurface(cls)
    found: dict[str, tuple[str, Any, type | None]] = {}
    for owner in mro(cls):
        if owner is object:
            continue
        for name, raw in list(vars(owner).items()):
            if not isinstance(name, str) or name in found or name in surface.classes or raw is None:
                continue  # None, as in __hash__ = None: it cannot do that
            if name not in naming.DUNDERS and not (naming.is_public(name) and name.isidentifier()):
                continue
            if isinstance(raw, type) and not isinstance(cls, enum.EnumMeta):
                if raw is not cls:
                    surface.classes[name] = raw
                continue
            kind = _kind(raw, name, owner, cls)
            if kind is not None:
                found[name] = (kind, raw, owner)
    for name, declarer in _fields(cls).items():
        # The default of a field stands in the class; what is meant is the field.
        if name not in found or (found[name][0] == CONSTANT and name in getattr(cls, "__dataclass_fields__", ())):
            found[name] = (PROPERTY, _MISSING, declarer)
    if isinstance(cls, enum.EnumMeta):
        for name in _enum_names(cls):
            found[name] = (CONSTANT, cls.__members__.get(name), cls)
    documented = docstrings.read(reading.text(cls, "__doc__")).items("Attributes")
    for name in documented:
        if name.isidentifier() and naming.is_public(name) and not keyword.iskeyword(name):
            found.setdefault(name, (PROPERTY, _MISSING, None))
    names = naming.function_names(found, taken=["new"])
    taken = {"new", *names.values()}
    surface.members[INIT] = Member(INIT, "new", NEW, cls, cls)
    for name, (kind, raw, holder) in sorted(found.items()):
        item = documented.get(name)
        surface.members[name] = Member(name, names[name], kind, raw, holder, item.text if item is not None and raw is _MISSING else None)
    for name, (kind, raw, holder) in sorted(found.items()):
        if kind == PROPERTY and _settable(raw, cls, name):
            elixir = naming.function_names([f"set_{name}"], taken)[f"set_{name}"]
            taken.add(elixir)
            surface.members[f"set_{name}"] = Member(name, elixir, SET_PROPERTY, raw, holder)
    surface.segments = naming.class_segments(surface.classes)
    return surface


def mro(cls: type) -> tuple[type, ...]:
    """The classes that attributes come from, whatever a metaclass says."""
    return type.__dict__["__mro__"].__get__(cls)  # type: ignore[no-any-return]


_METHODS = (
    types.FunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    functools.partialmethod,
    functools.singledispatchmethod,
)
_DATA = (property, functools.cached_property, types.GetSetDescriptorType, types.MemberDescriptorType, types.DynamicClassAttribute)


def _kind(raw: Any, name: str, owner: type, cls: type) -> str | None:
    if isinstance(raw, (classmethod, types.ClassMethodDescriptorType)):
        return CLASS_METHOD
    if isinstance(raw, (staticmethod, types.BuiltinFunctionType)):
        return STATIC_METHOD if name not in naming.DUNDERS else None
    if isinstance(raw, _METHODS):
        return METHOD
    if isinstance(raw, _DATA):
        return PROPERTY
    kind = type(raw)
    if kind.__name__ == "cython_function_or_method":
        return METHOD
    if not any("__get__" in base.__dict__ for base in mro(kind)):
        return None if name in naming.DUNDERS else CONSTANT if not _is_callable(raw) else STATIC_METHOD
    # A descriptor of the library's own. What it gives on the class tells whether it is called or read.
    if any("__set__" in base.__dict__ for base in mro(kind)):
        return PROPERTY
    try:
        given = getattr(cls, name)
    except Exception:
        return PROPERTY
    return METHOD if _is_callable(given) and not isinstance(given, type) else PROPERTY


def _fields(cls: type) -> dict[str, type]:
    """Instance attributes that the class declares: fields of data classes, and annotated names."""
    found: dict[str, type] = {}
    for owner in mro(cls):
        declared = owner.__dict__.get("__dataclass_fields__")
        annotated = declared_types(owner)
        names = [*(declared if isinstance(declared, Mapping) else ()), *annotated]
        for name in names:
            if isinstance(name, str) and naming.is_public(name) and name.isidentifier():
                found.setdefault(name, owner)
    return found


def declared_types(owner: type) -> Mapping[Any, Any]:
    try:
        return inspect.get_annotations(owner)
    except Exception:  # whatever a class keeps under that name
        return {}


def _settable(raw: Any, cls: type, name: str) -> bool:
    if isinstance(raw, property):
        return raw.fset is not None
    if isinstance(raw, types.MemberDescriptorType):
        return bool(raw.__objclass__.__flags__ & (1 << 9))  # of __slots__, not a field of a C class
    if raw is _MISSING:
        params = getattr(cls, "__dataclass_params__", None)
        return params is not None and dataclasses.is_dataclass(cls) and name in cls.__dataclass_fields__ and not params.frozen
    return False


def _enum_names(cls: type) -> list[str]:
    return sorted(name for name in getattr(cls, "__members__", ()) if isinstance(name, str) and name.isidentifier())


def class_member(surface: ClassSurface, name: str) -> Member | None:
    """A member by its Python name; also of names that are not offered (a private method, when it is asked for)."""
    known = surface.members.get(name)
    if known is not None:
        return known
    for owner in mro(surface.cls):
        raw = vars(owner).get(name, _MISSING)
        if raw is not _MISSING and raw is not None and owner is not object:
            kind = _kind(raw, name, owner, surface.cls)
            if kind is None:
                return None
            names = naming.function_names([name], (member.elixir for member in surface.members.values()))
            return Member(name, names[name], kind, raw, owner)
    return None


def has_value(member: Member) -> bool:
    """Whether there is something to look at; an attribute known from documentation alone has none."""
    return member.value is not _MISSING
