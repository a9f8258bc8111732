"""Functions that take the name of what they reach as an argument: they may be called, their argument is looked at like a path, and they are
not given out by reference, because then nobody would see what they are called with.
"""

from __future__ import annotations

import builtins
import importlib
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors

if TYPE_CHECKING:
    from bridge_adapter.policy.decisions import Policy

_FIELDS = re.compile(r"\{[^{}.\[]*[.\[]([^{}!:]*)")


def check(policy: Policy, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Looks at the arguments of a guarded function; does nothing for others."""
    guard = _GUARDS.get(id(target))
    if guard is not None:
        guard(policy, args, kwargs)
    elif _formats(target):
        _format(policy, (target.__self__, *args), kwargs)
    elif _reads_arrays(target) and kwargs.get("allow_pickle", args[2] if len(args) > 2 else False) and not policy.lifted("pickle.load"):
        what = "numpy.load with allow_pickle=True is refused by the rule 'pickle.load' (default)"
        remedy = "a pickle runs code; save the array without objects, or add 'pickle.load' to allow in the policy of the pool"
        raise errors.PermissionDenied(f"{what}; {remedy}", object="numpy.load", rule="pickle.load", source="default")


def guarded(target: Any) -> bool:
    """True for a function whose arguments are looked at."""
    return id(target) in _GUARDS or _formats(target) or _reads_arrays(target)


def _read(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if len(args) >= 2 and isinstance(args[1], str):
        policy.inspection(args[0], args[1])


def _write(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if len(args) >= 2 and isinstance(args[1], str):
        policy.assignment(args[0], args[1])


def _imported(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    name = args[0] if args else kwargs.get("name")
    package = args[1] if len(args) > 1 else kwargs.get("package")
    if isinstance(name, str):
        policy.module(f"{package}.{name.lstrip('.')}" if name.startswith(".") and isinstance(package, str) else name)


def _called(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if args:
        policy.reference(args[0])


def _format(policy: Policy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A format such as `{0.__globals__}` is a path."""
    if args and isinstance(args[0], str):
        for path in _FIELDS.findall(args[0]):
            policy.path(path.replace("[", ".").replace("]", ""))


def _formats(target: Any) -> bool:
    """The method `format` of a text that the caller holds."""
    return type(target) is BuiltinMethodType and isinstance(target.__self__, str) and target.__name__ in ("format", "format_map")


def _reads_arrays(target: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and target is getattr(numpy, "load", None)


_GUARDS: dict[int, Callable[[Policy, Sequence[Any], Mapping[str, Any]], None]] = {
    id(builtins.getattr): _read,
    id(builtins.hasattr): _read,
    id(builtins.setattr): _write,
    id(builtins.delattr): _write,
    id(importlib.import_module): _imported,
    id(operator.call): _called,
    id(str.format): _format,
    id(str.format_map): _format,
}
