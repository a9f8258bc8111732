"""Roles, the audit of decisions, and the settings of both."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import errors, lane
from bridge_adapter.config import ConfigError
from bridge_adapter.policy import settings
from bridge_adapter.policy.access import NOBODY, OPERATIONS, PERMISSIONS, ROLES, SYSTEM, Access, Identity
from bridge_adapter.policy.audit import Audit, AuditSettings

TOKENS = {name: f"token-of-{name}-0123456789" for name in ("vera", "uma", "otto", "ada", "cust")}
ROLE = {"vera": "viewer", "uma": "user", "otto": "operator", "ada": "admin", "cust": "custom"}


def policy_file(directory: Path, more: str = "") -> Path:
    entries = "".join(
        f'[[access.principals]]\nname = "{name}"\nroles = ["{ROLE[name]}"]\ntenant = "t1"\n'
        f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        for name, token in TOKENS.items()
    )
    file = directory / "policy.toml"
    file.write_text(
        f'environment = "production"\n[access]\nrbac_enabled = true\nown = ["system"]\n{entries}'
        f'[audit]\npath = "{directory}/audit.jsonl"\n[policy]\ndeny = ["math.cos"]\n{more}'
    )
    return file


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Path]]:
    directory = tmp_path_factory.mktemp("roles")
    with Worker(args=("--policy", str(policy_file(directory)))) as worker:
        yield worker, directory / "audit.jsonl"


def connect(worker: Worker, name: str, role: str = "call") -> Client:
    return Client(worker.socket(), role, TOKENS[name])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def release(client: Client) -> Any:
    return client.tool("snakebridge.release_session", payload("", "", session="s"))


def reload(client: Client) -> Any:
    return client.tool("snakebridge.reload", {"protocol_version": 1, "min_supported_version": 1, "module": "colorsys"})


def test_every_role_may_do_what_the_table_says_and_nothing_else(guarded: tuple[Worker, Path]) -> None:
    worker, _ = guarded
    requests = {
        "snakebridge.call": lambda client: client.call("math", "sqrt", 4),
        "snakebridge.stream": lambda client: client.stream("builtins", "range", 2),
        "snakebridge.release_session": release,
        "snakebridge.reload": reload,
        "stats": lambda client: client.request("stats", {}),
        "ping": lambda client: client.request("ping", {}),
    }
    for name in TOKENS:
        with closing(connect(worker, name)) as client:
            for operation, request in requests.items():
                needed = OPERATIONS[operation]
                if needed is None or needed in ROLES[ROLE[name]]:
                    request(client)
                else:
                    with pytest.raises(LaneError) as raised:
                        request(client)
                    assert raised.value.category == "permission_denied"
                    assert raised.value.fields["details"]["permission"] == needed


def test_a_role_that_may_not_cancel_cancels_nothing(guarded: tuple[Worker, Path]) -> None:
    worker, audit = guarded
    with closing(worker.connect()) as busy, closing(connect(worker, "vera", "control")) as viewer:
        id = next(busy.ids)
        busy.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": payload("time", "sleep", [0.3]), "timeout_ms": 20_000}))
        viewer.send(lane.notification("cancel", [busy.conn, id, "cancelled"]))
        viewer.request("ping", {})
        assert busy.answer(id) is None
    assert any(line["actor"] == "vera" and line["action"] == "cancel" and line["result"] == "denied" for line in lines(audit))


def test_who_may_not_call_is_not_asked_what_calls_ask_and_not_told_what_they_say(guarded: tuple[Worker, Path]) -> None:
    worker, _ = guarded
    with closing(worker.connect("control")) as owner, closing(connect(worker, "vera", "control")), closing(worker.connect()) as client:
        function = client.function("f", 1, lambda value: value)
        client.call("talker", "ask_afterwards", function, "a value")
        client.call("talker", "gate.set")
        message = owner.receive()
        assert message is not None and message.kind == lane.REQUEST and message.body["args"] == ["a value"]
        owner.send(lane.response(message.id, None, None))


def test_names_in_the_audit_are_clipped(guarded: tuple[Worker, Path]) -> None:
    worker, audit = guarded
    before = audit.stat().st_size
    with closing(connect(worker, "vera")) as client, pytest.raises(LaneError, match="permission_denied"):
        client.request("x\n" * 100_000, {})
    with closing(connect(worker, "uma")) as client:
        client.tool("snakebridge.call", payload("math", "sqrt", [4]), trace={"correlation_id": "y" * 100_000})
    assert audit.stat().st_size - before < 8_000
    assert lines(audit)[-1]["request_id"] == "y" * 256


def test_whoever_is_not_known_is_not_let_in_and_that_is_recorded(guarded: tuple[Worker, Path]) -> None:
    worker, audit = guarded
    with pytest.raises(LaneError) as raised:
        Client(worker.socket(), token="guessed-token-1")
    assert raised.value.category == "unauthorized"
    assert lines(audit)[-1]["type"] == "authentication" and lines(audit)[-1]["result"] == "denied"
    assert "guessed-token-1" not in audit.read_text()


def test_the_audit_has_a_line_for_every_decision_and_no_argument(guarded: tuple[Worker, Path]) -> None:
    worker, audit = guarded
    with closing(connect(worker, "uma")) as client:
        fields = payload("builtins", "len", ["a-planted-secret"])
        client.tool("snakebridge.call", fields, trace={"correlation_id": "request-1"})
        with pytest.raises(LaneError):
            client.call("math", "cos", 1)
    allowed = next(line for line in lines(audit) if line["request_id"] == "request-1")
    want = {"type": "kernel-access", "actor": "uma", "how": "token", "resource": "builtins.len", "action": "snakebridge.call"}
    assert want.items() <= allowed.items() and allowed["result"] == "success" and allowed["tenant"] == "t1"
    refused = lines(audit)[-1]
    assert refused["result"] == "denied" and refused["details"]["object"] == "math.cos"
    assert "policy.deny[0]" in refused["details"]["source"]
    text = audit.read_text()
    assert "a-planted-secret" not in text and not any(token in text for token in TOKENS.values())
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600


def test_the_table_knows_only_permissions_that_there_are() -> None:
    assert {needed for needed in OPERATIONS.values() if needed is not None} <= set(PERMISSIONS)
    access = Access()
    for operation in (*OPERATIONS, "an operation that nobody has written down"):
        access.check(SYSTEM, operation)
        with pytest.raises(errors.PermissionDenied):
            access.check(NOBODY, operation)
    with pytest.raises(errors.PermissionDenied):
        access.check(Identity("otto", ("operator",)), "an operation that nobody has written down")


def test_a_header_is_a_bearer_token_or_nothing() -> None:
    file_like = settings.Principal("uma", ("user",), hashlib.sha256(b"abc").hexdigest())
    access = Access((file_like,))
    assert access.by_header("Bearer abc").actor == "uma"
    for header in ("", "abc", "Basic abc", "Bearer ", "Bearer abd"):
        assert access.by_header(header) is NOBODY


# --- the file ---


def record(audit: Audit, result: Any = "success", **details: Any) -> None:
    audit.record("kernel-access", SYSTEM, "math.sqrt", "snakebridge.call", result, details=details)


def test_full_files_are_kept_and_the_next_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(str(path), rotate_bytes=4096, fsync=True))
    other = Audit(AuditSettings(str(path), rotate_bytes=4096))  # a second process shares the path
    for number in range(60):
        record(audit if number % 2 else other, number=number)
    files = list(tmp_path.iterdir())
    assert len(files) > 2 and all(file.stat().st_size <= 4096 for file in files)
    found = sorted(line["details"]["number"] for file in files for line in lines(file))
    assert found == list(range(60))


def test_a_file_of_another_day_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(str(path)))
    record(audit, number=1)
    os.utime(path, (0, 0))
    record(audit, number=2)
    assert [line["details"] for line in lines(path)] == [{"number": 2}]
    assert [line["details"] for line in lines(tmp_path / "audit.jsonl.1970-01-01.1")] == [{"number": 1}]


def test_what_cannot_be_recorded_is_not_done_unless_a_warning_is_enough(capfd: pytest.CaptureFixture[str]) -> None:
    audit = Audit(AuditSettings("/dev/full", rotate_bytes=4096))
    with pytest.raises(errors.Unavailable, match="cannot be written"):
        record(audit)
    record(audit, "denied")
    assert "cannot be written" in capfd.readouterr().err
    record(Audit(AuditSettings("/dev/full", on_failure="warn")))
    assert "cannot be written" in capfd.readouterr().err


# --- the settings ---


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'environment = "production"\n[access]\nrbac_enabled = true\nown = ["root"]\nroles.x = ["fly"]\n'
        '[[access.principals]]\nname = "ann"\ntoken_sha256 = "secret"\nroles = ["usr"]\n[[access.principals]]\n'
        '[audit]\nrotate_bytes = 1\non_failure = "ignore"\n[redaction]\npatterns = ["("]\n'
    )
    with pytest.raises(ConfigError) as raised:
        settings.load(str(file))
    for part in ("access.own", "access.roles.x", "principals[0].token_sha256", "principals[0].roles", "principals[1].name", "audit.path"):
        assert part in str(raised.value)
    for part in ("audit.rotate_bytes", "audit.on_failure", "redaction.patterns"):
        assert part in str(raised.value)


@pytest.mark.parametrize("access", ["", "[access]\nrbac_enabled = false\n", "[access]\nrbac_enabled = true\n"])
def test_production_needs_somebody_who_is_known(tmp_path: Path, access: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f'environment = "production"\n{access}')
    with pytest.raises(ConfigError, match="principal"):
        settings.load(str(file))
