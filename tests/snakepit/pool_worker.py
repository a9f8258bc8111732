"""One worker of Snakepit's pool: the process started with the real command line and environment, and what the pool's side does with it
from the ready file to the last signal. It knows nothing of who started it: our gateway and Snakepit's own server are treated alike.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import queue
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2

import bridge_adapter
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

GATEWAY = Path(bridge_adapter.__file__).parent / "gateway" / "grpc_server.py"
TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
READY_SECONDS = 30.0
READY_POLL = 0.05
GROUP_SECONDS = 0.25
CONNECT_TRIES = 5
TELEMETRY_SECONDS = 5.0
GRACE_SECONDS = 6.0
HEALTH_CHECK_SECONDS = 30.0
TAIL_BYTES = 4096
CLEAN_EXITS = (0, 143)
THREAD_LIMITS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A new worker may get the port of a dead one: nothing of that one's connection may be remembered.
    ("grpc.use_local_subchannel_pool", 1),
]

# Not from 1: a stand-in that was killed may have left the ready file of a worker of that name.
_numbers = itertools.count(os.getpid() * 100_000)
# What has been found healthy by this process.
_healthy: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Launcher:
    """What a pool is configured to start: an interpreter, a worker script, its adapter, and what the environment adds."""

    python: str = sys.executable
    script: Path = GATEWAY
    adapter: str = "snakebridge_adapter.SnakeBridgeAdapter"
    flags: tuple[str, ...] = ()
    python_path: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def health_check(self) -> None:
        """What Snakepit does before it starts a pool; here once for each way in, which does not change. Raises StartFailed."""
        way = (self.python, self.script, self.adapter, self.python_path)
        if way in _healthy:
            return
        command = [self.python, str(self.script), "--health-check", "--adapter", self.adapter]
        environment = {**os.environ, **self._python_path()}
        ran = subprocess.run(
            command, cwd=self.script.parent, env=environment, capture_output=True, text=True, timeout=HEALTH_CHECK_SECONDS, check=False
        )
        if ran.returncode:
            raise StartFailed(f"the health check ended with {ran.returncode}: {ran.stderr}")
        _healthy.add(way)

    def command(self, elixir_address: str, run_id: str) -> list[str]:
        command = [self.python, str(self.script), "--adapter", self.adapter, *self.flags]
        for name, value in (("--port", "0"), ("--elixir-address", elixir_address), ("--snakepit-instance-name", "standin")):
            if name not in self.flags:
                command += [name, value]
        return [*command, "--snakepit-run-id", run_id]

    def environment(self, ready_file: Path, heartbeat: Mapping[str, Any]) -> dict[str, str]:
        return {
            **os.environ,
            **self._python_path(),
            "SNAKEPIT_READY_FILE": str(ready_file),
            "SNAKEPIT_HEARTBEAT_CONFIG": json.dumps(heartbeat),
            "SNAKEPIT_LOG_LEVEL": "error",
            "SNAKEPIT_PROCESS_GROUP": "1",
            "SNAKEPIT_PYTHON": self.python,
            "SNAKEPIT_PYTHON_VERSION": platform.python_version(),
            "SNAKEPIT_PYTHON_PLATFORM": platform.platform(),
            "SNAKEPIT_PYTHON_RUNTIME_HASH": "0" * 16,
            **{f"{library}_NUM_THREADS": "1" for library in THREAD_LIMITS if library != "VECLIB"},
            "VECLIB_MAXIMUM_THREADS": "1",
            "GRPC_POLL_STRATEGY": "poll",
            **self.env,
        }

    def _python_path(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join(map(str, self.python_path))} if self.python_path else {}


class StartFailed(Exception):
    """A worker did not come up."""


class CallFailed(Exception):
    """A call without a result. `fields` has a `kind`: `python` with the `payload` of the error, `status` with a gRPC `code` and `details`,
    or `pool` with a `reason`. `pid` is that of the worker, where it came to one.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(json.dumps(fields)[:2000])
        self.fields = fields

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    @property
    def payload(self) -> dict[str, Any]:
        """The payload of a Python error, also of one that ended a stream. Empty when there is none."""
        if self.kind == "python":
            return dict(self.fields["payload"])
        with suppress(ValueError):
            if self.fields.get("code") == "INTERNAL":
                return dict(json.loads(self.fields["details"]))
        return {}


@dataclass(frozen=True)
class Answer:
    """The value of a call, the metadata of the response, and who gave it."""

    value: Any
    metadata: dict[str, str]
    worker_id: str


class Worker:
    """A worker process. `start` returns when the pool may use it; `attend` is for afterwards.

    `stage` hears how far it is: spawned, ready, connected, initialized. `on_end` is called once, when the process is gone.
    """

    def __init__(
        self,
        worker_id: str,
        launcher: Launcher,
        elixir_address: str,
        run_id: str,
        directory: Path,
        *,
        heartbeat_seconds: float = 2.0,
        heartbeat_timeout: float = 10.0,
        stage: Callable[[str, Worker], None] = lambda name, worker: None,
        on_end: Callable[[Worker], None] = lambda worker: None,
    ) -> None:
        self.id = worker_id
        self.session_id = f"session_{next(_numbers)}_{time.time_ns() // 1000}"
        self.beats = 0
        self.events: list[pb.TelemetryEvent] = []
        self.telemetry_end = ""
        self.killed_because = ""
        self.status: int | None = None
        self.group = True
        self.port = 0
        self.ended = threading.Event()
        self._stopping = threading.Event()  # or ended
        self._stage = stage
        self._on_end = on_end
        self._beat_seconds, self._beat_timeout = heartbeat_seconds, heartbeat_timeout
        self._lock = threading.Lock()
        self._calls = 0
        self._calls_ended = threading.Condition()
        self._tail = b""
        self._controls: queue.Queue[pb.TelemetryControl | None] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._channel: grpc.Channel | None = None
        self.stub: Any = None
        self.ready_file = directory / f"snakepit_ready_{worker_id}_{next(_numbers)}"
        heartbeat = {
            "enabled": True,
            "interval_ms": int(heartbeat_seconds * 1000),
            "timeout_ms": int(heartbeat_timeout * 1000),
            "max_missed_heartbeats": 3,
            "initial_delay_ms": 0,
            "dependent": True,
        }
        # As OTP starts a port: pipes for stdin and stdout, a session of its own.
        self._process = subprocess.Popen(
            launcher.command(elixir_address, run_id),
            cwd=launcher.script.parent,
            env=launcher.environment(self.ready_file, heartbeat),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._run(self._read_output)
        self._run(self._reap)
        stage("spawned", self)

    @property
    def last_words(self) -> str:
        return self._tail.decode(errors="replace")

    # --- its start ---

    def start(self) -> None:
        """From the ready file to a connection. Raises StartFailed; the process is gone then."""
        try:
            self.port = self._await_ready_file()
            self._stage("ready", self)
            self.group = self._leads_a_group()
            self._connect()
            self._stage("connected", self)
        except StartFailed:
            self.kill()
            self.close()
            raise

    def attend(self) -> None:
        """The worker session, the telemetry stream, the heartbeats: begun after the pool knows the worker."""
        request = pb.InitializeSessionRequest(
            session_id=self.session_id,
            metadata={"elixir_node": "nonode@nohost", "initialized_at": str(time.time_ns() // 1000)},
            config=pb.SessionConfig(enable_caching=True, cache_ttl_seconds=60, enable_telemetry=False),
        )
        try:
            self.stub.InitializeSession(request, timeout=10)
        except grpc.RpcError as error:
            if not self._stopping.is_set():
                self._give_up(f"InitializeSession failed: {error.code().name}")
            return
        self._stage("initialized", self)
        self._run(self._listen)
        self._run(self._beat)

    def _await_ready_file(self) -> int:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if self.ready_file.exists():
                text = self.ready_file.read_text()
                self.ready_file.unlink()
                return int("".join(itertools.takewhile(str.isdigit, text.strip())))
            if self.ended.wait(READY_POLL):
                kind = "was shut down" if self.status in CLEAN_EXITS else "failed"
                raise StartFailed(f"{self.id} {kind} with status {self.status} before it was ready: {self.last_words}")
        raise StartFailed(f"{self.id} was not ready within {READY_SECONDS:g} s: {self.last_words}")

    def _leads_a_group(self) -> bool:
        end = time.monotonic() + GROUP_SECONDS
        while time.monotonic() < end:
            with suppress(ProcessLookupError):
                if os.getpgid(self.pid) == self.pid:
                    return True
            self.ended.wait(0.01)
        return False

    def _connect(self) -> None:
        pause, last = 0.05, ""
        for _ in range(CONNECT_TRIES):
            self._channel = grpc.insecure_channel(f"localhost:{self.port}", options=_CHANNEL)
            self.stub = rpc.BridgeServiceStub(self._channel)
            try:
                self.stub.Ping(pb.PingRequest(message="connection_test"), timeout=5)
                return
            except grpc.RpcError as error:
                last = f"{error.code().name}: {error.details()}"
                self._channel.close()
            if self.ended.wait(pause * random.uniform(1.0, 1.5)):
                break
            pause = min(2 * pause, 0.5)
        raise StartFailed(f"{self.id} does not answer on port {self.port}: {last}; {self.last_words}")

    # --- while it runs ---

    def _listen(self) -> None:
        """The telemetry stream as the real pool opens it: once, with a deadline that cuts it."""
        self._controls.put(pb.TelemetryControl(toggle=pb.TelemetryToggle(enabled=True)))
        try:
            for event in self.stub.StreamTelemetry(iter(self._controls.get, None), timeout=TELEMETRY_SECONDS):
                self.events.append(event)
            self.telemetry_end = "OK"
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed
            self.telemetry_end = error.code().name if isinstance(error, grpc.RpcError) else "closed"
        finally:
            self._controls.put(None)

    def _beat(self) -> None:
        while not self._stopping.wait(self._beat_seconds):
            try:
                answer = self.stub.Heartbeat(pb.HeartbeatRequest(session_id=self.session_id), timeout=self._beat_timeout)
            except ValueError:
                return  # the channel is closed
            except grpc.RpcError as error:
                if not self._stopping.is_set():
                    self._give_up(f"a heartbeat failed: {error.code().name}")
                return
            if not answer.session_valid:
                self._give_up("its session is not valid")
                return
            self.beats += 1

    def _give_up(self, reason: str) -> None:
        self.killed_because = self.killed_because or reason
        self.kill()

    def call(self, request: pb.ExecuteToolRequest, timeout: float) -> Answer:
        """One call. Raises CallFailed."""
        with self._call_in_flight():
            response = self.stub.ExecuteTool(request, timeout=whole_units(timeout), metadata=_headers(request))
        if not response.success:
            raise CallFailed(kind="python", payload=json.loads(response.error_message), pid=self.pid)
        return Answer(json.loads(response.result.value), dict(response.metadata), self.id)

    def stream(self, request: pb.ExecuteToolRequest, timeout: float) -> Iterator[Any]:
        """The items of a stream. Raises CallFailed."""
        with self._call_in_flight():
            for chunk in self.stub.ExecuteStreamingTool(request, timeout=whole_units(timeout), metadata=_headers(request)):
                if chunk.data:
                    yield json.loads(chunk.data)["data"]
                if chunk.is_final:
                    return
        raise CallFailed(kind="status", code="UNKNOWN", details="the stream ended without its final chunk", pid=self.pid)

    @contextmanager
    def _call_in_flight(self) -> Iterator[None]:
        """The channel stays open until its calls have heard from the worker, or of its death. Raises CallFailed."""
        with self._calls_ended:
            self._calls += 1
        try:
            yield
        except grpc.RpcError as error:
            raise CallFailed(kind="status", code=error.code().name, details=error.details() or "", pid=self.pid) from error
        except ValueError as error:
            raise CallFailed(kind="status", code="UNAVAILABLE", details=f"the channel is closed: {error}", pid=self.pid) from error
        finally:
            with self._calls_ended:
                self._calls -= 1
                self._calls_ended.notify_all()

    # --- its end ---

    def kill(self) -> None:
        """What any failure of a worker means: SIGKILL, at once."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """A graceful end: SIGTERM, and SIGKILL when that does not help. Heartbeats end first."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if not self.ended.wait(GRACE_SECONDS):
            self.killed_because = self.killed_because or f"it did not end within {GRACE_SECONDS:g} s of SIGTERM"
            self.kill()
        self.close()

    def close(self) -> None:
        """Returns when nothing of it is left here."""
        self.ended.wait()
        self._controls.put(None)
        with self._calls_ended:
            self._calls_ended.wait_for(lambda: not self._calls)
        if self._channel is not None:
            self._channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _signal(self, number: int) -> None:
        with self._lock:
            # As long as it is not reaped its pid and its group cannot be anybody else's.
            if self.status is None:
                with suppress(ProcessLookupError):
                    (os.killpg if self.group else os.kill)(self.pid, number)

    def _reap(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            status = self._process.wait()
            self.status = status if status >= 0 else 128 - status  # as Elixir sees it
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._stopping.set()
        self.ended.set()
        self._on_end(self)

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            while data := os.read(stdout.fileno(), 65536):
                self._tail = (self._tail + data)[-TAIL_BYTES:]

    def _run(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"{self.id} {target.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()


def execute_request(
    worker_session: str,
    function: str,
    *args: Any,
    module: str,
    session: str,
    tool: str = "snakebridge.call",
    correlation: str = "",
    **fields: Any,
) -> pb.ExecuteToolRequest:
    """A request as SnakeBridge makes it and Snakepit's pool sends it: the worker's session outside, the caller's inside."""
    correlation = correlation or f"sp-{secrets.token_hex(12)}"
    metadata = {
        "correlation_id": correlation,
        "python_runtime_hash": "0" * 16,
        "python_version": platform.python_version(),
        "python_platform": platform.platform(),
    }
    message = pb.ExecuteToolRequest(session_id=worker_session, tool_name=tool, metadata=metadata)
    parameters = {
        "protocol_version": 1,
        "min_supported_version": 1,
        "session_id": session,
        "python_module": module,
        "library": module.partition(".")[0],
        "function": function,
        "args": list(args),
        "kwargs": {},
        "idempotent": False,
        **fields,
    }
    for name, value in parameters.items():
        message.parameters[name].CopyFrom(any_pb2.Any(type_url=TEXT_URL, value=json.dumps(value).encode()))
    return message


def whole_units(seconds: float) -> float:
    """A deadline as it arrives from grpc-elixir: whole seconds, from a minute on whole minutes, from an hour on whole hours."""
    for unit in (3600, 60, 1):
        if seconds >= unit:
            return seconds // unit * unit
    return seconds


def _headers(request: pb.ExecuteToolRequest) -> list[tuple[str, str]]:
    return [("x-snakepit-correlation-id", request.metadata["correlation_id"])]
