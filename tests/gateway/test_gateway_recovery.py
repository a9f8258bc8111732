"""A session through the gateway whose executor dies: with `recover` in the metadata its refs go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_process import Gateway, ToolFailed, request, value_of

HELPERS = Path(__file__).parents[1] / "python"


def ask(gateway: Gateway, function: str, *args: Any, metadata: dict[str, str], **fields: Any) -> Any:
    message = request(function, *args, module="lineages", session_id="recovered", **fields)
    message.metadata.update(metadata)
    return value_of(gateway.stub.ExecuteTool(message, timeout=30))


def test_refs_go_on_after_the_death_of_the_executor(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start("--journal", str(tmp_path / "calls.journal"), env={"PYTHONPATH": str(HELPERS)})
    recovered = {"recover": "lineage"}
    basket = ask(gateway, "Basket", 1, 2, idempotent=True, metadata=recovered)
    on = {"call_type": "method", "instance": basket}
    assert ask(gateway, "add", 4, **on, idempotent=True, metadata=recovered) == 3
    with pytest.raises(ToolFailed, match="the Python worker died"):
        ask(gateway, "crash", **on, metadata=recovered)
    assert ask(gateway, "total", **on, mutates=False, metadata=recovered) == 7
    with pytest.raises(ToolFailed, match="must be 'lineage'"):
        ask(gateway, "Basket", metadata={"recover": "magic"})


def test_refs_go_on_after_the_death_of_the_gateway_too(start: Callable[..., Gateway], tmp_path: Path) -> None:
    journal, recovered = str(tmp_path / "calls.journal"), {"recover": "lineage"}
    first = start("--journal", journal, env={"PYTHONPATH": str(HELPERS)})
    basket = ask(first, "Basket", 1, 2, idempotent=True, metadata=recovered)
    first.process.kill()
    first.close()
    first.ready_file.unlink()
    second = start("--journal", journal, env={"PYTHONPATH": str(HELPERS)})
    assert ask(second, "total", call_type="method", instance=basket, mutates=False, metadata=recovered) == 3


def test_refs_go_on_when_their_executor_is_recycled(start: Callable[..., Gateway], tmp_path: Path) -> None:
    flags = ["--recycle-calls", "4", "--recycle-max-wait-ms", "1", "--journal", str(tmp_path / "calls.journal")]
    gateway = start(*flags, env={"PYTHONPATH": str(HELPERS)})
    recovered = {"recover": "lineage"}
    before = gateway.executor_pid()
    basket = ask(gateway, "Basket", 1, 2, idempotent=True, metadata=recovered)
    on = {"call_type": "method", "instance": basket}
    added = 0
    while gateway.executor_pid() == before:  # calls that come while one takes the place of the other are carried over, too
        added += 1
        ask(gateway, "add", 10, **on, idempotent=True, metadata=recovered)
    assert ask(gateway, "total", **on, mutates=False, metadata=recovered) == 3 + 10 * added
    assert "the executor is gone" not in gateway.output()  # it was let go
