"""Directories of sockets: private, and removed by who comes next when nobody else could."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_process import Gateway, until
from process_tree import gone

from bridge_adapter.gateway import places


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_directory_is_private_and_is_not_swept_while_its_process_lives(temporary: Path) -> None:
    made = Path(places.make())
    assert made.parent == temporary and stat.S_IMODE(made.stat().st_mode) == 0o700
    places.sweep()
    assert made.is_dir()


def test_a_path_too_long_for_a_socket_is_made_elsewhere(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = Path(places.make())
    assert made.parent == Path("/tmp")
    made.rmdir()


def test_what_processes_that_are_gone_have_left_is_removed_and_nothing_else(temporary: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        gone_pid = process.pid
    here = os.stat("/proc/self/ns/pid").st_ino

    def directory(name: str) -> Path:
        place = temporary / name
        place.mkdir()
        (place / "x.sock").touch()
        return place

    directory(f"snakebridge-{gone_pid}-123-{here}-abc")
    directory(f"snakebridge-{os.getpid()}-1-{here}-abc")  # its pid is used again
    (temporary / f"snakebridge-{gone_pid}-123-{here}-empty").mkdir()
    kept = [
        directory(f"snakebridge-{gone_pid}-123-{here + 1}-of_a_container"),
        directory("snakebridge-odd"),
        directory(f"other-{gone_pid}-123-{here}-abc"),
    ]
    link = temporary / f"snakebridge-{gone_pid}-123-{here}-link"
    link.symlink_to(kept[2])
    assert places.sweep() == 3
    assert sorted(place.name for place in temporary.iterdir()) == sorted([link.name, *(place.name for place in kept)])
    assert all((place / "x.sock").exists() for place in kept)


def test_the_next_gateway_removes_what_a_killed_one_has_left(start: Callable[..., Gateway], tmp_path: Path) -> None:
    def directories() -> set[str]:
        return {place.name for place in tmp_path.glob("snakebridge-*")}

    first = start()
    executor = first.executor_pid()
    [left] = directories()
    first.process.kill()
    assert gone(executor, 5)
    first.ready_file.unlink()
    start()
    assert until(lambda: left not in directories() and len(directories()) == 1, 5)
