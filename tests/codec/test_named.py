"""Registering types: what is taken, what is refused, and what happens when the functions of a type fail."""

from __future__ import annotations

import dataclasses
import enum
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
from shelf import Shelf

from bridge_adapter.codec import DecodeError, EncodeError, Extension, Ref, named, register, tagged
from bridge_adapter.codec.packed import Packer, Unpacker


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Forgets what a test registered."""
    tags, classes = dict(named.BY_TAG), dict(named.BY_CLASS)
    yield
    for cls in set(named.BY_CLASS) - set(classes):
        del named.BY_CLASS[cls]
        for forget in named._listeners:
            forget(cls)
    named.BY_TAG.clear()
    named.BY_TAG.update(tags)


def back(value: Any, shelf: Shelf | None = None) -> Any:
    return Unpacker(shelf).unpack(Packer(shelf).pack(value))


class Plain:
    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts


def test_any_class_travels_with_functions_of_its_own() -> None:
    shelf = Shelf()
    assert isinstance(shelf.opaque(Plain([])), Ref)
    assert type(back(Plain([1]), shelf)) is Plain  # by reference, and remembered as such
    register(Plain, "test.plain", lambda value: value.parts, Plain)
    came = back([Plain([1, Plain([])])])[0]
    assert type(came) is Plain
    assert type(came.parts[1]) is Plain
    assert tagged.loads(tagged.dumps(Plain([1]), schema=2)).parts == [1]


def test_subclasses_of_a_registered_class_are_not_meant() -> None:
    register(Plain, "test.plain", lambda value: value.parts, Plain)
    shelf = Shelf()
    child = type("Child", (Plain,), {})([1])
    assert back(child, shelf) is child


def test_dataclasses_with_defaults_and_fields_that_are_not_arguments() -> None:
    @dataclasses.dataclass
    class Item:
        name: str
        size: int = 1
        label: str = dataclasses.field(init=False, default="")

    register(Item, "test.item")
    item = Item("a")
    item.label = "changed"
    assert back(item) == item
    with pytest.raises(DecodeError, match=r"'test\.item' cannot be read: TypeError: .*unexpected keyword argument 'color'"):
        Unpacker().unpack(Packer().pack(Extension("test.item", {"name": "a", "color": 1})))
    with pytest.raises(DecodeError, match="come as a map, not as list"):
        Unpacker().unpack(Packer().pack(Extension("test.item", [1])))


def test_a_class_that_is_defined_again_takes_over_its_tag() -> None:
    def define() -> type:
        @dataclasses.dataclass
        class Again:
            x: int

        return register(Again, "test.again")

    old, new = define(), define()
    assert type(back(new(1))) is new
    assert old is not new


@pytest.mark.parametrize(
    ("cls", "tag", "functions", "message"),
    [
        (int, "test.x", (), "travels by itself"),
        (Plain, "", (), "a tag is a text"),
        (Plain, "x" * 201, (), "a tag is a text"),
        (Plain, "test.x", (), "neither a dataclass nor an exception"),
        (Plain, "range", (repr, repr), "codec's own; choose another, such as 'myapp.range'"),
        (Plain, "tuple", (repr, repr), "codec's own"),
        (Plain, "test.x", (repr, 1), "must be functions"),
        (7, "test.x", (), "takes a class"),
    ],
)
def test_what_cannot_be_registered_is_told_why(cls: Any, tag: str, functions: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        register(cls, tag, *functions)


def test_two_classes_cannot_share_a_tag() -> None:
    register(Plain, "test.plain", lambda value: value.parts, Plain)
    with pytest.raises(ValueError, match=r"'test\.plain' belongs to test_named\.Plain"):
        register(type("Other", (), {}), "test.plain", repr, repr)


def test_functions_that_fail_are_named() -> None:
    def fail(value: Any) -> Any:
        raise RuntimeError("broken")

    register(Plain, "test.plain", fail, fail)
    for encode in (Packer().pack, lambda value: tagged.dumps(value, schema=2)):
        with pytest.raises(EncodeError, match=r"'test\.plain' raised RuntimeError: broken"):
            encode(Plain([]))
    with pytest.raises(DecodeError, match=r"from_wire of the registered type 'test\.plain' cannot be read: RuntimeError: broken"):
        Unpacker().unpack(Packer().pack(Extension("test.plain", 1)))


def test_namedtuples_and_enums_of_classes_that_are_local() -> None:
    class Color(enum.Enum):
        RED = "r"

    class Mode(enum.IntFlag):
        A = 1
        B = 2

    local = namedtuple("local", "a b")
    assert back(Color.RED) is Color.RED
    assert back(Mode.A | Mode.B) == Mode.A | Mode.B
    assert back({local(1, [2])[0]: local(1, (2,))}) == {1: local(1, (2,))}
    assert type(back(local(1, 2))) is local


def test_a_namedtuple_of_an_unknown_class_gets_a_class_of_its_shape() -> None:
    came = Unpacker().unpack(Packer().pack(Extension("namedtuple", ["gone:Point", ["x", "y"], [1, 2]])))
    assert (came.x, came.y, type(came).__name__, type(came).__module__) == (1, 2, "Point", "gone")
    assert back(came) == came
    with pytest.raises(DecodeError, match="3 values for 2 fields"):
        Unpacker().unpack(Packer().pack(Extension("namedtuple", ["gone:Point", ["x", "y"], [1, 2, 3]])))


def test_classes_are_never_imported_for_a_value() -> None:
    import sys

    name = "xmlrpc.client"
    sys.modules.pop(name, None)
    Unpacker().unpack(Packer().pack(Extension("enum", [f"{name}:X", "A", 1])))
    assert name not in sys.modules
