"""What a new capsule begins with: a folder of its own, and the manifest of a run of which only the spec is known."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import columns, manifest
from .redaction import Redactor
from .sampling import Sampling


def fresh_folder(base: Path, name: str) -> Path:
    """A folder that nobody had before: runs started in the same instant differ in their random part."""
    base.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:40] or "flow"
    while True:
        path = base / f"{stem}_{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def spec_digest(spec: Mapping[str, Any]) -> str:
    """The digest of a plain spec; the same as `FlowSpec.digest`."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def first_fields(
    run_id: str, spec: Mapping[str, Any], *, sampling: Sampling, redactor: Redactor | None, parent: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The manifest before anything has happened. parent: the run that this one goes on with."""
    slots: Mapping[str, Any] = spec.get("slots", {})
    digest = spec_digest(spec)
    return {
        "schema_version": columns.SCHEMA_VERSION,
        "run_id": run_id,
        "flow_name": str(spec["name"]),
        "dtype": spec["dtype"],
        "status": manifest.RUNNING,
        "phase": "RED",
        "started_at": manifest.now(),
        "spec_version": spec.get("spec_version"),
        "spec_digest": redactor.digest(digest.encode()) if redactor else digest,
        "redact_artifacts": redactor is not None,
        "invariants_present": bool(spec.get("invariants")),
        "shapes": {slot: described["shape"] for slot, described in slots.items()},
        "units": {slot: described["units"] for slot, described in slots.items() if described.get("units")},
        "sampling": sampling.plain(),
        "versions": manifest.versions(),
        "environment": manifest.environment(),
        "parent": dict(parent) if parent else None,
    }
