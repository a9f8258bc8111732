"""What a chaos run does its harm to: a client that makes calls all the time, the workers below it, their journal, and the directory where
everything is written down.

`World` starts and kills the client, whichever it is; `faults` does the rest.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, Protocol

from process_tree import MARK, gone, left_over, marked

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BEAM_FILES = ROOT / "_build" / "test" / "lib" / "snakebridge" / "ebin"
START_SECONDS = 60.0
SETTLE_SECONDS = 150.0
GONE_SECONDS = 15.0
PROXY = "through_proxy.py"
_EXECUTOR = "-m bridge_adapter.executor"


class DriverFailed(Exception):
    """The client of a run did not do what every client must; the message says what."""


class Driver(Protocol):
    """A client that makes calls. It may be killed and started anew; `life` counts that."""

    def start(self, world: World, life: int) -> None: ...

    def kill(self) -> None: ...

    def settle(self) -> None: ...

    def have(self, order: str) -> bool:
        """Has it drain or restart its workers, beside the calls; False when it cannot."""

    def close(self) -> None: ...


class World:
    """A run in a directory. Use as a context manager: nothing of it is left at its end."""

    def __init__(self, directory: Path, driver: Driver, *, journal: Path | None = None) -> None:
        self.directory = directory
        self.points = directory / "points"
        self.points.mkdir(parents=True)
        self.journal = journal or directory / "journal" / "calls.journal"
        self.journal.parent.mkdir(exist_ok=True)
        self.mark = secrets.token_hex(8)
        self.driver = driver
        self.life = 0
        self.faults: list[str] = []
        self.problems: list[str] = []

    def environment(self) -> dict[str, str]:
        """What every process of the run is started with."""
        return {**os.environ, MARK: self.mark, "CHAOS_DIR": str(self.directory), "CHAOS_POINTS": str(self.points)}

    def __enter__(self) -> World:
        self.driver.start(self, self.life)
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()
        if remains := left_over(self.mark, GONE_SECONDS):
            self.problems.append(f"processes are left: {remains}")
            for pid in remains:
                self.signal(pid, signal.SIGKILL)

    def restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kills the client and everything below it, and starts it anew on the same journal."""
        self.driver.kill()
        if remains := left_over(self.mark, GONE_SECONDS):
            self.problems.append(f"processes have outlived their client: {remains}")
            for pid in remains:
                self.signal(pid, signal.SIGKILL)
        meanwhile()
        self.life += 1
        self.driver.start(self, self.life)

    def executors(self) -> list[int]:
        """The workers that run now, without those that nobody is to harm."""
        return [pid for pid, command in marked(self.mark).items() if _EXECUTOR in command and PROXY not in command and not is_steady(pid)]

    def signal(self, pid: int, number: int) -> None:
        """Signals a process of this run, if it still is one."""
        with suppress(OSError):
            if f"{MARK}={self.mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)

    def order(self, point: str, order: str) -> None:
        """Has the next worker that comes to a point do something there (see chaos_points)."""
        scratch = self.directory / "order"
        scratch.write_text(order)
        scratch.rename(self.points / point)

    @contextmanager
    def window(self, kind: Literal["forgotten", "unrecorded"], after: float = 0.5) -> Iterator[None]:
        """Context in which the journal has a licence, which ends some seconds later."""
        begins = now()
        try:
            yield
        finally:
            with open(self.directory / "windows.jsonl", "a") as file:
                line = {"kind": kind, "begins": begins, "ends": now() + int(after * 1e6)}
                file.write(json.dumps(line) + "\n")

    def calm_down(self) -> None:
        """Ends every fault that waits for its moment, and has the client ask once more for everything."""
        for order in self.points.iterdir():
            order.unlink(missing_ok=True)
        for pid in self.executors():
            self.signal(pid, signal.SIGCONT)
        self.driver.settle()


class Beam:
    """The Elixir driver: driver.exs in a BEAM of its own."""

    def __init__(self, seed: int, processes: int = 4, pause_ms: int = 5, environment: dict[str, str] | None = None) -> None:
        self._seed = seed
        self._settings = {**(environment or {}), "CHAOS_SEED": str(seed), "CHAOS_PROCESSES": str(processes), "CHAOS_PAUSE": str(pause_ms)}
        self._process: subprocess.Popen[str] | None = None
        self._lines: _Lines | None = None
        self._log: Path | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, world: World, life: int) -> None:
        settings = {
            **self._settings,
            "CHAOS_LIFE": str(life),
            "CHAOS_JOURNAL": str(world.journal),
            "CHAOS_PYTHON": self._python(world.directory),
        }
        self._log = world.directory / f"beam-{life}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["elixir", "-pa", str(BEAM_FILES), str(HERE / "driver.exs")],
                env={**world.environment(), **settings, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self._lines = _Lines(self._process.stdout)
        self._await("ready", START_SECONDS)

    def _python(self, directory: Path) -> str:
        """What the pool takes for Python: with every second seed a proxy stands between it and its workers."""
        if self._seed % 2:
            return sys.executable
        wrapper = directory / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {HERE / PROXY} "$@"\n')
        wrapper.chmod(0o700)
        return str(wrapper)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._reap()

    def have(self, order: str) -> bool:
        self._say(f"{order}\n")
        return True

    def settle(self) -> None:
        self._say("settle\n")
        self._await("settled", SETTLE_SECONDS)

    def close(self) -> None:
        if self._process is None:
            return
        with suppress(OSError):
            self._say("stop\n")
        if not gone(self.pid, 10) and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def _say(self, text: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _await(self, word: str, seconds: float) -> None:
        assert self._lines is not None and self._log is not None
        said = self._lines.until(word, seconds)
        if word not in said:
            raise DriverFailed(f"the BEAM has not said {word} within {seconds} s, only {said}: {self._log.read_text()[-4000:]}")
        if failures := [line for line in said if line.startswith("failed:")]:
            raise DriverFailed(f"{failures}: {self._log.read_text()[-4000:]}")

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._process = None


class _Lines:
    """What a process says, read in the background."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe: IO[str]) -> None:
        with suppress(ValueError):
            for line in pipe:
                with self._changed:
                    self._lines.append(line.strip())
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def until(self, word: str, seconds: float) -> list[str]:
        """All lines so far, once that one is among them, or nothing more comes, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: word in self._lines or self._ended, seconds)
            return list(self._lines)


def is_steady(pid: int) -> bool:
    """Whether a worker is one that nobody harms."""
    try:
        return b"CHAOS_STEADY=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def now() -> int:
    """Microseconds of the system's clock, as in a history."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000
