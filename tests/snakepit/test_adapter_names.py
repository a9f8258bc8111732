"""The names under which Snakepit's configurations know the adapter, with and without the modules that had them first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from beam_side import BeamSide
from server_process import their_server

from bridge_adapter.compat import FOLDER, withdrawn

NAMES = ("snakebridge_adapter.SnakeBridgeAdapter", "snakepit_bridge.adapters.default.DefaultAdapter")
OURS = """
import importlib, sys
import bridge_adapter
module, _, name = sys.argv[1].rpartition(".")
print(getattr(importlib.import_module(module), name) is bridge_adapter.SnakeBridgeAdapter)
"""


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Modules of those names that were there before."""
    folder = tmp_path / "originals"
    (folder / "snakepit_bridge" / "adapters").mkdir(parents=True)
    (folder / "helpers").mkdir()
    (folder / "snakebridge_adapter.py").write_text("LOADED = 'theirs'\nclass SnakeBridgeAdapter: pass\n")
    (folder / "snakepit_bridge" / "__init__.py").write_text("from .core import CORE\nfrom . import core\n")
    (folder / "snakepit_bridge" / "core.py").write_text("CORE = 'theirs'\n")
    (folder / "snakepit_bridge" / "adapters" / "__init__.py").write_text("KIND = 'theirs'\n")
    (folder / "snakepit_bridge" / "adapters" / "showcase.py").write_text("class Showcase(str): pass\n")
    (folder / "snakepit_bridge" / "adapters" / "default.py").write_text("class DefaultAdapter: pass\n")
    (folder / "helpers" / "theirs.py").write_text("def greet(name):\n    return f'hello {name}'\n\nHELPERS = {'greet': greet}\n")
    return folder


def python(code: str, *arguments: str, path: list[str], cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    ran = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_ours_where_the_folder_comes_first(name: str, originals: Path, tmp_path: Path) -> None:
    assert python(OURS, name, path=[FOLDER], cwd=tmp_path) == "True"
    assert python(OURS, name, path=[FOLDER, str(originals)], cwd=tmp_path) == "True"


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_theirs_everywhere_else(name: str, originals: Path, tmp_path: Path) -> None:
    assert python(OURS, name, path=[str(originals)], cwd=tmp_path) == "False"
    assert python(OURS, name, path=[str(originals), FOLDER], cwd=tmp_path) == "False"
    found = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1].partition('.')[0]))"
    assert python(found, name, path=[], cwd=tmp_path) == "None"


def test_what_the_originals_hold_besides_stays_where_it_was(originals: Path, tmp_path: Path) -> None:
    code = """
import sys, snakebridge_adapter, snakepit_bridge, snakepit_bridge.adapters
from snakepit_bridge.adapters import showcase
import snakepit_bridge.core
print(snakebridge_adapter.LOADED, snakepit_bridge.CORE, snakepit_bridge.core.CORE, snakepit_bridge.adapters.KIND, showcase.Showcase())
print(hasattr(snakebridge_adapter, "nothing"), snakepit_bridge.__file__)
"""
    first, second = python(code, path=[FOLDER, str(originals)], cwd=tmp_path).splitlines()
    assert first.split() == ["theirs"] * 4
    assert second == f"False {originals}/snakepit_bridge/__init__.py"


def test_the_folder_is_printed() -> None:
    assert subprocess.check_output([sys.executable, "-m", "bridge_adapter.compat"], text=True).strip() == FOLDER


def test_an_environment_without_the_folder() -> None:
    assert withdrawn({"A": "1"}) == {"A": "1"}
    assert withdrawn({"PYTHONPATH": ""}) == {"PYTHONPATH": ""}
    assert withdrawn({"PYTHONPATH": f"{FOLDER}:/x::{FOLDER}/"}) == {"PYTHONPATH": "/x:"}


def test_snakepits_server_serves_snakebridge_under_its_own_name(originals: Path, tmp_path: Path) -> None:
    """The configuration stays as it was; user code, and the pack of helpers, see the originals."""
    with BeamSide() as elixir:
        flags = ["--adapter", "snakebridge_adapter.SnakeBridgeAdapter"]
        with their_server(tmp_path, elixir, *flags, python_path=[Path(FOLDER), originals], script="grpc_server_threaded.py") as server:
            assert server.call("eval", "2**70", module="builtins") == 2**70
            assert server.call("eval", "__import__('snakebridge_adapter').LOADED", module="builtins") == "theirs"
            assert server.call("greet", "you", call_type="helper", helper="greet", helper_config={}) == "hello you"
