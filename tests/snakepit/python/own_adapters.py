"""Adapters of a user's own, as teams that use Snakepit without SnakeBridge write them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

LOG: list[str] = []


@dataclasses.dataclass
class Part:
    """An item of a stream that says for itself whether it is the last one."""

    data: Any
    is_final: bool = False
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


class Adapter:
    """Everything sync. Its tools are its methods."""

    def __init__(self) -> None:
        LOG.append("new")

    def set_session_context(self, ctx: Any) -> None:
        self.ctx = ctx

    def register_with_session(self, session_id: str, stub: Any) -> list[str]:
        LOG.append(f"register {session_id} {type(stub).__name__}")
        return ["a tool"]

    def initialize(self) -> None:
        LOG.append("initialize")

    def cleanup(self) -> None:
        LOG.append("cleanup")

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        assert context is self.ctx
        return getattr(self, f"tool_{tool_name}")(**arguments)

    def tool_ret(self, e: str) -> Any:
        return eval(e, {"Part": Part, "LOG": LOG})

    def tool_echo(self, **arguments: Any) -> Any:
        return {name: [type(value).__name__, repr(value)] for name, value in sorted(arguments.items())}

    def tool_log(self) -> list[str]:
        return list(LOG)

    def tool_call(self) -> dict[str, Any]:
        return {"session": self.ctx.session_id, "metadata": self.ctx.request_metadata, "tools": self.ctx.elixir_tools}

    def tool_ask(self, name: str, **parameters: Any) -> Any:
        with self.ctx as context:
            return context.call_elixir_tool(name, **parameters)

    def tool_modules(self) -> dict[str, Any]:
        import sys

        return {name: name in sys.modules for name in ("grpc", "snakepit_bridge_pb2", "bridge_adapter.proto.snakepit_bridge_pb2")}

    def tool_fail(self, message: str) -> None:
        raise LookupError(message)

    def tool_die(self, marker: str, idempotent: bool = False) -> str:
        if os.path.exists(marker):
            return "survived"
        with open(marker, "w"):
            os._exit(9)

    def tool_thread(self) -> int:
        return threading.get_ident()

    def tool_meet(self) -> bool:
        BARRIER.wait(20)
        return True

    def tool_wait(self) -> None:
        time.sleep(60)

    def tool_count(self, n: int, fail: bool = False) -> Iterator[Any]:
        try:
            for number in range(n):
                yield {"n": number}
            if fail:
                raise ValueError("enough")
        finally:
            LOG.append("generator closed")

    def tool_parts(self) -> Iterator[Any]:
        yield Part({"a": 1}, metadata={"k": 1})
        yield None
        yield b"\x00\xff"
        yield "text"
        yield [1, "two"]
        yield Part(None, is_final=True)


BARRIER = threading.Barrier(2)


class AsyncAdapter:
    """Everything async, nothing optional but initialize and cleanup."""

    def set_session_context(self, ctx: Any) -> None:
        self.ready = False

    async def initialize(self) -> None:
        await asyncio.sleep(0)
        self.ready = True

    async def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        await asyncio.sleep(0)
        if tool_name == "numbers":
            return self.numbers(arguments["n"])
        return {"tool": tool_name, "ready": self.ready}

    async def numbers(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    async def cleanup(self) -> None:
        LOG.append("async cleanup")


class Incomplete:
    """No adapter: it cannot run a tool."""

    def set_session_context(self, ctx: Any) -> None:
        self.ctx = ctx


not_a_class = 5
