"""Real libraries, described without a line written for one of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from introspected import answer, functions

from bridge_adapter.codec.packed import Packer, Unpacker

CALLED = ("function", "new", "method", "class_method", "static_method")
# What is asked for, and the part of the functions there whose parameters must be known.
LIBRARIES: list[tuple[str, dict[str, Any], float]] = [
    ("json", {"all": True}, 0.97),
    ("pathlib", {"all": True}, 0.99),
    ("re", {"all": True}, 0.99),
    ("datetime", {"all": True}, 0.98),
    ("math", {"all": True}, 1.0),
    ("collections", {"all": True}, 0.98),
    ("itertools", {"all": True}, 1.0),
    ("numpy", {"symbols": ["", "linalg", "fft", "random"]}, 0.98),
    ("scipy.linalg", {"all": True}, 0.98),
    ("pandas", {"symbols": [""]}, 0.98),
    ("sklearn.linear_model", {"all": True}, 0.99),
    ("jax.numpy", {"all": True}, 0.99),
]
NAME = re.compile(r"[a-z_][a-zA-Z0-9_]*[?!]?\Z")
MODULE = re.compile(r"[A-Z]\w*(\.[A-Z]\w*)*\Z")
SPEC = re.compile(r"[\w.()|%{}\[\]=>, :-]+\Z")


@pytest.mark.parametrize(("name", "asking", "ratio"), LIBRARIES, ids=[row[0] for row in LIBRARIES])
def test_nearly_all_functions_of_a_library_have_known_parameters(name: str, asking: dict[str, Any], ratio: float) -> None:
    answered = answer(name, **asking)
    called = [item for module in answered["modules"] for item in module["functions"] if item["kind"] in CALLED]
    told = Counter(item["source"] for item in called)
    typed = sum(item["returns"] != "term()" for item in called)
    print(f"\n{name}: {len(answered['modules'])} modules, {len(called)} functions, {dict(told)}, {typed} with a known result")
    assert answered["problems"] == []
    assert 1 - told["none"] / len(called) >= ratio
    for module in answered["modules"]:
        assert MODULE.match(module["elixir"])
        names = [item["elixir"] for item in module["functions"]]
        assert len(set(names)) == len(names), f"{module['elixir']} has two functions of one name"
        for item in module["functions"]:
            check(item)


def check(item: dict[str, Any]) -> None:
    """What the Elixir side relies on."""
    assert NAME.match(item["elixir"])
    assert re.fullmatch(r"[0-9a-f]{16}", item["hash"])
    for form in (item, *item["overloads"]):
        assert SPEC.match(form["returns"])
        optional = False
        kinds = [param["kind"] for param in form["params"]]
        order = ["positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"]
        assert kinds == sorted(kinds, key=order.index), item["signature"]
        for param in form["params"]:
            assert SPEC.match(param["spec"])
            assert param["required"] == (param["default"] is None) or param["kind"].startswith("var_")
            if param["kind"].startswith("positional"):
                assert not (param["required"] and optional), item["signature"]
                optional = not param["required"]


def test_a_ufunc_has_the_parameters_that_its_documentation_shows() -> None:
    sin = functions(answer("numpy", symbols=["sin"]), "Numpy")["sin"]
    assert sin["signature"].startswith("sin(x, /, out=None, *, where=True, casting='same_kind'")
    assert sin["params"][0]["doc"].startswith("Angle, in radians")
    assert sin["source"] != "none"


def test_methods_and_fitted_attributes_of_an_estimator_are_there() -> None:
    described = answer("sklearn", symbols=["linear_model.Ridge"])
    ridge = functions(described, "Sklearn.LinearModel.Ridge")
    assert ridge["new"]["params"][0]["name"] == "alpha"
    assert [param["name"] for param in ridge["fit"]["params"]] == ["X", "y", "sample_weight"]
    assert ridge["predict"]["kind"] == "method"
    assert ridge["coef_"]["kind"] == "property"
    assert described["packages"].keys() == {"scikit-learn"}
    assert described["modules"][0]["source_url"].startswith("https://")


def test_iterators_of_the_standard_library_are_streams() -> None:
    itertools = answer("itertools", symbols=["count", "chain"])
    assert functions(itertools, "Itertools.Count")["new"]["stream"]
    assert functions(itertools, "Itertools.Chain")["from_iterable"]["stream"]
    path = functions(answer("pathlib", symbols=["Path"]), "Pathlib.Path")
    assert path["glob"]["stream"]
    assert path["cwd"]["kind"] == "class_method"
    assert path["cwd"]["returns"] == "SnakeBridge.Path.t()"
    assert path["parent"]["kind"] == "property"
    assert path["div"]["python"] == "__truediv__"


def test_reserved_words_and_constants_have_names() -> None:
    told = functions(answer("operator", symbols=["and_", "not_", "is_"]), "Operator")
    assert list(told) == ["and_", "is_", "not_"]
    flags = functions(answer("re", symbols=[""]), "Re")
    assert (flags["ignorecase"]["python"], flags["ignorecase"]["returns"]) == ("IGNORECASE", "SnakeBridge.Enum.t()")


def run(request: Path, target: Path, seed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "bridge_adapter.tools.introspect", str(request), str(target)]
    return subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False, timeout=60)


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    libraries = [
        {"library": "numpy", "symbols": ["linalg", "array", "sin", "ndarray"]},
        {"library": "json", "all": True},
        {"library": "datetime", "uses": [{"module": "Datetime.Datetime", "function": "now"}]},
    ]
    request = tmp_path / "request"
    request.write_bytes(Packer().pack({"format": 1, "libraries": libraries}))
    for seed in ("1", "2"):
        ran = run(request, tmp_path / seed, seed)
        assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    answered = Unpacker().unpack((tmp_path / "1").read_bytes())
    assert "0x" not in json.dumps([param["default"] for item in functions(answered, "Numpy").values() for param in item["params"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "request"]


def test_a_request_that_is_none_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(Packer().pack({"format": 9}))
    ran = run(request, tmp_path / "answer", "0")
    assert ran.returncode == 1
    assert "this adapter reads format 1" in ran.stderr
    assert not (tmp_path / "answer").exists()
    assert run(tmp_path / "missing", tmp_path / "answer", "0").returncode == 1
