"""`bridge-adapter-python`, for `SNAKEPIT_PYTHON`: Snakepit's worker script becomes our gateway, all else is the plain interpreter's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from beam_side import BeamSide
from server_process import THEIR_SERVER, Server, stubs

from bridge_adapter.launcher import GATEWAY, command

LAUNCHER = str(Path(sys.executable).parent / "bridge-adapter-python")
TELL = "import json, sys; print(json.dumps([sys.argv, sys.flags.dont_write_bytecode, sys.prefix, 'bridge_adapter' in sys.modules]))"


@pytest.mark.parametrize(
    ("asked", "started"),
    [
        (["grpc_server.py", "--port", "0"], [GATEWAY, "--port", "0"]),
        (["/deps/snakepit/priv/python/grpc_server.py", "--adapter", "a.B"], [GATEWAY, "--adapter", "a.B"]),
        (["/deps/grpc_server_threaded.py", "--max-workers", "4"], [GATEWAY, "--max-workers", "4"]),
        (["-u", "grpc_server.py"], ["-u", GATEWAY]),
        (["-uB", "-X", "utf8", "-Xdev", "-W", "error", "/a/grpc_server.py"], ["-uB", "-X", "utf8", "-Xdev", "-W", "error", GATEWAY]),
        (["--check-hash-based-pycs", "never", "grpc_server.py"], ["--check-hash-based-pycs", "never", GATEWAY]),
        (["--", "grpc_server.py", "--port", "1"], ["--", GATEWAY, "--port", "1"]),
    ],
)
def test_the_worker_script_becomes_the_gateway_with_the_same_flags(asked: list[str], started: list[str]) -> None:
    assert command(asked) == started


@pytest.mark.parametrize(
    "asked",
    [
        [],
        ["-"],
        ["--version"],
        ["-VV"],
        ["-c", "print(1)", "grpc_server.py"],
        ["-uc", "print(1)", "grpc_server.py"],
        ["-Ic", "grpc_server.py"],
        ["-m", "grpc_server.py"],
        ["-X", "grpc_server.py"],
        ["-W", "grpc_server.py", "other.py"],
        ["-", "grpc_server.py"],
        ["--"],
        ["other.py", "grpc_server.py"],
        ["my_grpc_server.py"],
        ["/deps/grpc_server.py/run.py"],
        ["grpc_server.py", "--health-check", "--adapter", "a.B"],
        ["-u", "grpc_server.py", "--adapter", "a.B", "--health-check"],
    ],
)
def test_everything_else_is_left_as_it_is(asked: list[str]) -> None:
    assert command(asked) == asked


@pytest.mark.parametrize("launcher", [[LAUNCHER], [sys.executable, "-m", "bridge_adapter.launcher"]], ids=["script", "module"])
def test_code_scripts_and_their_exit_status_pass_through(launcher: list[str], tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(f"{TELL}; sys.exit(7)")
    (tmp_path / "grpc_server.py").write_text(TELL)
    for arguments, status, argv in (
        (["-B", "-c", TELL, "grpc_server.py", "-x"], 0, ["-c", "grpc_server.py", "-x"]),
        (["-B", "tool.py", "--port", "0"], 7, ["tool.py", "--port", "0"]),
        (["-B", "grpc_server.py", "--health-check"], 0, ["grpc_server.py", "--health-check"]),
    ):
        ran = subprocess.run([*launcher, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (status, "")
        assert json.loads(ran.stdout) == [argv, 1, sys.prefix, False]


def test_standard_input_is_that_of_the_interpreter() -> None:
    ran = subprocess.run([LAUNCHER, "-", "x"], input=TELL, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)[0] == ["-", "x"]


@pytest.mark.parametrize(("adapter", "status"), [("bridge_adapter.SnakeBridgeAdapter", 0), ("no_such_module.Adapter", 1)])
def test_the_health_check_of_snakepits_own_server_says_whether_the_adapter_is_there(adapter: str, status: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(stubs(tmp_path))}
    command = [LAUNCHER, str(THEIR_SERVER / "grpc_server.py"), "--health-check", "--adapter", adapter]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == status


def test_snakepit_finds_a_gateway_by_its_name_and_flags(tmp_path: Path) -> None:
    """Started as Snakepit does, in the folder of its script and with its folders in PYTHONPATH, whatever they hold."""
    theirs = tmp_path / "priv"
    theirs.mkdir()
    for module in (
        "snakebridge_adapter",
        "snakepit_bridge",
        "snakepit_bridge_pb2",
        "snakepit_bridge_pb2_grpc",
        "launcher",
        "gateway",
        "tools",
    ):
        (theirs / f"{module}.py").write_text("raise SystemExit('this module of Snakepit must not be imported')")
    script = theirs / "grpc_server_threaded.py"
    script.write_text("raise SystemExit('this is the script of Snakepit')")
    flags = ["--adapter", "snakebridge_adapter.SnakeBridgeAdapter", "--max-workers", "4", "--thread-safety-check"]
    with BeamSide() as elixir, Server(tmp_path, elixir, [LAUNCHER, str(script), *flags], python_path=[theirs], cwd=theirs) as server:
        assert server.call("sqrt", 16, module="math") == 4.0
        process = Path(f"/proc/{server.process.pid}")
        assert "python" in (process / "comm").read_text()
        arguments = (process / "cmdline").read_bytes().decode().split("\0")
        assert arguments[1] == GATEWAY
        assert arguments[2:7] == flags
        assert arguments[arguments.index("--snakepit-run-id") + 1] == "abc1234"
        assert os.path.realpath(process / "cwd") == str(theirs)
