"""How the script starts, announces itself and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from beam_side import BeamSide
from gateway_process import FLAGS, SCRIPT, Gateway, read, request, until
from process_tree import gone

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

ADAPTER = ["--adapter", "snakebridge_adapter.SnakeBridgeAdapter"]


def script(*flags: str, module: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bridge_adapter.gateway.grpc_server"] if module else [sys.executable, str(SCRIPT)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEPIT_")} | env
    return subprocess.run([*command, *flags], cwd=SCRIPT.parent, env=environment, capture_output=True, text=True, timeout=60, check=False)


# --- flags ---


@pytest.mark.parametrize("module", [False, True])
def test_the_health_check_succeeds_with_an_adapter_of_snakebridge_and_starts_nothing(module: bool) -> None:
    done = script("--health-check", "--adapter", "any.SnakeBridgeAdapter", module=module, SNAKEPIT_READY_FILE="/nonexistent/x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_health_check_names_what_is_missing() -> None:
    hidden = "import sys; sys.modules['grpc'] = None"
    code = f"{hidden}; sys.argv = ['grpc_server.py', '--health-check']; import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "grpc is not installed" in done.stderr and "pip install grpcio" in done.stderr


@pytest.mark.parametrize(
    ("flags", "missing"),
    [(["--elixir-address", "127.0.0.1:1"], "--adapter"), (ADAPTER, "--elixir-address"), ([*ADAPTER, "--port", "x"], "--port")],
)
def test_unusable_flags_exit_with_status_2_and_the_usage(flags: list[str], missing: str) -> None:
    done = script(*flags)
    assert done.returncode == 2
    assert "usage: grpc_server.py" in done.stderr and missing in done.stderr


def test_unknown_flags_are_reported_and_tolerated(start: Callable[..., Gateway]) -> None:
    gateway = start("--some-new-flag", "7", "--heartbeat-of-tomorrow")
    assert gateway.execute("sqrt", 16, module="math") == 4.0
    assert "--some-new-flag 7 --heartbeat-of-tomorrow" in gateway.output()


def test_the_flags_stay_in_the_command_line(gateway: Gateway) -> None:
    command = Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes().decode().split("\0")
    assert command[1].endswith("grpc_server.py")
    assert command[command.index("--snakepit-run-id") + 1] == "abc1234"
    assert "python" in Path(f"/proc/{gateway.process.pid}/comm").read_text()


def test_the_gateway_leads_its_process_group_when_asked(start: Callable[..., Gateway]) -> None:
    gateway = start()
    assert os.getpgid(gateway.process.pid) == gateway.process.pid


def test_it_runs_as_a_module_too(beam: BeamSide, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "bridge_adapter.gateway.grpc_server", *ADAPTER, "--elixir-address", beam.address, *FLAGS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "SNAKEPIT_READY_FILE": str(ready)}) as process:
        try:
            assert until(ready.exists, 30)
            assert int(ready.read_text()) > 0
        finally:
            process.terminate()


# --- readiness ---


def test_it_listens_on_loopback_only(gateway: Gateway) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", gateway.port))  # free: the gateway has 127.0.0.1 and not every address


def test_nothing_is_left_of_the_temporary_ready_file(gateway: Gateway) -> None:
    assert not Path(f"{gateway.ready_file}.tmp").exists()


def test_a_taken_port_is_an_error_that_says_so(beam: BeamSide) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = script(*ADAPTER, "--elixir-address", beam.address, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in done.stderr
    assert "Address already in use" in done.stderr and "--port 0" in done.stderr


@pytest.mark.parametrize("place", ["/nonexistent/ready", "/dev/full"])
def test_a_ready_file_that_cannot_be_written_is_an_error_that_names_it(beam: BeamSide, tmp_path: Path, place: str) -> None:
    if place == "/dev/full":
        os.symlink("/dev/full", tmp_path / "ready.tmp")  # a disk without space
        place = str(tmp_path / "ready")
    done = script(*ADAPTER, "--elixir-address", beam.address, SNAKEPIT_READY_FILE=place)
    assert done.returncode == 1
    assert f"cannot write the ready file {place}" in done.stderr
    assert not Path(place).exists()


def test_a_python_without_a_working_executor_is_an_error_that_shows_its_output(beam: BeamSide, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nif 'bridge_adapter.executor' in sys.orig_argv: sys.exit('no such luck')\n")
    done = script(*ADAPTER, "--elixir-address", beam.address, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "no such luck" in done.stderr and "before it was ready" in done.stderr


# --- Elixir ---


def test_an_elixir_that_never_answers_ends_the_worker_with_its_address(start: Callable[..., Gateway]) -> None:
    beam = BeamSide()
    beam.stop()
    gateway = start("--elixir-tries", "3", beam=beam)
    assert gateway.process.wait(20) == 1
    assert f"Elixir at {beam.address} did not answer 3 pings" in gateway.output()


def test_elixir_is_greeted_and_gets_heartbeats_after_its_session(start: Callable[..., Gateway]) -> None:
    beam = BeamSide()
    try:
        config = '{"enabled": true, "interval_ms": 50, "timeout_ms": 1000, "max_missed_heartbeats": 3, "dependent": true}'
        gateway = start(beam=beam, env={"SNAKEPIT_HEARTBEAT_CONFIG": config})
        beam.wait_for("Ping")
        assert not beam.requests("Heartbeat")
        gateway.stub.InitializeSession(pb.InitializeSessionRequest(session_id="worker-session"), timeout=5)
        assert beam.wait_for("Heartbeat")[0].message.session_id == "worker-session"
    finally:
        beam.stop()
    assert gateway.process.wait(20) == 1
    assert "missed 3 heartbeats in a row" in gateway.output()


def test_an_independent_worker_outlives_missed_heartbeats(start: Callable[..., Gateway]) -> None:
    beam = BeamSide()
    try:
        gateway = start("--heartbeat-enabled", "--heartbeat-interval-ms", "20", "--heartbeat-independent", beam=beam)
        gateway.stub.InitializeSession(pb.InitializeSessionRequest(session_id="s"), timeout=5)
        beam.wait_for("Heartbeat")
    finally:
        beam.stop()
    assert until(lambda: "this worker is independent" in gateway.output(), 20)
    assert gateway.execute("sqrt", 16, module="math") == 4.0


# --- the end ---


def test_sigterm_during_start_up_ends_everything(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    hangs = "import time, sys\nif 'bridge_adapter.executor' in sys.orig_argv: time.sleep(600)\n"
    (tmp_path / "user" / "sitecustomize.py").write_text(hangs)
    gateway = start(wait=False, env={"PYTHONPATH": str(tmp_path / "user")})
    assert until(lambda: bool(executors_now(tmp_path)), 20)
    gateway.process.terminate()
    assert gateway.process.wait(5) == 0
    assert not executors(tmp_path)
    assert not gateway.ready_file.exists()


def test_an_idle_gateway_ends_with_status_0_at_sigterm_and_leaves_nothing(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start()
    executor = gateway.executor_pid()
    stream = gateway.stub.StreamTelemetry(iter([]), timeout=30)
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - began < 1.5  # shorter than the grace that running calls get
    assert gone(executor, 1)
    assert not list(tmp_path.glob("snakebridge-*"))
    stream.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("function", ["wait_forever", "swallow_forever", "hold_the_gil"])
def test_a_running_call_does_not_hold_up_the_end(start: Callable[..., Gateway], pipe: Path, function: str, number: int) -> None:
    gateway = start()
    arguments = [600] if function == "hold_the_gil" else []
    call = gateway.stub.ExecuteTool.future(request(function, str(pipe), *arguments), timeout=60)
    executor = int(read(pipe))
    gateway.process.send_signal(number)
    assert gateway.process.wait(5) == 0
    assert gone(executor, 1)
    with contextlib.suppress(grpc.RpcError):
        answer = call.result()
        assert function == "wait_forever" or "because the gateway has ended it" in answer.error_message


@pytest.mark.parametrize("function", ["wait_forever", "hold_the_gil"])
def test_the_executor_dies_with_a_killed_gateway(start: Callable[..., Gateway], pipe: Path, function: str) -> None:
    gateway = start()
    arguments = [600] if function == "hold_the_gil" else []
    call = gateway.stub.ExecuteTool.future(request(function, str(pipe), *arguments), timeout=60)
    executor = int(read(pipe))
    gateway.process.kill()
    assert gone(executor, 2)
    with contextlib.suppress(grpc.RpcError):
        call.result()


def test_the_gateway_and_all_below_it_end_when_stdin_closes(start: Callable[..., Gateway]) -> None:
    gateway = start()
    executor, child = gateway.executor_pid(), gateway.execute("start_child")
    assert gateway.process.stdin is not None
    gateway.process.stdin.close()
    assert gateway.process.wait(2) == 0
    assert gone(executor, 2) and gone(child, 2)


def test_the_end_of_stdin_during_start_up_ends_everything(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start(wait=False)
    assert gateway.process.stdin is not None
    gateway.process.stdin.close()
    assert gateway.process.wait(3) == 0
    assert not gateway.ready_file.exists()
    assert not executors(tmp_path)


@pytest.mark.parametrize("when", ["start-up", "later"])
def test_the_death_of_the_parent_ends_everything(beam: BeamSide, tmp_path: Path, when: str) -> None:
    """stdin stays open in another process, so only the parent's pid tells."""
    ready = tmp_path / "ready"
    command = [sys.executable, str(SCRIPT), *ADAPTER, "--elixir-address", beam.address, *FLAGS]
    code = f"import subprocess, sys\nchild = subprocess.Popen({command!r}, stdin=0)\nprint(child.pid, flush=True)\nchild.wait()"
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=reading,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SNAKEPIT_READY_FILE": str(ready), "TMPDIR": str(tmp_path)},
    )
    try:
        assert parent.stdout is not None
        gateway = int(parent.stdout.readline())
        assert until(ready.exists if when == "later" else lambda: bool(executors_now(tmp_path)), 30)
        parent.kill()
        parent.wait()
        assert gone(gateway, 3)
        assert not executors(tmp_path)
    finally:
        parent.stdout.close()
        os.close(reading)
        os.close(writing)


def executors_now(directory: Path) -> list[str]:
    """Executors whose socket lies in that directory."""
    mine = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"unix:{directory}/snakebridge-" in (entry / "cmdline").read_text(errors="replace"):
                mine.append(entry.name)
    return mine


def executors(directory: Path) -> list[str]:
    """Those of them that still run after two seconds."""
    until(lambda: not executors_now(directory), 2)
    return executors_now(directory)
