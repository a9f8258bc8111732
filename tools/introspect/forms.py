"""Forms of a call: parameters and result; and several of them (overloads) as one that accepts all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import hints
from .hints import UNKNOWN, Hint

POSITIONAL_ONLY = "positional_only"
POSITIONAL = "positional_or_keyword"
VAR_POSITIONAL = "var_positional"
KEYWORD_ONLY = "keyword_only"
VAR_KEYWORD = "var_keyword"


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter, without self. `default` is text; the hint of a variadic one is that of one element."""

    name: str
    kind: str
    required: bool = True
    default: str | None = None
    hint: Hint = UNKNOWN

    @property
    def positional(self) -> bool:
        return self.kind in (POSITIONAL_ONLY, POSITIONAL)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to call something."""

    params: tuple[Param, ...]
    returns: Hint = UNKNOWN

    def text(self, name: str) -> str:
        """As Python writes it: `fit(X, y, *, sample_weight=None)`."""
        parts: list[str] = []
        starred = slashed = False
        for param in self.params:
            if parts and not slashed and param.kind != POSITIONAL_ONLY and self.params[0].kind == POSITIONAL_ONLY:
                parts.append("/")
                slashed = True
            if param.kind == KEYWORD_ONLY and not starred:
                parts.append("*")
                starred = True
            starred = starred or param.kind == VAR_POSITIONAL
            prefix = {VAR_POSITIONAL: "*", VAR_KEYWORD: "**"}.get(param.kind, "")
            parts.append(f"{prefix}{param.name}" + (f"={param.default or '...'}" if not param.required and not prefix else ""))
        if self.params and not slashed and self.params[-1].kind == POSITIONAL_ONLY:
            parts.append("/")
        return f"{name}({', '.join(parts)})"


UNTOLD = Form((Param("args", VAR_POSITIONAL, False), Param("kwargs", VAR_KEYWORD, False)))


def says_nothing(form: Form) -> bool:
    """`(*args, **kwargs)` is what wrappers have that forgot what they wrap."""
    return {param.kind for param in form.params} == {VAR_POSITIONAL, VAR_KEYWORD}


def merged(forms: Sequence[Form]) -> Form:
    """One form that accepts every call that one of the forms accepts."""
    if len(forms) == 1:
        return forms[0]
    lists = [[param for param in form.params if param.positional] for form in forms]
    positional: list[Param] = []
    renamed = False
    for at in range(max(map(len, lists))):
        column = [params[at] for params in lists if at < len(params)]
        names = {param.name for param in column}
        by_name = len(names) == 1 and all(param.kind == POSITIONAL for param in column)
        renamed = renamed or (len(names) > 1 and any(param.kind == POSITIONAL for param in column))
        # A parameter that only some forms have, or that follows one that may be left out, may be left out.
        required = len(column) == len(lists) and all(param.required for param in column) and all(param.required for param in positional)
        kind = POSITIONAL if by_name else POSITIONAL_ONLY
        positional.append(_joined(column, kind, required))
    # Positional-only parameters come first: what stands before one is positional, too.
    last = max((at for at, param in enumerate(positional) if param.kind == POSITIONAL_ONLY), default=-1)
    positional = [replace(param, kind=POSITIONAL_ONLY) if at < last else param for at, param in enumerate(positional)]
    known = {param.name for param in positional if param.kind == POSITIONAL}
    columns: dict[str, list[Param]] = {}
    for form in forms:
        for param in form.params:
            if (param.kind == KEYWORD_ONLY and param.name not in known) or (
                param.kind == POSITIONAL and param.name not in known and not renamed
            ):
                columns.setdefault(param.name, []).append(param)
    keywords = [
        _joined(column, KEYWORD_ONLY, len(column) == len(forms) and all(param.required and param.kind == KEYWORD_ONLY for param in column))
        for column in columns.values()
    ]
    # Names of positional-only parameters are free for keywords, but one list of parameters cannot hold both.
    taken = {param.name for param in positional}
    keywords = [param for param in keywords if param.name not in taken]
    rest = _variadic(forms, VAR_POSITIONAL)
    more = _variadic(forms, VAR_KEYWORD) or ((Param("kwargs", VAR_KEYWORD, False),) if renamed else ())
    return Form((*positional, *rest, *keywords, *more), hints.union([form.returns for form in forms]))


def _joined(column: Sequence[Param], kind: str, required: bool) -> Param:
    default = next((param.default for param in column if param.default is not None), None)
    hint = hints.union([param.hint for param in column])
    return Param(column[0].name, kind, required, None if required else default or "...", hint)


def _variadic(forms: Sequence[Form], kind: str) -> tuple[Param, ...]:
    found = [param for form in forms for param in form.params if param.kind == kind]
    return (Param(found[0].name.lstrip("_"), kind, False, None, hints.union([param.hint for param in found])),) if found else ()
