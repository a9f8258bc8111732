"""What a user installs: one import package, nothing else at top level, light to import."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy of the tree, so that the build leaves nothing behind here.
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("bridge_adapter", "codec", "tools", "kernels", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(source / name)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = target.glob("*.whl")
    return path


def test_a_wheel_holds_one_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"bridge_adapter"}
    for module in (
        "codec/packed.py",
        "codec/tagged.py",
        "tools/call.py",
        "kernels/flow/__init__.py",
        "executor.py",
        "gateway/grpc_server.py",
        "adapter/snakebridge_adapter.py",
        "compat/snakebridge_adapter.py",
        "compat/snakepit_bridge/adapters/default.py",
    ):
        assert f"bridge_adapter/{module}" in names


def test_a_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import bridge_adapter, bridge_adapter.tools; from bridge_adapter.codec.packed import Packer"
    code += "; print(bridge_adapter.__file__, Packer().pack((1,)).hex())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    file, packed = ran.stdout.split()
    assert file.startswith(str(tmp_path))
    assert packed == "92d4100101"


def test_importing_the_package_or_the_executor_loads_nothing_heavy() -> None:
    code = "import sys, bridge_adapter, bridge_adapter.connection"
    code += "; print([m for m in ('jax', 'numpy', 'grpc', 'pyarrow', 'asyncio') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_wheel_installs_the_interpreter_for_snakepit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(name).decode())
    assert dict(scripts["console_scripts"]) == {
        "bridge-adapter": "bridge_adapter.kernels.flow.cli:main",
        "bridge-adapter-python": "bridge_adapter.launcher:main",
    }


def test_the_interpreter_for_snakepit_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import bridge_adapter.launcher; print(sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['bridge_adapter', 'bridge_adapter.launcher']"
