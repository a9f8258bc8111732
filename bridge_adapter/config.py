"""The worker's settings: defaults < TOML file < environment < arguments. `load` reports every problem at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bridge_adapter.codec import Limits

Size = str
SIZE = re.compile(r"off|0|(?P<part>[1-9]\d?|100)%|(?P<count>[1-9]\d*) ?(?P<unit>[KMGT]i?)?B?", re.ASCII)

_TRUE = ("1", "true", "yes", "y", "on", "t")
_FALSE = ("0", "false", "no", "n", "off", "f", "")

# Environment variable -> setting. The SNAKEBRIDGE_ names are those that SnakeBridge's own adapter reads.
ENVIRONMENT = {
    "SNAKEBRIDGE_REF_MAX": "ref_max",
    "SNAKEBRIDGE_REF_TTL_SECONDS": "ref_ttl_s",
    "SNAKEBRIDGE_ALLOW_LEGACY_PROTOCOL": "allow_legacy_protocol",
    "SNAKEBRIDGE_ATOM_CLASS": "atom_class",
    "BRIDGE_ADAPTER_MAX_DEPTH": "max_depth",
    "BRIDGE_ADAPTER_MAX_ELEMENTS": "max_elements",
    "BRIDGE_ADAPTER_MAX_FRAME": "max_frame",
    "BRIDGE_ADAPTER_MAX_INT_BITS": "max_int_bits",
    "BRIDGE_ADAPTER_MAX_CONNECTIONS": "max_connections",
    "BRIDGE_ADAPTER_MAX_WAITING": "max_waiting",
    "BRIDGE_ADAPTER_SESSION_QUEUE": "session_queue",
    "BRIDGE_ADAPTER_DRAIN_MS": "drain_ms",
    "BRIDGE_ADAPTER_MEMORY_LIMIT": "memory_limit",
    "BRIDGE_ADAPTER_MEMORY_HARD_LIMIT": "memory_hard_limit",
}


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one executor. Sizes in bytes, times in seconds; a ref_ttl_s of 0 means that refs live as long as their session.

    A Size is "off", a number of bytes like "2000000000" or "2GB", or a part like "75%" of what this process may use.
    """

    max_depth: int = Limits().depth
    max_elements: int = Limits().elements
    max_frame: int = Limits().frame
    max_int_bits: int = Limits().int_bits
    max_connections: int = 512
    max_waiting: int = 10_000
    session_queue: int = 1000
    drain_ms: int = 2000
    memory_limit: Size = "90%"
    memory_hard_limit: Size = "off"
    ref_max: int = 10_000
    ref_ttl_s: float = 0.0
    allow_legacy_protocol: bool = False
    atom_class: bool = False
    limits: Limits = field(init=False, default=Limits())

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", Limits(self.max_depth, self.max_elements, self.max_frame, self.max_int_bits))

    def validate(self) -> list[str]:
        """Every unusable setting, as sentences."""
        problems = self.limits.problems()
        if self.ref_max < 1:
            problems.append(f"ref_max is {self.ref_max}; a session must be able to hold at least 1 ref")
        if self.ref_ttl_s < 0:
            problems.append(f"ref_ttl_s is {self.ref_ttl_s}; it must be 0 (never) or a number of seconds")
        if self.max_connections < 2:
            problems.append(f"max_connections is {self.max_connections}; a client needs at least 2")
        for name, least in (("max_waiting", 1), ("session_queue", 1), ("drain_ms", 0)):
            if getattr(self, name) < least:
                problems.append(f"{name} is {getattr(self, name)}; it must be an integer of at least {least}")
        for name in ("memory_limit", "memory_hard_limit"):
            if not SIZE.fullmatch(str(getattr(self, name))):
                problems.append(
                    f'{name} is {getattr(self, name)!r}; it must be "off", bytes like "2GB" or 2000000000, or a part like "75%"'
                )
        return problems


class ConfigError(ValueError):
    """The settings cannot be used; the message lists every problem."""


def load(path: str | None = None, environment: Mapping[str, str] | None = None, arguments: Mapping[str, Any] | None = None) -> Config:
    """The settings from all sources. Raises ConfigError with one line per problem."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the settings file {path}: {error}") from None
        for name, value in table.items():
            _take(values, problems, name, value, f"{path}: {name}")
    for variable, name in ENVIRONMENT.items():
        text = (environment if environment is not None else os.environ).get(variable)
        if text is not None:
            _take(values, problems, name, text, variable)
    for name, value in (arguments or {}).items():
        _take(values, problems, name, value, name)
    config = replace(Config(), **values)
    problems += config.validate()
    if problems:
        raise ConfigError("\n".join(problems))
    return config


_KINDS = {setting.name: str(setting.type) for setting in fields(Config) if setting.init}


def _take(values: dict[str, Any], problems: list[str], name: str, value: Any, source: str) -> None:
    kind = _KINDS.get(name)
    if kind is None:
        problems.append(f"{source}: there is no such setting; the settings are {', '.join(_KINDS)}")
        return
    try:
        values[name] = _convert(kind, value)
    except ValueError:
        problems.append(f"{source}: {value!r} is not a valid {kind}")


def _convert(kind: str, value: Any) -> Any:
    if kind == "bool":
        text = str(value).strip().lower()
        if text not in _TRUE + _FALSE:
            raise ValueError(text)
        return text in _TRUE
    if kind == "Size":
        return str(value).strip()
    return int(value) if kind == "int" else float(value)
