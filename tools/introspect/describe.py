"""The answer: every entry of the plan as the maps that the Elixir side prints from.

A symbol that cannot be described is a problem, and the rest goes on. The same libraries give the same bytes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import warnings
from typing import Any

from . import docstrings, environment, hints, importing, reading, request, signatures, sources, specs, surface
from .forms import VAR_KEYWORD, VAR_POSITIONAL, Param
from .hints import UNKNOWN, Hint, Scope
from .resolve import Entry, Plan, Problem
from .signatures import Callee, Signature
from .surface import Member

FORMAT = request.FORMAT
_CALLED = (surface.FUNCTION, surface.NEW, surface.METHOD, surface.CLASS_METHOD, surface.STATIC_METHOD)


def describe(asked: Any) -> dict[str, Any]:
    """The answer to a request. Raises InvalidRequest when it is none."""
    libraries = request.read(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = Plan()
        for library in libraries:
            plan.add(library)
        modules = [module for _, entry in sorted(plan.entries.items()) if (module := _guarded(entry, plan.problems)) is not None]
    distributions = [found for library in libraries if (found := environment.distribution(library.name)) is not None]
    return {
        "format": FORMAT,
        "python": environment.python(),
        "adapter": environment.adapter(),
        "packages": dict(sorted(set(distributions))),
        "own": {library.name: files for library in libraries if (files := environment.own_files(library.name))},
        "modules": modules,
        "problems": [_problem(problem) for problem in sorted(plan.problems, key=lambda item: (item.library, item.symbol, item.message))],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    use = None if problem.use is None else {"module": problem.use.module, "function": problem.use.function}
    return {"library": problem.library, "symbol": problem.symbol, "message": problem.message, "kind": problem.kind, "use": use}


def _guarded(entry: Entry, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        return _module(entry, problems)
    except Exception as error:
        problems.append(_failed(entry, entry.python_path("").rstrip(".") or entry.python_module, error))
        return None


def _failed(entry: Entry, symbol: str, error: Exception) -> Problem:
    message = f"{symbol} cannot be described: {type(error).__name__}: {importing.said(error)}"
    return Problem(entry.library.name, symbol, message, "failed")


def _module(entry: Entry, problems: list[Problem]) -> dict[str, Any]:
    functions = []
    for key, member in entry.members.items():
        try:
            functions.append(_function(entry, key, member))
        except Exception as error:
            problems.append(_failed(entry, entry.python_path(member.python), error))
    distribution = environment.distribution(entry.library.name)
    subject = entry.cls if entry.cls is not None else entry.module
    return {
        "elixir": entry.elixir,
        "kind": "module" if entry.cls is None else "class",
        "library": entry.library.name,
        "python_module": entry.python_module,
        "class": entry.path,
        "doc": _markdown(reading.text(subject, "__doc__"), entry.path or ""),
        "version": distribution[1] if distribution is not None else None,
        "source_url": environment.source_url(entry.library.name),
        "bases": [] if entry.cls is None else [_full_name(base) for base in _bases(entry.cls) if base is not object],
        "whole": entry.whole,
        "functions": sorted(functions, key=lambda item: (item["elixir"], item["python"])),
    }


def _bases(cls: type) -> tuple[type, ...]:
    return type.__dict__["__bases__"].__get__(cls)  # type: ignore[no-any-return]


def _full_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _function(entry: Entry, key: str, member: Member) -> dict[str, Any]:
    described = _called(entry, member) if member.kind in _CALLED else _read(entry, member)
    if key in entry.streams or entry.python_path(member.python) in entry.library.stream:
        described["stream"] = True
    described = {"elixir": member.elixir, "python": member.python, "kind": member.kind, **described}
    text = json.dumps(described, sort_keys=True, ensure_ascii=True)
    return {**described, "hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


# --- what is called ---


def _called(entry: Entry, member: Member) -> dict[str, Any]:
    callee = _callee(entry, member)
    told = signatures.of(callee)
    doc = docstrings.read(callee.doc)
    items = doc.items("Parameters")
    returns = told.form.returns
    if member.kind == surface.NEW and entry.cls is not None:
        result, stream = specs.instance(entry.cls), specs.is_stream(Hint(entry.cls))
    else:
        result, stream = specs.result(returns), specs.is_stream(returns) or _generates(callee.value)
        if stream and result == specs.TERM:
            result = specs.STREAM
    return {
        "params": [_param(param, items) for param in told.form.params],
        "returns": result,
        "stream": stream,
        "doc": docstrings.without_signature(doc, callee.name).markdown(),
        "signature": told.form.text(callee.name),
        "source": told.source,
        "overloads": _overloads(told, result if member.kind == surface.NEW else None),
    }


def _callee(entry: Entry, member: Member) -> Callee:
    """What the signature is read from, and where a stub may have it."""
    value, name, cls = member.value, member.python, entry.cls
    if cls is None:
        return Callee(value, name, _places(entry.python_module, name, value), doc=_doc(value))
    path = entry.path or cls.__qualname__
    if member.kind == surface.NEW:
        places = [(module, f"{qualname}.{init}") for module, qualname in _class_places(entry, cls, path) for init in _constructors(cls)]
        return Callee(cls, cls.__name__, tuple(places), receiver=False, self_class=cls, doc=_doc(cls, cls), constructor=True)
    owner = member.owner or cls
    found = [(module, f"{qualname}.{name}") for module, qualname in _class_places(entry, cls, path)]
    found += [(owner.__module__, f"{owner.__qualname__}.{name}")] if owner is not cls else []
    inner = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    receiver = member.kind in (surface.METHOD, surface.CLASS_METHOD)
    if not _says_its_parameters(inner):
        # A descriptor: what it gives on the class. Bound class methods have no receiver left.
        inner = getattr(cls, name, inner)
        receiver = receiver and member.kind == surface.METHOD
    doc = _doc(inner) or _doc(value)
    return Callee(inner, name, tuple(dict.fromkeys(found)), receiver, cls, doc)


def _says_its_parameters(value: Any) -> bool:
    kinds = (inspect.isfunction, inspect.isbuiltin, inspect.ismethoddescriptor)
    return any(check(value) for check in kinds) and not type(value).__name__.startswith("classmethod") and callable(value)


def _constructors(cls: type) -> list[str]:
    """The names of what makes an instance: the one that comes first along the bases, as a call would find them."""
    for base in surface.mro(cls):
        if base is object:
            break
        found = [name for name in ("__init__", "__new__") if name in base.__dict__]
        if found:
            return found + [name for name in ("__init__", "__new__") if name not in found]
    return ["__init__", "__new__"]


def _places(module: str, name: str, value: Any) -> tuple[tuple[str, str], ...]:
    found = [(module, name)]
    own, qualname = reading.text(value, "__module__"), reading.text(value, "__qualname__")
    if own and qualname and "<" not in qualname:
        found.append((own, qualname))
    return tuple(dict.fromkeys(found))


def _class_places(entry: Entry, cls: type, path: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys([(entry.python_module, path), (cls.__module__, cls.__qualname__)]))


def _doc(value: Any, cls: type | None = None) -> str | None:
    """The docstring of a callable; of a class, that of its constructor joins it."""
    text = reading.text(value, "__doc__")
    if cls is None:
        return text
    init = reading.text(cls.__dict__.get("__init__"), "__doc__")
    if not init or init in (text, object.__init__.__doc__) or init.startswith("Initialize self"):
        return text
    if not text or _has_sections(text):
        return text or init
    return f"{inspect.cleandoc(text)}\n\n{inspect.cleandoc(init)}"


def _has_sections(text: str) -> bool:
    return bool(docstrings.read(text).sections)


def _generates(value: Any) -> bool:
    try:
        return inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value)
    except Exception:
        return False


def _param(param: Param, items: dict[str, docstrings.Item]) -> dict[str, Any]:
    item = items.get(param.name)
    hint = param.hint
    if param.default == "None" and hint != UNKNOWN:
        hint = hints.union([hint, hints.NONE])  # what is the default may be given, too
    return {
        "name": param.name,
        "kind": param.kind,
        "required": param.required and param.kind not in (VAR_POSITIONAL, VAR_KEYWORD),
        "default": param.default,
        "spec": _argument(hint),
        "doc": (item.text or None) if item is not None else None,
    }


@functools.cache
def _argument(hint: Hint) -> str:
    return specs.argument(hint)


def _overloads(told: Signature, result: str | None) -> list[dict[str, Any]]:
    """The overloads that differ in Elixir, too."""
    unique: dict[str, dict[str, Any]] = {}
    for form in told.overloads:
        overload = {"params": [_param(param, {}) for param in form.params], "returns": result or specs.result(form.returns)}
        unique.setdefault(json.dumps(overload, sort_keys=True), overload)
    return list(unique.values()) if len(unique) > 1 else []


# --- what is read ---


def _read(entry: Entry, member: Member) -> dict[str, Any]:
    value = member.value
    hint, source = _attribute_hint(entry, member)
    params: list[dict[str, Any]] = []
    if member.kind == surface.SET_PROPERTY:
        params = [_param(Param("value", "positional_or_keyword", hint=hint), {})]
        result = "nil"
    elif member.kind == surface.CONSTANT:
        result = specs.value(value)
    else:
        result = specs.result(hint)
    doc = member.doc
    if doc is None and member.kind != surface.CONSTANT and surface.has_value(member):
        doc = docstrings.read(reading.text(value, "__doc__")).markdown()
    return {
        "params": params,
        "returns": result,
        "stream": member.kind != surface.SET_PROPERTY and result == specs.STREAM,
        "doc": doc,
        "signature": f"{member.python} = value" if member.kind == surface.SET_PROPERTY else member.python,
        "source": source,
        "overloads": [],
    }


def _attribute_hint(entry: Entry, member: Member) -> tuple[Hint, str]:
    """The type of a property, and who says so."""
    if member.kind == surface.CONSTANT or entry.cls is None:
        return UNKNOWN, "signature"
    cls, value = entry.cls, member.value
    getter = value.fget if isinstance(value, property) else getattr(value, "func", None) if surface.has_value(member) else None
    if inspect.isfunction(getter):
        told = signatures.of(Callee(getter, member.python, (), True, cls))
        if told.form.returns != UNKNOWN:
            return told.form.returns, "signature"
    if member.owner is not None:
        annotation = surface.declared_types(member.owner).get(member.python, inspect.Parameter.empty)
        if annotation is not inspect.Parameter.empty:
            module = member.owner.__module__
            names = vars(owner_module) if (owner_module := reading.loaded(module)) is not None else None
            return hints.read(annotation, Scope(sources.code(module), names, cls)), "signature"
    for module, qualname in _class_places(entry, cls, entry.path or cls.__qualname__):
        found = sources.find(module, f"{qualname}.{member.python}")
        declared = [node for node in found.nodes if _declares(node)] if found is not None else []
        if found is not None and declared:
            node = declared[0]
            annotation = node.returns if isinstance(node, sources.Function) else getattr(node, "annotation", None)
            return hints.read(annotation, Scope(found.source, None, cls)), "stub"
    return UNKNOWN, "docstring" if member.doc else "none" if not surface.has_value(member) else "signature"


def _declares(node: ast.stmt) -> bool:
    """Whether a statement of a stub tells the type of an attribute: its annotation, or the getter of a property."""
    if isinstance(node, sources.Function):
        return node.returns is not None and not any(
            isinstance(item, ast.Attribute) and item.attr == "setter" for item in node.decorator_list
        )
    return isinstance(node, ast.AnnAssign)


@functools.cache
def _markdown(doc: str | None, name: str) -> str | None:
    return docstrings.without_signature(docstrings.read(doc), name.rpartition(".")[2]).markdown()
