"""What stubs add: types, overloads, and signatures of what has none. Only what is asked for is parsed, and nothing is imported."""

from __future__ import annotations

import sys

import pytest
from introspected import Library, answer, functions

from bridge_adapter.tools.introspect import sources
from bridge_adapter.tools.introspect.forms import merged
from bridge_adapter.tools.introspect.signatures import parsed

CODE = """
class _Untold:
    __module__ = "stubbed"
    def __init__(self, name): self.__qualname__ = name
    @property
    def __signature__(self): raise ValueError
    def __call__(self, *args, **kwargs): ...

def typed(a, b=None): ...
def plain(a: int) -> str: ...
several = _Untold("several")
aliased = _Untold("aliased")
variable = _Untold("variable")
starred = _Untold("starred")
newer = _Untold("newer")
absent = _Untold("absent")

class Thing:
    def __init__(self, *args, **kwargs): ...
    def get(self, *args, **kwargs): ...
    def inherited(self, *args, **kwargs): ...
    @property
    def size(self): ...
"""

STUB = '''
import sys
from collections.abc import Sequence
from typing import Final, Protocol, overload
from ._inner import original as aliased
from ._inner import *

"""A docstring in a stub,
def not_a_function(): of several lines."""

def typed(a: int, b: str | None = ...) -> list[float]: ...

@overload
def several(x: int, /) -> int: ...
@overload
def several(x: str, y: bytes = ..., *, flag: bool) -> str: ...

class _Called(Protocol):
    def __call__(self, shape: int, fill: float = 0.0) -> bool: ...

variable: Final[_Called]

if sys.version_info >= (3, 20):
    def newer(future: int) -> None: ...
else:
    def newer(now: int) -> None: ...

class _Base:
    def inherited(self, way: int) -> None: ...

class Thing(_Base):
    size: int
    def __init__(self, name: str) -> None: ...
    def get(self, key: int) -> "Thing": ...
'''

INNER = """
Number = int | float
def original(n: Number) -> Number: ...
def starred(*names: str) -> None: ...
"""


@pytest.fixture
def stubbed(library: Library) -> str:
    return library("stubbed", {"__init__.py": CODE, "__init__.pyi": STUB, "_inner.pyi": INNER})


def test_a_stub_adds_the_types_that_code_does_not_tell(stubbed: str) -> None:
    typed = functions(answer(stubbed, symbols=["typed"]), "Stubbed")["typed"]
    assert typed["source"] == "signature"
    assert typed["returns"] == "[number() | :infinity | :neg_infinity | :nan]"
    assert typed["params"][0]["spec"] == "integer() | SnakeBridge.Ref.t()"
    assert typed["params"][1]["default"] == "None"


def test_overloads_are_told_and_joined_to_one_form_that_accepts_all(stubbed: str) -> None:
    several = functions(answer(stubbed, symbols=["several"]), "Stubbed")["several"]
    assert several["source"] == "stub"
    assert several["signature"] == "several(x, /, y=..., *, flag=...)"
    assert several["returns"] == "integer() | String.t()"
    assert [overload["returns"] for overload in several["overloads"]] == ["integer()", "String.t()"]
    assert [param["name"] for param in several["overloads"][1]["params"]] == ["x", "y", "flag"]


def test_imports_stars_conditions_and_variables_are_followed(stubbed: str) -> None:
    told = functions(answer(stubbed, symbols=["aliased", "starred", "newer", "variable", "absent"]), "Stubbed")
    assert told["aliased"]["signature"] == "aliased(n)"
    assert told["aliased"]["returns"] == "number() | :infinity | :neg_infinity | :nan"
    assert told["starred"]["signature"] == "starred(*names)"
    assert told["newer"]["signature"] == "newer(now)"
    assert told["variable"]["signature"] == "variable(shape, fill=0.0)"
    assert told["absent"]["source"] == "none"


def test_methods_constructors_and_attributes_are_found_in_classes_and_their_bases(stubbed: str) -> None:
    thing = functions(answer(stubbed, symbols=["Thing"]), "Stubbed.Thing")
    assert thing["new"]["signature"] == "Thing(name)"
    assert thing["get"]["signature"] == "get(key)"
    assert thing["get"]["returns"] == "SnakeBridge.Ref.t()"
    assert thing["inherited"]["signature"] == "inherited(way)"
    assert thing["size"]["returns"] == "integer()"


def test_other_libraries_are_not_imported_for_a_hint_and_known_by_name_alone(library: Library) -> None:
    stub = "from colorsys_free import Other\nfrom polars import DataFrame\ndef f(a): ...\ndef g() -> Other: ...\ndef h() -> DataFrame: ..."
    name = library("foreign", {"__init__.py": "def f(a): ...\ndef g(): ...\ndef h(): ...", "__init__.pyi": stub})
    loaded = "polars" in sys.modules
    told = functions(answer(name, symbols=["f", "g", "h"]), "Foreign")
    assert told["g"]["returns"] == "term()"
    assert told["h"]["returns"] == "SnakeBridge.Arrow.t() | SnakeBridge.Ref.t()"
    assert ("polars" in sys.modules) == loaded


def test_only_what_is_asked_for_is_parsed(library: Library) -> None:
    name = library("partly", {"__init__.py": "def f(a): ...", "__init__.pyi": "def f(a: int) -> int: ...\ndef g(a: = broken\n"})
    assert functions(answer(name, symbols=["f"]), "Partly")["f"]["returns"] == "integer()"


def test_a_stub_that_imports_itself_in_a_circle_ends(library: Library) -> None:
    files = {
        "__init__.py": "def f(a): ...",
        "__init__.pyi": "from .a import *\nfrom .a import f",
        "a.pyi": "from .b import *",
        "b.pyi": "from .a import *",
    }
    assert functions(answer(library("circle", files), symbols=["f"]), "Circle")["f"]["returns"] == "term()"


def test_the_standard_library_is_known_from_its_stubs() -> None:
    assert sources.stub("json") is not None
    loads = functions(answer("json", symbols=["dumps"]), "Json")["dumps"]
    assert loads["returns"] == "String.t()"


def test_joined_forms_leave_out_what_one_of_them_lacks() -> None:
    forms = [form for text in ("iterable, *, key=None", "arg1, arg2, *args, key=None") if (form := parsed(text)) is not None]
    assert merged(forms).text("max") == "max(iterable, /, arg2=..., *args, key=None, **kwargs)"
