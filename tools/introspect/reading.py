"""Looking at libraries without disturbing them: names, attributes and submodules, quietly, with every failure as one kind of error.

No property runs and no instance is made. A module's own `__getattr__` does run (lazily loaded names live there), and tells by a warning
which names are on their way out.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
import types
import warnings
from typing import Any

from .importing import imported, said
from .naming import is_public

# Submodules that are no library: tests, command lines, what others ship inside of a package, and what does something when it is imported.
_NO_LIBRARY = frozenset(
    (
        *("tests", "test", "conftest", "setup", "core", "compat"),
        *("vendor", "vendored", "externals", "extern", "third_party"),
        *("this", "antigravity", "idlelib", "turtledemo"),
    )
)
_MISSING = object()
# Values whose class says nothing of where they were made.
_PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, type(None))


class Deprecated(AttributeError):
    """A name that its module still has, and warns about."""


def attribute(module: types.ModuleType, name: str, *, current: bool = False) -> Any:
    """A name of a module. current: not one that its module warns about. Raises AttributeError, for those warned about Deprecated."""
    value = vars(module).get(name, _MISSING)
    if value is not _MISSING:
        return value
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            value = getattr(module, name)
        except AttributeError:
            raise
        except (Exception, SystemExit) as error:
            raise AttributeError(f"{type(error).__name__}: {said(error)}") from None
    if current and any(issubclass(item.category, (DeprecationWarning, FutureWarning)) for item in told):
        raise Deprecated(f"{module.__name__}.{name} is deprecated")
    return value


def public_names(module: types.ModuleType) -> list[str]:
    """The names that a module offers: those of `__all__`, else what it defines or takes from its own package. Sorted."""
    declared = vars(module).get("__all__")
    if isinstance(declared, (list, tuple)) and declared:
        return sorted({name for name in declared if isinstance(name, str) and name.isidentifier() and is_public(name)})
    return sorted(name for name, value in list(vars(module).items()) if is_public(name) and name.isidentifier() and _is_own(value, module))


def _is_own(value: Any, module: types.ModuleType) -> bool:
    if type(value) in _PLAIN:
        return True
    try:
        if isinstance(value, types.ModuleType):
            return False
        origin = getattr(value, "__module__", None)
    except Exception:
        return True  # it cannot say; whoever uses it will see
    if not isinstance(origin, str):
        return isinstance(value, types.BuiltinFunctionType)
    top = module.__name__.partition(".")[0]
    return origin.partition(".")[0].lstrip("_") == top.lstrip("_")


def submodules(module: types.ModuleType) -> list[str]:
    """The public submodules of a package, by name. Sorted; nothing is imported."""
    places = getattr(module, "__path__", None)
    if places is None:
        return []
    try:
        found = {info.name for info in pkgutil.iter_modules(list(places))}
    except Exception:  # an importer of the library's own
        found = set()
    return sorted(name for name in found if is_public(name) and name.isidentifier() and name not in _NO_LIBRARY)


def submodule(module: types.ModuleType, name: str) -> types.ModuleType | None:
    """A submodule by its name, imported; None when there is none. Raises ImportFailed when there is one that cannot be."""
    path = f"{module.__name__}.{name}"
    known = sys.modules.get(path)
    if isinstance(known, types.ModuleType):
        return known
    try:
        spec = importlib.util.find_spec(path) if hasattr(module, "__path__") else None
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is not None:
        return imported(path)
    value = vars(module).get(name)
    return value if isinstance(value, types.ModuleType) else None


def text(value: Any, name: str) -> str | None:
    """A text that an object has under a name (`__doc__`, `__module__`); None where it is no text or cannot be had."""
    try:
        found = getattr(value, name, None)
    except Exception:
        return None
    return found if isinstance(found, str) else None


def loaded(name: str) -> types.ModuleType | None:
    """The module of that name, if it is loaded."""
    module = sys.modules.get(name)
    return module if isinstance(module, types.ModuleType) else None
