"""A worker behind Snakepit as a process of the tests: our gateway or, with its stubs beside it, the double of Snakepit's own server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from beam_side import BeamSide
from google.protobuf import any_pb2

import bridge_adapter
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

HERE = Path(__file__).parent
THEIR_SERVER = HERE / "their_server"
USER_CODE = HERE.parent / "gateway" / "python"
PROTO = Path(bridge_adapter.__file__).parent / "proto"
TEXT_URL = "type.googleapis.com/google.protobuf.StringValue"
WORKER_SESSION = "session_2_1700000000000000"
START_SECONDS = 30


class ToolFailed(Exception):
    """An answer without success; `payload` is its JSON payload."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(f"{payload['type']}: {payload['message']}")
        self.payload = payload


def stubs(directory: Path) -> Path:
    """A folder with the stubs as Snakepit has them, at the top level: made from the same .proto as ours."""
    directory.mkdir(exist_ok=True)
    for name in ("snakepit_bridge_pb2", "snakepit_bridge_pb2_grpc"):
        text = (PROTO / f"{name}.py").read_text().replace("from bridge_adapter.proto import ", "import ")
        (directory / f"{name}.py").write_text(text)
    return directory


class Server:
    """A running worker. Use as a context manager: it is ended, by pid, at the end."""

    def __init__(
        self,
        directory: Path,
        elixir: BeamSide,
        command: Sequence[str],
        *,
        python_path: Sequence[Path] = (),
        cwd: Path = THEIR_SERVER,
        env: dict[str, str] | None = None,
    ) -> None:
        ready_file = directory / "snakepit_ready"
        ready_file.unlink(missing_ok=True)
        own = ["--port", "0", "--elixir-address", elixir.address, "--snakepit-run-id", "abc1234", "--snakepit-instance-name", "test"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(folder) for folder in (*python_path, USER_CODE)),
            "SNAKEPIT_READY_FILE": str(ready_file),
            "SNAKEPIT_PROCESS_GROUP": "1",
            "GRPC_POLL_STRATEGY": "poll",
            "TMPDIR": str(directory),
            **(env or {}),
        }
        self.log = directory / "server.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *own], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=cwd, env=environment, start_new_session=True
            )
        ended = threading.Event()
        threading.Thread(target=lambda: (self.process.wait(), ended.set()), daemon=True).start()
        for _ in range(START_SECONDS * 100):
            if ready_file.exists() or ended.wait(0.01):
                break
        if not ready_file.exists():
            self.close()
            raise RuntimeError(f"the worker did not come up: {self.output()}")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{ready_file.read_text()}", options=[("grpc.max_receive_message_length", -1)])
        self.stub: Any = rpc.BridgeServiceStub(self.channel)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def execute(self, function: str, *args: Any, timeout: float = 30, **fields: Any) -> pb.ExecuteToolResponse:
        return self.stub.ExecuteTool(request(function, *args, **fields), timeout=timeout)

    def call(self, function: str, *args: Any, timeout: float = 30, **fields: Any) -> Any:
        """The value of a call. Raises ToolFailed."""
        return value_of(self.execute(function, *args, timeout=timeout, **fields))

    def stream(self, function: str, *args: Any, timeout: float = 30, **fields: Any) -> Any:
        """The running stream of a call."""
        return self.stub.ExecuteStreamingTool(request(function, *args, **{"tool": "snakebridge.stream", **fields}), timeout=timeout)

    def close(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def their_server(directory: Path, elixir: BeamSide, *flags: str, script: str = "grpc_server.py", **options: Any) -> Server:
    """The double, started as Snakepit starts the original."""
    path = [*options.pop("python_path", ()), stubs(directory / "stubs")]
    adapter = [] if "--adapter" in flags else ["--adapter", "bridge_adapter.SnakeBridgeAdapter"]
    return Server(directory, elixir, [sys.executable, str(THEIR_SERVER / script), *adapter, *flags], python_path=path, **options)


def request(
    function: str,
    *args: Any,
    module: str = "gateway_sample",
    tool: str = "snakebridge.call",
    metadata: dict[str, str] | None = None,
    binary: dict[str, bytes] | None = None,
    **fields: Any,
) -> pb.ExecuteToolRequest:
    """A request as the real SnakeBridge makes it."""
    message = pb.ExecuteToolRequest(session_id=WORKER_SESSION, tool_name=tool, metadata={"correlation_id": "sp-1", **(metadata or {})})
    parameters = {
        "protocol_version": 1,
        "min_supported_version": 1,
        "session_id": "sess-A",
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
    message.binary_parameters.update(binary or {})
    return message


def callback(name: str, arity: int = 1) -> dict[str, Any]:
    """A function of Elixir's as an argument."""
    return {"__type__": "callback", "__schema__": 1, "ref_id": name, "pid": "<0.94.0>", "arity": arity}


def value_of(response: pb.ExecuteToolResponse) -> Any:
    if not response.success:
        raise ToolFailed(json.loads(response.error_message))
    return json.loads(response.result.value)
