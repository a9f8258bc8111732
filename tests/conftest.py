"""What the tests share: a running worker, started once per module that asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "snakepit"))  # the BEAM side, which other tests use too

from lane_client import Client, Worker


class AtOnce:
    """Shows a failure when it happens: of a run that is ended before its summary, too."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext}")
            for title, text in report.sections:
                terminal.write_line(f"{title}:\n{text[-20_000:]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(AtOnce(config))


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


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
