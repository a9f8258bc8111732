"""The stand-in as a process of its own, which a test can kill as the BEAM is killed. Run, it is the stand-in, told what to do by JSON lines
on stdin; imported, it is the test's end of them.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool_worker import Answer, CallFailed, Launcher, Worker
from process_tree import MARK
from standin import Pool


class StandInDied(Exception):
    """The stand-in has ended, and took the call along."""


@dataclass(frozen=True)
class Stage:
    """A worker has come so far."""

    name: str
    worker_id: str
    pid: int


@dataclass
class StandIn:
    """The test's end. Use as a context manager: in the end the stand-in is asked to stop its pool and itself.

    `hold`: the stage (spawned, ready, connected, initialized) at which the stand-in stops doing anything for a worker, until it is killed.
    `mark` is in the environment of everything below it. Python may call one Elixir function there: `echo`, which answers its argument.
    """

    directory: Path
    launcher: Launcher = field(default_factory=Launcher)
    size: int = 1
    heartbeat_seconds: float = 2.0
    hold: str = ""
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        launcher = {
            **vars(self.launcher),
            "script": str(self.launcher.script),
            "python_path": [str(folder) for folder in self.launcher.python_path],
            "env": dict(self.launcher.env),
        }
        settings = {
            "directory": str(self.directory),
            "launcher": launcher,
            "size": self.size,
            "heartbeat_seconds": self.heartbeat_seconds,
            "hold": self.hold,
        }
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._changed = threading.Condition()
        self._ended = False
        self.launcher.health_check()
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: self.mark},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def call(self, function: str, *args: Any, **fields: Any) -> Answer:
        """As `Pool.call`. Raises CallFailed, StandInDied."""
        for line in self._ask("call", function, args, fields):
            return Answer(line["value"], line["metadata"], line["worker_id"])
        raise AssertionError("a call has one answer")

    def stream(self, function: str, *args: Any, **fields: Any) -> Iterator[Any]:
        """As `Pool.stream`. Raises CallFailed, StandInDied."""
        for line in self._ask("stream", function, args, fields):
            if "item" not in line:
                return
            yield line["item"]

    def wait_for(self, stage: str, count: int = 1, seconds: float = 40) -> list[Stage]:
        """The workers that have come so far, once there are `count` of them. Raises TimeoutError, StandInDied."""

        def there() -> list[Stage]:
            return [seen for seen in self.stages if seen.name == stage]

        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or len(there()) >= count, seconds):
                raise TimeoutError(f"{len(there())} of {count} workers {stage} within {seconds:g} s")
            if len(there()) < count:
                raise StandInDied("the stand-in has ended")
            return there()

    def kill(self) -> None:
        """SIGKILL, for it alone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stops it gracefully if it still runs."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed with a request on its way
            self.process.stdin.close()
        self.process.wait()
        self._reader.join()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, op: str, function: str, args: tuple[Any, ...], fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        assert self.process.stdin is not None
        number = next(self._numbers)
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        line = json.dumps({"id": number, "op": op, "function": function, "args": args, "fields": fields}) + "\n"
        with self._changed:
            if self._ended:
                raise StandInDied("the stand-in has ended")
            self._answers[number] = answers
            try:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            except (BrokenPipeError, ValueError) as error:
                raise StandInDied("the stand-in has ended") from error
        try:
            while (answer := answers.get()) is not None:
                if "failed" in answer:
                    raise CallFailed(**answer["failed"])
                yield answer
            raise StandInDied("the stand-in ended during the call")
        finally:
            self._answers.pop(number, None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it was killed while it wrote
                answer = json.loads(line)
                if "stage" in answer:
                    with self._changed:
                        self.stages.append(Stage(answer["stage"], answer["worker_id"], answer["pid"]))
                        self._changed.notify_all()
                elif (waiting := self._answers.get(answer["id"])) is not None:
                    waiting.put(answer)
        with self._changed:
            self._ended = True
            for waiting in list(self._answers.values()):  # whoever is woken takes its own out
                waiting.put(None)
            self._changed.notify_all()


# --- the process ---

_writing = threading.Lock()


def _say(**fields: Any) -> None:
    data = json.dumps(fields).encode() + b"\n"
    with _writing:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _serve(pool: Pool, asked: dict[str, Any]) -> None:
    number, how = asked["id"], (asked["function"], *asked["args"])
    try:
        if asked["op"] == "call":
            answer = pool.call(*how, **asked["fields"])
            _say(id=number, **vars(answer))
        else:
            for item in pool.stream(*how, **asked["fields"]):
                _say(id=number, item=item)
            _say(id=number, done=True)
    except CallFailed as error:
        _say(id=number, failed=error.fields)
    except Exception as error:  # whoever asked must not wait for ever
        traceback.print_exc()
        _say(id=number, failed={"kind": "standin", "reason": repr(error)})


def main(text: str) -> None:
    settings = json.loads(text)
    given = settings["launcher"]
    folders = tuple(Path(folder) for folder in given["python_path"])
    launcher = Launcher(**{**given, "script": Path(given["script"]), "flags": tuple(given["flags"]), "python_path": folders})

    def on_stage(name: str, worker: Worker) -> None:
        _say(stage=name, worker_id=worker.id, pid=worker.pid)
        if name == settings["hold"]:
            threading.Event().wait()

    pool = Pool(
        Path(settings["directory"]),
        launcher,
        size=settings["size"],
        heartbeat_seconds=settings["heartbeat_seconds"],
        on_stage=on_stage,
        checked=True,
    )
    pool.beam.functions["echo"] = lambda value: value
    with pool:
        for line in sys.stdin:
            threading.Thread(target=_serve, args=(pool, json.loads(line)), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
