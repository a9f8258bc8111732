"""The pure parts of how calls are retried and crashes named: policies as requests and flags say them, and causes of deaths."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bridge_adapter.breaker import Settings
from bridge_adapter.gateway import circuits, options, retry
from bridge_adapter.gateway.crashes import OomCounter, cause
from bridge_adapter.gateway.lane_client import LaneError
from bridge_adapter.gateway.parameters import Asked
from bridge_adapter.gateway.refusals import went_away
from bridge_adapter.gateway.retry import Backoff, Retry
from bridge_adapter.gateway.telemetry import Event, Telemetry


def test_a_list_of_pauses_repeats_its_last_and_a_rule_grows_to_its_ceiling() -> None:
    listed = Retry(5, (10.0, 20.0), 0.0)
    assert [listed.pause(n) for n in (1, 2, 3)] == [0.01, 0.02, 0.02]
    growing = Retry(5, Backoff(50, 2, 300), 0.0)
    assert [growing.pause(n) for n in (1, 2, 3, 4, 50)] == [0.05, 0.1, 0.2, 0.3, 0.3]
    assert Retry(1, (), 1.0).pause(1) == 0.0


def test_jitter_keeps_to_its_part() -> None:
    pauses = [Retry(1, (100.0,), 0.5).pause(1) for _ in range(200)]
    assert all(0.05 <= pause <= 0.15 for pause in pauses) and len(set(pauses)) > 100


@pytest.mark.parametrize(
    ("text", "pauses"),
    [
        ("50,100", (50.0, 100.0)),
        ("[1, 2.5]", (1.0, 2.5)),
        ("first=50,factor=3,max=900", Backoff(50, 3, 900)),
        ('{"first_ms": 10, "factor": 2, "max_ms": 80}', Backoff(10, 2, 80)),
        ("first=7000", Backoff(7000, 2, 7000)),
    ],
)
def test_pauses_can_be_written_as_a_list_or_a_rule(text: str, pauses: tuple[float, ...] | Backoff) -> None:
    assert retry.backoff(text) == pauses


@pytest.mark.parametrize("text", ["soon", "-1", "first=x", "factor=2", "first=50,speed=2", "{", "first=50,max=10", "nan", "1e99"])
def test_pauses_that_cannot_be_used_are_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="it must be pauses in milliseconds"):
        retry.backoff(text)


def test_a_request_changes_what_it_names_in_its_metadata_or_its_parameters() -> None:
    base = Retry(3, (50.0,), 0.1)
    assert base.with_request({}, {}) is base
    asked = base.with_request({"max_attempts": "5", "retry_on": "oom, signal"}, {"jitter": b"0.5", "backoff_ms": b"[1]"})
    assert (asked.max_restarts, asked.max_attempts) == (4, 5)
    assert asked.retry_on == {"oom", "signal"} and asked.jitter == 0.5 and asked.backoff_ms == (1.0,)
    assert base.with_request({}, {"retry_on": b'["exit"]', "backoff_ms": b'{"first_ms": 1}'}).retry_on == {"exit"}
    assert base.with_request({"retry_on": "none"}, {}).retry_on == frozenset()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"retry_on": "boredom"}, "retry_on names 'boredom'"),
        ({"jitter": "2"}, "jitter is '2'"),
        ({"max_attempts": "0"}, "max_attempts is '0'"),
        ({"max_restarts": "many"}, "max_restarts is 'many'"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_told_so(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Retry().with_request(metadata, {})


@pytest.mark.parametrize(
    ("status", "words", "more", "expected"),
    [
        (3, "", {}, "exit"),
        (0, "CUDA_ERROR_LAUNCH_FAILED a while ago", {}, "exit"),
        (-signal.SIGSEGV, "", {}, "signal"),
        (-signal.SIGKILL, "", {}, "signal"),
        (-signal.SIGKILL, "", {"out_of_memory": True}, "oom"),
        (-signal.SIGABRT, "E0000 failed: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access", {}, "gpu_fault"),
        (1, "RuntimeError: CUDA error: device-side assert triggered", {}, "gpu_fault"),
        (-signal.SIGABRT, "RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY", {}, "signal"),
        (-signal.SIGABRT, "F0401 stream.cc:1 Check failed: status.ok() cuda stream is broken", {}, "gpu_fault"),
        (-signal.SIGKILL, "CUDA_ERROR_LAUNCH_FAILED", {"seen": "missed_heartbeat"}, "missed_heartbeat"),
    ],
)
def test_a_death_has_a_cause(status: int, words: str, more: dict[str, Any], expected: str) -> None:
    assert cause(status, words, **more) == expected
    assert expected in retry.CAUSES


@pytest.mark.parametrize("form", ["low 0\noom 1\noom_kill {}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"])
def test_the_kernels_count_is_read_in_both_versions_of_control_groups(tmp_path: Path, form: str) -> None:
    file = tmp_path / "memory.events"
    file.write_text(form.format(4))
    counter = OomCounter([tmp_path / "missing", file])
    assert not counter.rose()
    file.write_text(form.format(5))
    assert counter.rose()
    assert not OomCounter([tmp_path / "missing"]).rose()


def test_the_settings_come_from_flags_and_from_the_environment() -> None:
    environment = {"BRIDGE_ADAPTER_DRAIN_MS": "700", "BRIDGE_ADAPTER_SPARE": "1", "BRIDGE_ADAPTER_RETRY_ON": "exit"}
    flags = ["--adapter", "a.SnakeBridgeAdapter", "--elixir-address", "h:1", "--breaker-failures", "2", "--recycle-calls", "9"]
    breaking = ["--breaker-open-ms", "1500", "--breaker-rate", "0.9"]
    care = options.parse([*flags, "--jitter", "0", "--max-queue", "7", *breaking], environment).care
    assert (care.drain_ms, care.spare, care.max_queue) == (700.0, 1, 7)
    assert care.retry.retry_on == {"exit"} and care.retry.jitter == 0
    assert (care.breaking.failures, care.breaking.open_for, care.breaking.window, care.breaking.rate) == (2, 1.5, 60.0, 0.9)
    assert care.recycling.wanted and care.recycling.calls == 9
    assert not options.parse(flags[:4], {}).care.recycling.wanted


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--drain-ms", "soon", "--drain-ms soon: it must be a number of milliseconds"),
        ("--spare", "2", "--spare 2: it must be 0 or 1"),
        ("--max-queue", "0", "--max-queue 0: it must be an integer, at least 1"),
        ("--recycle-rss-mb", "-1", "--recycle-rss-mb -1: it must be a number of megabytes"),
        ("--retry-on", "rain", "retry_on names 'rain'"),
        ("--breaker-rate", "1", "--breaker-rate 1: it must be a share of calls, from 0 to less than 1"),
        ("--breaker-failures", "²", "--breaker-failures ²: it must be an integer, at least 0"),
        ("--callback-timeout-ms", "nan", "--callback-timeout-ms nan: it must be a number of milliseconds"),
        ("--heartbeat-interval-ms", "inf", "interval_ms is inf; it must be positive"),
        ("--max-message", "3000000000", "--max-message 3000000000: it must be an integer from 1 to 2147483647"),
    ],
)
def test_settings_that_cannot_be_used_end_the_start(flag: str, value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--adapter", "a.B", "--elixir-address", "h:1", flag, value], dict(os.environ))
    assert words in capsys.readouterr().err


def test_a_setting_of_the_environment_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags, environment = (
        ["--adapter", "a.B", "--elixir-address", "h:1"],
        {"BRIDGE_ADAPTER_MAX_RESTARTS": "many", "BRIDGE_ADAPTER_SPARE": "2"},
    )
    with pytest.raises(SystemExit):
        options.parse([*flags, "--max-restarts", "1"], environment)
    assert "--spare 2: it must be 0 or 1 (it comes from BRIDGE_ADAPTER_SPARE in the environment)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        options.parse([*flags, "--spare=3"], environment)
    assert "from BRIDGE_ADAPTER_SPARE" not in capsys.readouterr().err


def test_heartbeats_that_nobody_can_keep_are_reported_and_the_defaults_kept(capsys: pytest.CaptureFixture[str]) -> None:
    flags, asked = ["--adapter", "a.B", "--elixir-address", "h:1"], '{"enabled": true, "max_missed_heartbeats": 1e400}'
    assert not options.parse(flags, {"SNAKEPIT_HEARTBEAT_CONFIG": asked}).heartbeat.enabled
    assert "max_missed is inf; it must be positive" in capsys.readouterr().err


def test_functions_that_crash_are_told_apart_and_not_kept_for_ever() -> None:
    opened: list[tuple[str, float]] = []
    breakers = circuits.Circuits(Settings(failures=2), lambda what, seconds: opened.append((what, seconds)))

    def call(function: str) -> Asked:
        return Asked("snakebridge.call", {"python_module": b'"lib"', "function": f'"{function}"'.encode()})

    for _ in range(2):
        breakers.crashed(circuits.function_of(call("bad")))
    assert opened == [("lib.bad", 30.0)] and breakers.is_open(call("bad")) and not breakers.is_open(call("good"))
    assert breakers.admit(call("good")) is None
    with pytest.raises(LaneError, match=r"lib\.bad has taken the Python worker down 2 times"):
        breakers.admit(call("bad"))
    assert breakers.rejected == 1
    for _ in range(9):
        breakers.crashed(circuits.function_of(call("unlucky")))
        breakers.survived(call("unlucky"))
        breakers.survived(call("good"))
        breakers.survived(call("unlucky"))
    assert not breakers.is_open(call("unlucky")) and breakers.admit(call("unlucky")) is not None
    for number in range(2 * circuits.MOST):
        breakers.crashed(circuits.function_of(call(f"f{number}")))
    assert len(breakers._breakers) == circuits.MOST
    tool = circuits.function_of(Asked("a_tool_of_the_users", {}))
    assert circuits.spoken(tool) == "a_tool_of_the_users"


def test_a_breaker_that_opens_is_an_event() -> None:
    events: list[Event] = []

    class Reader:
        buffer: Any = None

        def take(self, event: Event) -> None:
            events.append(event)

    telemetry = Telemetry()
    telemetry.attach(Reader())
    telemetry.opened("lib.bad", 30)
    assert events[0].name == "python.error.occurred" and events[0].measurements == {"count": 1}
    assert events[0].metadata["error_type"] == "CircuitOpen" and "lib.bad" in events[0].metadata["error_message"]


def test_only_an_executor_that_is_ending_hands_its_calls_on() -> None:
    def refused(**details: Any) -> LaneError:
        return LaneError({"category": "unavailable", "message": "", "details": {"outcome": "not_started", **details}})

    assert went_away(refused(state="draining")) and went_away(refused(state="stopped"))
    assert not went_away(refused()) and not went_away(refused(state="running"))
    assert not went_away(LaneError({"category": "unavailable", "message": ""}))
