"""What the tests of the pool share: a short directory, for sockets, and pools of each way in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from standin import Pool
from standin_process import StandIn
from ways_in import launcher


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="pool-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start_pool(directory: Path) -> Iterator[Callable[..., Pool]]:
    """Starts a pool of the test's own: `start_pool(way, *flags, **settings of the pool)`."""
    with ExitStack() as stack:

        def start(way: str, *flags: str, env: dict[str, str] | None = None, **settings: Any) -> Pool:
            return stack.enter_context(Pool(directory, launcher(way, directory, *flags, env=env), **settings))

        yield start


@pytest.fixture
def start_standin(directory: Path) -> Iterator[Callable[..., StandIn]]:
    """Starts a stand-in that can be killed."""
    with ExitStack() as stack:

        def start(way: str, **settings: Any) -> StandIn:
            return stack.enter_context(StandIn(directory, launcher(way, directory), **settings))

        yield start
