"""Asking about one library, and finding things in the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bridge_adapter.tools.introspect import describe

Library = Callable[[str, Mapping[str, str]], str]  # name, files -> name


def answer(name: str, **asked: Any) -> dict[str, Any]:
    return describe({"format": 1, "libraries": [{"library": name, **asked}]})


def functions(answered: dict[str, Any], module: str) -> dict[str, dict[str, Any]]:
    """The functions of one Elixir module, by their Elixir names."""
    described = next(item for item in answered["modules"] if item["elixir"] == module)
    return {function["elixir"]: function for function in described["functions"]}
