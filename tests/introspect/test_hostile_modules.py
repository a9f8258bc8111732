"""Libraries that misbehave when they are looked at: one odd symbol never costs the others."""

from __future__ import annotations

import warnings

import pytest
from introspected import Library, answer, functions

CODE = '''
import warnings

class Meta(type):
    def __getattribute__(cls, name):
        if name in ("__doc__", "__signature__", "__bases__"):
            raise RuntimeError("the metaclass refuses " + name)
        return type.__getattribute__(cls, name)
    def __dir__(cls): raise RuntimeError("no dir")
    def __instancecheck__(cls, other): raise RuntimeError("no instances")
    def __eq__(cls, other): raise RuntimeError("not comparable")
    def __hash__(cls): return 1

class Refuses(metaclass=Meta):
    def method(self): ...

class Raising:
    """Raises whatever it is asked for."""
    def __getattribute__(self, name): raise RuntimeError("no attribute " + name)
    def __repr__(self): raise RuntimeError("no text")

raising = Raising()

class Descriptor:
    def __get__(self, instance, owner): raise RuntimeError("must not matter")

class Strange:
    broken = Descriptor()
    __annotations__ = 5
    __doc__ = 5
    def fine(self): ...

class Nameless:
    def __call__(self): ...
    __doc__ = b"bytes"
nameless = Nameless()
nameless.__signature__ = "not a signature"
nameless.__module__ = 5
nameless.__name__ = None

def odd(a=raising): ...
odd.__annotations__ = {"a": raising, "return": "not ( a type"}
odd.__doc__ = ["no", "text"]

def circular(): ...
circular.__wrapped__ = circular

def deep(a: "list[" * 200 + "int" + "]" * 200): ...

def __getattr__(name):
    if name == "exits":
        raise SystemExit(3)
    if name == "deprecated":
        warnings.warn("use another", DeprecationWarning)
        return len
    raise AttributeError(name)

def fine(): ...

__all__ = ["Refuses", "raising", "Strange", "nameless", "odd", "circular", "deep", "exits", "deprecated", "fine", 5, "not a name"]
'''


def test_the_rest_is_described_and_what_failed_is_named(library: Library) -> None:
    answered = answer(library("hostile", {"__init__.py": CODE}), all=True)
    told = functions(answered, "Hostile")
    assert {"fine", "odd", "circular", "deep", "nameless"} <= set(told)
    assert "deprecated" not in told
    assert told["odd"]["params"][0]["default"] == "..."
    assert told["odd"]["doc"] is None
    assert list(functions(answered, "Hostile.Strange")) == ["broken", "fine", "new"]
    kinds = {problem["symbol"]: problem["kind"] for problem in answered["problems"]}
    assert kinds["exits"] == "failed"
    assert set(kinds.values()) == {"failed"}


def test_no_property_runs_and_no_instance_is_made(library: Library) -> None:
    code = """
    ran = []
    class Watched:
        def __init__(self): ran.append("init")
        def __new__(cls): ran.append("new")
        @property
        def value(self): ran.append("value")
        def __getattr__(self, name): ran.append(name)
    """
    name = library("watched", {"__init__.py": code})
    answer(name, all=True)
    import watched  # type: ignore[import-not-found]

    assert watched.ran == []


def test_classes_that_say_they_equal_others_are_described_as_themselves(library: Library) -> None:
    code = """
    class Equal(type):
        def __eq__(cls, other): return True
        def __hash__(cls): return 1
    class First(metaclass=Equal):
        def one(self) -> "First": ...
    class Second(metaclass=Equal):
        def two(self) -> "Second | int": ...
    """
    answered = answer(library("equal", {"__init__.py": code}), symbols=["First", "Second"])
    assert list(functions(answered, "Equal.First")) == ["new", "one"]
    assert functions(answered, "Equal.Second")["two"]["returns"] == "integer() | SnakeBridge.Ref.t()"


def test_warnings_of_the_library_stay_silent(library: Library) -> None:
    code = "import warnings\nwarnings.warn('imported', DeprecationWarning)\ndef f(): ..."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "f" in functions(answer(library("warns", {"__init__.py": code}), symbols=["f"]), "Warns")


@pytest.mark.parametrize("statement", ["raise SystemExit(1)", "raise RuntimeError('x')", "import not_installed_here", "def f(:"])
def test_a_library_that_cannot_be_imported_is_a_problem(library: Library, statement: str) -> None:
    answered = answer(library("dies", {"__init__.py": statement}), all=True)
    (problem,) = answered["problems"]
    assert problem["kind"] == "import"
    assert answered["modules"] == []
