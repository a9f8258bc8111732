"""Type information in files: `.pyi` stubs, and the imports and aliases of `.py` files that exist for type checkers only.

A file is split at its top-level statements without parsing, and only the statements that are asked for are parsed: stubs of thousands of
lines cost what one function in them costs. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_STATEMENT = re.compile(r"^(?!else\b|elif\b|except\b|finally\b)[A-Za-z_@\"']", re.MULTILINE)
_DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class|type)[ \t]+(\w+)", re.MULTILINE)
_READ_AT_ONCE = re.compile(r"(?:import|from|if|try)\b")
_ASSIGNED = re.compile(r"(\w+)[ \t]*[:=]")
_DEPTH = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Definition:
    """Where a name is defined: the statements, and the file whose names they use. `owner` is the class around it, by its qualified name."""

    source: Source
    nodes: list[ast.stmt]
    owner: str = ""

    @property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]


@dataclass(frozen=True, slots=True)
class Import:
    """A name that a file imports: `name` of `module`, or the module itself."""

    module: str
    name: str | None


@dataclass(slots=True)
class Source:
    """One file. `module` is the name under which it is imported."""

    module: str
    path: Path
    package: bool
    chunks: dict[str, list[str]] = field(default_factory=dict)
    parsed: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def statements(self, name: str) -> list[ast.stmt]:
        """The statements that define a top-level name: several for overloads."""
        known = self.parsed.get(name)
        if known is None:
            known = self.parsed[name] = [node for text in self.chunks.pop(name, ()) for node in _parse(text)]
        return known

    def read(self) -> None:
        text = self.path.read_text("utf-8", "replace")
        starts = [match.start() for match in _STATEMENT.finditer(text)]
        decorators = -1
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            if text[start] == "@":
                decorators = start if decorators < 0 else decorators
                continue
            chunk = text[decorators if decorators >= 0 else start : end]
            decorators = -1
            if _READ_AT_ONCE.match(chunk):
                for node in _parse(chunk):
                    self._add(node)
            elif match := _DEFINED.search(chunk) if chunk[0] == "@" else (_DEFINED.match(chunk) or _ASSIGNED.match(chunk)):
                self.chunks.setdefault(match[1], []).append(chunk)

    def _add(self, node: ast.stmt) -> None:
        """What a statement that is read at once adds: imports, and the branches of conditions that hold here."""
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.asname:
                        self.imports[alias.asname] = Import(alias.name, None)
                    else:
                        top = alias.name.partition(".")[0]
                        self.imports[top] = Import(top, None)
            case ast.ImportFrom(module=module, names=names, level=level):
                origin = self._absolute(module or "", level)
                for alias in names:
                    if alias.name == "*":
                        self.stars.append(origin)
                    else:
                        self.imports[alias.asname or alias.name] = Import(origin, alias.name)
            case ast.If(test=test, body=body, orelse=orelse):
                holds = _holds(test)
                for child in [*(body if holds is not False else ()), *(orelse if holds is not True else ())]:
                    self._add(child)
            case ast.Try(body=body):
                for child in body:
                    self._add(child)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self.parsed.setdefault(name, []).append(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                self.parsed.setdefault(name, []).append(node)
            case _:
                pass

    def _absolute(self, module: str, level: int) -> str:
        if not level:
            return module
        parts = self.module.split(".")
        keep = len(parts) - level + (1 if self.package else 0)
        return ".".join([*parts[: max(keep, 0)], *([module] if module else [])])

    def defines(self, name: str) -> bool:
        return name in self.chunks or name in self.parsed


def _parse(text: str) -> list[ast.stmt]:
    # A statement that this Python cannot read (newer syntax) is as good as none.
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _holds(test: ast.expr) -> bool | None:
    """Whether a condition of a stub holds in this Python; None where that is not for us to say."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            holds = _holds(operand)
            return None if holds is None else not holds
        case ast.BoolOp(op=op, values=values):
            results = [_holds(value) for value in values]
            if None in results:
                return None
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=ast.Attribute(value=ast.Name(id="sys"), attr="version_info"), ops=[op], comparators=[ast.Tuple(elts=elts)]):
            bound = tuple(item.value for item in elts if isinstance(item, ast.Constant) and isinstance(item.value, int))
            here = sys.version_info[: len(bound)]
            match op:
                case ast.GtE():
                    return here >= bound
                case ast.Lt():
                    return here < bound
                case ast.Gt():
                    return here > bound
                case ast.LtE():
                    return here <= bound
                case _:
                    return None
        case ast.Compare(
            left=ast.Attribute(value=ast.Name(id="sys"), attr="platform"), ops=[op], comparators=[ast.Constant(value=str(name))]
        ):
            return (sys.platform == name) == isinstance(op, ast.Eq)
        case _:
            return None


# --- finding files ---


@functools.cache
def _typeshed() -> tuple[Path, ...]:
    """Folders of the standard library's stubs, in the packages that ship them."""
    found = []
    for package, folder in (("mypy", "typeshed/stdlib"), ("jedi", "third_party/typeshed/stdlib/3"), ("pytype", "typeshed/stdlib")):
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError, AttributeError):
            continue
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(place) / folder
            if path.is_dir():
                found.append(path)
    return tuple(found)


@functools.cache
def _roots(top: str) -> tuple[Path, ...]:
    """Where the stub of a top-level package may lie, folders of packages first: X-stubs comes before what X itself ships."""
    if top in sys.stdlib_module_names or top == "_typeshed":
        return _typeshed()
    stubs: list[Path] = []
    inline: list[Path] = []
    for entry in sys.path:
        base = Path(entry or ".")
        for folder, found in ((f"{top}-stubs", stubs), (top, inline)):
            if (path := base / folder).is_dir():
                found.append(path)
    module = sys.modules.get(top)
    places = getattr(module, "__path__", None)
    if places is not None:
        with contextlib.suppress(TypeError):
            inline += [Path(place) for place in places if Path(place) not in inline]
    return (*stubs, *inline)


def _candidates(module: str) -> Iterator[tuple[Path, bool]]:
    top, *rest = module.split(".")
    for root in _roots(top):
        if top in sys.stdlib_module_names or top == "_typeshed":
            base = root.joinpath(top, *rest)
            yield base.with_name(base.name + ".pyi"), False
        else:
            base = root.joinpath(*rest)
            if rest:
                yield base.with_name(base.name + ".pyi"), False
        yield base / "__init__.pyi", True
    if (place := _single_file(top)) is not None and not rest:
        yield place, False


def _single_file(top: str) -> Path | None:
    """The stub beside a library that is one file."""
    origin = getattr(sys.modules.get(top), "__file__", None)
    return Path(origin).with_name(f"{top}.pyi") if isinstance(origin, str) else None


@functools.cache
def stub(module: str) -> Source | None:
    """The stub of a module, if one is installed."""
    for path, package in _candidates(module):
        if path.is_file():
            return _read(Source(module, path, package))
    return None


@functools.cache
def code(module: str) -> Source | None:
    """The `.py` file of an imported module: for what it imports and names for type checkers only."""
    origin = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(origin, str) or not origin.endswith(".py"):
        return None
    return _read(Source(module, Path(origin), origin.endswith("__init__.py")))


def _read(source: Source) -> Source | None:
    try:
        source.read()
    except OSError:
        return None
    return source


# --- finding definitions ---


def find(module: str, qualname: str) -> Definition | None:
    """The definition of a module's function, class or method in its stub, through re-exports and base classes."""
    source = stub(module)
    if source is None:
        return None
    head, *rest = qualname.split(".")
    found = top(source, head)
    for name in rest:
        found = _member(found, name)
    return found


def callable_of(found: Definition | None) -> Definition | None:
    """The functions of a definition; for a variable (`zeros: Final[_Constructor]`), those by which its class is called."""
    if found is None or found.functions:
        return found
    for node in found.nodes:
        if isinstance(node, ast.AnnAssign):
            annotation = node.annotation
            while isinstance(annotation, ast.Subscript):
                is_form = isinstance(annotation.value, ast.Name) and annotation.value.id in ("Final", "ClassVar", "Annotated")
                annotation = annotation.slice if is_form else annotation.value
            if isinstance(annotation, ast.Name):
                called = _member(top(found.source, annotation.id), "__call__")
                return called if called is not None and called.functions else None
    return None


def top(source: Source, name: str, depth: int = 0) -> Definition | None:
    """The definition of a top-level name, through imports of other stubs."""
    if depth > _DEPTH:
        return None
    if source.defines(name):
        nodes = source.statements(name)
        return Definition(source, nodes) if nodes else None
    imported = source.imports.get(name)
    if imported is not None:
        origin = _source(imported.module, source)
        return None if imported.name is None or origin is None else top(origin, imported.name, depth + 1)
    for star in source.stars:
        origin = _source(star, source)
        if origin is not None and origin is not source and (found := top(origin, name, depth + 1)) is not None:
            return found
    return None


def _source(module: str, importer: Source) -> Source | None:
    """The file of an imported module; code reads code where there is no stub."""
    return stub(module) or (code(module) if importer.path.suffix == ".py" else None)


def _member(found: Definition | None, name: str, depth: int = 0) -> Definition | None:
    if found is None or depth > _DEPTH:
        return None
    classes = [node for node in found.nodes if isinstance(node, ast.ClassDef)]
    if not classes:
        return None
    node = classes[-1]
    owner = f"{found.owner}.{node.name}" if found.owner else node.name
    nodes = members(node).get(name)
    if nodes:
        return Definition(found.source, nodes, owner)
    for base in node.bases:
        expression = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(expression, ast.Name) and expression.id != node.name:
            inherited = _member(_class_named(expression.id, found.source), name, depth + 1)
            if inherited is not None:
                return inherited
    return None


def _class_named(name: str, source: Source) -> Definition | None:
    found = top(source, name)
    builtins = stub("builtins") if found is None else None
    return top(builtins, name) if builtins is not None else found


_members: dict[int, tuple[ast.ClassDef, dict[str, list[ast.stmt]]]] = {}


def members(node: ast.ClassDef) -> dict[str, list[ast.stmt]]:
    """What a class defines, by name; conditions of stubs are settled."""
    known = _members.get(id(node))
    if known is not None:
        return known[1]
    found: dict[str, list[ast.stmt]] = {}

    def add(body: list[ast.stmt]) -> None:
        for child in body:
            match child:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.setdefault(name, []).append(child)
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.setdefault(name, []).append(child)
                case ast.If(test=test, body=inner, orelse=orelse):
                    holds = _holds(test)
                    add([*(inner if holds is not False else ()), *(orelse if holds is not True else ())])
                case _:
                    pass

    add(node.body)
    _members[id(node)] = (node, found)
    return found
