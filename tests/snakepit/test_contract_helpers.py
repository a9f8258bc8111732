"""Helper files: where they are looked for, which of them may be called, and what the index says of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recorded import HERE

from bridge_adapter.tools import helpers
from bridge_adapter.tools.registry import ToolError

STUDY = str(HERE / "helper_files")
PACK = HERE / "python"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes helper files into a folder of their own, and returns the folder's path."""

    def write(folder: str, **files: str) -> str:
        where = tmp_path / folder
        where.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (where / f"{name}.py").write_text(text)
        return str(where)

    return write


def index(**config: Any) -> list[dict[str, Any]]:
    unrestricted = SimpleNamespace(policy=None)
    return helpers.index({"helper_config": {"helper_pack_enabled": False, **config}}, unrestricted)  # type: ignore[arg-type]


def names(**config: Any) -> list[str]:
    return [entry["name"] for entry in index(**config)]


def returning(name: str, value: object) -> str:
    return f"def f():\n    return {value!r}\n\n__snakebridge_helpers__ = {{{name!r}: f}}\n"


# --- where ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [STUDY, [STUDY], (STUDY,), [STUDY, STUDY], ["/no/such/folder", STUDY], f"{STUDY}/study.py"])
def test_paths_are_one_text_or_many(paths: Any) -> None:
    assert names(helper_paths=paths) == ["study.add", "study.everything"]


@pytest.mark.parametrize("config", [{}, {"helper_paths": None}, {"helper_paths": "priv/python/helpers"}])
def test_helpers_are_looked_for_below_the_working_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    write("priv/python/helpers", mine=returning("mine", 1))
    monkeypatch.chdir(tmp_path)
    assert names(**config) == ["mine"]


def test_the_pack_of_snakebridge_comes_first_and_its_adapter_is_not_imported(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACK))  # a module there raises when it is imported
    packed = "graceful_serialization.list_with_pattern"
    assert names(helper_paths=STUDY, helper_pack_enabled=True) == [packed, "study.add", "study.everything"]
    assert names(helper_paths=[], helper_pack_enabled=None) == [packed]
    assert helpers.find(packed, {"helper_paths": []})() == [1, re.compile("a"), 3]
    own = write("own", mine=returning(packed, "mine"))
    assert helpers.find(packed, {"helper_paths": own})() == "mine"
    assert "snakebridge_adapter" not in sys.modules


def test_without_snakebridge_there_is_no_pack() -> None:
    assert names(helper_paths=[], helper_pack_enabled=True) == []


def test_later_files_win_and_files_with_an_underscore_are_not_read(write: Write) -> None:
    one = write("one", a=returning("x", 1), b=returning("x", 2), _c=returning("x", 3))
    two = write("two", a=returning("x", 4))
    assert helpers.find("x", {"helper_paths": [one]})() == 2
    assert helpers.find("x", {"helper_paths": [one, two]})() == 4
    assert helpers.find("x", {"helper_paths": [two, one]})() == 2


def test_a_changed_file_is_read_again(write: Write) -> None:
    folder = write("f", a=returning("x", 1))
    assert helpers.find("x", {"helper_paths": folder})() == 1
    write("f", a=returning("x", "another"))
    assert helpers.find("x", {"helper_paths": folder})() == "another"


# --- which ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "registry", ["__snakebridge_helpers__ = {'x': f}", "HELPERS = {'x': f}", "def snakebridge_helpers():\n    return {'x': f}"]
)
def test_a_file_names_its_helpers_in_one_of_three_ways(write: Write, registry: str) -> None:
    assert names(helper_paths=write("f", a=f"def f():\n    return 1\n\n{registry}\n")) == ["x"]


@pytest.mark.parametrize(
    ("allowlist", "allowed"),
    [
        ("all", ["study.add", "study.everything"]),
        (":all", ["study.add", "study.everything"]),
        (None, ["study.add", "study.everything"]),
        (["study.add"], ["study.add"]),
        (["study.add", "no.such"], ["study.add"]),
        ({"study.everything"}, ["study.everything"]),
        ([], []),
    ],
)
def test_the_allow_list_says_what_there_is(allowlist: Any, allowed: list[str]) -> None:
    config = {"helper_paths": STUDY, "helper_allowlist": allowlist}
    assert names(**config) == allowed
    for name in ("study.add", "study.everything"):
        if name in allowed:
            assert callable(helpers.find(name, config))
        else:
            with pytest.raises(ToolError, match=f"^Helper '{name}' not found$"):
                helpers.find(name, config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"helper_paths": 5}, "helper_paths must be a string or a list of strings, not 5"),
        ({"helper_paths": [5]}, "helper_paths must be a string or a list of strings"),
        ({"helper_pack_enabled": "no"}, "helper_pack_enabled must be true or false, not no"),
        ({"helper_allowlist": "some"}, 'helper_allowlist must be "all" or a list of names, not some'),
        ({"helper_allowlist": [5]}, 'helper_allowlist must be "all" or a list of names'),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError, match=re.escape(words)) as caught:
        index(**config)
    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize("text", ["raise ValueError('broken')", "def f(:", "HELPERS = [1]", "HELPERS = {'x': 1}"])
def test_a_file_that_cannot_be_read_is_named(write: Write, text: str) -> None:
    with pytest.raises(ToolError, match=r"Helper file .*a\.py cannot be loaded: \w+Error") as caught:
        index(helper_paths=write("f", a=text))
    assert caught.value.kind == "helper_load_error"


# --- the index --------------------------------------------------------------------------------------------------------------------------


def test_the_index_tells_how_to_call_a_helper() -> None:
    add, everything = index(helper_paths=STUDY)
    assert add == {
        "name": "study.add",
        "parameters": [
            {"name": "a", "kind": "POSITIONAL_OR_KEYWORD", "annotation": "float"},
            {"name": "b", "kind": "POSITIONAL_OR_KEYWORD", "default": "1.0", "annotation": "float"},
        ],
        "docstring": "Adds two numbers.",
    }
    kinds = [(parameter["name"], parameter["kind"], parameter.get("default")) for parameter in everything["parameters"]]
    assert kinds == [
        ("first", "POSITIONAL_ONLY", None),
        ("second", "POSITIONAL_OR_KEYWORD", None),
        ("rest", "VAR_POSITIONAL", None),
        ("key", "KEYWORD_ONLY", "None"),
        ("others", "VAR_KEYWORD", None),
    ]
    assert "docstring" not in everything


def test_annotations_are_shown_as_they_are_written(write: Write) -> None:
    folder = write("f", a="def f(a: int, b: 'text', c: list[int]):\n    pass\n\nHELPERS = {'x': f}\n")
    (entry,) = index(helper_paths=folder)
    assert [parameter["annotation"] for parameter in entry["parameters"]] == ["int", "text", "list[int]"]


def test_long_documentation_is_cut(write: Write) -> None:
    (entry,) = index(helper_paths=write("f", a=f"def f():\n    {'x' * 9000!r}\n\nHELPERS = {{'x': f}}\n"))
    assert len(entry["docstring"]) == 8000
