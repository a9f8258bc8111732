"""What an object is really called, however a caller came to it: its own module and qualified name, behind partials, methods, wrappers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import BuiltinMethodType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any

_LAYERS = 16
_CACHED = type(functools.lru_cache(lambda: None))
# Modules in C that stand for others; a leading underscore is stripped besides (`_pickle.loads` is `pickle.loads`).
_ALIASES = {"posix": "os", "nt": "os", "posixpath": "os.path", "ntpath": "os.path"}
_ALIASES |= {"_frozen_importlib": "importlib._bootstrap", "_frozen_importlib_external": "importlib._bootstrap_external"}


def layers(obj: Any) -> Iterator[Any]:
    """The object, and the callables that calling it comes down to."""
    for _ in range(_LAYERS):
        yield obj
        kind = type(obj)
        if kind in (staticmethod, classmethod, MethodType):
            obj = obj.__func__
        elif isinstance(obj, (functools.partial, functools.partialmethod)):
            yield from arguments(obj.args, obj.keywords)
            obj = obj.func
        elif kind is MethodWrapperType:
            obj = obj.__self__
        elif kind in (FunctionType, _CACHED) and "__wrapped__" in obj.__dict__:
            obj = obj.__dict__["__wrapped__"]
        else:
            return


def arguments(args: Any, kwargs: Any) -> Iterator[Any]:
    """What is bound to a partial: it may be called, too."""
    for value in (*args, *kwargs.values()):
        if callable(value):
            yield value


def true_names(obj: Any) -> tuple[str, ...]:
    """The names of a module, class or function; of an object's built-in method, the name that its class gives it. None of others."""
    if isinstance(obj, ModuleType):
        module, name = _text(ModuleType.__getattribute__, obj, "__name__"), ""
    elif isinstance(obj, type):
        module, name = _text(type.__getattribute__, obj, "__module__"), _text(type.__getattribute__, obj, "__qualname__")
    elif type(obj) is BuiltinMethodType:
        owner = obj.__self__
        if owner is None or isinstance(owner, ModuleType):
            module, name = str(obj.__module__ or ""), obj.__qualname__
        else:
            cls = owner if isinstance(owner, type) else type(owner)
            module, name = str(cls.__module__), f"{cls.__qualname__}.{obj.__name__}"
    elif isinstance(obj, FunctionType) or (callable(obj) and hasattr(type(obj), "__qualname__")):
        module, name = _text(getattr, obj, "__module__"), _text(getattr, obj, "__qualname__") or _text(getattr, obj, "__name__")
        if not name:
            return ()
    else:
        return ()
    whole = f"{module}.{name}" if module and name else module or name
    plain = normal(module)
    other = f"{plain}.{name}" if plain and name else plain or name
    return (whole,) if other == whole else (other, whole)


def normal(module: str) -> str:
    """The public name of a module that stands behind another."""
    top, dot, rest = module.partition(".")
    top = _ALIASES.get(top) or (top.lstrip("_") or top if not top.startswith("__") else top)
    return f"{top}{dot}{rest}"


def plain(text: str) -> str:
    """The characters of a text. A subclass, of which a caller may hold an instance, answers what it likes to any question."""
    return text if type(text) is str else str.__str__(text)


def _text(read: Any, obj: Any, name: str) -> str:
    try:
        found = read(obj, name)
    except Exception:  # an object may answer as it likes
        return ""
    return found if isinstance(found, str) else ""
