"""From what is asked (Python paths, Elixir calls, or everything) to what is described: a plan of modules and classes with their members.

Both ways of asking walk the libraries as they are: submodules by name, imported only on the path that is asked for, and classes by
attribute.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from . import importing, naming, reading, surface
from .importing import ImportFailed
from .request import Library, Use
from .surface import ClassSurface, Member, ModuleSurface


@dataclass(slots=True)
class Entry:
    """One Elixir module to be: a Python module, or a class in one (`path`, dotted for classes in classes)."""

    elixir: str
    library: Library
    module: types.ModuleType
    python_module: str
    path: str | None = None
    cls: type | None = None
    whole: bool = False
    members: dict[str, Member] = field(default_factory=dict)
    streams: set[str] = field(default_factory=set)

    def python_path(self, name: str) -> str:
        """The path of a member below the library, as the configuration writes it."""
        below = self.python_module.removeprefix(self.library.name).lstrip(".")
        return ".".join(part for part in (below, self.path, name) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    library: str
    symbol: str
    message: str
    kind: str
    use: Use | None = None


class Unknown(Exception):
    """What is asked for is not there; the message names it and what is near."""


class Plan:
    """The entries by their Elixir names, and what went wrong on the way."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.problems: list[Problem] = []

    def add(self, library: Library) -> None:
        """All that is asked about one library."""
        try:
            module = importing.imported(library.name)
        except ImportFailed as failed:
            self.problems.append(Problem(library.name, library.name, str(failed), "import"))
            return
        place = _Place(library, module, library.name, library.root)
        if library.all:
            self._walk(place, set())
        for symbol in library.symbols:
            self._guarded(library, symbol, lambda symbol=symbol: self._symbol(place, symbol))
        for use in library.uses:
            name = f"{use.module}.{use.function}"
            self._guarded(library, name, lambda use=use: self._use(place, use), use)
        self.entries = {name: entry for name, entry in self.entries.items() if entry.whole or entry.members}

    def _guarded(self, library: Library, symbol: str, resolve: Any, use: Use | None = None) -> None:
        try:
            resolve()
        except Unknown as unknown:
            if use is None or not use.optional:
                self.problems.append(Problem(library.name, symbol, str(unknown), "unknown", use))
        except ImportFailed as failed:
            self.problems.append(Problem(library.name, symbol, str(failed), "import", use))
        except Exception as error:
            message = f"{symbol} cannot be looked at: {type(error).__name__}: {importing.said(error)}"
            self.problems.append(Problem(library.name, symbol, message, "failed", use))

    # --- everything ---

    def _walk(self, place: _Place, seen: set[str]) -> None:
        seen.add(place.module.__name__)
        try:
            offered = surface.of_module(place.module)
        except Exception as error:
            message = f"{place.python} cannot be looked at: {type(error).__name__}: {importing.said(error)}"
            self.problems.append(Problem(place.library.name, place.python, message, "failed"))
            return
        if offered.members or offered.classes or not offered.failed:
            self._whole_module(place, offered)
        for name in offered.submodules:
            try:
                module = reading.submodule(place.module, name)
            except ImportFailed as failed:
                self.problems.append(Problem(place.library.name, f"{place.python}.{name}", str(failed), "failed"))
                continue
            if module is not None and module.__name__ not in seen:
                self._walk(place.sub(name, module), seen)

    def _whole_module(self, place: _Place, offered: ModuleSurface) -> None:
        entry = self._module(place)
        entry.whole = True
        entry.members.update(offered.members)
        for name, reason in offered.failed.items():
            message = f"{place.python}.{name} is announced but cannot be had: {reason}"
            self.problems.append(Problem(place.library.name, entry.python_path(name), message, "failed"))
        for name in surface.main_classes(offered):
            try:
                self._whole_class(self._class(place, offered, name, offered.classes[name]))
            except Exception as error:
                message = f"{place.python}.{name} cannot be looked at: {type(error).__name__}: {importing.said(error)}"
                self.problems.append(Problem(place.library.name, entry.python_path(name), message, "failed"))

    def _whole_class(self, entry: Entry, depth: int = 0) -> None:
        assert entry.cls is not None
        entry.whole = True
        inside = surface.of_class(entry.cls)
        entry.members.update(inside.members)
        for name, cls in sorted(inside.classes.items()):
            if depth < 3 and cls.__qualname__.startswith(f"{entry.cls.__qualname__}."):
                self._whole_class(self._nested(entry, inside, name, cls), depth + 1)

    # --- Python paths ---

    def _symbol(self, place: _Place, symbol: str) -> None:
        parts = [part for part in symbol.split(".") if part]
        while parts:
            name = parts.pop(0)
            offered = surface.of_module(place.module)
            value = offered.classes.get(name) or offered.members.get(name) or surface.unlisted(offered, name)
            if isinstance(value, type):
                self._in_class(self._class(place, offered, name, value), parts)
                return
            if isinstance(value, Member) and not parts:
                self._module(place).members[value.python] = value
                return
            module = reading.submodule(place.module, name)
            if module is None:
                raise Unknown(_nothing(place.python, name, [*offered.members, *offered.classes, *offered.submodules]))
            place = place.sub(name, module)
        self._whole_module(place, surface.of_module(place.module))

    def _in_class(self, entry: Entry, parts: list[str]) -> None:
        while True:
            assert entry.cls is not None
            inside = surface.of_class(entry.cls)
            if not parts:
                self._whole_class(entry)
                return
            name = parts.pop(0)
            if name in inside.classes:
                entry = self._nested(entry, inside, name, inside.classes[name])
                continue
            member = surface.class_member(inside, "__init__" if name == "new" and "new" not in inside.members else name)
            if member is None or parts:
                raise Unknown(_nothing(f"{entry.python_module}.{entry.path}", name, [*inside.members, *inside.classes]))
            entry.members[_key(member)] = member
            return

    # --- Elixir calls ---

    def _use(self, place: _Place, use: Use) -> None:
        if use.function.startswith("__"):
            return
        below = use.module.removeprefix(place.library.root).lstrip(".")
        segments = below.split(".") if below else []
        entry: Entry | None = None
        while segments:
            wanted = segments.pop(0)
            if entry is None:
                offered = surface.of_module(place.module)
                name = _submodule_for(place.module, offered, wanted)
                module = reading.submodule(place.module, name) if name is not None else None
                if name is not None and module is not None:
                    place = place.sub(name, module)
                    continue
                name, cls = _class_for(offered, wanted)
                if cls is None or name is None:
                    near = [*offered.segments.values(), *(naming.segment(item) for item in offered.submodules)]
                    raise Unknown(_nothing(f"{place.elixir} ({place.python})", wanted, near, "module or class"))
                entry = self._class(place, offered, name, cls, add=False)
            else:
                assert entry.cls is not None
                inside = surface.of_class(entry.cls)
                name = next((item for item, segment in inside.segments.items() if segment == wanted), None)
                if name is None:
                    raise Unknown(
                        _nothing(f"{entry.elixir} ({entry.python_module}.{entry.path})", wanted, inside.segments.values(), "class")
                    )
                entry = self._nested(entry, inside, name, inside.classes[name], add=False)
        if entry is not None and entry.cls is not None:
            self._used(entry, surface.of_class(entry.cls), use)
        else:
            self._used(self._module(place, add=False), surface.of_module(place.module), use)

    def _used(self, entry: Entry, offered: ModuleSurface | ClassSurface, use: Use) -> None:
        function = use.function.removesuffix("!")
        names = {member.elixir: member for member in offered.members.values()}
        member = names.get(function)
        stream = False
        if member is None and function.endswith("_stream"):
            member = names.get(function.removesuffix("_stream"))
            stream = member is not None
        if member is None:
            member = _unlisted(offered, function)
        if member is None:
            raise Unknown(_no_function(entry, offered, function, names))
        entry = self.entries.setdefault(entry.elixir, entry)
        entry.members[_key(member)] = member
        if stream:
            entry.streams.add(_key(member))

    # --- entries ---

    def _module(self, place: _Place, add: bool = True) -> Entry:
        return self._entry(Entry(place.elixir, place.library, place.module, place.python), add)

    def _class(self, place: _Place, offered: ModuleSurface, name: str, cls: type, add: bool = True) -> Entry:
        segment = offered.segments.get(name) or naming.class_segments([name], [*offered.submodules, *offered.segments.values()])[name]
        return self._entry(Entry(f"{place.elixir}.{segment}", place.library, place.module, place.python, name, cls), add)

    def _nested(self, entry: Entry, inside: ClassSurface, name: str, cls: type, add: bool = True) -> Entry:
        elixir = f"{entry.elixir}.{inside.segments[name]}"
        return self._entry(Entry(elixir, entry.library, entry.module, entry.python_module, f"{entry.path}.{name}", cls), add)

    def _entry(self, entry: Entry, add: bool) -> Entry:
        known = self.entries.get(entry.elixir)
        if known is not None and known.cls is not entry.cls:
            # Two libraries under one root: the first keeps the name.
            message = f"{entry.elixir} stands for {known.python_module} already; give one of the libraries another module name"
            self.problems.append(Problem(entry.library.name, entry.python_path("") or entry.library.name, message, "clash"))
            return entry
        if known is None and add:
            self.entries[entry.elixir] = entry
        return known or entry


@dataclass(frozen=True, slots=True)
class _Place:
    """A module on the way, with both of its names."""

    library: Library
    module: types.ModuleType
    python: str
    elixir: str

    def sub(self, name: str, module: types.ModuleType) -> _Place:
        return _Place(self.library, module, f"{self.python}.{name}", f"{self.elixir}.{naming.segment(name)}")


def _key(member: Member) -> str:
    return f"set_{member.python}" if member.kind == surface.SET_PROPERTY else member.python


def _submodule_for(module: types.ModuleType, offered: ModuleSurface, wanted: str) -> str | None:
    """The submodule, public or loaded, that an Elixir segment stands for."""
    for name in offered.submodules:
        if naming.segment(name) == wanted:
            return name
    loaded = (name for name, value in sorted(vars(module).items()) if isinstance(value, types.ModuleType) and naming.is_public(name))
    found = next((name for name in loaded if naming.segment(name) == wanted), None)
    if found is not None or "__all__" not in vars(module):
        return found
    # Names that the module loads when they are asked for.
    return next((name for name in reading.public_names(module) if naming.segment(name) == wanted and name in offered.failed), None)


def _class_for(offered: ModuleSurface, wanted: str) -> tuple[str | None, type | None]:
    for name, segment in offered.segments.items():
        if segment == wanted:
            return name, offered.classes[name]
    for name, value in sorted(vars(offered.module).items()):
        if isinstance(value, type) and naming.is_public(name) and naming.segment(name) == wanted:
            return name, value
    return None, None


def _unlisted(offered: ModuleSurface | ClassSurface, function: str) -> Member | None:
    """A member that is not offered, by its Elixir name."""
    if isinstance(offered, ClassSurface):
        return None
    for name in sorted(vars(offered.module)):
        if naming.is_public(name) and name not in offered.members and naming.function_name(name) == function:
            member = surface.unlisted(offered, name)
            if isinstance(member, Member):
                return member
    member = surface.unlisted(offered, function) if naming.is_public(function) else None
    return member if isinstance(member, Member) else None


def _no_function(entry: Entry, offered: ModuleSurface | ClassSurface, function: str, names: Iterable[str]) -> str:
    for name, segment in offered.segments.items():
        if naming.snake(name) == function or name == function:
            wrapper = f"{entry.elixir}.{segment}"
            return f"{entry.python_module}.{name} is a class: its wrapper is {wrapper}, and {wrapper}.new makes an instance"
    where = f"{entry.python_module}.{entry.path}" if entry.path else entry.python_module
    return _nothing(f"{entry.elixir} ({where})", function, names, "function")


def _nothing(where: str, name: str, names: Iterable[str], what: str = "symbol") -> str:
    near = difflib.get_close_matches(name, sorted(set(names)), n=3)
    advice = f"Did you mean {' or '.join(near)}?" if near else "Correct the name, or install a version that has it."
    return f"{where} has no {what} {name!r}. {advice}"
