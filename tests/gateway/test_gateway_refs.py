"""Refs through the gateway: limits that a request sets, and refs that another worker has made."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from gateway_process import Gateway, ToolFailed, request, value_of


def made(gateway: Gateway, session: str, **metadata: str) -> dict[str, Any]:
    message = request("object", module="builtins", session_id=session)
    message.metadata.update(metadata)
    ref: dict[str, Any] = value_of(gateway.stub.ExecuteTool(message, timeout=20))
    return ref


def holds(gateway: Gateway, session: str, ref: dict[str, Any]) -> bool:
    try:
        gateway.execute("__repr__", call_type="method", instance=ref, session_id=session)
    except ToolFailed as error:
        assert error.payload["message"] == f"'Unknown SnakeBridge reference: {ref['id']}'"
        return False
    return True


@pytest.mark.parametrize("name", ["max_refs", "session_max_refs", "ref_max"])
def test_a_request_limits_how_many_refs_its_session_holds(gateway: Gateway, name: str) -> None:
    session = f"limited by {name}"
    refs = [made(gateway, session, **{name: "2"}) for _ in range(4)]
    assert [holds(gateway, session, ref) for ref in refs] == [False, False, True, True]
    other = [made(gateway, "unlimited") for _ in range(4)]
    assert all(holds(gateway, "unlimited", ref) for ref in other)


@pytest.mark.parametrize("name", ["ref_ttl", "ref_ttl_seconds", "ttl_seconds"])
def test_a_request_limits_how_long_a_ref_of_its_session_may_lie_unused(gateway: Gateway, name: str) -> None:
    session = f"limited by {name}"
    first = made(gateway, session)
    assert holds(gateway, session, first)
    # What is left of a tenth of a second is gone when the next call has slept for two.
    made(gateway, session, **{name: "0.1"})
    gateway.execute("sleep", 0.2, module="time", session_id=session)
    assert not holds(gateway, session, first)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_refs", "many", "max_refs in the request's metadata is 'many'; it must be an integer"),
        ("max_refs", "0", "max_refs is 0; it must be an integer of at least 1"),
        ("ref_ttl", "soon", "ref_ttl in the request's metadata is 'soon'; it must be a number of seconds"),
        ("ref_ttl", "-1", "ref_ttl is -1.0; it must be a number of seconds"),
    ],
)
def test_limits_that_cannot_be_used_are_named(gateway: Gateway, name: str, value: str, text: str) -> None:
    with pytest.raises(ToolFailed) as error:
        made(gateway, "unusable limits", **{name: value})
    assert text in error.value.payload["message"]


def test_limits_may_come_from_the_environment(start: Callable[..., Gateway]) -> None:
    own = start(env={"SNAKEBRIDGE_REF_MAX": "3"})
    refs = [made(own, "s") for _ in range(5)]
    assert [holds(own, "s", ref) for ref in refs] == [False, False, True, True, True]


def test_an_answer_never_evicts_its_own_refs(gateway: Gateway) -> None:
    message = request("list", [], module="builtins", session_id="own refs")
    message.metadata["max_refs"] = "3"
    assert value_of(gateway.stub.ExecuteTool(message, timeout=20)) == []
    refs = gateway.execute("many_objects", 8, session_id="own refs")
    assert all(holds(gateway, "own refs", ref) for ref in refs)


def test_a_ref_of_another_worker_names_the_cure(gateway: Gateway, start: Callable[..., Gateway]) -> None:
    ref = made(gateway, "shared")
    with pytest.raises(ToolFailed) as error:
        start().execute("__repr__", call_type="method", instance=ref, session_id="shared")
    payload = error.value.payload
    assert payload["type"] == "KeyError" and payload["category"] == "unknown_ref"
    assert payload["message"].startswith(f"'Unknown SnakeBridge reference: {ref['id']}' (it was made by another worker process")
    assert "affinity: :strict_queue" in payload["message"] and "affinity: :strict_queue" in payload["details"]["hint"]


def test_a_ref_from_before_a_restart_names_the_cure(start: Callable[..., Gateway]) -> None:
    own = start()
    ref = made(own, "s")
    os.kill(own.executor_pid(), signal.SIGKILL)
    with pytest.raises(ToolFailed, match="by this one before it was restarted"):
        own.execute("__repr__", call_type="method", instance=ref, session_id="s", idempotent=True)


def test_an_id_that_nobody_has_made_is_only_unknown(gateway: Gateway) -> None:
    for id in ("00000000000000000000000000000000", "ref-1", "d41d8cd98f00b204e9800998ecf8427e"):
        assert not holds(gateway, "s", {"__type__": "ref", "id": id, "session_id": "s"})


def test_the_same_object_is_the_same_ref(gateway: Gateway) -> None:
    first, again = gateway.execute("twice", session_id="identity")
    assert first["id"] == again["id"] == gateway.execute("twice", session_id="identity")[0]["id"]


def test_lengths_and_texts_of_refs_are_exact(gateway: Gateway) -> None:
    ref = gateway.execute("a_collection", 3, session_id="count")

    def method(name: str) -> Any:
        message = request(name, call_type="method", instance=ref, session_id="count")
        return gateway.stub.ExecuteTool(message, timeout=20).result.value

    assert method("__len__") == b"3"
    assert method("__str__") == b'"three things"'
    assert method("__repr__") == b'"Collection(3)"'
