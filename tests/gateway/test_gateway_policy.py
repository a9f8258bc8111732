"""The policy of a gateway: none unless one is named; with roles, every RPC but the signs of life needs a principal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_process import Gateway, ToolFailed, request, stream_request, value_of

from bridge_adapter.proto import snakepit_bridge_pb2 as pb

TOKENS = {"uma": "token-of-uma-0123", "vera": "token-of-vera-0123"}


def policy(directory: Path) -> tuple[Path, Path]:
    audit, file = directory / "audit.jsonl", directory / "policy.toml"
    text = f'[access]\nrbac_enabled = true\n[audit]\npath = "{audit}"\n'
    for name, role in (("uma", "user"), ("vera", "viewer")):
        digest = hashlib.sha256(TOKENS[name].encode()).hexdigest()
        text += f'[[access.principals]]\nname = "{name}"\nroles = ["{role}"]\ntoken_sha256 = "{digest}"\n'
    file.write_text(text)
    return file, audit


def header(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {TOKENS[name]}")]


def test_a_gateway_refuses_nothing_unless_it_is_told_to(gateway: Gateway) -> None:
    assert gateway.execute("eval", "1 + 1", module="builtins") == 2


def test_the_rules_of_the_command_line_hold_in_the_executor(start: Callable[..., Gateway]) -> None:
    gateway = start("--policy", "default", "--allow", "builtins.exec")
    assert gateway.execute("exec", "x = 1", module="builtins") is None
    with pytest.raises(ToolFailed) as raised:
        gateway.execute("eval", "1 + 1", module="builtins")
    assert raised.value.payload["category"] == "permission_denied"
    assert raised.value.payload["details"]["rule"] == "builtins.eval"


def test_every_rpc_needs_a_principal_whose_role_permits_it(start: Callable[..., Gateway], tmp_path: Path) -> None:
    file, audit = policy(tmp_path)
    gateway = start("--policy", str(file))
    stub: Any = gateway.stub
    assert stub.Ping(pb.PingRequest(message="x")).message
    assert stub.Heartbeat(pb.HeartbeatRequest(session_id="s")).session_valid

    call = request("sqrt", 16, module="math")
    assert value_of(stub.ExecuteTool(call, metadata=header("uma"))) == 4.0
    for metadata in (None, header("vera"), [("authorization", "Bearer wrong-token")]):
        with pytest.raises(ToolFailed) as raised:
            value_of(stub.ExecuteTool(call, metadata=metadata))
        assert raised.value.payload["category"] == "permission_denied"
        with pytest.raises(grpc.RpcError):
            list(stub.ExecuteStreamingTool(stream_request("range", 2, module="builtins"), metadata=metadata))
    assert list(stub.ExecuteStreamingTool(stream_request("range", 2, module="builtins"), metadata=header("uma")))

    session = pb.InitializeSessionRequest(session_id="s1")
    for rpc, message in (
        (stub.InitializeSession, session),
        (stub.CleanupSession, pb.CleanupSessionRequest(session_id="s1")),
        (stub.GetSession, pb.GetSessionRequest(session_id="s1")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            rpc(message)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as refused:
        stub.InitializeSession(session, metadata=header("uma"))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        next(iter(stub.StreamTelemetry(iter([pb.TelemetryControl()]))))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED

    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    made = {(line["actor"], line["action"], line["result"]) for line in lines}
    assert ("uma", "snakebridge.call", "success") in made and ("nobody", "snakebridge.call", "denied") in made
    assert ("vera", "snakebridge.stream", "denied") in made and ("nobody", "session.initialize", "denied") in made
    assert not any(token in audit.read_text() + gateway.output() for token in (*TOKENS.values(), "wrong-token"))


def test_what_the_executors_rules_refuse_is_recorded_with_the_caller(start: Callable[..., Gateway], tmp_path: Path) -> None:
    file, audit = policy(tmp_path)
    gateway = start("--policy", str(file))
    with pytest.raises(ToolFailed):
        value_of(gateway.stub.ExecuteTool(request("eval", "1", module="builtins"), metadata=header("uma")))
    last = json.loads(audit.read_text().splitlines()[-1])
    assert last["actor"] == "uma" and last["result"] == "denied" and last["details"]["object"] == "builtins.eval"


def test_a_policy_that_cannot_be_used_ends_the_start(start: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[policy]\nalow = []\n")
    with pytest.raises(RuntimeError, match=r"did you mean allow\?"):
        start("--policy", str(tmp_path / "policy.toml"))
