"""What may be asked for, and what is answered: symbols by their Python paths, calls by their Elixir names, or everything."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from introspected import Library, answer, functions

from bridge_adapter.tools.introspect import InvalidRequest, describe

FILES = {
    "__init__.py": """
        from os import path as _path
        from ._impl import Ridge
        import json
        PI = 3
        def mean(x): ...
        def _hidden(): ...
    """,
    "_impl.py": """
        class Ridge:
            def fit(self, X): return self
            def len(self): ...
            def __len__(self): return 0
            class Part:
                def go(self): ...
        """,
    "linear_model.py": "from ._impl import Ridge\n__all__ = ['Ridge', 'alpha']\nalpha = 1\ndef beyond(): ...",
    "ridge.py": "",
    "lazy/__init__.py": """
        __all__ = ['late', 'never']
        def __getattr__(name):
            if name == 'late':
                return lambda x: x
            raise AttributeError(name)
        """,
    "tests/__init__.py": "raise SystemExit('tests must not be imported')",
    "conftest.py": "raise SystemExit('conftest must not be imported')",
    "broken.py": "raise RuntimeError('no such device')",
    "__main__.py": "raise SystemExit('the command must not run')",
}


@pytest.fixture
def asked(library: Library) -> str:
    return library("asked", FILES)


def modules(answered: dict[str, Any]) -> dict[str, bool]:
    return {module["elixir"]: module["whole"] for module in answered["modules"]}


def test_everything_is_the_public_surface_of_public_modules(asked: str) -> None:
    answered = answer(asked, all=True)
    assert list(modules(answered)) == [
        "Asked",
        "Asked.Lazy",
        "Asked.LinearModel",
        "Asked.LinearModel.Ridge",
        "Asked.LinearModel.Ridge.Part",
        "Asked.Ridge",
        "Asked.RidgeClass",
        "Asked.RidgeClass.Part",
    ]
    assert list(functions(answered, "Asked")) == ["mean", "pi"]
    assert list(functions(answered, "Asked.LinearModel")) == ["alpha"]
    told = {problem["symbol"]: problem for problem in answered["problems"]}
    assert told["asked.broken"]["kind"] == "failed"
    assert "RuntimeError: no such device" in told["asked.broken"]["message"]
    assert told["lazy.never"]["kind"] == "failed"
    assert "asked.tests" not in sys.modules


def test_a_module_means_all_of_it_and_a_member_only_itself(asked: str) -> None:
    assert modules(answer(asked, symbols=["linear_model"])) == {
        "Asked.LinearModel": True,
        "Asked.LinearModel.Ridge": True,
        "Asked.LinearModel.Ridge.Part": True,
    }
    answered = answer(asked, symbols=["linear_model.Ridge.fit", "mean"])
    assert modules(answered) == {"Asked": False, "Asked.LinearModel.Ridge": False}
    assert list(functions(answered, "Asked.LinearModel.Ridge")) == ["fit"]
    assert modules(answer(asked, symbols=[""]))["Asked"] is True


def test_a_class_stands_under_the_path_by_which_it_was_asked_for(asked: str) -> None:
    ridge = answer(asked, symbols=["linear_model.Ridge"])["modules"][0]
    assert (ridge["python_module"], ridge["class"], ridge["kind"]) == ("asked.linear_model", "Ridge", "class")


def test_names_are_the_same_whatever_is_asked_for(asked: str) -> None:
    whole = functions(answer(asked, symbols=["linear_model.Ridge"]), "Asked.LinearModel.Ridge")
    for python, elixir in (("len", "len"), ("__len__", "py_len")):
        part = functions(answer(asked, symbols=[f"linear_model.Ridge.{python}"]), "Asked.LinearModel.Ridge")
        assert part == {elixir: whole[elixir]}


def test_calls_are_found_by_their_elixir_names(asked: str) -> None:
    uses = [
        {"module": "Asked", "function": "mean!"},
        {"module": "Elixir.Asked", "function": "pi"},
        {"module": "Asked.LinearModel.Ridge", "function": "new"},
        {"module": "Asked.LinearModel.Ridge", "function": "py_len"},
        {"module": "Asked.RidgeClass.Part", "function": "go"},
        {"module": "Asked.LinearModel", "function": "beyond"},
        {"module": "Asked.Lazy", "function": "late"},
        {"module": "Asked", "function": "__functions__"},
    ]
    answered = answer(asked, uses=uses)
    assert answered["problems"] == []
    assert {module: list(functions(answered, module)) for module in modules(answered)} == {
        "Asked": ["mean", "pi"],
        "Asked.Lazy": ["late"],
        "Asked.LinearModel": ["beyond"],
        "Asked.LinearModel.Ridge": ["new", "py_len"],
        "Asked.RidgeClass.Part": ["go"],
    }
    assert "asked.broken" not in sys.modules


@pytest.mark.parametrize(
    ("asking", "kind", "says"),
    [
        ({"symbols": ["meen"]}, "unknown", "asked has no symbol 'meen'. Did you mean mean?"),
        ({"symbols": ["linear_model.Ridge.fitt"]}, "unknown", "asked.linear_model.Ridge has no symbol 'fitt'. Did you mean fit?"),
        ({"symbols": ["broken.x"]}, "import", "no such device"),
        ({"uses": [{"module": "Asked", "function": "meen"}]}, "unknown", "Asked (asked) has no function 'meen'. Did you mean mean?"),
        ({"uses": [{"module": "Asked.LinearModal", "function": "x"}]}, "unknown", "Did you mean LinearModel?"),
        ({"uses": [{"module": "Asked.LinearModel", "function": "ridge"}]}, "unknown", "Asked.LinearModel.Ridge.new makes an instance"),
    ],
)
def test_what_is_not_there_is_a_problem_that_names_what_is_near(asked: str, asking: dict[str, Any], kind: str, says: str) -> None:
    answered = answer(asked, **asking)
    (problem,) = answered["problems"]
    assert problem["kind"] == kind
    assert says in problem["message"]
    assert problem["use"] == (asking["uses"][0] if "uses" in asking else None)
    assert answered["modules"] == []


def test_an_optional_use_of_nothing_is_no_problem(asked: str) -> None:
    assert answer(asked, uses=[{"module": "Asked", "function": "puts", "optional": True}])["problems"] == []


def test_a_library_that_is_not_installed_is_a_problem_and_the_others_are_described(asked: str) -> None:
    answered = describe({"format": 1, "libraries": [{"library": "not_installed_here"}, {"library": asked, "symbols": ["mean"]}]})
    (problem,) = answered["problems"]
    assert (problem["library"], problem["kind"]) == ("not_installed_here", "import")
    assert "install it into this Python" in problem["message"]
    assert modules(answered) == {"Asked": False}


def test_the_files_of_what_is_no_installed_package_are_named(asked: str) -> None:
    own = describe({"format": 1, "libraries": [{"library": asked, "symbols": ["mean"]}, {"library": "json"}, {"library": "numpy"}]})["own"]
    assert list(own) == [asked]
    assert any(path.endswith("__init__.py") for path in own[asked])
    assert own[asked] == sorted(own[asked])


def test_the_root_may_be_another_module(asked: str) -> None:
    assert list(modules(answer(asked, root="My.Lib", symbols=["linear_model.alpha"]))) == ["My.Lib.LinearModel"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (None, "must be a map"),
        ({"format": 2}, "reads format 1"),
        ({"format": 1, "libraries": [{"library": "no name"}]}, "import name"),
        ({"format": 1, "libraries": [{"library": "json", "symbols": "loads"}]}, "symbols must be a list"),
        ({"format": 1, "libraries": [{"library": "json", "uses": [{}]}]}, "module and function"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(request_: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        describe(request_)
