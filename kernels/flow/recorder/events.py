"""The one registry of event kinds, each with the schema of its payload. Events are checked against it when they are written.

A payload schema maps keys to types; "?" marks a key that may be left out or null. Every kind also takes `details`, a table of whatever
else is worth keeping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from .columns import CERT_KINDS, PHASES, SCHEMA_VERSION
from .errors import RecordInvalid

# How a run can end; the "status" of RUN_FINISHED and of the manifest.
STATUSES = (
    "converged",
    "stagnated",
    "budget",
    "completed",
    "diverged",
    "timeout",
    "cancelled",
    "cert_fail",
    "lint_fail",
    "failed",
)
PAYLOAD_LIMIT = 64 * 1024

_CERTIFICATE = {
    "eta_dd": "number?",
    "gamma": "number?",
    "eta_kind": "kind?",
    "gamma_kind": "kind?",
    "eta_max": "number?",
    "gamma_min": "number?",
    "profile": "text?",
    "reason": "text?",
}

EVENTS: dict[str, dict[str, str]] = {
    "RUN_STARTED": {"flow_name": "text", "dtype": "text", "spec_digest": "text?", "solver": "text?", "parent": "text?"},
    "SPEC_LINT_FAIL": {"problems": "list"},
    "PHASE_TRANSITION": {"from": "phase", "to": "phase", "stage": "whole?", "eta": "number?", "gamma": "number?", "reason": "text?"},
    "LENS_SELECTED": {"lens": "text", "role": "text?", "rule": "text?", "candidates": "table?"},
    "FLOW_POLICY_APPLIED": {"family": "text", "discretization": "text", "preconditioner": "text?"},
    "MULTISCALE_SCHEDULE_INIT": {"mode": "text", "levels": "whole", "activate_rule": "text"},
    "SCALE_ACTIVATED": {"level": "whole", "previous_level": "whole?", "iter": "whole", "rule": "text", "value": "number?"},
    "CERT_CHECK": {**_CERTIFICATE, "feasible": "flag"},
    "CERT_PASS": {**_CERTIFICATE},
    "CERT_FAIL": {**_CERTIFICATE, "reason": "text"},
    "CERT_REMEDIATION": {
        "attempt": "whole",
        "feasible": "flag",
        "action": "text?",
        "alpha": "number?",
        "eta": "number?",
        "gamma": "number?",
    },
    "TUNER_MOVE_TRY": {"move": "table", "trial_id": "text?"},
    "TUNER_MOVE_ACCEPTED": {"move": "table", "trial_id": "text?", "objective": "number?"},
    "TUNER_MOVE_REJECTED": {"reason": "text", "move": "table?", "trial_id": "text?"},
    "TUNING_FAILED": {"reason": "text"},
    "GAP_DIAL_ADAPTATION": {
        "iteration": "whole",
        "gap": "number?",
        "lambda": "number",
        "eta_after": "number?",
        "gamma_after": "number?",
    },
    "STEP_REMEDIATION": {"iter": "whole", "attempt": "whole", "E_prev": "number", "E_new": "number", "alpha": "number"},
    "STEP_FAIL": {"iter": "whole", "attempts": "whole", "E_prev": "number"},
    "STEP_NOT_FINITE": {"iter": "whole", "slot": "text?", "alpha": "number", "artifact": "text?"},
    "INVARIANT_VALIDATION_ERROR": {"name": "text", "reason": "text"},
    "ROLLBACK": {"rollback_count": "whole", "target_iteration": "whole", "reason": "text"},
    "CHECKPOINT_CREATED": {"checkpoint_id": "text", "iteration": "whole"},
    "CHECKPOINT_DAMAGED": {"file": "text", "reason": "text"},
    "FLOW_RESUMED": {"checkpoint_id": "text", "start_iteration": "whole", "remaining_iters": "whole?"},
    "BUDGET_EXCEEDED": {"iteration": "whole", "status": "text"},
    "TIMEOUT": {"iteration": "whole", "limit": "text", "value": "number?"},
    "CANCELLED": {"iteration": "whole", "reason": "text?"},
    "RUN_FAILED": {"error": "text", "message": "text"},
    "RUN_FINISHED": {
        "status": "status",
        "final_phase": "phase",
        "total_iterations": "whole",
        "final_energy": "number?",
        "rollbacks": "whole",
        "tuner_moves": "whole",
    },
}

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("t_wall_ms", pa.float64(), nullable=False),
        pa.field("iter", pa.int64()),
        pa.field("event", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
    ],
    {"schema_version": SCHEMA_VERSION},
)

_CHOICES = {"phase": PHASES, "status": STATUSES, "kind": CERT_KINDS}
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def payload_text(event: str, payload: Mapping[str, Any]) -> str:
    """The payload as JSON, once it fits the kind. Raises RecordInvalid, which names the event, the key and the rule."""
    expected = EVENTS.get(event)
    if expected is None:
        raise RecordInvalid(f"there is no event {event!r}; there are {', '.join(EVENTS)}")
    found = {key: plain(value, f"{event}.{key}") for key, value in payload.items()}
    for key, value in found.items():
        kind = expected.get(key, "table?" if key == "details" else None)
        if kind is None:
            raise RecordInvalid(f"{event} has no payload key {key!r}; it has {', '.join([*expected, 'details'])}")
        if not _fits(value, kind):
            raise RecordInvalid(f"{event}.{key} is {value!r:.80}; it must be {_told(kind)}")
    for key, kind in expected.items():
        if key not in found and not kind.endswith("?"):
            raise RecordInvalid(f"{event} needs the payload key {key!r} ({_told(kind)})")
    text = json.dumps(found, allow_nan=False, separators=(",", ":"))
    if len(text) > PAYLOAD_LIMIT:
        raise RecordInvalid(f"the payload of {event} has {len(text)} characters; at most {PAYLOAD_LIMIT} fit. Keep arrays as artifacts")
    return text


def plain(value: Any, where: str) -> Any:
    """A value as strict JSON can hold it: numpy and JAX scalars as numbers, small arrays as lists, NaN and infinities as strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE[0 if math.isnan(value) else 1 if value > 0 else 2]
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where) for item in value]
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist(), where)
    raise RecordInvalid(f"{where} is of type {type(value).__name__}; it must be plain data: numbers, text, flags, lists, tables")


def _fits(value: Any, kind: str) -> bool:
    optional, kind = kind.endswith("?"), kind.rstrip("?")
    if value is None:
        return optional
    if kind in _CHOICES:
        return value in _CHOICES[kind]
    match kind:
        case "text":
            return isinstance(value, str) and value != ""
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value in _NOT_FINITE
        case "flag":
            return isinstance(value, bool)
        case "list":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def _told(kind: str) -> str:
    name = kind.rstrip("?")
    return (
        f"one of {', '.join(_CHOICES[name])}"
        if name in _CHOICES
        else {"text": "non-empty text", "flag": "true or false"}.get(name, f"a {name}")
    )
