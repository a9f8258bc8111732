"""Directories of sockets: private, and removed by who comes next when nobody else could."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    mine = Path(places.make())

    def directory(pid: int = gone_pid, *, prefix: str = "snakebridge-", started: str = "0000123", end: str = mine.name[-7:]) -> Path:
        place = temporary / (prefix + np.base_repr(pid, 36).lower().zfill(5) + started + end)
        place.mkdir()
        (place / "x.sock").touch()
        return place

    directory()
    directory(os.getpid())  # its pid is used again
    (directory(end=mine.name[-7:-2] + "zz") / "x.sock").unlink()
    (temporary / "snakebridge-odd").mkdir()
    kept = [directory(end="0000000"), directory(prefix="other-")]  # the first one is of another container
    link = temporary / (directory(started="0000124").name[:-2] + "ln")
    link.symlink_to(kept[1])
    places.sweep()
    assert sorted(place.name for place in temporary.iterdir()) == sorted(
        ["snakebridge-odd", mine.name, link.name, *(place.name for place in kept)]
    )
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
