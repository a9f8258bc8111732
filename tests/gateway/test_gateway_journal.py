"""Calls with an idempotency_key through the gateway: answered again, by any worker that shares the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_process import Gateway, ToolFailed, request, value_of

HELPERS = Path(__file__).parents[1] / "python"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def gateway(start: Callable[..., Gateway], tmp_path: Path) -> Gateway:
    return start("--journal", str(tmp_path / "calls.journal"), env={"PYTHONPATH": str(HELPERS)})


def ask(gateway: Gateway, function: str, *args: Any, key: Any = "k", **fields: Any) -> tuple[Any, dict[str, str]]:
    """The value and the metadata of a call."""
    response = gateway.stub.ExecuteTool(request(function, *args, module="counted", idempotency_key=key, **fields), timeout=30)
    return value_of(response), {name: response.metadata[name] for name in ("attempts", "replayed") if name in response.metadata}


def test_the_same_key_gives_the_same_answer_and_says_so(gateway: Gateway, runs: Path) -> None:
    assert ask(gateway, "run", str(runs)) == (1, {})
    assert ask(gateway, "run", str(runs)) == (1, {"replayed": "true"})
    assert ask(gateway, "run", str(runs), session_id="another") == (1, {"replayed": "true"})
    assert ask(gateway, "run", str(runs), key=None) == (2, {})
    with pytest.raises(ToolFailed, match="belongs to another request") as caught:
        ask(gateway, "run", str(runs), 7)
    assert caught.value.payload["category"] == "idempotency_conflict"


def test_the_next_executor_gives_it_too(gateway: Gateway, runs: Path) -> None:
    assert ask(gateway, "run", str(runs)) == (1, {})
    with pytest.raises(ToolFailed):
        gateway.execute("_exit", 3, module="os")
    assert ask(gateway, "run", str(runs)) == (1, {"replayed": "true"})


def test_a_key_means_that_the_call_may_be_run_again(gateway: Gateway, runs: Path) -> None:
    assert ask(gateway, "die_first", str(runs)) == (2, {"attempts": "2"})
    assert ask(gateway, "die_first", str(runs)) == (2, {"attempts": "2", "replayed": "true"})


def test_keys_that_are_none_are_refused(gateway: Gateway, runs: Path) -> None:
    with pytest.raises(ToolFailed, match="idempotency_key is 7; it must be a text"):
        ask(gateway, "run", str(runs), key=7)
    for key in (0, False, []):
        with pytest.raises(ToolFailed, match="it must be a text"):
            ask(gateway, "run", str(runs), key=key)
    with pytest.raises(ToolFailed, match="1 to 255 characters"):
        ask(gateway, "run", str(runs), key="x" * 300)
    assert not runs.exists()


def test_without_a_journal_a_key_is_refused(start: Callable[..., Gateway], runs: Path) -> None:
    with pytest.raises(ToolFailed, match="has no journal; start it with --journal FILE") as caught:
        ask(start(env={"PYTHONPATH": str(HELPERS)}), "run", str(runs))
    assert caught.value.payload["category"] == "invalid_request"
