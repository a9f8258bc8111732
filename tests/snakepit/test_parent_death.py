"""The BEAM is killed, at every moment of a worker's life: nothing that it started, directly or not, outlives it, and no file is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from process_tree import left_over, marked
from standin_process import StandIn, StandInDied
from ways_in import ADAPTER, GATEWAY

SECONDS = 10
Start = Callable[..., StandIn]


def assert_nothing_is_left(standin: StandIn, directory: Path) -> None:
    assert left_over(standin.mark, SECONDS) == {}
    assert not list((directory / "tmp").iterdir())
    assert not list(directory.glob("snakepit_ready*"))


@pytest.mark.parametrize("way", [GATEWAY, ADAPTER])
@pytest.mark.parametrize("stage", ["spawned", "ready", "connected", "initialized"])
def test_the_beam_dies_while_a_worker_starts(start_standin: Start, directory: Path, stage: str, way: str) -> None:
    """`connected` is the moment at which Snakepit's own worker would stay for ever: before its first session."""
    standin = start_standin(way, hold=stage, size=2)
    standin.wait_for(stage, count=2)
    standin.kill()
    assert_nothing_is_left(standin, directory)


def test_the_beam_dies_while_the_executor_starts(start_standin: Start, directory: Path) -> None:
    standin = start_standin(GATEWAY, hold="spawned")
    standin.wait_for("spawned")
    eventually(lambda: [*marked(standin.mark).values()], lambda commands: any("bridge_adapter.executor" in command for command in commands))
    standin.kill()
    assert_nothing_is_left(standin, directory)


@pytest.mark.parametrize("way", [GATEWAY, ADAPTER])
@pytest.mark.parametrize("function", ["wait_forever", "swallow_forever", "hold_the_gil"])
def test_the_beam_dies_during_a_call(start_standin: Start, directory: Path, function: str, way: str) -> None:
    standin = start_standin(way)
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    child = standin.call("start_child", module="gateway_sample").value
    arguments = [600] if function == "hold_the_gil" else []
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(standin.call(function, str(pipe), *arguments, module="gateway_sample"))
        except StandInDied as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    executor = int(pipe.read_text())
    assert {child, executor} <= marked(standin.mark).keys()
    standin.kill()
    thread.join()
    assert isinstance(outcome[0], StandInDied)
    assert_nothing_is_left(standin, directory)


def test_the_beam_dies_during_a_stream(start_standin: Start, directory: Path) -> None:
    standin = start_standin(GATEWAY)
    stream = standin.stream("count", module="itertools")
    assert [next(stream), next(stream)] == [0, 1]
    standin.kill()
    with pytest.raises(StandInDied):
        for _ in stream:
            continue
    assert_nothing_is_left(standin, directory)


def test_the_beam_and_its_worker_die_at_once(start_standin: Start, directory: Path) -> None:
    """Nobody is left to tidy up but the executor, and the next worker of this machine."""
    standin = start_standin(GATEWAY)
    [worker] = standin.wait_for("initialized")
    standin.kill()
    os.kill(worker.pid, 9)
    assert left_over(standin.mark, SECONDS) == {}
    with start_standin(GATEWAY) as another:
        another.wait_for("initialized")
    assert_nothing_is_left(another, directory)
