"""Running the code of loaded modules again, as `importlib.reload` does, but all or nothing: what cannot be compiled or raises leaves all
modules as they were. Source files only, read anew each time, so that a change within the same second counts.
"""

from __future__ import annotations

import ast
import importlib
import linecache
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


def source(module: ModuleType) -> Path | None:
    """The file that a module's code is in, even if that is another one by now; None for what is built in, compiled or made up."""
    origin = origin_of(module)
    if origin is None or origin.is_file():
        return origin
    spec = _found_anew(module)
    found = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return found if found is not None and found.suffix == ".py" and found.is_file() else None  # not inside of an archive


def origin_of(module: ModuleType) -> Path | None:
    """The Python file that a module was loaded from, which may be gone."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return Path(origin) if isinstance(origin, str) and origin.endswith(".py") else None


def _found_anew(module: ModuleType) -> ModuleSpec | None:
    # A module has become a package, or the other way round, or lies elsewhere on the path.
    assert module.__spec__ is not None
    name = module.__spec__.name
    above = name.rpartition(".")[0]
    importlib.invalidate_caches()
    return PathFinder.find_spec(name, getattr(sys.modules.get(above), "__path__", None) if above else None)


def family(name: str) -> list[str]:
    """A module and its submodules, as far as they are loaded and have sources."""
    names = [other for other in list(sys.modules) if other == name or other.startswith(name + ".")]
    return [other for other in names if isinstance(sys.modules.get(other), ModuleType) and source(sys.modules[other]) is not None]


def run_again(names: Collection[str]) -> list[str]:
    """Runs modules again, those that others import first; returns them in that order. Raises what compiling or running them raises."""
    linecache.checkcache()
    # Compiled first: a mistake in any of them is found before one has changed.
    compiled = {name: _compiled(sys.modules[name]) for name in names}
    order = in_order(compiled.keys())
    before: list[tuple[ModuleType, dict[str, Any]]] = []
    try:
        for name in order:
            module = sys.modules[name]
            before.append((module, dict(module.__dict__)))
            _move(module)
            exec(compiled[name], module.__dict__)  # the user's own module
    except BaseException:
        for module, names_before in reversed(before):
            for added in set(module.__dict__) - set(names_before):
                del module.__dict__[added]
            module.__dict__.update(names_before)
        raise
    return order


def _move(module: ModuleType) -> None:
    """Gives a module whose file is another one by now the names that say so."""
    origin = origin_of(module)
    if origin is None or origin.is_file() or (spec := _found_anew(module)) is None:
        return
    names = {"__spec__": spec, "__loader__": spec.loader, "__package__": spec.parent, "__file__": spec.origin, "__cached__": spec.cached}
    module.__dict__.update(names)
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    else:
        module.__dict__.pop("__path__", None)


def _compiled(module: ModuleType) -> CodeType:
    path = source(module)
    assert path is not None
    return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)


def in_order(names: Collection[str]) -> list[str]:
    """The modules, each behind those of them that it imports, as far as they do not import each other."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for other in sorted(imports(name) & set(names)):
            visit(other)
        order.append(name)

    for name in sorted(names):
        visit(name)
    return order


def dependents(changed: Iterable[str], among: Collection[str]) -> set[str]:
    """The changed modules, and those of `among` that import one of them, directly or not: they may hold what these were."""
    found = set(changed)
    imported = {name: imports(name) for name in among}
    while more := {name for name in among if name not in found and imported[name] & found}:
        found |= more
    return found


def imports(name: str) -> set[str]:
    """The names of the modules that a module imports anywhere in its source; empty when that cannot be read."""
    path = source(sys.modules[name])
    try:
        tree = ast.parse(path.read_bytes() if path is not None else b"")
    except (OSError, SyntaxError, ValueError):
        return set()
    package = getattr(sys.modules[name], "__package__", None) or ""
    return set(_imported(tree, package)) - {name}


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def stale(sessions: Iterable[tuple[str, Iterable[Any]]], names: Collection[str]) -> list[dict[str, Any]]:
    """The sessions that hold objects of classes (or functions) that a module of these had before: how many, and of which types.

    The objects themselves are looked at, not what is inside them.
    """
    found = []
    for session, objects in sessions:
        old = [name for obj in objects if (name := _old(obj, names)) is not None]
        if old:
            found.append({"session_id": session, "refs": len(old), "types": sorted(set(old))})
    return sorted(found, key=lambda entry: str(entry["session_id"]))


def _old(obj: Any, names: Collection[str]) -> str | None:
    try:
        if isinstance(obj, type):
            parts: Iterable[Any] = obj.__mro__
        elif hasattr(obj, "__self__") and hasattr(obj, "__func__"):
            parts = (*type(obj.__self__).__mro__, obj.__func__)
        elif hasattr(obj, "__code__"):
            parts = (obj,)
        else:
            parts = type(obj).__mro__
        if any(part.__module__ in names and _now(part) is not part for part in parts):
            return str(getattr(obj, "__qualname__", None) or type(obj).__qualname__)
    except Exception:  # objects may answer as they like; these are not known to be old
        return None
    return None


def _now(part: Any) -> Any:
    """What has the name of a class or function now; itself, where it is made inside a function and so has no place."""
    if "<locals>" in part.__qualname__:
        return part
    found: Any = sys.modules.get(part.__module__)
    for name in part.__qualname__.split("."):
        found = getattr(found, name, None)
    return found
