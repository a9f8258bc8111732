"""A real gateway process between a real gRPC client and the BEAM side, which stands for Snakepit's own server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from beam_side import BeamSide
from google.protobuf import any_pb2

import bridge_adapter
from bridge_adapter.proto import snakepit_bridge_pb2 as pb
from bridge_adapter.proto import snakepit_bridge_pb2_grpc as rpc

SCRIPT = Path(bridge_adapter.__file__).parent / "gateway" / "grpc_server.py"
USER_CODE = Path(__file__).parent / "python"
TEXT = "type.googleapis.com/google.protobuf.StringValue"
WORKER_SESSION = "session_2_1700000000000000"
FLAGS = ["--snakepit-run-id", "abc1234", "--snakepit-instance-name", "test"]


class ToolFailed(Exception):
    """An ExecuteTool answer without success; `payload` is its JSON payload."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(f"{payload['type']}: {payload['message']}")
        self.payload = payload


class Gateway:
    """A gateway as Snakepit starts it. Use as a context manager: it is ended, by pid, at the end."""

    def __init__(self, directory: Path, beam: BeamSide, *flags: str, env: dict[str, str] | None = None, wait: bool = True) -> None:
        self.ready_file = directory / "snakepit_ready"
        command = [sys.executable, str(SCRIPT), "--adapter", "snakebridge_adapter.SnakeBridgeAdapter", *flags]
        if "--port" not in flags:
            command += ["--port", "0"]
        command += ["--elixir-address", beam.address, *FLAGS]
        environment = {
            **os.environ,
            "PYTHONPATH": str(USER_CODE),
            "SNAKEPIT_READY_FILE": str(self.ready_file),
            "SNAKEPIT_PROCESS_GROUP": "1",
            "TMPDIR": str(directory),
            **(env or {}),
        }
        self.log = directory / "gateway.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=SCRIPT.parent, env=environment, start_new_session=True
            )
        self.port = 0
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """As Snakepit does: looks for the file every few milliseconds."""
        if not until(lambda: self.ready_file.exists() or self.process.poll() is not None, 30) or not self.ready_file.exists():
            self.close()
            raise RuntimeError(f"the gateway did not come up: {self.output()}")
        self.port = int(self.ready_file.read_text())
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", -1)])
        self.stub: Any = rpc.BridgeServiceStub(self.channel)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def execute(self, function: str, *args: Any, module: str = "gateway_sample", timeout: float = 30, **fields: Any) -> Any:
        """The value of a call. Raises ToolFailed."""
        return value_of(self.stub.ExecuteTool(request(function, *args, module=module, **fields), timeout=timeout))

    def chunks(self, function: str, *args: Any, timeout: float = 30, **fields: Any) -> list[pb.ToolChunk]:
        return list(self.stub.ExecuteStreamingTool(stream_request(function, *args, **fields), timeout=timeout))

    def executor_pid(self) -> int:
        return int(self.execute("getpid", module="os"))

    def close(self) -> None:
        if self.port:
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(
    function: str, *args: Any, module: str = "gateway_sample", tool: str = "snakebridge.call", **fields: Any
) -> pb.ExecuteToolRequest:
    """A request as the real SnakeBridge makes it."""
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
    return raw_request({name: json.dumps(value).encode() for name, value in parameters.items()}, tool)


def raw_request(parameters: dict[str, bytes], tool: str = "snakebridge.call", url: str = TEXT) -> pb.ExecuteToolRequest:
    message = pb.ExecuteToolRequest(session_id=WORKER_SESSION, tool_name=tool, metadata={"correlation_id": "sp-1"})
    for name, value in parameters.items():
        message.parameters[name].CopyFrom(any_pb2.Any(type_url=url, value=value))
    return message


def stream_request(function: str, *args: Any, module: str = "gateway_sample", **fields: Any) -> pb.ExecuteToolRequest:
    fields = {"call_type": "dynamic_stream", "module_path": module, **fields}
    return request(function, *args, module=module, tool="snakebridge.stream", **fields)


def value_of(response: pb.ExecuteToolResponse) -> Any:
    if not response.success:
        raise ToolFailed(json.loads(response.error_message))
    return json.loads(response.result.value)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def read(pipe: Path) -> str:
    """What user code tells through a named pipe."""
    with open(pipe) as file:
        return file.read()
