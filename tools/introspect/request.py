"""What is asked: the request as the Elixir side writes it, read and checked. Nothing here imports a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .naming import default_root

FORMAT = 1


class InvalidRequest(ValueError):
    """The request is not one: the message says which part, and what is expected there."""


@dataclass(frozen=True, slots=True)
class Use:
    """A call found in Elixir code, under Elixir's names. optional: it may as well be somebody else's function."""

    module: str
    function: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Library:
    """What is asked about one library."""

    name: str
    root: str
    all: bool = False
    symbols: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()
    stream: frozenset[str] = field(default_factory=frozenset)


def read(request: Any) -> list[Library]:
    """The libraries of a request, in its order. Raises InvalidRequest."""
    if not isinstance(request, Mapping):
        raise InvalidRequest(f"the request must be a map, not {type(request).__name__}")
    if request.get("format") != FORMAT:
        raise InvalidRequest(f"the request has format {request.get('format')!r}; this adapter reads format {FORMAT}: update the older half")
    return [_library(entry) for entry in _list(request, "libraries", Mapping)]


def _library(entry: Mapping[str, Any]) -> Library:
    name = entry.get("library")
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise InvalidRequest(f"library must be an import name like numpy or jax.numpy, not {name!r}")
    root = entry.get("root") or default_root(name)
    if not isinstance(root, str):
        raise InvalidRequest(f"root of {name} must be the name of an Elixir module, not {root!r}")
    uses = []
    for use in _list(entry, "uses", Mapping):
        module, function = use.get("module"), use.get("function")
        if not isinstance(module, str) or not isinstance(function, str):
            raise InvalidRequest(f"a use in {name} must have the texts module and function, not {dict(use)!r}")
        uses.append(Use(module.removeprefix("Elixir."), function, use.get("optional") is True))
    return Library(
        name=name,
        root=root.removeprefix("Elixir."),
        all=entry.get("all") is True,
        symbols=tuple(_list(entry, "symbols", str)),
        uses=tuple(uses),
        stream=frozenset(_list(entry, "stream", str)),
    )


def _list(entry: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise InvalidRequest(f"{key} must be a list of {'texts' if kind is str else 'maps'}, not {str(value)[:80]}")
    return value
