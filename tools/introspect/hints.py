"""Type hints in one form, whether they are objects, texts or syntax of a stub.

A `Hint` is what a hint is about (a class, a form of `typing`, or nothing known) and its arguments. Names are looked up in what is loaded
and, where they exist for type checkers only, in files (`sources`). No text is evaluated, and nothing is imported but modules of the library
itself and of the standard library.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import importing, sources
from .sources import Source

_DEPTH = 24
_MAX_ARGS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Hint:
    """`origin` is a class, a form of typing (Union, Literal), the name of a class elsewhere, or None when it is not known what is meant.

    Hints are compared by the identity of their origins: classes of some libraries say that they equal others.
    """

    origin: Any
    args: tuple[Hint, ...] = ()
    values: tuple[Any, ...] = ()  # of Literal

    def _key(self) -> tuple[Any, ...]:
        return (
            self.origin if isinstance(self.origin, str) else id(self.origin),
            self.args,
            tuple((type(value).__name__, repr(value)) for value in self.values),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hint) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


UNKNOWN = Hint(None)
NONE = Hint(type(None))


@dataclass(frozen=True, slots=True)
class Scope:
    """Where names of a hint are looked up: in a file, in the globals of a function, or both. `self_class` is what Self means."""

    source: Source | None = None
    names: Mapping[str, Any] | None = None
    self_class: type | None = None


def read(annotation: Any, scope: Scope) -> Hint:
    """The hint of an annotation: an object, a text, or syntax. What cannot be understood is UNKNOWN, never an error."""
    try:
        return _read(annotation, scope, 0)
    except Exception:  # annotations are users' objects: whatever they do, it is no type that we know
        return UNKNOWN


def _read(annotation: Any, scope: Scope, depth: int) -> Hint:
    if depth > _DEPTH or annotation is inspect.Parameter.empty:
        return UNKNOWN
    if isinstance(annotation, str):
        return _read(ast.parse(annotation.strip(), mode="eval").body, scope, depth + 1)
    if isinstance(annotation, ast.expr):
        return _syntax(annotation, scope, depth)
    return _object(annotation, scope, depth)


def _object(annotation: Any, scope: Scope, depth: int) -> Hint:
    if annotation is None or annotation is type(None):
        return NONE
    if isinstance(annotation, typing.ForwardRef):
        return _read(annotation.__forward_arg__, scope, depth + 1)
    if _named(annotation, "Self"):
        return Hint(scope.self_class)
    if isinstance(annotation, typing.TypeVar):
        return _constraints(annotation.__constraints__, scope, depth)
    if isinstance(annotation, typing.NewType):
        return _read(annotation.__supertype__, scope, depth + 1)
    origin = typing.get_origin(annotation)
    if origin is None:
        if annotation is typing.Any or not isinstance(annotation, type):
            return Hint(str) if _named(annotation, "LiteralString") else UNKNOWN
        return Hint(annotation)
    args = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _read(args[0], scope, depth + 1)
    return _generic(origin, args, scope, depth)


def _generic(origin: Any, args: tuple[Any, ...], scope: Scope, depth: int) -> Hint:
    """A form with arguments. The arguments may be objects or syntax."""
    if origin is typing.Literal:
        values = tuple(arg.value if isinstance(arg, ast.Constant) else arg for arg in args)
        return UNKNOWN if any(isinstance(value, ast.expr) for value in values) else Hint(origin, values=values)
    if origin is types.UnionType or origin is typing.Union:
        return union([_read(arg, scope, depth + 1) for arg in args[:_MAX_ARGS]])
    if origin is typing.Optional:
        return union([_read(args[0], scope, depth + 1), NONE])
    if _named(origin, "Annotated", "ClassVar", "Final", "Required", "NotRequired", "ReadOnly"):
        return _read(args[0], scope, depth + 1)
    origin = typing.get_origin(origin) or origin  # typing.List -> list
    if origin is collections.abc.Callable or (isinstance(origin, type) and issubclass(origin, type)):
        return Hint(origin)
    return Hint(origin, tuple(Hint(...) if _is_dots(arg) else _read(arg, scope, depth + 1) for arg in args[:_MAX_ARGS]))


def union(hints: list[Hint]) -> Hint:
    """One hint for any of several."""
    flat: list[Hint] = []
    for hint in hints:
        for item in hint.args if hint.origin is typing.Union else (hint,):
            if item not in flat:
                flat.append(item)
    return flat[0] if len(flat) == 1 else Hint(typing.Union, tuple(flat))


def _constraints(constraints: Any, scope: Scope, depth: int) -> Hint:
    if not constraints:
        return UNKNOWN
    return union([_read(constraint, scope, depth + 1) for constraint in constraints])


def _syntax(node: ast.expr, scope: Scope, depth: int) -> Hint:
    match node:
        case ast.Constant(value=None):
            return NONE
        case ast.Constant(value=str(text)):
            return _read(text, scope, depth + 1)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return union([_read(left, scope, depth + 1), _read(right, scope, depth + 1)])
        case ast.Subscript(value=value, slice=inner):
            return _subscript(value, list(inner.elts) if isinstance(inner, ast.Tuple) else [inner], scope, depth)
        case ast.Name() | ast.Attribute():
            return _found(_lookup(node, scope, depth), scope, depth)
        case _:
            return UNKNOWN


def _subscript(value: ast.expr, args: list[ast.expr], scope: Scope, depth: int) -> Hint:
    found = _lookup(value, scope, depth)
    if isinstance(found, _Alias):
        # A generic alias: its own form, without the arguments.
        return _read(found.node, found.scope, depth + 1)
    if found is None:
        return UNKNOWN
    if isinstance(found, _Foreign):
        return Hint(found.name)
    if _named(found, "Optional"):
        return union([_read(args[0], scope, depth + 1), NONE])
    if _named(found, "Union"):
        return union([_read(arg, scope, depth + 1) for arg in args[:_MAX_ARGS]])
    if _named(found, "Literal"):
        return _generic(typing.Literal, tuple(args), scope, depth)
    alias = typing.get_origin(found)
    if alias is not None and not isinstance(found, type) and not isinstance(found, typing._SpecialGenericAlias):  # type: ignore[attr-defined]
        # A generic alias that is an object (numpy.typing.NDArray).
        return _read(found, scope, depth + 1)
    return _generic(found, tuple(args), scope, depth)


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A name in a library that the described one may do without: known by its name alone, whether it is loaded or not."""

    name: str


def _is_familiar(module: str, scope: Scope) -> bool:
    """Whether a module may be looked into. What is described must not depend on which other libraries happen to be loaded, so it is the
    library itself, the standard library, and numpy, which the array libraries share."""
    top = module.partition(".")[0]
    own = scope.source.module.partition(".")[0] if scope.source is not None else ""
    return top in (own, "numpy", "typing_extensions", "_typeshed") or top in sys.stdlib_module_names


@functools.cache
def _importable(module: str) -> types.ModuleType | None:
    try:
        return importing.imported(module) if module != "_typeshed" else None
    except importing.ImportFailed:
        return None


@dataclass(frozen=True, slots=True)
class _Alias:
    """A name that a file gives to a type."""

    node: ast.expr
    scope: Scope


def _found(found: Any, scope: Scope, depth: int) -> Hint:
    if isinstance(found, _Alias):
        return _read(found.node, found.scope, depth + 1)
    if found is None:
        return UNKNOWN
    if isinstance(found, _Foreign):
        return Hint(found.name)
    if isinstance(found, typing._SpecialGenericAlias):  # type: ignore[attr-defined]
        return Hint(typing.get_origin(found))
    return _object(found, scope, depth + 1)


def _lookup(node: ast.expr, scope: Scope, depth: int) -> Any:
    """The object, or the alias, that a name in a hint means; None when it is not known."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    names = [node.id, *reversed(path)]
    if scope.names is not None and names[0] in scope.names:
        return _attributes(scope.names[names[0]], names[1:])
    if scope.source is not None:
        found = _in_source(scope.source, names, scope, depth)
        if found is not None:
            return found
    import builtins

    return _attributes(getattr(builtins, names[0], None), names[1:])


def _in_source(source: Source, names: list[str], scope: Scope, depth: int) -> Any:
    if depth > _DEPTH:
        return None
    head, *rest = names
    imported = source.imports.get(head)
    if imported is not None:
        module, name = imported.module, imported.name
        if name is None:
            return _of_module(module, rest, scope, depth)
        return _of_module(module, [name, *rest], scope, depth)
    if source.defines(head):
        return _of_module(source.module, names, scope, depth, source)
    for star in source.stars:
        if (found := _of_module(star, names, scope, depth + 1)) is not None:
            return found
    return None


# Names for type checkers that say the same as one that exists.
_SAME = {("_typeshed", "Incomplete"): typing.Any, ("_typeshed", "Unused"): typing.Any}


def _of_module(module: str, names: list[str], scope: Scope, depth: int, source: Source | None = None) -> Any:
    """What a dotted name of a module means: the object where it is a type, else the alias in a file, or a name in a foreign library."""
    if not names or depth > _DEPTH:
        return None
    known = _SAME.get((module, names[0]))
    if known is not None:
        return known
    if not _is_familiar(module, scope):
        return _Foreign(f"{module}.{'.'.join(names)}")
    loaded = _importable(module)
    if loaded is not None:
        found = _attributes(loaded, names)
        if found is not None and _is_type(found):
            return found
    if len(names) > 1:
        return _of_module(f"{module}.{names[0]}", names[1:], scope, depth + 1) if _importable(f"{module}.{names[0]}") else None
    source = source or sources.stub(module) or sources.code(module)
    if source is None:
        return None
    if not source.defines(names[0]):
        return _in_source(source, names, scope, depth + 1)
    for statement in source.statements(names[0]):
        match statement:
            case ast.AnnAssign(value=ast.expr() as value) | ast.Assign(value=value) if not isinstance(value, ast.Call):
                return _Alias(value, Scope(source, None, scope.self_class))
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"), args=[_, _, *_] as args)):
                return _Alias(_either(args[1:]), Scope(source, None, scope.self_class))
            case _:
                pass
    return None


def _either(nodes: list[ast.expr]) -> ast.expr:
    result = nodes[0]
    for node in nodes[1:]:
        result = ast.BinOp(left=result, op=ast.BitOr(), right=node)
    return result


def _attributes(target: Any, names: list[str]) -> Any:
    """An object by its path; properties and module-level __getattr__ are left alone."""
    for name in names:
        space = getattr(target, "__dict__", None)
        if not isinstance(space, Mapping):
            return None
        if name in space:
            target = space[name]
        elif isinstance(target, types.ModuleType) and hasattr(target, "__path__"):
            target = _importable(f"{target.__name__}.{name}")
        else:
            return None
    return target


_TYPING = ("typing", "typing_extensions")


def _is_type(value: Any) -> bool:
    if isinstance(value, (type, typing.TypeVar)) or typing.get_origin(value) is not None:
        return True
    return type(value).__module__ in (*_TYPING, "types")


def _is_dots(arg: Any) -> bool:
    return arg is Ellipsis or (isinstance(arg, ast.Constant) and arg.value is Ellipsis)


def _named(form: Any, *names: str) -> bool:
    """Whether something is one of these forms of typing or typing_extensions."""
    if type(form).__module__ not in _TYPING and getattr(form, "__module__", None) not in _TYPING:
        return False
    name = getattr(form, "_name", None) or getattr(form, "__name__", None)
    return name in names
