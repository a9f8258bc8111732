"""A blocking client of the lane for tests and benchmarks: starts a real executor and talks to it over a real socket."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eventually import eventually

from bridge_adapter import lane
from bridge_adapter.codec import CallbackRef, Limits, Ref
from bridge_adapter.codec.packed import Packer, Unpacker

TOKEN = "test-token"
HELPERS = Path(__file__).parent / "python"
# What the tests reach their workers by, beyond what the default policy allows; those of the policy itself say what they need.
ALLOWED = ("builtins.eval", "builtins.exec")


class LaneError(Exception):
    """An error answer; `fields` is the error map."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(f"{fields.get('category')}: {fields.get('message')}")
        self.fields = fields
        self.category = fields.get("category")


class Worker:
    """An executor process of its own. Use as a context manager: it is ended, by pid, at the end."""

    def __init__(self, env: dict[str, str] | None = None, listen: str | None = None, args: tuple[str, ...] = ()) -> None:
        self.directory = tempfile.mkdtemp(prefix="lane")
        os.chmod(self.directory, 0o700)
        self.started = time.monotonic()
        environment = {**os.environ, "SNAKEBRIDGE_TOKEN": TOKEN, "PYTHONPATH": str(HELPERS), **(env or {})}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bridge_adapter.executor",
                "--listen",
                listen or f"unix:{self.directory}/w.sock",
                *(() if {"--policy", "--allow", "--deny"} & {*args} else (f"--allow={name}" for name in ALLOWED)),
                *args,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        assert self.process.stdout is not None
        self.output: list[str] = []
        while not (line := self.process.stdout.readline().decode()).startswith("snakebridge-ready "):
            self.output.append(line)  # a warning, perhaps
            if not line:
                self.close()
                raise RuntimeError("".join(self.output))
        self.address = json.loads(line.split(" ", 1)[1])["address"]
        self._drain = threading.Thread(target=self._read_output, daemon=True)
        self._drain.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.decode("utf-8", "replace"))

    def connect(self, role: str = "call", **options: Any) -> Client:
        return Client(self.socket(), role, **options)

    def socket(self) -> socket.socket:
        kind, _, place = self.address.partition(":")
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(place)
        else:
            host, _, port = place.rpartition(":")
            sock = socket.create_connection((host, int(port)))
        sock.settimeout(30)
        return sock

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """One connection. `functions` are what the other side may call back."""

    def __init__(
        self,
        sock: socket.socket,
        role: str = "call",
        token: str = TOKEN,
        versions: tuple[int, ...] = (1,),
        hello: bool = True,
        *,
        features: tuple[str, ...] = (),
    ) -> None:
        self.lane = lane.LaneSocket(sock, 256 << 20)
        self.packer = Packer()
        self.unpacker = Unpacker(None, lane.wire_limits(Limits()))
        self.ids = itertools.count(1)
        self.functions: dict[str, Callable[..., Any]] = {}
        self.released: list[str] = []
        self.notes: list[lane.Message] = []  # other notifications, as they came
        self.conn = 0
        if hello:
            fields = {"versions": list(versions), "token": token, "role": role, "client": "test", "features": list(features)}
            answer = self.request("hello", fields)
            self.features = answer["features"]
            self.conn = answer["conn"]

    def send(self, message: Any) -> None:
        self.lane.send(self.packer.pack(message))

    def receive(self) -> lane.Message | None:
        body = self.lane.receive()
        return None if body is None else lane.parse(self.unpacker.unpack(body))

    def request(self, method: str, params: Any) -> Any:
        id = next(self.ids)
        self.send(lane.request(id, method, params))
        return self.answer(id)

    def answer(self, id: int, on_items: Callable[[list[Any]], None] | None = None) -> Any:
        """Serves callbacks until the response of that id comes."""
        while True:
            message = self.receive()
            if message is None:
                raise ConnectionError("the worker closed the connection")
            if message.kind == lane.RESPONSE:
                if message.error is not None:
                    raise LaneError(message.error)
                assert message.id == id
                return message.body
            if message.kind == lane.REQUEST:
                self.serve(message)
            elif message.name == "items" and on_items is not None:
                on_items(message.body[1])
            elif message.name == "released":
                self.released += message.body
            else:
                self.notes.append(message)

    def serve(self, message: lane.Message) -> None:
        try:
            value = self.functions[message.body["callback"]](*message.body["args"], **message.body["kwargs"])
        except Exception as error:
            self.send(lane.response(message.id, {"category": "callback_error", "message": str(error)}, None))
        else:
            self.send(lane.response(message.id, None, value))

    def function(self, name: str, arity: int, code: Callable[..., Any]) -> CallbackRef:
        self.functions[name] = code
        return CallbackRef(name, arity, "<0.1.0>")

    def call(self, module: str, function: str, *args: Any, session: str = "s", timeout_ms: int | None = 20_000, **kwargs: Any) -> Any:
        return self.tool("snakebridge.call", payload(module, function, args, kwargs, session), timeout_ms=timeout_ms)

    def method(self, ref: Ref, name: str, *args: Any, session: str | None = None, **kwargs: Any) -> Any:
        fields = payload("", name, args, kwargs, session or ref.session) | {"call_type": "method", "instance": ref}
        return self.tool("snakebridge.call", fields)

    def tool(self, tool: str, fields: dict[str, Any], **params: Any) -> Any:
        return self.request("call", {"tool": tool, "payload": fields, "timeout_ms": 20_000, **params})

    def open_stream(self, fields: dict[str, Any], credit: int = 256, tool: str = "snakebridge.stream", **params: Any) -> int:
        id = next(self.ids)
        self.send(lane.request(id, "stream", {"tool": tool, "payload": fields, "credit": credit, "timeout_ms": 20_000, **params}))
        return id

    def stream(self, module: str, function: str, *args: Any, session: str = "s", credit: int = 256, **kwargs: Any) -> list[Any]:
        """All items of a stream, with credit given as they come."""
        id = self.open_stream(payload(module, function, args, kwargs, session), credit)
        items: list[Any] = []

        def take(batch: list[Any]) -> None:
            items.extend(batch)
            self.send(lane.notification("credit", [id, len(batch)]))

        total = self.answer(id, take)
        assert total == {"items": len(items)}
        return items

    def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The worker's figures as soon as they are so; for control connections."""
        return eventually(lambda: self.request("stats", None), holds)

    def close(self) -> None:
        self.lane.close()


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Context in which this process can start none."""
    before = threading.stack_size(1 << 46)  # more than any system gives
    try:
        yield
    finally:
        threading.stack_size(before)


def payload(module: str, function: str, args: Any = (), kwargs: dict[str, Any] | None = None, session: str = "s") -> dict[str, Any]:
    """A payload as SnakeBridge makes it."""
    return {
        "protocol_version": 1,
        "min_supported_version": 1,
        "session_id": session,
        "python_module": module,
        "library": module.partition(".")[0],
        "function": function,
        "args": list(args),
        "kwargs": kwargs or {},
        "idempotent": False,
    }
