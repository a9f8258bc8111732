"""manifest.toml: who, what, with which versions and limits, how it ended, and where the latest good checkpoint is.

Written at the start of a run, at every checkpoint and at its end, each time as a whole (`files.atomic`) and after what it tells of. TOML
has no null: what is unknown is absent.
"""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from .columns import PHASES, SCHEMA_VERSION
from .errors import CapsuleError, RecordInvalid
from .events import STATUSES, plain
from .files import replace_bytes, writer_alive

FILE = "manifest.toml"
RUNNING = "running"
# What that means when nobody holds the lock: the process was killed.
INTERRUPTED = "interrupted"
_TOLD_VERSIONS = ("bridge-adapter", "jax", "jaxlib", "numpy", "optax", "pyarrow", "duckdb")

# Every key of the manifest with the type it has; what else a caller gives is kept under [extra].
KEYS: dict[str, type | tuple[type, ...]] = {
    "schema_version": str,
    "run_id": str,
    "flow_name": str,
    "dtype": str,
    "status": str,
    "phase": str,
    "started_at": str,
    "ended_at": str,
    "spec_version": str,
    "spec_digest": str,
    "solver": str,
    "solver_reason": str,
    "redact_artifacts": bool,
    "invariants_present": bool,
    "certified": bool,
    "lens_name": str,
    "frame_type": str,
    "alpha": (float, int),
    "sparsity_tau": (float, int),
    "beta": dict,
    "sampling": dict,
    "shapes": dict,
    "units": dict,
    "gates": dict,
    "budgets": dict,
    "seeds": dict,
    "determinism": dict,
    "versions": dict,
    "environment": dict,
    "source": dict,
    "parent": dict,
    "residual": dict,
    "transforms": dict,
    "invariants": dict,
    "unit_normalization_table": dict,
    "effective_weights": dict,
    "certificates": list,
    "warnings": list,
    "latest_checkpoint": dict,
    "outcome": dict,
    "extra": dict,
}
REQUIRED = ("schema_version", "run_id", "flow_name", "dtype", "status", "phase", "started_at", "redact_artifacts", "invariants_present")
_FRAMES = ("unitary", "tight", "general")
_DTYPES = ("float32", "float64")


def merged(present: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with further fields; unknown ones go under [extra]. Raises RecordInvalid for one that breaks its rule."""
    made = dict(present)
    for name, value in fields.items():
        told = plain(value, f"manifest.{name}")
        if name in KEYS:
            made[name] = told
        else:
            made["extra"] = {**made.get("extra", {}), name: told}
    made = {name: value for name, value in made.items() if value is not None}
    _check(made)
    return made


def _check(made: Mapping[str, Any]) -> None:
    for name in REQUIRED:
        if name not in made:
            raise RecordInvalid(f"the manifest needs {name}")
    for name, value in made.items():
        if not isinstance(value, KEYS.get(name, object)):
            raise RecordInvalid(f"{name} of the manifest is {value!r:.80}; it must be of type {KEYS[name]}")
    rules = {"status": (RUNNING, *STATUSES), "phase": PHASES, "frame_type": _FRAMES, "dtype": _DTYPES, "schema_version": (SCHEMA_VERSION,)}
    for name, choices in rules.items():
        if name in made and made[name] not in choices:
            raise RecordInvalid(f"{name} of the manifest is {made[name]!r}; it must be one of {', '.join(choices)}")


def save(capsule: Path, made: Mapping[str, Any]) -> None:
    """Writes the manifest, all or nothing."""
    replace_bytes(capsule / FILE, tomli_w.dumps(_without_null(made)).encode())


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value if item is not None]
    return value


def load_run_manifest(run_dir: str | Path) -> dict[str, Any]:
    """The manifest of a capsule. Raises CapsuleError where there is none, a damaged one, or one of a schema version that this software does
    not read."""
    path = Path(run_dir) / FILE
    try:
        made = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CapsuleError(f"{run_dir} is no capsule: it has no {FILE}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CapsuleError(f"{path} cannot be read: {error}") from error
    if made.get("schema_version") != SCHEMA_VERSION:
        raise CapsuleError(
            f"{run_dir} has schema version {made.get('schema_version')!r}; this software reads version {SCHEMA_VERSION!r}. "
            "Read it with the version of bridge-adapter that wrote it"
        )
    try:
        _check(made)
    except RecordInvalid as error:
        raise CapsuleError(f"{path} is damaged: {error}. Restore it from a copy") from error
    return made


def status_of(run_dir: str | Path, made: Mapping[str, Any]) -> str:
    """The status of a run by its manifest, but "interrupted" where it says "running" and no process writes the capsule."""
    killed = made["status"] == RUNNING and not writer_alive(Path(run_dir))
    return INTERRUPTED if killed else str(made["status"])


def now() -> str:
    """This instant, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def versions() -> dict[str, str]:
    """Of the packages that a result depends on."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _TOLD_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _installed() -> list[str]:
    """Every package that can be imported here, as name==version. By the names of their folders: to read what is in them takes long."""
    found = {folder.stem.rpartition("-")[::2] for place in sys.path for folder in Path(place or ".").glob("*.dist-info")}
    return sorted(f"{name}=={version}" for name, version in found)


def environment() -> dict[str, Any]:
    """Where the run computes: platform, processors, what JAX sees if it is loaded, and as `lock` all packages that are installed. No names
    of machines or users."""
    told: dict[str, Any] = {"platform": platform.platform(terse=True), "machine": platform.machine(), "cpus": len(os.sched_getaffinity(0))}
    told["lock"] = list(_installed())
    if flags := os.environ.get("XLA_FLAGS"):
        told["xla_flags"] = flags
    jax = sys.modules.get("jax")
    if jax is not None:
        first = jax.devices()[0]
        told |= {"backend": str(first.platform), "device": str(first.device_kind), "x64": bool(jax.config.jax_enable_x64)}
    return told
