"""The gRPC side of a chaos run: threads that call through a real gateway, as Snakepit does, and write down what they asked and heard.

They outlive their gateway: when it is killed, another one is started on the same journal, and they go on.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import grpc
from beam_side import BeamSide
from gateway_process import Gateway, ToolFailed, request, stream_request, value_of
from world import HERE, DriverFailed, World, now

KINDS = ("plain", "idempotent", "keyed", "keyed", "append", "stream")
TIMEOUT = 3.0
CALM_TIMEOUT = 30.0
KEYS_ASKED_AGAIN = 30
MOST_PATIENCE = 20


class GatewayDriver:
    """A gateway and the threads that use it."""

    def __init__(self, seed: int, threads: int = 3, pause_ms: int = 5, environment: dict[str, str] | None = None) -> None:
        self._environment = environment or {}
        self.pause_ms = pause_ms
        self._seed = seed
        self._threads = threads
        self._beam = BeamSide()
        self._changed = threading.Condition()
        self._gateway: Gateway | None = None
        self._callers: list[_Caller] = []

    def start(self, world: World, life: int) -> None:
        directory = world.directory / f"gateway-{life}"
        directory.mkdir()
        environment = {**world.environment(), **self._environment, "PYTHONPATH": str(HERE / "python")}
        flags = ["--adapter", "snakebridge_adapter.SnakeBridgeAdapter", "--journal", str(world.journal)]
        started = Gateway(directory, self._beam, *flags, env=environment)
        with self._changed:
            self._gateway = started
            self._changed.notify_all()
        if not self._callers:
            self._callers = [_Caller(self, world.directory, self._seed, number) for number in range(self._threads)]

    def kill(self) -> None:
        with self._changed:
            gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.close()

    def gateway(self) -> Gateway:
        """The one that runs, once one does."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._gateway is not None, 60):
                raise DriverFailed("no gateway was started within a minute")
            assert self._gateway is not None
            return self._gateway

    def have(self, order: str) -> bool:
        return False  # one gateway has one executor; Snakepit replaces gateways

    def settle(self) -> None:
        for caller in self._callers:
            caller.settle()
        for caller in self._callers:
            caller.join(120)
            if caller.is_alive() or caller.error is not None:
                raise DriverFailed(f"a caller has not settled: {caller.error!r}")

    def close(self) -> None:
        for caller in self._callers:
            caller.settle()
        self.kill()
        self._beam.stop()


class _Caller(threading.Thread):
    """Makes calls of every kind until it is told to settle; then it asks once more for what it has asked."""

    def __init__(self, driver: GatewayDriver, directory: Path, seed: int, number: int) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._driver = driver
        self._name = f"g{number}"
        self._chance = random.Random(seed * 1000 + number)
        self._file: IO[str] = open(directory / f"history-{self._name}.jsonl", "w", buffering=1)  # noqa: SIM115 - closed at the end of run
        self._count = 0
        self._keys: dict[str, int] = {}
        self._register: tuple[str, dict[str, Any]] | None = None
        self._calm = threading.Event()
        # Not before the first call that knows of the calm: one that calm overtakes may be of an object that was lost before.
        self._settled = False
        self._retry_after_ms: int | None = None
        self.start()

    def settle(self) -> None:
        self._calm.set()

    def run(self) -> None:
        try:
            while not self._calm.wait(self._chance.uniform(0, self._driver.pause_ms / 1000)):
                getattr(self, f"_{self._chance.choice(KINDS)}")()
            self._settled, self._register = True, None
            for key, milliseconds in sorted(self._keys.items()):
                self._patiently(partial(self._ask_key, key, milliseconds))
            for act in (self._plain, self._idempotent, self._append, self._append, self._stream):
                self._patiently(act)
        except Exception as error:
            self.error = error
        finally:
            self._file.close()

    def _patiently(self, act: Callable[[], None]) -> None:
        """Does it again for as long as it is told to come again later."""
        for _ in range(MOST_PATIENCE):
            self._retry_after_ms = None
            act()
            if self._retry_after_ms is None:
                return
            time.sleep(self._retry_after_ms / 1000)

    # --- the kinds of calls ---

    def _plain(self) -> None:
        op = self._next()
        self._call(op, "plain", op, "apply", op, self._duration())

    def _idempotent(self) -> None:
        op = self._next()
        self._call(op, "idempotent", op, "apply", op, self._duration(), idempotent=True)

    def _keyed(self) -> None:
        back = self._chance.randrange(1, 40 if self._chance.random() < 0.25 else 4)
        number = int(time.time() * 4) - back
        self._ask_key(f"gateway-{number}", number * 7 % 30)

    def _ask_key(self, key: str, milliseconds: int) -> None:
        self._keys[key] = milliseconds
        if len(self._keys) > KEYS_ASKED_AGAIN:
            del self._keys[min(self._keys)]
        self._call(self._next(), "keyed", key, "apply", key, milliseconds, idempotency_key=key)

    def _append(self) -> None:
        if self._register is None:
            op = self._next()
            ref = self._call(op, "make", op, "Register", op)
            if ref is None:
                return
            self._register = op, ref
        name, ref = self._register
        op = self._next()
        if (entries := self._call(op, "append", name, "append", op, call_type="method", instance=ref)) is None or len(entries[1]) > 25:
            self._register = None

    def _stream(self) -> None:
        op = self._next()
        count = self._chance.randrange(1, 30)
        items: list[Any] = []
        self._write(type="invoke", process=self._name, op=op, kind="stream", target=op, wanted=count, calm=self._settled)
        message = stream_request("items", op, count, self._chance.randrange(3), module="chaos_effects", session_id=self._name)
        try:
            for chunk in self._driver.gateway().stub.ExecuteStreamingTool(message, timeout=self._timeout()):
                if chunk.data:
                    items.append(json.loads(chunk.data)["data"])
        except grpc.RpcError as error:
            self._write(type="error", op=op, value=items, **_told(error))
        except ValueError as error:  # of a channel that was closed
            self._write(type="error", op=op, value=items, **_gone(error))
        else:
            self._write(type="ok", op=op, value=items)

    # --- one call ---

    def _call(self, op: str, kind: str, target: str, function: str, *args: Any, **fields: Any) -> Any:
        """Its answer, or None when there is none."""
        self._write(type="invoke", process=self._name, op=op, kind=kind, target=target, calm=self._settled)
        message = request(function, *args, module="chaos_effects", session_id=self._name, **fields)
        try:
            response = self._driver.gateway().stub.ExecuteTool(message, timeout=self._timeout())
            value = value_of(response)
        except (grpc.RpcError, ToolFailed) as error:
            self._write(type="error", op=op, **_told(error))
        except ValueError as error:
            self._write(type="error", op=op, **_gone(error))
        else:
            attempts, replayed = int(response.metadata.get("attempts", "1")), "replayed" in response.metadata
            known = {"attempts": attempts, "replayed": replayed} if kind in ("idempotent", "keyed") else {}
            self._write(type="ok", op=op, value=None if kind == "make" else value, **known)
            return value
        return None

    def _write(self, **fields: Any) -> None:
        self._retry_after_ms = fields.get("retry_after_ms")
        self._file.write(json.dumps({"at": now(), **fields}) + "\n")

    def _next(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _duration(self) -> int:
        return self._chance.randrange(30) if self._chance.random() < 0.3 else 0

    def _timeout(self) -> float:
        return CALM_TIMEOUT if self._settled else TIMEOUT


def _told(error: grpc.RpcError | ToolFailed) -> dict[str, Any]:
    """An error as the history has it. What gRPC says itself leaves open what became of the call."""
    if isinstance(error, ToolFailed):
        payload = error.payload
    else:
        try:
            payload = json.loads(error.details())
        except ValueError:
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return {
                "category": "timeout" if late else "worker_crash",
                "outcome": "unknown",
                "message": f"{error.code()}: {error.details()}",
            }
    category = payload["category"]
    if category == "unknown_ref" and "hint" in payload["details"]:
        category = "session_lost"  # Snakepit has no word for it: the object was made by an executor that is gone
    return {
        "category": category,
        "outcome": payload["details"].get("outcome"),
        "retry_after_ms": payload["details"].get("retry_after_ms"),
        "error_type": payload["qualified_type"],
        "message": str(payload["message"])[:300],
    }


def _gone(error: ValueError) -> dict[str, Any]:
    return {"category": "worker_crash", "outcome": "unknown", "message": str(error)}
