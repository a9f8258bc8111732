"""Our own source: no pickle, no text run as code, no unsafe YAML, no terms from strangers. What is an exception stands here, with its
reason.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = [ROOT / name for name in ("bridge_adapter", "codec", "kernels", "tools")]
ELIXIR = ROOT / "elixir_client" / "lib"

NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "ctypes", "code", "runpy"}
CALLS = {"read_pickle", "unsafe_load", "full_load", "literal_eval", "loads_unsafe"}

# (file, what): why it may be there
ALLOWED = {
    ("tools/modules.py", "exec"): "reload: runs the source of a module that the user's program has imported, from its own file",
    ("tools/modules.py", "compile"): "the same",
    ("bridge_adapter/compat/__init__.py", "exec"): "a module of the same name that is installed further down the path, run under its name",
    ("kernels/flow/cli.py", "runpy"): "a specification is a Python file, which its user names on the command line",
    ("bridge_adapter/lifeline.py", "ctypes"): "prctl: the process ends with its parent",
    ("bridge_adapter/calls.py", "ctypes"): "PyThreadState_SetAsyncExc: interrupts a call",
    ("bridge_adapter/memory.py", "ctypes"): "malloc_trim: gives memory back to the system",
}

_TERMS = re.compile(r":erlang\.binary_to_term\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_CODE = re.compile(r"\bCode\.(eval_\w+|compile_\w+)\b|:erl_eval|:erl_scan|String\.to_atom\(")

ALLOWED_ELIXIR = {
    ("snakebridge/codec/opaque.ex", "binary_to_term"): "own terms, after their HMAC was compared",
    ("snakebridge/generator/state.ex", "binary_to_term"): "a file of the project's own build directory, beside its compiled modules",
    ("snakebridge/generator/term_file.ex", "Code.eval_quoted"): "after Macro.quoted_literal?: literals only",
    ("snakebridge/generator.ex", "Code.compile_string"): "the wrappers that the generator has just written",
    ("snakebridge/generator/scanner.ex", "String.to_atom("): "at compile time, names from the project's source",
    ("snakebridge/generator/renderer.ex", "String.to_atom("): "the same",
    ("snakebridge/generator/names.ex", "String.to_atom("): "the same",
    ("snakebridge/tensor/dtype.ex", "String.to_atom("): "at compile time, from the list above it",
    ("snakebridge/types.ex", "String.to_atom("): "the atoms that the configuration lists",
}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "proto" not in path.parts and "vectors" not in path.parts]


def _found(path: Path) -> set[str]:
    """The dangerous names that a file uses: as a call, an attribute or an import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            found.add(node.func.id)
        elif isinstance(node, ast.Attribute) and (node.attr in CALLS or (node.attr in NAMES and ast.unparse(node.value) == "builtins")):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.module or "").partition(".")[0]} & MODULES
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ):
            found.add("allow_pickle")
    return found


def test_python_runs_no_text_and_loads_no_pickles() -> None:
    files = [path for folder in PYTHON for path in _files(folder)]
    assert len(files) > 100
    found = {(str(path.relative_to(ROOT)), name) for path in files for name in _found(path)}
    assert found == set(ALLOWED), "an exception is added here with its reason, or the code does without"


def test_elixir_reads_terms_safely_and_evaluates_nothing() -> None:
    files = sorted(ELIXIR.rglob("*.ex"))
    assert len(files) > 50
    found = set()
    for path in files:
        text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
        place = str(path.relative_to(ELIXIR))
        for match in _TERMS.finditer(text):
            if ":safe" not in match.group(1):
                found.add((place, "binary_to_term"))
        found |= {(place, match.group(0)) for match in _CODE.finditer(text)}
    assert found == set(ALLOWED_ELIXIR), "an exception is added here with its reason, or the code does without"
