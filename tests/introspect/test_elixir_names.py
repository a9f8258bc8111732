"""Elixir names of Python's: what a user writes, and that it is the same whatever else is asked for."""

from __future__ import annotations

import random
import re

import pytest

from bridge_adapter.tools.introspect import naming


@pytest.mark.parametrize(
    ("python", "elixir"),
    [
        ("linear_model", "LinearModel"),
        ("json", "Json"),
        ("Ridge", "Ridge"),
        ("float64", "Float64"),
        ("JSONEncoder", "JSONEncoder"),
        ("_x_y", "XY"),
    ],
)
def test_a_segment_is_camel_case_and_keeps_capitals_and_digits(python: str, elixir: str) -> None:
    assert naming.segment(python) == elixir


def test_a_segment_always_starts_with_a_letter() -> None:
    assert naming.segment("3d") == "Py3d"


def test_a_module_is_named_below_its_library() -> None:
    assert naming.default_root("jax.numpy") == "Jax.Numpy"
    assert naming.module_name("Sklearn", "linear_model") == "Sklearn.LinearModel"


@pytest.mark.parametrize(
    ("python", "elixir"),
    [
        ("mean", "mean"),
        ("fooBar", "foo_bar"),
        ("IGNORECASE", "ignorecase"),
        ("HTTPServer", "http_server"),
        ("coef_", "coef_"),
        ("__len__", "len"),
        ("__getitem__", "get_item"),
        ("__and__", "and_op"),
        ("and", "py_and"),
        ("def", "py_def"),
        ("if", "py_if"),
        ("not", "py_not"),
        ("length", "length"),
        ("max", "max"),
        ("größe", "gruf6u00dfe"),
    ],
)
def test_a_function_keeps_its_snake_case_name_unless_elixir_cannot_have_it(python: str, elixir: str) -> None:
    name = naming.function_name(python)
    assert re.fullmatch(r"[a-z][a-zA-Z0-9_]*", name)
    if python.isascii():
        assert name == elixir


def test_of_two_names_that_meet_the_one_spelled_that_way_keeps_it() -> None:
    assert naming.function_names(["FOO", "foo"]) == {"foo": "foo", "FOO": "py_foo"}
    assert naming.function_names(["__len__", "len"]) == {"len": "len", "__len__": "py_len"}
    assert naming.function_names(["Foo", "FOO", "foo"])["foo"] == "foo"


def test_names_never_meet_and_do_not_depend_on_the_order() -> None:
    names = ["Foo", "FOO", "foo", "fOO", "py_foo", "and", "py_and", "__len__", "len", "LEN", "new"]
    first = naming.function_names(names, taken=["new"])
    assert len(set(first.values())) == len(names)
    assert first["new"] == "py_new"
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert naming.function_names(names, taken=["new"]) == first


def test_a_class_steps_aside_for_a_submodule() -> None:
    assert naming.class_segments(["Tree", "Forest"], ["tree"]) == {"Forest": "Forest", "Tree": "TreeClass"}
    assert naming.class_segments(["Foo", "foo"]) == {"Foo": "Foo", "foo": "FooClass"}
