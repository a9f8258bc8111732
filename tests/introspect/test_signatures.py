"""Parameters, from each source that may know them."""

from __future__ import annotations

from typing import Any

import pytest
from introspected import Library, answer, functions

from bridge_adapter.tools.introspect import signatures


def test_every_kind_of_parameter_is_told(library: Library) -> None:
    name = library("kinds", {"__init__.py": "def f(a, b=1, /, c=2, *args: int, d, e='x', **kwargs: str): ..."})
    function = functions(answer(name, symbols=["f"]), "Kinds")["f"]
    assert function["signature"] == "f(a, b=1, /, c=2, *args, d, e='x', **kwargs)"
    told = [(param["name"], param["kind"], param["required"], param["default"]) for param in function["params"]]
    assert told == [
        ("a", "positional_only", True, None),
        ("b", "positional_only", False, "1"),
        ("c", "positional_or_keyword", False, "2"),
        ("args", "var_positional", False, None),
        ("d", "keyword_only", True, None),
        ("e", "keyword_only", False, "'x'"),
        ("kwargs", "var_keyword", False, None),
    ]
    specs = {param["name"]: param["spec"] for param in function["params"]}
    assert specs["args"].startswith("integer()")
    assert specs["kwargs"].startswith("String.t()")


def test_methods_are_told_without_their_receiver(library: Library) -> None:
    code = """
    import functools

    class Thing:
        kind = "thing"
        def __init__(self, size: int = 1): self._size = size
        def grow(self, by): ...
        @classmethod
        def make(cls, size): ...
        @staticmethod
        def join(a, b): ...
        @property
        def size(self) -> int: raise RuntimeError("must not run")
        @size.setter
        def size(self, value): ...
        @property
        def weight(self) -> float: raise RuntimeError("must not run")
        @functools.cached_property
        def age(self) -> int: raise RuntimeError("must not run")
        def __len__(self) -> int: return 1
        def __getitem__(self, key): ...
        def _private(self): ...
        class Part: ...
    """
    described = answer(library("things", {"__init__.py": code}), symbols=["Thing"])
    assert described["problems"] == []
    members = functions(described, "Things.Thing")
    kinds = {name: (item["python"], item["kind"]) for name, item in members.items()}
    assert kinds == {
        "new": ("__init__", "new"),
        "grow": ("grow", "method"),
        "make": ("make", "class_method"),
        "join": ("join", "static_method"),
        "size": ("size", "property"),
        "set_size": ("size", "set_property"),
        "weight": ("weight", "property"),
        "age": ("age", "property"),
        "kind": ("kind", "constant"),
        "len": ("__len__", "method"),
        "get_item": ("__getitem__", "method"),
    }
    names = {name: [param["name"] for param in item["params"]] for name, item in members.items()}
    assert names["new"] == names["make"] == ["size"]
    assert names["grow"] == ["by"]
    assert names["join"] == ["a", "b"]
    assert names["set_size"] == ["value"]
    assert members["size"]["returns"] == members["age"]["returns"] == "integer()"
    assert [module["class"] for module in described["modules"]] == ["Thing", "Thing.Part"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("x, /, out=None, *, where=True[, signature]", "f(x, /, out=None, *, where=True, signature=...)"),
        ("start, stop[, step]", "f(start, stop, step=...)"),
        ("[start,] stop[, step,], dtype=None, *, like=None", "f(stop, step=..., dtype=None, *, like=None)"),
        ("iterable, *[, default=obj, key=func]", "f(iterable, *, default=obj, key=func)"),
        ("arg1, arg2, *args, *[, key=func]", "f(arg1, arg2, *args, key=func)"),
        ("a[, b[, c]]", "f(a, b=..., c=...)"),
        ("value, ..., sep=' ', end=<nothing>", "f(value, *args, sep=' ', end=...)"),
        ("", "f()"),
    ],
)
def test_the_signature_line_of_a_docstring_is_read(text: str, form: str) -> None:
    parsed = signatures.parsed(text)
    assert parsed is not None
    assert parsed.text("f") == form


def test_what_is_no_parameter_list_is_not_read_as_one() -> None:
    assert signatures.parsed("a b c") is None


def test_a_docstring_and_a_text_signature_stand_in_for_a_signature(library: Library) -> None:
    code = """
    class Untold:
        def __init__(self, doc=None, text=None):
            self.__doc__, self.__text_signature__ = doc, text
        @property
        def __signature__(self): raise ValueError("no signature")
        def __call__(self, *args, **kwargs): ...

    documented = Untold("documented(x[, y])\\n\\nSays how it is called.")
    texted = Untold("Nothing of use.", "($module, a, /, b=<unrepresentable>)")
    unknown = Untold()
    """
    told = functions(answer(library("untold", {"__init__.py": code}), symbols=["documented", "texted", "unknown"]), "Untold")
    assert (told["documented"]["signature"], told["documented"]["source"]) == ("documented(x, y=...)", "docstring")
    assert told["documented"]["doc"] == "Says how it is called."
    assert (told["texted"]["signature"], told["texted"]["source"]) == ("texted(a, /, b=...)", "text_signature")
    assert (told["unknown"]["signature"], told["unknown"]["source"]) == ("unknown(*args, **kwargs)", "none")


def test_iterators_and_generators_are_streams_and_others_when_they_are_asked_to_be(library: Library) -> None:
    code = """
    from collections.abc import AsyncIterator, Iterable, Iterator
    def annotated() -> Iterator[int]: ...
    async def awaited() -> AsyncIterator[int]: ...
    def generates():
        yield 1
    async def generates_later():
        yield 1
    def collected() -> Iterable[int]: ...
    def plain() -> list[int]: ...
    def configured(): ...
    class Model:
        def generate(self): ...
        def tell(self): ...
    class Numbers:
        def __iter__(self): return self
        def __next__(self): return 1
    """
    name = library("streams", {"__init__.py": code})
    described = answer(
        name, all=True, stream=["configured", "Model.generate"], uses=[{"module": "Streams.Model", "function": "tell_stream"}]
    )
    told = {key: item["stream"] for key, item in functions(described, "Streams").items()}
    assert told == {
        "annotated": True,
        "awaited": True,
        "generates": True,
        "generates_later": True,
        "collected": False,
        "plain": False,
        "configured": True,
    }
    assert functions(described, "Streams.Model")["generate"]["stream"]
    assert functions(described, "Streams.Model")["tell"]["stream"]
    assert functions(described, "Streams.Numbers")["new"]["stream"]
    assert functions(described, "Streams")["generates"]["returns"] == "Enumerable.t()"


def test_declared_fields_are_properties_and_those_of_data_classes_can_be_set(library: Library) -> None:
    code = """
    from dataclasses import dataclass
    @dataclass
    class Point:
        x: float
        name: str = ""
    @dataclass(frozen=True)
    class Fixed:
        x: int
    class Noted:
        later: bytes
    """
    described = answer(library("fields", {"__init__.py": code}), all=True)
    point = functions(described, "Fields.Point")
    assert point["x"]["kind"] == point["name"]["kind"] == "property"
    assert point["x"]["returns"].startswith("number()")
    assert point["set_x"]["params"][0]["spec"].startswith("number()")
    assert "set_x" not in functions(described, "Fields.Fixed")
    assert functions(described, "Fields.Noted")["later"]["returns"].startswith("SnakeBridge.Bytes.t()")


def test_defaults_are_texts_without_addresses(library: Library) -> None:
    code = """
    import enum
    class Colour(enum.Enum): RED = 1
    def f(a=object(), b={"z", "a"}, c=len, d=Colour.RED, e=[1, object()], g="x" * 200, h=float("nan"), i=int): ...
    """
    params: list[dict[str, Any]] = functions(answer(library("defaults_", {"__init__.py": code}), symbols=["f"]), "Defaults")["f"]["params"]
    assert [param["default"] for param in params] == ["...", "{'a', 'z'}", "len", "Colour.RED", "[1, ...]", "...", "nan", "int"]
