"""What a run that goes on finds in the capsule of the one before: its last checkpoint, its outcome if it had one, and what is inherited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import manifest
from .checkpoints import Checkpoints
from .errors import CapsuleError, CheckpointRefused, RecordInvalid
from .opening import spec_digest as digest_of
from .sampling import Sampling

CARD = "run_card.json"
SPEC = "spec.json"
# Of the manifest, what a run has from the one that it goes on with.
INHERITED = (
    "certified",
    "solver",
    "solver_reason",
    "lens_name",
    "frame_type",
    "sparsity_tau",
    "alpha",
    "beta",
    "gates",
    "budgets",
    "seeds",
    "residual",
    "transforms",
    "invariants",
    "unit_normalization_table",
    "effective_weights",
    "certificates",
    "warnings",
    "source",
    "extra",
)


def card(path: Path) -> dict[str, Any] | None:
    """The outcome as a run that was killed on its last steps has written it; None where it has not. Raises CapsuleError where the file is
    damaged."""
    try:
        told = json.loads((path / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CapsuleError(f"{path / CARD} cannot be read: {error}. Restore it from a copy, or remove it") from error
    if not isinstance(told, dict) or "run_id" not in told:
        raise CapsuleError(f"{path / CARD} is no run card, it has no run_id. Restore it from a copy, or remove it")
    return {name: value for name, value in told.items() if name != "run_id"}


def sampling(path: Path, fields: Mapping[str, Any]) -> Sampling:
    """That of a run, by its manifest. Raises CapsuleError where it is damaged."""
    try:
        return Sampling(**fields["sampling"])
    except (KeyError, TypeError, RecordInvalid) as error:
        told = f"its sampling is {fields.get('sampling')!r:.80}; it must have first, every and cap, whole numbers"
        raise CapsuleError(f"{path / manifest.FILE} is damaged: {told}. Restore it from a copy") from error


def kept_spec(path: Path, digest: str | None) -> dict[str, Any]:
    """The plain spec of a run. digest: that of the manifest. Raises CapsuleError where the file is damaged or says something else."""
    try:
        told: dict[str, Any] = json.loads((path / SPEC).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CapsuleError(f"{path / SPEC} cannot be read: {error}. Restore it from a copy") from error
    if digest_of(told) != digest:
        raise CapsuleError(f"{path / SPEC} is not the spec that the run had, its digest is not {digest}: restore it from a copy")
    return told


def resume_state(run_dir: str | Path, *, spec_digest: str | None = None, green: bool = False) -> dict[str, Any]:
    """What a run goes on from: {"state", "tuner_state", "phase", "iter", "rng_key", "record", "checkpoint"}.

    The manifest's schema version and dtype are checked first. record: everything that was saved. spec_digest: of the spec that will run.
    green: from the last GREEN checkpoint rather than the last one. Raises CapsuleError, CheckpointRefused.
    """
    fields = manifest.load_run_manifest(run_dir)
    if fields["redact_artifacts"]:
        raise CheckpointRefused(f"{run_dir} is redacted and keeps no checkpoints, for a state is data. Start the run anew")
    folder = Checkpoints(Path(run_dir) / "checkpoints")
    found = folder.load_latest(dtype=fields["dtype"], spec_digest=spec_digest or fields["spec_digest"], green=green)
    record = found.record
    return {
        "state": record.get("state"),
        "tuner_state": record.get("tuner_state"),
        "phase": found.header["phase"],
        "iter": found.iteration,
        "rng_key": record.get("rng_key"),
        "record": record,
        "checkpoint": found,
    }
