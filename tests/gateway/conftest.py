"""A gateway that the tests of a module share, and what a test needs to have one of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from beam_side import BeamSide
from gateway_process import Gateway


@pytest.fixture(scope="module")
def beam() -> Iterator[BeamSide]:
    running = BeamSide()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(beam: BeamSide, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gw"), beam) as running:
        yield running


@pytest.fixture
def start(beam: BeamSide, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway of the test's own."""
    with ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Gateway:
            return stack.enter_context(Gateway(tmp_path, options.pop("beam", beam), *flags, **options))

        yield start


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe through which user code speaks to the test."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path
