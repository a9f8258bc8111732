"""What the tests share: a running worker, started once per module that asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "snakepit"))  # the BEAM side, which other tests use too

from lane_client import Client, Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as running:
        yield running


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    connection = worker.connect()
    yield connection
    connection.close()


@pytest.fixture
def control(worker: Worker) -> Iterator[Client]:
    connection = worker.connect("control")
    yield connection
    connection.close()
