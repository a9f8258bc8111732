"""A stand-in for Snakepit: the BEAM's gRPC server, and a pool that starts workers, watches them, gives each one call at a time and starts
a dead one again under its name. `standin_process` runs the same as a process, which can be killed.
"""

from __future__ import annotations

import secrets
import string
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_side import BeamSide
from pool_worker import Answer, CallFailed, Launcher, StartFailed, Worker, execute_request

QUEUE_SECONDS = 10.0
START_AGAIN_SECONDS = 0.1
HINT, STRICT_QUEUE = "hint", "strict_queue"


class Pool:
    """A pool of `size` workers. Use as a context manager: it starts, and in the end stops, all of them.

    `on_stage` hears (stage, worker) as workers come up; `history` keeps every worker that there was, in order. `checked`: somebody else has
    made the health check.
    """

    def __init__(
        self,
        directory: Path,
        launcher: Launcher,
        *,
        size: int = 1,
        heartbeat_seconds: float = 2.0,
        heartbeat_timeout: float = 10.0,
        affinity: str = HINT,
        on_stage: Callable[[str, Worker], None] = lambda stage, worker: None,
        checked: bool = False,
    ) -> None:
        self.run_id = "".join(secrets.choice(string.digits + string.ascii_lowercase) for _ in range(7))
        self.beam = BeamSide()
        self.history: list[Worker] = []
        self.failures: list[StartFailed] = []
        self.affinity: dict[str, str] = {}
        self._mode = affinity
        self._directory = directory
        self._launcher = launcher
        self._ids = [f"pool_worker_{number}" for number in range(1, size + 1)]
        self._heartbeat = {"heartbeat_seconds": heartbeat_seconds, "heartbeat_timeout": heartbeat_timeout}
        self._on_stage = on_stage
        self._checked = checked
        self._changed = threading.Condition()
        self._workers: dict[str, Worker] = {}  # those that take calls
        self._free: set[str] = set()
        self._begun: set[str] = set()
        self._stopping = threading.Event()
        self._lives: list[threading.Thread] = []

    def start(self) -> None:
        """The health check, then all workers. Raises StartFailed."""
        if not self._checked:
            self._launcher.health_check()
        for worker_id in self._ids:
            life = threading.Thread(target=self._live, args=(worker_id,), name=worker_id, daemon=True)
            self._lives.append(life)
            life.start()
        with self._changed:
            self._changed.wait_for(lambda: len(self._begun) == len(self._ids) or self.failures)
        if len(self._begun) < len(self._ids):
            raise self.failures[0]

    def worker(self, worker_id: str = "pool_worker_1", *, other_than: Worker | None = None, seconds: float = 30) -> Worker:
        """The worker that takes calls under that name, once there is one. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._workers.get(worker_id) not in (None, other_than), seconds):
                raise TimeoutError(f"no worker {worker_id} within {seconds:g} s; starts that failed: {self.failures}")
            return self._workers[worker_id]

    def call(
        self,
        function: str,
        *args: Any,
        module: str,
        session: str = "auto_1",
        timeout: float = 30.0,
        checkout_timeout: float = QUEUE_SECONDS,
        **fields: Any,
    ) -> Answer:
        """One call, as through the real pool. Raises CallFailed."""
        with self._checked_out(session, checkout_timeout) as worker:
            request = execute_request(worker.session_id, function, *args, module=module, session=session, **fields)
            return worker.call(request, timeout)

    def stream(
        self,
        function: str,
        *args: Any,
        module: str,
        session: str = "auto_1",
        timeout: float = 30.0,
        checkout_timeout: float = 0.0,
        **fields: Any,
    ) -> Iterator[Any]:
        """The items of a stream. Raises CallFailed; streams do not queue for a worker unless told to."""
        fields = {"call_type": "dynamic_stream", "module_path": module, **fields}
        with self._checked_out(session, checkout_timeout) as worker:
            request = execute_request(
                worker.session_id, function, *args, module=module, session=session, tool="snakebridge.stream", **fields
            )
            yield from worker.stream(request, timeout)

    @contextmanager
    def _checked_out(self, session: str, seconds: float) -> Iterator[Worker]:
        """A worker that nobody else uses meanwhile. Raises CallFailed when none is free in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._stopping.is_set() or self._choice(session) is not None, seconds):
                raise CallFailed(kind="pool", reason="queue_timeout" if seconds else "no_workers_available")
            worker_id = self._choice(session)
            if worker_id is None:
                raise CallFailed(kind="pool", reason="pool_stopping")
            self._free.discard(worker_id)
            self.affinity[session] = worker_id
            worker = self._workers[worker_id]
        try:
            yield worker
        finally:
            with self._changed:
                if self._workers.get(worker_id) is worker:
                    self._free.add(worker_id)
                    self._changed.notify_all()

    def _choice(self, session: str) -> str | None:
        """The free worker for a session: the one that it had last, else any."""
        preferred = self.affinity.get(session)
        if preferred in self._free:
            return preferred
        if preferred is not None and self._mode == STRICT_QUEUE:
            return None
        return min(self._free, default=None)

    def _live(self, worker_id: str) -> None:
        """One worker after the other under the same name."""
        while not self._stopping.is_set():
            worker = Worker(
                worker_id,
                self._launcher,
                self.beam.address,
                self.run_id,
                self._directory,
                stage=self._on_stage,
                on_end=self._ended,
                **self._heartbeat,
            )
            self.history.append(worker)
            if self._stopping.is_set():
                worker.stop()
                return
            try:
                worker.start()
            except StartFailed as error:
                with self._changed:
                    self.failures.append(error)
                    self._changed.notify_all()
                self._stopping.wait(START_AGAIN_SECONDS)
                continue
            with self._changed:
                self._begun.add(worker_id)
                if not worker.ended.is_set():
                    self._workers[worker_id] = worker
                    self._free.add(worker_id)
                self._changed.notify_all()
            worker.attend()
            worker.close()

    def _ended(self, worker: Worker) -> None:
        with self._changed:
            if self._workers.get(worker.id) is worker:
                del self._workers[worker.id]
                self._free.discard(worker.id)
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends all workers gracefully, then the BEAM's server."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        ends = [threading.Thread(target=worker.stop) for worker in list(self.history) if not worker.ended.is_set()]
        for end in ends:
            end.start()
        for thread in (*ends, *self._lives):
            thread.join()
        self.beam.stop()

    def __enter__(self) -> Pool:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
