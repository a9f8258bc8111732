"""Elixir names for Python ones. The same Python name always gets the same Elixir name, whatever else is asked for at the same time:
clashes are settled among all names of a module or class, not among those of one request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Dunder methods that people call, by words. What an operator returns is what Python's operator returns.
DUNDERS: Mapping[str, str] = {
    "__len__": "len",
    "__getitem__": "get_item",
    "__setitem__": "set_item",
    "__delitem__": "delete_item",
    "__contains__": "contains",
    "__call__": "call",
    "__iter__": "iter",
    "__next__": "next",
    "__reversed__": "reversed",
    "__aiter__": "async_iter",
    "__anext__": "async_next",
    "__enter__": "enter",
    "__exit__": "exit",
    "__str__": "to_string",
    "__repr__": "repr",
    "__bytes__": "to_bytes",
    "__bool__": "to_boolean",
    "__int__": "to_integer",
    "__float__": "to_float",
    "__complex__": "to_complex",
    "__hash__": "hash",
    "__format__": "format",
    "__add__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__truediv__": "div",
    "__floordiv__": "floordiv",
    "__mod__": "mod",
    "__divmod__": "divmod",
    "__pow__": "pow",
    "__matmul__": "matmul",
    "__neg__": "neg",
    "__pos__": "pos",
    "__abs__": "abs",
    "__round__": "round",
    "__invert__": "invert",
    "__lshift__": "lshift",
    "__rshift__": "rshift",
    "__and__": "and_op",
    "__or__": "or_op",
    "__xor__": "xor_op",
    "__eq__": "eq",
    "__ne__": "ne",
    "__lt__": "lt",
    "__le__": "le",
    "__gt__": "gt",
    "__ge__": "ge",
}

# Words that Elixir reads otherwise, special forms, and macros of Kernel without which a module cannot be written. What else Kernel has is
# left out of a module that has the same (`import Kernel, except: ...`).
RESERVED = frozenset(
    (
        *("after", "and", "catch", "do", "else", "end", "false", "fn", "in", "nil", "not", "or", "rescue", "true", "when"),
        *("alias", "case", "cond", "for", "import", "quote", "receive", "require", "super", "try", "unquote", "unquote_splicing", "with"),
        *("def", "defp", "defmacro", "defmacrop", "defmodule", "defstruct", "defexception", "defprotocol", "defimpl", "defdelegate"),
        *("defguard", "defguardp", "defoverridable", "if", "unless"),
        *("behaviour_info", "module_info"),
    )
)

_WORDS = re.compile(r"[^0-9A-Za-z]+")
_LOWER_UPPER = re.compile(r"([a-z0-9])([A-Z])")
_ACRONYM = re.compile(r"([A-Z]+)([A-Z][a-z])")
_VALID = re.compile(r"[a-z_][a-zA-Z0-9_]*[?!]?\Z")


def segment(name: str) -> str:
    """One segment of an Elixir module name: linear_model -> LinearModel, float64 -> Float64, JSONEncoder -> JSONEncoder."""
    joined = "".join(word[:1].upper() + word[1:] for word in _WORDS.split(name) if word)
    return joined if joined[:1].isalpha() else f"Py{joined}"


def module_name(root: str, path: str) -> str:
    """The Elixir module of a Python path below a library: ("Sklearn", "linear_model") -> Sklearn.LinearModel."""
    return ".".join([root, *(segment(part) for part in path.split(".") if part)])


def default_root(library: str) -> str:
    """The Elixir module that stands for a library when the request names none."""
    return ".".join(segment(part) for part in library.split("."))


def snake(name: str) -> str:
    """snake_case: fooBar -> foo_bar, IGNORECASE -> ignorecase, HTTPServer -> http_server. What is in lower case stays."""
    if name.islower() or name.isupper():
        return name.lower()
    return _LOWER_UPPER.sub(r"\1_\2", _ACRONYM.sub(r"\1_\2", name)).lower()


def function_name(name: str) -> str:
    """The Elixir name that a Python name asks for; `function_names` settles who gets it."""
    known = DUNDERS.get(name)
    text = known if known is not None else snake(name.rsplit(".", maxsplit=1)[-1])
    if not text.isascii():
        text = "".join(char if char.isascii() else f"u{ord(char):x}" for char in text)
    text = re.sub(r"\W", "_", text)
    if not _VALID.match(text) or text in RESERVED or text.startswith("__"):
        return f"py_{text.lstrip('_')}"
    return text


def function_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Python name -> Elixir name, without clashes: a name that is spelled that way already keeps it, the others get "py_", then numbers."""
    result: dict[str, str] = {}
    used = set(taken)

    # Those spelled that way first, then names in lower case before dunders and capitals; the order of the input never counts.
    def rank(name: str) -> tuple[int, str]:
        return (0 if function_name(name) == name else 2 if name in DUNDERS else 1, name)

    for name in sorted(set(names), key=rank):
        text = function_name(name)
        if text in used:
            text = text if text.startswith("py_") else f"py_{text}"
            base, number = text, 2
            while text in used:
                text, number = f"{base}{number}", number + 1
        used.add(text)
        result[name] = text
    return result


def class_segments(classes: Iterable[str], submodules: Iterable[str] = ()) -> dict[str, str]:
    """Python class name -> segment of its Elixir module, clear of the submodules' segments and of each other."""
    modules = {segment(name) for name in submodules}
    result: dict[str, str] = {}
    used = set(modules)
    for name in sorted(set(classes), key=lambda name: (segment(name) != name, name)):
        text = segment(name)
        if text in used:
            text = base = f"{text}Class"
            number = 2
            while text in used:
                text, number = f"{base}{number}", number + 1
        used.add(text)
        result[name] = text
    return result


def is_public(name: str) -> bool:
    """Whether the name of an attribute says that it is for everyone."""
    return not name.startswith("_")
