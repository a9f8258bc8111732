"""Functions that take the name of what they reach as an argument: they may be called, their argument is looked at like a path, and they are
not given out by reference, because then nobody would see what they are called with.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.policy.names import plain

if TYPE_CHECKING:
    from bridge_adapter.policy.decisions import Policy

_PARTS = re.compile(r"[.\[\]]+")
_LOCAL = re.compile(r"(?:@\s*|__pd_eval_local_)(\w*)")  # pandas puts the long form in the place of the sign
_ATTRIBUTE = re.compile(r"\.\s*([^\W\d]\w*)")


def check(policy: Policy, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Looks at the arguments of a guarded function; does nothing for others."""
    guard = _GUARDS.get(id(target))
    if guard is not None:
        guard(policy, args, kwargs)
    elif _formats(target):
        _format(policy, (target.__self__, *args), kwargs)
    elif (frame := _evaluates(target)) is not None:
        _expression(policy, args[frame:], kwargs)
    elif _reads_arrays(target) and kwargs.get("allow_pickle", args[2] if len(args) > 2 else False) and not policy.lifted("pickle.load"):
        what = "numpy.load with allow_pickle=True is refused by the rule 'pickle.load' (default)"
        remedy = "a pickle runs code; save the array without objects, or add 'pickle.load' to allow in the policy of the pool"
        raise errors.PermissionDenied(f"{what}; {remedy}", object="numpy.load", rule="pickle.load", source="default")


def guarded(target: Any) -> bool:
    """True for a function whose arguments are looked at."""
    return id(target) in _GUARDS or _formats(target) or _reads_arrays(target) or _evaluates(target) is not None


def _read(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if len(args) >= 2 and isinstance(args[1], str):
        policy.inspection(args[0], plain(args[1]))


def _write(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if len(args) >= 2 and isinstance(args[1], str):
        policy.assignment(args[0], plain(args[1]))


def _imported(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    name = args[0] if args else kwargs.get("name")
    package = args[1] if len(args) > 1 else kwargs.get("package")
    if isinstance(name, str):
        name = plain(name)
        policy.module(f"{package}.{name.lstrip('.')}" if name.startswith(".") and isinstance(package, str) else name)


def _called(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if args:
        policy.reference(args[0])


def _format(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A format such as `{0.__globals__}` is a path."""
    if args and isinstance(args[0], str):
        _format_text(policy, plain(args[0]))


def _format_text(policy: Policy, text: str) -> None:
    from string import Formatter

    try:
        fields = [(name, spec) for _, name, spec, _ in Formatter().parse(text) if name is not None]
    except ValueError:
        return  # the function that was called says so
    for name, spec in fields:
        for part in _PARTS.split(name)[1:]:
            policy.path(part)
        if spec:
            _format_text(policy, spec)


def _formats(target: Any) -> bool:
    """The method `format` of a text that the caller holds."""
    return type(target) is BuiltinMethodType and isinstance(target.__self__, str) and target.__name__ in ("format", "format_map")


def _reads_arrays(target: Any) -> bool:
    modules = (sys.modules.get(name) for name in ("numpy", "jax.numpy"))
    return any(module is not None and target is vars(module).get("load") for module in modules)


def _signature(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("eval_str") and not policy.lifted("inspect.get_annotations"):
        what = "inspect.signature with eval_str=True is refused by the rule 'inspect.get_annotations' (default)"
        remedy = "annotations that are texts are run as code; leave eval_str out, or add 'inspect.get_annotations' to allow in the policy"
        raise errors.PermissionDenied(f"{what}; {remedy}", object="inspect.signature", rule="inspect.get_annotations", source="default")


def _evaluates(target: Any) -> int | None:
    """Of `DataFrame.eval` and `DataFrame.query`, how many arguments come before the expression; None for others."""
    function = target.__func__ if type(target) is MethodType else target
    if type(function) is not FunctionType or function.__name__ not in ("eval", "query") or "pandas" not in sys.modules:
        return None
    frame = vars(sys.modules["pandas"]).get("DataFrame")
    if frame is None or function is not vars(frame).get(function.__name__):
        return None
    return 0 if type(target) is MethodType else 1


def _expression(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """`@name` in an expression of pandas is a variable of its caller, which is the worker: only those given with it are let in."""
    text, given = kwargs.get("expr", args[0] if args else None), kwargs.get("local_dict")
    if not isinstance(text, str) or policy.lifted("pandas.eval"):
        return
    text = _code(plain(text))
    for name in _LOCAL.findall(text):
        if type(given) is not dict or name not in given:
            what = f"@{name} in an expression of pandas is refused by the rule 'pandas.eval' (default)"
            remedy = f"give its value along: local_dict={{{name!r}: value}}; or add 'pandas.eval' to allow in the policy of the pool"
            raise errors.PermissionDenied(f"{what}; {remedy}", object="pandas.DataFrame.eval", rule="pandas.eval", source="default")
    for name in _ATTRIBUTE.findall(text):
        policy.path(name)


def _code(expression: str) -> str:
    """An expression as the parser reads its names, without its texts, where it is sure what is one: names in backticks may hold quotes."""
    import tokenize
    from io import StringIO
    from unicodedata import normalize

    if "`" not in expression:
        try:
            tokens = list(tokenize.generate_tokens(StringIO(expression).readline))
            expression = " ".join(token.string for token in tokens if token.type != tokenize.STRING)
        except (tokenize.TokenError, SyntaxError):
            pass  # all of it is looked at
    return normalize("NFKC", expression)


_GUARDS: dict[int, Callable[[Policy, Sequence[Any], Mapping[str, Any]], None]] = {
    id(builtins.getattr): _read,
    id(builtins.hasattr): _read,
    id(builtins.setattr): _write,
    id(builtins.delattr): _write,
    id(importlib.import_module): _imported,
    id(operator.call): _called,
    id(inspect.signature): _signature,
    id(str.format): _format,
    id(str.format_map): _format,
}
