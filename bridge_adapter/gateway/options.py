"""The gateway's settings: what Snakepit passes as flags and in the environment. Unknown flags are tolerated, with a word on stderr."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bridge_adapter.config import ConfigError
from bridge_adapter.gateway import care, security
from bridge_adapter.gateway.care import Care
from bridge_adapter.gateway.security import Security
from bridge_adapter.policy import settings as policies
from bridge_adapter.policy.settings import PolicySettings

MAX_MESSAGE = 256 << 20
MAX_CONNECTIONS = 64
ELIXIR_TRIES = 60
CALLBACK_TIMEOUT_MS = 300_000.0
_LARGEST = 2**31 - 1  # what gRPC can count
TELEMETRY_INTERVAL_MS = 2_000.0  # real Snakepit listens for 5 s
DEFAULT_SECURITY = Security()
DEFAULT_CARE = Care()
OPEN = PolicySettings(base="open")  # what Snakepit's workers have always done
_OUR_CLASS = "SnakeBridgeAdapter"  # of whatever module: SnakeBridge's, ours
_OUR_OLD_NAME = "snakepit_bridge.adapters.default.DefaultAdapter"
_TRUE = ("1", "true", "yes", "y", "on", "t")
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "none": 100}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The heartbeat from this worker to Elixir. Times in milliseconds."""

    enabled: bool = False
    interval_ms: float = 2000
    timeout_ms: float = 10_000
    max_missed: int = 3
    initial_delay_ms: float = 0
    dependent: bool = True


DURABILITIES = ("process", "power")


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one gateway."""

    elixir_address: str
    adapter: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    health_check: bool = False
    ready_file: str = ""
    own_group: bool = False
    heartbeat: Heartbeat = Heartbeat()
    max_message: int = MAX_MESSAGE
    max_connections: int = MAX_CONNECTIONS
    elixir_tries: int = ELIXIR_TRIES
    log_level: int = LOG_LEVELS["error"]
    care: Care = DEFAULT_CARE
    callback_timeout_ms: float = CALLBACK_TIMEOUT_MS
    telemetry_interval_ms: float = TELEMETRY_INTERVAL_MS
    worker_id: str = ""
    thread_sensitive: frozenset[str] = frozenset()
    journal: str = ""
    journal_durability: str = "process"
    security: Security = DEFAULT_SECURITY
    policy: PolicySettings = OPEN
    policy_arguments: tuple[str, ...] = ("--policy", "open")

    @property
    def executor_arguments(self) -> list[str]:
        """What an executor is told of these settings."""
        arguments = ["--adapter", self.user_adapter, "--elixir-address", self.elixir_address] if self.user_adapter else []
        if self.journal:
            arguments += ["--journal", os.path.abspath(self.journal), "--journal-durability", self.journal_durability]
        # The gateway is the door: roles and audit are here, the rules of what may be named are there.
        return [*arguments, *self.policy_arguments, "--checked"]

    @property
    def user_adapter(self) -> str:
        """The adapter, when it is one of the user's own; else nothing: SnakeBridge's tools are served in any case."""
        ours = self.adapter.rpartition(".")[2] == _OUR_CLASS or self.adapter == _OUR_OLD_NAME
        return "" if ours else self.adapter


def parse(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The settings of a command line. Exits with status 2 and the usage when they cannot be used."""
    parser = _parser(environment)
    parser.given = argv
    flags, unknown = parser.parse_known_args(list(argv))
    if unknown:
        print(f"bridge_adapter.gateway: ignoring flags that this version does not know: {' '.join(unknown)}", file=sys.stderr)
    if not flags.health_check:
        if not flags.adapter:
            parser.error("--adapter is required, for example --adapter bridge_adapter.SnakeBridgeAdapter")
        if not flags.elixir_address:
            parser.error("--elixir-address is required (or SNAKEPIT_GRPC_ADDRESS), for example --elixir-address 127.0.0.1:50051")
    if not 0 <= flags.port <= 65535:
        parser.error(f"--port {flags.port}: a port is a number from 0 (any free one) to 65535")
    for name in ("max_message", "max_connections", "elixir_tries"):
        if not 1 <= getattr(flags, name) <= _LARGEST:
            parser.error(f"--{name.replace('_', '-')} {getattr(flags, name)}: it must be an integer from 1 to {_LARGEST}")
    try:
        heartbeat = _heartbeat(flags, environment)
    except ValueError as error:
        parser.error(f"--heartbeat flags: {error}")
    if flags.journal_durability not in DURABILITIES:  # argparse does not look at defaults
        parser.error(f"BRIDGE_ADAPTER_JOURNAL_DURABILITY is {flags.journal_durability!r}; it must be one of {', '.join(DURABILITIES)}")
    for name in ("callback_timeout_ms", "telemetry_interval_ms"):
        if not 0 <= getattr(flags, name) <= care.LONGEST_MS:
            parser.error(f"--{name.replace('_', '-')} {getattr(flags, name):g}: it must be a number of milliseconds, 0 or more")
    try:
        secured = Security.of(flags)
        secured.check(flags.host, flags.port)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--host {flags.host}: {error}")
    named = [*(("--policy", flags.policy) if flags.policy else ())]
    named += [argument for flag in ("allow", "deny") for rule in getattr(flags, flag) for argument in (f"--{flag}", rule)]
    try:
        policy = policies.load(flags.policy or "open", flags.allow, flags.deny) if named else OPEN
    except ConfigError as error:
        parser.error(str(error))
    ready_file = environment.get("SNAKEPIT_READY_FILE", "")
    return Options(
        elixir_address=flags.elixir_address,
        adapter=flags.adapter,
        host=flags.host,
        port=flags.port,
        health_check=flags.health_check,
        ready_file=ready_file,
        own_group=_truthy(environment.get("SNAKEPIT_PROCESS_GROUP", "")),
        heartbeat=heartbeat,
        max_message=flags.max_message,
        max_connections=flags.max_connections,
        elixir_tries=flags.elixir_tries,
        log_level=LOG_LEVELS.get(environment.get("SNAKEPIT_LOG_LEVEL", "").strip().lower(), LOG_LEVELS["error"]),
        care=care.read(flags, parser.error),
        callback_timeout_ms=flags.callback_timeout_ms or CALLBACK_TIMEOUT_MS,
        telemetry_interval_ms=flags.telemetry_interval_ms,
        worker_id=_worker_id(ready_file),
        policy=policy,
        policy_arguments=tuple(named) if flags.policy else ("--policy", "open", *named),
        journal=flags.journal,
        journal_durability=flags.journal_durability,
        security=secured,
        thread_sensitive=frozenset(name.strip() for name in environment.get("SNAKEPIT_THREAD_SENSITIVE", "").split(",") if name.strip()),
    )


def _worker_id(ready_file: str) -> str:
    """What Snakepit calls this worker, as far as the name of its ready file shows: `snakepit_ready_<worker id>_<n>`."""
    name = ready_file.rpartition("/")[2].removeprefix("snakepit_ready_")
    return name.rpartition("_")[0]


class _Parser(argparse.ArgumentParser):
    """Says of a value that cannot be used where it comes from, when that is the environment."""

    environment: Mapping[str, str]
    given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        name = re.search(r"(?:--)?([a-z]+(?:[-_][a-z]+)*)", message.removeprefix("argument "))
        flag = name[1].replace("_", "-") if name else ""
        variable = f"BRIDGE_ADAPTER_{flag.replace('-', '_').upper()}"
        if self.environment.get(variable) and not any(argument.split("=")[0] == f"--{flag}" for argument in self.given):
            message += f" (it comes from {variable} in the environment)"
        super().error(message)


def _parser(environment: Mapping[str, str]) -> _Parser:
    # No abbreviations: `--heart` of some later Snakepit must not be taken for a flag of ours.
    parser = _Parser(prog="grpc_server.py", description="The gRPC worker that Snakepit starts.", allow_abbrev=False)
    parser.environment = environment
    address = environment.get("SNAKEPIT_GRPC_ADDRESS") or environment.get("SNAKEPIT_ELIXIR_ADDRESS") or ""
    add = parser.add_argument
    add("--adapter", default="", metavar="MODULE.CLASS", help="a SnakeBridgeAdapter, or an adapter of your own")
    add("--elixir-address", default=address, metavar="HOST:PORT", help="where Snakepit's own gRPC server listens")
    add("--port", type=int, default=0, help="port to listen on; 0 = any free port")
    add(
        "--host",
        default=environment.get("BRIDGE_ADAPTER_HOST") or "127.0.0.1",
        help="address to listen on; others than loopback need --tls-cert",
    )
    security.add_flags(add, environment)
    add("--health-check", action="store_true", help="check the installation and exit")
    add("--max-message", type=int, default=environment.get("BRIDGE_ADAPTER_MAX_MESSAGE") or MAX_MESSAGE, metavar="BYTES")
    add("--max-connections", type=int, default=MAX_CONNECTIONS, metavar="N", help="calls that may run at the same time")
    care.add_flags(parser, environment)
    journal = environment.get("BRIDGE_ADAPTER_JOURNAL") or ""
    add(
        "--journal",
        default=journal,
        metavar="FILE",
        help="where calls with an idempotency_key are recorded, for all workers of a pool",
    )
    durability = environment.get("BRIDGE_ADAPTER_JOURNAL_DURABILITY") or DURABILITIES[0]
    add("--journal-durability", choices=DURABILITIES, default=durability, help="survive the end of any process, or also that of power")
    policy = environment.get("BRIDGE_ADAPTER_POLICY") or ""
    add("--policy", default=policy, metavar="FILE", help="what may be called: open (the default here), default, listed, or a TOML file")
    for name in ("allow", "deny"):
        add(f"--{name}", action="append", default=[], metavar="RULE", help="module.name, module.* or re:PATTERN")
    callback = environment.get("BRIDGE_ADAPTER_CALLBACK_TIMEOUT_MS") or CALLBACK_TIMEOUT_MS
    add("--callback-timeout-ms", type=float, default=callback, metavar="MS", help="how long an Elixir function may take")
    samples = environment.get("BRIDGE_ADAPTER_TELEMETRY_INTERVAL_MS") or TELEMETRY_INTERVAL_MS
    add("--telemetry-interval-ms", type=float, default=samples, metavar="MS", help="between samples of memory, CPU and GC; 0 = none")
    add("--elixir-tries", type=int, default=ELIXIR_TRIES, metavar="N", help="pings that Elixir may leave unanswered at the start")
    add("--max-workers", metavar="N", help="of Snakepit's threaded server; not used: calls run side by side in any case")
    add("--thread-safety-check", action="store_true", help="of Snakepit's threaded server; not used")
    for name in ("run-id", "instance-name", "instance-token"):
        add(f"--snakepit-{name}", metavar="TEXT", help="marks the process; not used otherwise")
    add("--heartbeat-enabled", nargs="?", const="true", metavar="BOOL")
    for name in ("interval-ms", "timeout-ms", "initial-delay-ms"):
        add(f"--heartbeat-{name}", type=float, metavar="MS")
    add("--heartbeat-max-missed", type=int, metavar="N")
    add("--heartbeat-dependent", dest="heartbeat_dependent", action="store_true", default=None, help="end when Elixir does not answer")
    add("--heartbeat-independent", dest="heartbeat_dependent", action="store_false", help="only log when Elixir does not answer")
    return parser


_KEYS = {
    "enabled": ("enabled",),
    "interval_ms": ("interval_ms", "intervalMs"),
    "timeout_ms": ("timeout_ms", "timeoutMs"),
    "max_missed": ("max_missed_heartbeats", "maxMissedHeartbeats", "max_missed", "maxMissed"),
    "initial_delay_ms": ("initial_delay_ms", "initialDelayMs"),
    "dependent": ("dependent",),
}


def _heartbeat(flags: argparse.Namespace, environment: Mapping[str, str]) -> Heartbeat:
    """Defaults < SNAKEPIT_HEARTBEAT_CONFIG < flags. What cannot be read is reported, and the default kept."""
    values: dict[str, Any] = {}
    text = environment.get("SNAKEPIT_HEARTBEAT_CONFIG", "")
    try:
        table = json.loads(text) if text else {}
        for name, keys in _KEYS.items():
            given = next((table[key] for key in keys if table.get(key) is not None), None)
            if given is not None:
                values[name] = _as(name, given)
    except (ValueError, TypeError, AttributeError) as error:
        print(f"bridge_adapter.gateway: SNAKEPIT_HEARTBEAT_CONFIG={text[:200]} is not usable: {error}; using defaults", file=sys.stderr)
        values = {}
    for name in _KEYS:
        given = getattr(flags, f"heartbeat_{name}")
        if given is not None:
            values[name] = _as(name, given)
    return Heartbeat(**values)


def _as(name: str, value: Any) -> Any:
    if name in ("enabled", "dependent"):
        return value if isinstance(value, bool) else _truthy(str(value))
    number = float(value)
    if not 0 <= number <= care.LONGEST_MS or (number == 0 and name != "initial_delay_ms"):
        raise ValueError(f"{name} is {value}; it must be positive, and at most a year")
    return int(number) if name == "max_missed" else number


def _truthy(text: str) -> bool:
    return text.strip().lower() in _TRUE
