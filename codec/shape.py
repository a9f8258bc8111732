"""Depth and element count of Python values, and the explanation when one is too deep: is it a cycle, or only deep?

Walks level by level and skips what holds no containers, so that a long list of numbers costs one set of types.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from .errors import CodecError, Cycle, EncodeError, LimitExceeded, TooDeep
from .limits import Limits
from .wrappers import Members, Pairs

_CONTAINERS = (list, tuple, dict, set, frozenset)
_CONTAINER_TYPES = frozenset((*_CONTAINERS, Pairs, Members))


def check(value: Any, limits: Limits, error: type[CodecError]) -> None:
    """Raises LimitExceeded when the value has more levels or elements than allowed (and `error` when it contains itself)."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    depth = elements = 0
    while level:
        depth += 1
        if depth > limits.depth:
            if error is EncodeError:
                explain_depth(value, limits)
            raise LimitExceeded(f"the message nests deeper than max_depth = {limits.depth}; flatten it")
        elements += sum(map(len, level))
        if elements > limits.elements:
            raise LimitExceeded(f"the message has more than max_elements = {limits.elements} elements; send it in parts or use an array")
        dicts = [container for container in level if isinstance(container, dict)]
        parts = chain(_members(level), chain.from_iterable(dicts))
        level = [part for part in parts if isinstance(part, _CONTAINERS)]


def check_depth(value: Any, containers: int, limits: Limits) -> None:
    """`check` for the levels of a value that came in and has so many containers; looks no further than it has to.

    Keys are not looked into: a container among them is a tuple of what can be hashed, and a message cannot nest such by a thousand levels.
    """
    level: list[Any] = [value] if type(value) in _CONTAINER_TYPES else []
    depth = 0
    while level:
        depth += 1
        containers -= len(level)
        if depth > limits.depth:
            raise LimitExceeded(f"the message nests deeper than max_depth = {limits.depth}; flatten it")
        if depth + containers <= limits.depth:
            return
        # Most of a message is no container: this line is where the time goes.
        level = [part for part in _members(level) if type(part) in _CONTAINER_TYPES]


def _members(containers: list[Any]) -> Iterable[Any]:
    return chain.from_iterable([container.values() if isinstance(container, dict) else container for container in containers])


def explain_depth(value: Any, limits: Limits) -> None:
    """Raises for a value that is too deep: Cycle with the path when it contains itself, TooDeep otherwise."""
    path: list[str] = []
    on_path: set[int] = {id(value)}
    stack = [(id(value), _parts(value))]
    steps = 0
    while stack and steps < 5_000_000:
        owner, parts = stack[-1]
        for step, part in parts:
            steps += 1
            if not isinstance(part, _CONTAINERS):
                continue
            if id(part) in on_path:
                where = "".join([*path[:8], step]) if len(path) <= 8 else "".join(path[:8]) + "..."
                raise Cycle(f"cycle: the {type(part).__name__} at value{where} contains itself; break the cycle, or pass a ref")
            if len(stack) <= 2 * limits.depth:
                on_path.add(id(part))
                stack.append((id(part), _parts(part)))
                path.append(step)
                break
        else:
            on_path.discard(owner)
            stack.pop()
            if path:
                path.pop()
    raise TooDeep(f"the value nests deeper than max_depth = {limits.depth}; flatten it, or keep it in Python and pass a ref")


def _parts(container: Any) -> Any:
    if isinstance(container, dict):
        return iter([(f"[{str(key)[:40]!r}]", item) for key, item in container.items()])
    return iter([(f"[{index}]", item) for index, item in enumerate(container)])
