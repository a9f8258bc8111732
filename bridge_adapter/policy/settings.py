"""The file that `--policy` names, and the words that may stand in its place: `default`, `open`, `listed`. Every problem is
reported at once.

Tables: `[policy]` (what may be called), `[access]` (roles), `[audit]` and `[redaction]`; docs/permissions.md describes them.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_adapter.config import ConfigError
from bridge_adapter.policy.access import PERMISSIONS, ROLES, Access, Principal
from bridge_adapter.policy.audit import AuditSettings
from bridge_adapter.policy.rules import Rule, problem

BASES = ("default", "open", "listed")
_TABLES = ("environment", "policy", "access", "audit", "redaction")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """All that is said about callers. `access` and `audit` are None where they are off."""

    base: str = "default"
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    helper_directories: tuple[str, ...] | None = None
    access: Access | None = None
    audit: AuditSettings | None = None
    secret_names: tuple[str, ...] = ()
    secret_patterns: tuple[str, ...] = ()

    @property
    def refuses_nothing(self) -> bool:
        """Everything may be named."""
        return self.base == "open" and not self.deny


def load(named: str = "", allow: Iterable[str] = (), deny: Iterable[str] = ()) -> PolicySettings:
    """The settings of a word or a file, with the entries of a command line. Raises ConfigError with one line per problem."""
    reader = _Reader(named if named not in BASES else "")
    table: Mapping[str, Any] = {} if named in BASES or not named else _read(named)
    reader.unknown(table, _TABLES, "")
    policy = reader.table(table, "policy", ("base", "allow", "deny", "helper_directories"))
    base = named if named in BASES else policy.get("base", "default")
    if base not in BASES:
        reader.wrong("policy.base", f"{base!r} must be one of {', '.join(BASES)}")
    directories = policy.get("helper_directories")
    settings = PolicySettings(
        base,
        (*reader.rules(policy, "allow"), *reader.given(allow, "--allow")),
        (*reader.rules(policy, "deny"), *reader.given(deny, "--deny")),
        None if directories is None and base != "listed" else reader.texts("policy.helper_directories", directories or []),
        _access(reader, table),
        _audit(reader, table),
        *_redaction(reader, table),
    )
    if table.get("environment") == "production" and settings.access is None:
        reader.wrong("environment", "production needs access.rbac_enabled = true and at least one of access.principals")
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return settings


def _read(path: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the policy {path!r} (it is {', '.join(BASES)}, or a TOML file): {error}") from None


class _Reader:
    """Collects what is wrong with a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.problems: list[str] = []

    def wrong(self, where: str, what: str) -> None:
        self.problems.append(f"{self._path}: {where}: {what}" if self._path else f"{where}: {what}")

    def unknown(self, table: Mapping[str, Any], names: Sequence[str], where: str) -> None:
        for name in table:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(names)}"
                self.wrong(f"{where}{name}", f"there is no such setting; {hint}")

    def table(self, tables: Mapping[str, Any], name: str, names: Sequence[str]) -> Mapping[str, Any]:
        table = tables.get(name, {})
        if not isinstance(table, dict):
            self.wrong(name, f"must be a table, not {table!r}")
            return {}
        self.unknown(table, names, f"{name}.")
        return table

    def texts(self, where: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            self.wrong(where, f"must be a list of texts, not {value!r}")
            return ()
        return tuple(value)

    def rules(self, policy: Mapping[str, Any], name: str) -> tuple[Rule, ...]:
        entries = policy.get(name, [])
        if not isinstance(entries, list):
            self.wrong(f"policy.{name}", f"must be a list, not {entries!r}")
            return ()
        return self.checked(
            (text, f"{self._path}: policy.{name}[{place}]", f"policy.{name}[{place}]") for place, text in enumerate(entries)
        )

    def given(self, entries: Iterable[str], flag: str) -> tuple[Rule, ...]:
        return self.checked((text, flag, flag) for text in entries)

    def checked(self, entries: Iterable[tuple[Any, str, str]]) -> tuple[Rule, ...]:
        found = []
        for text, source, where in entries:
            wrong = problem(text)
            if wrong is not None:
                self.wrong(where, wrong)
            else:
                found.append(Rule(text, source))
        return tuple(found)

    def value(self, table: Mapping[str, Any], where: str, kind: type, default: Any, rule: Callable[[Any], bool] = lambda _: True) -> Any:
        value = table.get(where.rpartition(".")[2], default)
        if type(value) is not kind or not rule(value):
            self.wrong(where, f"{value!r} is not a valid {kind.__name__}")
            return default
        return value


def _access(reader: _Reader, tables: Mapping[str, Any]) -> Access | None:
    table = reader.table(tables, "access", ("rbac_enabled", "own", "roles", "principals"))
    if reader.value(table, "access.rbac_enabled", bool, False) is False:
        return None
    roles = dict(ROLES)
    for name, permissions in reader.table(table, "roles", tuple(table.get("roles") or ())).items():
        unknown = sorted(set(reader.texts(f"access.roles.{name}", permissions)) - set(PERMISSIONS))
        if unknown:
            reader.wrong(f"access.roles.{name}", f"no permission {', '.join(unknown)}; the permissions are {', '.join(PERMISSIONS)}")
        roles[name] = frozenset(permissions if isinstance(permissions, list) else ()) & frozenset(PERMISSIONS)
    principals = []
    entries = table.get("principals", [])
    for place, entry in enumerate(entries if isinstance(entries, list) else []):
        principals.append(_principal(reader, entry, f"access.principals[{place}].", roles))
    if not principals:
        reader.wrong("access.principals", "roles are in force, but nobody has one: name at least one principal")
    own = reader.texts("access.own", table.get("own", ["system"]))
    _known_roles(reader, "access.own", own, {*roles, "system"})
    return Access(tuple(principal for principal in principals if principal is not None), roles, own)


def _principal(reader: _Reader, entry: Any, where: str, roles: Mapping[str, Any]) -> Principal | None:
    if not isinstance(entry, dict):
        reader.wrong(where.rstrip("."), f"must be a table, not {entry!r}")
        return None
    reader.unknown(entry, ("name", "roles", "token_sha256", "subject", "tenant"), where)
    texts = {name: reader.value(entry, f"{where}{name}", str, "") for name in ("name", "token_sha256", "subject", "tenant")}
    if not texts["name"]:
        reader.wrong(f"{where}name", "every principal needs a name")
    if not texts["token_sha256"] and not texts["subject"]:
        reader.wrong(where.rstrip("."), "needs token_sha256 (of a token) or subject (of a certificate)")
    if texts["token_sha256"] and not _DIGEST.fullmatch(texts["token_sha256"]):
        reader.wrong(f"{where}token_sha256", "must be the SHA-256 of the token in 64 hexadecimal digits, never the token itself")
    given = reader.texts(f"{where}roles", entry.get("roles", []))
    _known_roles(reader, f"{where}roles", given, roles)
    return Principal(texts["name"], given, texts["token_sha256"], texts["subject"], texts["tenant"])


def _known_roles(reader: _Reader, where: str, given: Sequence[str], roles: Iterable[str]) -> None:
    unknown = sorted(set(given) - set(roles))
    if unknown:
        reader.wrong(where, f"no role {', '.join(unknown)}; the roles are {', '.join(sorted(roles))}")


def _audit(reader: _Reader, tables: Mapping[str, Any]) -> AuditSettings | None:
    names = ("path", "rotate_bytes", "rotate_daily", "fsync", "on_failure", "allowed")
    table = reader.table(tables, "audit", names)
    if "audit" not in tables:
        return None
    on_failure = table.get("on_failure", "refuse")
    if on_failure not in ("refuse", "warn"):
        reader.wrong("audit.on_failure", f"{on_failure!r} must be refuse or warn")
    return AuditSettings(
        path=str(Path(reader.value(table, "audit.path", str, "", bool)).absolute()),
        rotate_bytes=reader.value(table, "audit.rotate_bytes", int, 64 << 20, lambda size: size >= 4096),
        rotate_daily=reader.value(table, "audit.rotate_daily", bool, True),
        fsync=reader.value(table, "audit.fsync", bool, False),
        on_failure="warn" if on_failure == "warn" else "refuse",
        allowed=reader.value(table, "audit.allowed", bool, True),
    )


def _redaction(reader: _Reader, tables: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    table = reader.table(tables, "redaction", ("names", "patterns"))
    found = []
    for name in ("names", "patterns"):
        texts = reader.texts(f"redaction.{name}", table.get(name, []))
        for text in texts:
            try:
                re.compile(text)
            except re.error as error:
                reader.wrong(f"redaction.{name}", f"{text!r} is no regular expression: {error}")
        found.append(texts)
    return found[0], found[1]
