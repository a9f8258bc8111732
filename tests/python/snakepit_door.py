"""A door to a worker as Snakepit starts it, for tests of the Elixir client: JSON texts go in and come out, as Snakepit's Elixir side would
read and write them. Elixir functions that Python calls are asked of one function of the test.

Only threads of its own use gRPC: a cancelled call is interrupted anywhere in its code, and gRPC's client does not survive that while it
holds its locks.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "snakepit"))

import grpc
from google.protobuf import any_pb2
from pool_worker import TEXT_URL, Launcher
from standin import Pool

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

HERE = Path(__file__).parent


class Functions:
    """What stands in the stand-in for the functions of Elixir: every id leads to the same one."""

    def __init__(self, ask: Callable[[str, str], str]) -> None:
        self._ask = ask

    def get(self, name: str) -> Callable[..., Any]:
        return lambda *args: json.loads(self._ask(name, json.dumps(args)))


class Door:
    """A pool of one worker. `ask`: an Elixir function of a callback's id and its arguments as JSON text."""

    def __init__(self, ask: Callable[[str, str], str]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="door-")
        directory = Path(self._directory.name)
        self._pool = Pool(directory, Launcher(python_path=(HERE,), env={"TMPDIR": str(directory)}))
        self._pool.beam.functions = Functions(ask)  # type: ignore[assignment]
        self._pool.start()
        self._threads = ThreadPoolExecutor()

    def call(self, tool: str, parameters: str, timeout: float) -> str:
        """JSON text: {"ok": value}, {"error": payload} or {"status": number, "message": text}."""
        return self._threads.submit(self._call, tool, parameters, timeout).result()

    def _call(self, tool: str, parameters: str, timeout: float) -> str:
        try:
            response = self._pool.worker().stub.ExecuteTool(self._request(tool, parameters), timeout=timeout)
        except grpc.RpcError as error:
            return json.dumps({"status": error.code().value[0], "message": error.details()})
        if not response.success:
            return json.dumps({"error": json.loads(response.error_message)})
        return '{"ok": ' + response.result.value.decode() + "}"

    def stream(self, tool: str, parameters: str, timeout: float) -> Iterator[str]:
        """JSON texts: of each chunk as Snakepit hands it on, and at last {"status": ...} where the stream failed."""
        texts: SimpleQueue[str | None] = SimpleQueue()
        left = threading.Event()
        self._threads.submit(self._read, tool, parameters, timeout, texts, left)
        try:
            while (text := texts.get()) is not None:
                yield text
        finally:
            left.set()

    def _read(self, tool: str, parameters: str, timeout: float, texts: SimpleQueue[str | None], left: threading.Event) -> None:
        chunks = self._pool.worker().stub.ExecuteStreamingTool(self._request(tool, parameters), timeout=timeout)
        try:
            for chunk in chunks:
                texts.put(json.dumps({**(json.loads(chunk.data) if chunk.data else {}), "is_final": chunk.is_final}))
                if left.is_set():
                    break
        except grpc.RpcError as error:
            texts.put(json.dumps({"status": error.code().value[0], "message": error.details()}))
        finally:
            texts.put(None)
            chunks.cancel()

    def kill(self) -> None:
        """Ends the executor behind the worker."""
        import os
        import signal

        for child in Path(f"/proc/{self._pool.worker().pid}/task").glob("*/children"):
            for pid in child.read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    def refs(self, session: str) -> int:
        """How many objects a session holds, by releasing it."""
        text = json.dumps({"session_id": session, "protocol_version": 1, "min_supported_version": 1})
        return int(json.loads(self.call("snakebridge.release_session", text, 10))["ok"])

    def close(self) -> None:
        self._pool.stop()
        self._threads.shutdown()
        self._directory.cleanup()

    def _request(self, tool: str, parameters: str) -> pb.ExecuteToolRequest:
        message = pb.ExecuteToolRequest(session_id=self._pool.worker().session_id, tool_name=tool)
        for name, value in json.loads(parameters).items():
            message.parameters[name].CopyFrom(any_pb2.Any(type_url=TEXT_URL, value=json.dumps(value).encode()))
        return message
