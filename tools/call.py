"""`snakebridge.call`: functions, classes, methods, attributes, helpers and stream steps, in today's and in the seed's payload style.

`function` may be a dotted path (`datetime.now`), and a module path may end in a class (`pathlib.Path`).
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from bridge_adapter.codec import Ref, named

from . import helpers, stream
from .registry import Payload, ToolContext, ToolError, invalid

_imported: dict[str, Any] = {}


def call(payload: Payload, context: ToolContext) -> Any:
    """Runs the call that a payload describes and returns its settled value."""
    kind = payload.get("call_type")
    # An absent or unknown kind is a function, as it is in SnakeBridge's own adapter.
    return (KINDS.get(kind, _function) if isinstance(kind, str) else _function)(payload, context)


def arguments(payload: Payload) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments. Raises ToolError when they are not a list and a string-keyed map."""
    args = payload.get("args")
    kwargs = payload.get("kwargs")
    if args is None:
        args = ()
    elif type(args) is not list and not isinstance(args, (list, tuple)):
        raise invalid(f"args must be a list, not {type(args).__name__}: {str(args)[:80]}")
    if kwargs is None:
        kwargs = {}
    elif not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise invalid(f"kwargs must be a map with string keys, not {type(kwargs).__name__}: {str(kwargs)[:80]}")
    return args, kwargs


def module_name(payload: Payload) -> str:
    """The module a payload names, under any of its keys."""
    name = payload.get("python_module") or payload.get("module_path") or payload.get("module")
    if not name:
        raise invalid("snakebridge.call requires python_module")
    if not isinstance(name, str):
        raise invalid(f"python_module must be a string, not {type(name).__name__}: {str(name)[:80]}")
    return name


def load(path: str) -> Any:
    """A module, or a class inside one (`pathlib.Path`): the longest importable prefix, then attributes."""
    found = _imported.get(path)
    if found is not None:
        return found
    try:
        target: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        prefix, _, name = path.rpartition(".")
        # Only a path that goes on where modules end; an import that fails inside the module is the user's to see.
        if not prefix or error.name is None or not (path == error.name or path.startswith(error.name + ".")):
            raise
        try:
            parent = load(prefix)
            target = getattr(parent, name)
        except (ModuleNotFoundError, AttributeError):
            raise error from None
    if len(_imported) < 10_000 and isinstance(target, ModuleType):
        _imported[path] = target
    return target


def attribute(target: Any, path: Any) -> Any:
    """An attribute by name or dotted path. A missing one gets a note with the nearest names."""
    if not isinstance(path, str) or not path:
        raise invalid(f"function must be a name, not {str(path)[:80]!r}")
    try:
        for name in path.split("."):
            target = getattr(target, name)
    except AttributeError as error:
        # Not for an AttributeError from inside a property or __getattr__ of the user.
        if (error.obj is target or error.obj is None) and error.name in (name, None):
            near = difflib.get_close_matches(name, dir(target), n=3)
            if near:
                error.add_note(f"Did you mean {' or '.join(near)}?")
        raise
    return target


def _first(payload: Payload, *keys: str) -> Any:
    for key in keys:
        value = payload.get(key)
        if value:
            return value
    return None


def instance(payload: Payload, context: ToolContext) -> Any:
    """The live object a payload is about: under `instance`, or the seed's `ref` (an id or a ref)."""
    target = payload.get("instance")
    if target is None and payload.get("ref") is not None:
        target = payload["ref"]
        # The seed's style: an id. But the ref of a str is decoded to that str, which is no id.
        if isinstance(target, str) and context.entry_of(target) is None:
            return context.resolve(Ref(target, context.session_id))
    if target is None and "instance" not in payload:
        raise ToolError("invalid_ref", "SnakeBridge reference missing id")
    if isinstance(target, dict) and target.get("__type__") in ("ref", "stream_ref"):
        return context.resolve(plain_ref(target, context.session_id))
    return target


def plain_ref(fields: Mapping[str, Any], session_id: str) -> Ref:
    """A ref that came as a plain map."""
    ref_id = fields.get("id") or fields.get("ref_id")
    if not ref_id:
        raise ToolError("invalid_ref", "SnakeBridge reference missing id")
    session = fields.get("session_id") or session_id
    if not isinstance(ref_id, str) or not isinstance(session, str):
        raise ToolError("invalid_ref", "Invalid SnakeBridge reference payload")
    return Ref(ref_id, session)


def callee(payload: Payload, context: ToolContext) -> Callable[..., Any]:
    """What a payload would have called: a method, a helper or a function."""
    kind = payload.get("call_type")
    found: Callable[..., Any]
    args, kwargs = arguments(payload)
    if kind == "method":
        found = _of_object(payload, context, _first(payload, "function", "method"), args, kwargs)
    elif kind == "helper":
        found = _helper_named(payload, context, _first(payload, "helper", "function"))
    else:
        found = _of_module(payload, context, payload.get("function"), args, kwargs)
    return found


def _of_module(payload: Payload, context: ToolContext, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    policy, module = context.policy, module_name(payload)
    return attribute(load(module), path) if policy is None else policy.function(module, path, args, kwargs)


def _of_object(payload: Payload, context: ToolContext, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    policy, target = context.policy, instance(payload, context)
    return attribute(target, path) if policy is None else policy.method(target, path, args, kwargs)


def _helper_named(payload: Payload, context: ToolContext, name: Any) -> Callable[..., Any]:
    policy = context.policy
    if policy is None:
        return helpers.find(name, payload.get("helper_config"))
    found = helpers.find(name, payload.get("helper_config"), policy.helper_directories)
    policy.helper(name, found)
    return found


def _with_types(find: Callable[[], Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Sequence[Any], Mapping[str, Any]]:
    """The target and its arguments; those were read before the import that may have brought their types."""
    before = named.registrations(), len(sys.modules)
    target = find()
    if (named.registrations(), len(sys.modules)) != before:
        args, kwargs = named.known(args), named.known(kwargs)
    return target, args, kwargs


def _function(payload: Payload, context: ToolContext) -> Any:
    args, kwargs = arguments(payload)
    target, args, kwargs = _with_types(lambda: _of_module(payload, context, payload.get("function"), args, kwargs), args, kwargs)
    return context.settle(target(*args, **kwargs))


def _class(payload: Payload, context: ToolContext) -> Any:
    args, kwargs = arguments(payload)
    name = _first(payload, "class", "class_name")
    if name is None:
        raise invalid("call_type class requires the key class (the name of the class)")
    target, args, kwargs = _with_types(lambda: _of_module(payload, context, name, args, kwargs), args, kwargs)
    return context.settle(target(*args, **kwargs))


def _method(payload: Payload, context: ToolContext) -> Any:
    args, kwargs = arguments(payload)
    target = _of_object(payload, context, _first(payload, "function", "method"), args, kwargs)
    return context.settle(target(*args, **kwargs))


def _get_attr(payload: Payload, context: ToolContext) -> Any:
    return _of_object(payload, context, _first(payload, "attr", "attribute", "function"))


def _set_attr(payload: Payload, context: ToolContext) -> Any:
    name = _first(payload, "attr", "attribute", "function")
    if not isinstance(name, str):
        raise invalid("call_type set_attr requires the key attr (the name of the attribute)")
    args = arguments(payload)[0]
    target = instance(payload, context)
    if context.policy is not None:
        context.policy.assignment(target, name)
    *path, last = name.split(".")
    if path:
        target = attribute(target, ".".join(path))
    setattr(target, last, args[0] if args else payload.get("value"))
    return True


def _module_attr(payload: Payload, context: ToolContext) -> Any:
    return _of_module(payload, context, _first(payload, "attr", "attribute", "function"))


def _helper(payload: Payload, context: ToolContext) -> Any:
    args, kwargs = arguments(payload)
    name = _first(payload, "helper", "function")
    target, args, kwargs = _with_types(lambda: _helper_named(payload, context, name), args, kwargs)
    return context.settle(target(*args, **kwargs))


KINDS: dict[str, Callable[[Payload, ToolContext], Any]] = {
    "function": _function,
    "class": _class,
    "method": _method,
    "get_attr": _get_attr,
    "set_attr": _set_attr,
    "module_attr": _module_attr,
    "dynamic": _function,
    "dynamic_stream": _function,
    "stream_next": stream.step,
    "helper": _helper,
}
