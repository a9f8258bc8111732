"""How a worker ends: with its parent, at SIGTERM, and never later than it may."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from lane_client import HELPERS, TOKEN, Client, LaneError, Worker, payload

from bridge_adapter import lane


def gone(pid: int, within: float) -> bool:
    """True when the process ends in time. A zombie has ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_worker_ends_when_its_stdin_closes(tmp_path: Path) -> None:
    with Worker() as worker:
        client = worker.connect()
        client.call("sample", "take_log")
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert gone(worker.process.pid, 2)
        worker.process.stdin = None


def start_under_a_parent(directory: Path) -> tuple[subprocess.Popen[str], int]:
    """A worker whose parent is a process that can be killed: the parent, and the worker's pid."""
    script = textwrap.dedent(f"""
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-m", "bridge_adapter.executor", "--listen", "unix:{directory}/w.sock"],
                                 stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={{**os.environ, "SNAKEBRIDGE_TOKEN": "{TOKEN}"}})
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    environment = {**os.environ, "PYTHONPATH": str(HELPERS)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def kill(parent: subprocess.Popen[str]) -> None:
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.5])
def test_a_worker_ends_with_a_parent_killed_at_any_moment_of_its_start(tmp_path: Path, delay: float) -> None:
    parent, child = start_under_a_parent(tmp_path)
    time.sleep(delay)
    kill(parent)
    assert gone(child, 2)


def test_a_worker_ends_with_its_parent_even_while_c_code_holds_the_gil(tmp_path: Path) -> None:
    parent, child = start_under_a_parent(tmp_path)
    sock = socket.socket(socket.AF_UNIX)
    while sock.connect_ex(f"{tmp_path}/w.sock") != 0:
        pass
    client = Client(sock)
    client.call("sample", "take_log")
    client.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("sample", "hold_gil", [30])}))
    time.sleep(0.2)  # it may not have begun yet, which the test survives; it must not outlive the parent
    kill(parent)
    assert gone(child, 2)
    client.close()


def test_sigterm_ends_an_idle_worker_at_once_and_a_busy_one_within_five_seconds() -> None:
    with Worker() as idle:
        started = time.monotonic()
        idle.process.terminate()
        assert idle.process.wait(5) == 0
        assert time.monotonic() - started < 1.5
    with Worker() as busy:
        client = busy.connect()
        client.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("sample", "swallow", [60])}))
        control = busy.connect("control")
        control.until(lambda stats: stats["active"])
        busy.process.terminate()
        assert busy.process.wait(5) == 0


def test_a_draining_worker_finishes_running_calls_and_refuses_new_ones() -> None:
    with Worker() as worker:
        busy, late, control = worker.connect(), worker.connect(), worker.connect("control")
        busy.send(lane.request(5, "call", {"tool": "snakebridge.call", "payload": payload("sample", "record", [1, 1.0])}))
        control.until(lambda stats: stats["active"])
        worker.process.terminate()
        control.until(lambda stats: stats["draining"])
        with pytest.raises(LaneError) as caught:
            late.call("math", "sqrt", 4, session="other")
        assert caught.value.category == "unavailable"
        assert isinstance(busy.answer(5), int)
        assert worker.process.wait(5) == 0


def test_children_of_user_code_end_with_the_worker() -> None:
    with Worker() as worker:
        child = worker.connect().call("sample", "start_child")
        assert Path(f"/proc/{child}").exists()
        worker.process.terminate()
        assert worker.process.wait(5) == 0
        assert gone(child, 2)


def test_user_code_cannot_read_the_lifeline_away() -> None:
    with Worker() as worker:
        client = worker.connect()
        assert client.call("sys", "stdin.read") == ""
        assert client.call("math", "sqrt", 4) == 2.0


def test_a_forked_child_does_not_keep_the_client_waiting() -> None:
    with Worker() as worker:
        client = worker.connect()
        assert client.call("sample", "fork_and_wait") == 3
        assert client.call("math", "sqrt", 4) == 2.0
        assert os.getpid() != worker.process.pid
