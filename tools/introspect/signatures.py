"""How something is called: its parameters and result, from the first source that knows.

In order: what `inspect` says, a stub, the signature line of the docstring, the text signature of a C function. Where `inspect` tells the
parameters but not their types, the stub adds those, and overloads.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import hints, reading, sources
from .defaults import UNSHOWN, shown
from .forms import KEYWORD_ONLY, POSITIONAL, POSITIONAL_ONLY, UNTOLD, VAR_KEYWORD, VAR_POSITIONAL, Form, Param, merged, says_nothing
from .hints import UNKNOWN, Hint, Scope

_KINDS = {kind: kind.name.lower() for kind in inspect._ParameterKind}
_RECEIVERS = frozenset({"self", "cls", "mcs", "mcls", "metacls", "_cls", "__self", "__cls", "_self", "$self", "type", "typ"})


@dataclass(frozen=True, slots=True)
class Signature:
    form: Form
    source: str
    overloads: tuple[Form, ...] = ()


@dataclass(frozen=True, slots=True)
class Callee:
    """What is called. `places`: module and qualified name under which a stub may define it, best first; receiver: the first parameter is
    the object or class and is not told; `self_class`: what Self means;
    constructor: `value` is the class itself, whose call has no receiver, though its constructor in a stub has."""

    value: Any
    name: str
    places: tuple[tuple[str, str], ...] = ()
    receiver: bool = False
    self_class: type | None = None
    doc: str | None = None
    constructor: bool = False


def of(callee: Callee) -> Signature:
    """The signature. Never raises: at worst it is `(*args, **kwargs)` with the source "none"."""
    told = _inspected(callee)
    if told is not None and not says_nothing(told):
        if _is_typed(told):
            return Signature(told, "signature", _runtime_overloads(callee))
        return _with_stub(told, "signature", _stub(callee))
    stub = _stub(callee)
    if stub:
        return Signature(merged(stub), "stub", tuple(stub) if len(stub) > 1 else ())
    lines = _documented(callee)
    if lines:
        return Signature(merged(lines), "docstring", tuple(lines) if len(lines) > 1 else ())
    text = _text_signature(callee)
    if text is not None:
        return Signature(text, "text_signature")
    return Signature(told, "signature") if told is not None else Signature(UNTOLD, "none")


def _is_typed(form: Form) -> bool:
    return form.returns != UNKNOWN and all(param.hint != UNKNOWN for param in form.params)


# --- inspect ---


def _inspected(callee: Callee) -> Form | None:
    try:
        signature = inspect.signature(callee.value)
        params = list(signature.parameters.values())
    except (Exception, SystemExit, RecursionError):  # whatever the object does when it is asked
        return None
    if callee.receiver and params and params[0].kind in (params[0].POSITIONAL_ONLY, params[0].POSITIONAL_OR_KEYWORD):
        params = params[1:]
    scope = _scope(callee)
    told = []
    for param in params:
        if not isinstance(param, inspect.Parameter):
            return None
        variadic = param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD)
        default = None if param.default is param.empty else shown(param.default)
        told.append(Param(param.name, _KINDS[param.kind], not variadic and default is None, default, hints.read(param.annotation, scope)))
    return Form(tuple(told), hints.read(signature.return_annotation, scope))


def _scope(callee: Callee) -> Scope:
    """Where the names in annotations of code are looked up."""
    value = callee.value
    if isinstance(value, type):
        value = value.__dict__.get("__init__", value)
    try:
        value = inspect.unwrap(value)
    except Exception:
        return Scope(self_class=callee.self_class)
    names = getattr(value, "__globals__", None)
    module = reading.text(value, "__module__")
    if not isinstance(names, Mapping):
        return Scope(None, None, callee.self_class)
    return Scope(sources.code(module) if module else None, names, callee.self_class)


def _runtime_overloads(callee: Callee) -> tuple[Form, ...]:
    """Overloads that code itself declares."""
    try:
        functions = typing.get_overloads(inspect.unwrap(callee.value))
    except Exception:
        return ()
    forms = [form for function in functions if (form := _inspected(replace(callee, value=function))) is not None]
    return tuple(forms) if len(forms) > 1 else ()


# --- stubs ---


def _stub(callee: Callee) -> list[Form]:
    """The forms in the stub: one for each overload."""
    for module, qualname in callee.places:
        found = sources.callable_of(sources.find(module, qualname))
        if found is None:
            continue
        scope = Scope(found.source, None, callee.self_class)
        functions = found.functions
        overloads = [node for node in functions if _decorated(node, "overload")]
        # A function of a module may be written as an instance of a class there.
        receiver = callee.receiver or callee.constructor or (callee.self_class is None and bool(found.owner))
        return [_from_node(node, scope, receiver) for node in (overloads or functions[-1:])]
    return []


def _decorated(node: sources.Function, name: str) -> bool:
    return any(name in (getattr(item, "id", None), getattr(item, "attr", None)) for item in node.decorator_list)


def _from_node(node: sources.Function, scope: Scope, receiver: bool) -> Form:
    # A class method of C is bound where it is asked, and its stub writes the class nevertheless.
    receiver = (receiver or _decorated(node, "classmethod")) and not _decorated(node, "staticmethod")
    return from_arguments(node.args, node.returns, scope, receiver)


def from_arguments(args: ast.arguments, returns: ast.expr | None, scope: Scope, receiver: bool = False) -> Form:
    """The form of a function's syntax."""
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    told: list[Param] = []
    for at, (arg, default) in enumerate(zip(positional, defaults, strict=True)):
        # Old stubs write positional-only parameters with two underscores.
        dunder = arg.arg.startswith("__") and not arg.arg.endswith("__")
        kind = POSITIONAL_ONLY if at < len(args.posonlyargs) or dunder else POSITIONAL
        told.append(_param(arg, kind, default, scope))
    if receiver and told:
        told = told[1:]
    if args.vararg is not None:
        told.append(replace(_param(args.vararg, VAR_POSITIONAL, None, scope), required=False))
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        told.append(_param(arg, KEYWORD_ONLY, default, scope))
    if args.kwarg is not None:
        told.append(replace(_param(args.kwarg, VAR_KEYWORD, None, scope), required=False))
    return Form(tuple(told), hints.read(returns, scope) if returns is not None else UNKNOWN)


def _param(arg: ast.arg, kind: str, default: ast.expr | None, scope: Scope) -> Param:
    name = arg.arg.lstrip("_") if kind == POSITIONAL_ONLY else arg.arg
    text = None if default is None else ast.unparse(default)
    hint = hints.read(arg.annotation, scope) if arg.annotation is not None else UNKNOWN
    return Param(name or arg.arg, kind, default is None, text if text is None or len(text) <= 80 else UNSHOWN, hint)


def _with_stub(told: Form, source: str, stub: list[Form]) -> Signature:
    """What code says of its parameters, with the types of the stub."""
    if not stub:
        return Signature(told, source)
    types: dict[str, list[Hint]] = {}
    for form in stub:
        for at, param in enumerate(form.params):
            # Positional-only parameters may have other names there.
            name = told.params[at].name if param.kind == POSITIONAL_ONLY and at < len(told.params) else param.name
            types.setdefault(name, []).append(param.hint)
    params = tuple(
        replace(param, hint=hints.union(types[param.name])) if param.hint == UNKNOWN and param.name in types else param
        for param in told.params
    )
    returns = told.returns if told.returns != UNKNOWN else hints.union([form.returns for form in stub])
    return Signature(Form(params, returns), source, tuple(stub) if len(stub) > 1 else ())


# --- texts ---

_OPTIONAL = re.compile(r"\s*(?:\[\s*,|^\[)([^\[\]]*)\]")  # the innermost [, x], or [x] at the start
_MAYBE = "\N{SECTION SIGN}"


def _documented(callee: Callee) -> list[Form]:
    """The signatures in the first lines of a docstring: `range(start, stop[, step]) -> range object`."""
    if not callee.doc:
        return []
    head = callee.doc.lstrip().split("\n\n")[0]
    forms = []
    call = re.compile(rf"^\s*(?:[\w.]+\.)?{re.escape(callee.name)}\(", re.MULTILINE)
    for match in call.finditer(head):
        inner = _balanced(head, match.end())
        form = parsed(inner) if inner is not None else None
        if form is not None and form not in forms:
            forms.append(form)
    return forms


def _balanced(text: str, start: int) -> str | None:
    """The text up to the parenthesis that closes the one before `start`."""
    depth = 1
    for at in range(start, min(len(text), start + 2000)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return text[start:at]
    return None


def parsed(text: str) -> Form | None:
    """The form of a parameter list as docstrings write it, with `[, optional]` and `...`. None when it cannot be read."""
    text = re.sub(r"<[^<>]*>", "...", " ".join(text.split()))
    text = re.sub(r"^\[\s*\w+\s*,\s*\]", "", text)  # range([start,] stop): the first is left out
    while (match := _OPTIONAL.search(text)) is not None:
        inner = "".join(f", {_MAYBE}{part.strip().lstrip(_MAYBE)}" for part in _split(match[1]) if part.strip())
        text = f"{text[: match.start()]}{inner}{text[match.end() :]}"
    # A list ends where more of the same may follow.
    text = re.sub(r"(^|,)\s*\.\.\.\s*(?=,|$)", r"\1 *args", text)
    parts: list[str] = []
    for part in _split(text):
        name = part.strip()
        may = name.startswith(_MAYBE)
        name = name.lstrip(_MAYBE)
        # After one with a default, all positional ones have one.
        may = may or (any("=" in item for item in parts) and not any(item.startswith("*") for item in parts))
        if name and not (name == "*" and any(item.startswith("*") for item in parts)):
            parts.append(f"{name}=..." if may and name.isidentifier() else name)
    try:
        tree = ast.parse(f"def f({', '.join(parts)}): ...").body[0]
    except (SyntaxError, ValueError, RecursionError):
        return None
    assert isinstance(tree, ast.FunctionDef)
    return from_arguments(tree.args, None, Scope())


def _split(text: str) -> list[str]:
    """The parts between the commas of the outermost level."""
    parts, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _text_signature(callee: Callee) -> Form | None:
    """A text signature that `inspect` could not read."""
    text = reading.text(callee.value, "__text_signature__")
    if not text or not text.startswith("("):
        return None
    inner = _balanced(text, 1)
    if inner is None:
        return None
    parts = [part.strip() for part in _split(inner)]
    if parts and parts[0].startswith("$"):
        parts = parts[2:] if parts[1:2] == ["/"] else parts[1:]
    elif callee.receiver and parts and parts[0] in _RECEIVERS:
        parts = parts[1:]
    form = parsed(", ".join(parts))
    return None if form is None or says_nothing(form) else form
