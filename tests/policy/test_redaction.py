"""Secrets do not come out in errors, in the worker's output, in the audit or in the journal."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_client import TOKEN, LaneError, Worker, payload

from bridge_adapter.redaction import REDACTED, Redactor

CODE = Path(__file__).parent / "python"
PLANTED = "planted-7f3a9c-secret"
DIGITS = re.compile("[0-9]+")


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "db_password",
        "apiKey",
        "api_key",
        "api-key",
        "AWS_SECRET_ACCESS_KEY",
        "accessToken",
        "token",
        "authorization",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert Redactor().looks_secret(name)


@pytest.mark.parametrize("name", ["author", "tokenizer", "passenger", "compass", "keyboard", "secretary", "monkey", "session_id", "tokens"])
def test_other_names_are_not_taken_for_them(name: str) -> None:
    assert not Redactor().looks_secret(name)


@pytest.mark.parametrize(
    "text",
    [
        "password='hunter22'",
        'the body was {"api_key": "hunter22", "n": 1}',
        "{'db_password': 'hunter22'}",
        "PGPASSWORD=hunter22 psql",
        "Authorization: Bearer hunter22",
        "cannot connect to postgres://app:hunter22@db/app",
        "Login(token=b'hunter22')",
        '%{password: "hunter22"}',
        "client_secret => 'hunter22'",
    ],
)
def test_what_stands_behind_a_secrets_name_is_taken_out(text: str) -> None:
    told = Redactor(environment={}).text(text)
    assert "hunter22" not in told and REDACTED in told


@pytest.mark.parametrize(
    "text",
    ["Unexpected token: }", "token is missing", "passwords differ", "no key 'token'", "http://host:80/x", "a token of 3 parts", "x = 3"],
)
def test_what_only_mentions_a_secret_stays_as_it_is(text: str) -> None:
    assert Redactor(environment={}).text(text) == text


def test_the_settings_add_names_and_patterns() -> None:
    redactor = Redactor(["pin"], [r"\bsk-[a-z0-9]+"], {})
    assert redactor.data({"pin": "1234", "deep": [{"text": "key sk-abc123"}], "n": 3}) == {
        "pin": REDACTED,
        "deep": [{"text": f"key {REDACTED}"}],
        "n": 3,
    }


@given(st.text(alphabet="abcdef0123456789-_./+", min_size=6, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_values_of_secret_variables_never_come_through(value: str, before: str, after: str) -> None:
    told = Redactor(environment={"SERVICE_TOKEN": value}).text(f"{before}{value}{after}")
    assert value not in told.replace(REDACTED, "\0")


def test_variables_that_are_set_later_are_secrets_too() -> None:
    environment = {"SERVICE_TOKEN": "first-value"}
    redactor = Redactor(environment=environment)
    assert redactor.text("first-value") == REDACTED
    environment["OTHER_API_KEY"] = "second-value"
    redactor.look_again()
    assert redactor.text("second-value") == REDACTED
    environment["SERVICE_TOKEN"] = "third-value"
    redactor.look_again()
    assert redactor.text("third-value") == REDACTED


def test_a_planted_secret_is_in_no_output_of_the_worker(tmp_path: Path) -> None:
    journal, audit, policy = tmp_path / "journal", tmp_path / "audit.jsonl", tmp_path / "policy.toml"
    policy.write_text(f'[policy]\nallow = ["builtins.eval"]\n[audit]\npath = "{audit}"\n')
    environment = {"PYTHONPATH": str(CODE), "SERVICE_API_KEY": PLANTED}
    arguments = ("--policy", str(policy), "--journal", str(journal))
    told = []
    with Worker(environment, args=arguments) as worker, closing(worker.connect()) as client:

        def fail(module: str, function: str, *args: object, **params: object) -> None:
            with pytest.raises(LaneError) as raised:
                client.tool("snakebridge.call", payload(module, function, args), **params)
            told.append(json.dumps(raised.value.fields, default=str))

        fail("aliases", "broken", PLANTED)
        fail("aliases", "broken", "only-behind-its-name")
        fail("builtins", "eval", f"int({PLANTED!r})")
        fail("builtins", "eval", "{}[__import__('os').environ['SERVICE_API_KEY']]")
        fail("os", "open", f"/nowhere/{PLANTED}", 0)
        fail("os", "system", PLANTED)
        fail("aliases", "broken", PLANTED, key=["job-1", "digest"])
        fail(f"no_module_{DIGITS.sub('', PLANTED).replace('-', '_')}", "f")
        assert client.tool("snakebridge.call", payload("builtins", "len", [PLANTED]), key=["job-2", "digest-2"]) == len(PLANTED)
        client.request("ping", {})
    told += worker.output
    told += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir() if file.name != "policy.toml"]
    assert len(told) > 9
    for text in told:
        assert PLANTED not in text and TOKEN not in text and "only-behind-its-name" not in text
