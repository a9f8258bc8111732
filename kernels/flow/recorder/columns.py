"""The one registry of telemetry columns: name, type, unit, rule and meaning of each. Rows are checked against it when they are written.

A block of rows is a mapping from column name to an array, or to a single value for all its rows; checks are vectorised, so a thousand rows
cost well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from . import arrow
from .errors import RecordInvalid

SCHEMA_VERSION = "3"
PHASES = ("RED", "AMBER", "GREEN")
CERT_KINDS = ("exact", "lower_bound", "upper_bound", "estimate")
FLOW_FAMILIES = ("gradient", "preconditioned", "proximal", "hamiltonian_damped", "accelerated", "primal_dual", "splitting", "riemannian")
NOT_FINITE = "not finite"

_ARROW = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64()}


@dataclass(frozen=True)
class Column:
    """One column. low: the least value allowed (`open_low`: and not that value itself). finite: whether NaN and infinities are refused;
    the energy of a step that diverged is recorded as it is, and the row says so in `warnings`."""

    name: str
    kind: Literal["text", "whole", "number"]
    unit: str
    meaning: str
    nullable: bool = True
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    choices: tuple[str, ...] = ()
    finite: bool = True


COLUMNS: tuple[Column, ...] = (
    Column("run_id", "text", "", "the run: the name of its capsule", nullable=False),
    Column("flow_name", "text", "", "name of the spec", nullable=False),
    Column("seq", "whole", "", "number of the row in the run; of two rows for one iteration the later one counts", nullable=False, low=0),
    Column("phase", "text", "", "of the controller", nullable=False, choices=PHASES),
    Column("segment_id", "whole", "", "energies compare only within a segment: it changes with the weights", nullable=False, low=0),
    Column("iter", "whole", "", "steps since the start of the run", nullable=False, low=0),
    Column("trial_id", "text", "", "of the tuner's last accepted move, whose weights this row has"),
    Column("t_wall_ms", "number", "ms", "since the start of the run", nullable=False, low=0),
    Column("step_ms", "number", "ms", "mean time of a step in this row's block", low=0),
    Column("alpha", "number", "1/[L]", "the step that was used", nullable=False, low=0, open_low=True),
    Column("lambda", "number", "energy/[x]", "global sparsity weight", low=0),
    Column("lambda_j", "text", "energy/[x]", "sparsity weights by scale, JSON"),
    Column("E", "number", "energy", "f + g + h at the current point", nullable=False, finite=False),
    Column("E_smooth", "number", "energy", "f", finite=False),
    Column("E_nonsmooth", "number", "energy", "g + h", finite=False),
    Column("grad_norm", "number", "energy/[x]", "||grad f||", nullable=False, low=0, finite=False),
    Column(
        "prox_residual",
        "number",
        "1",
        "||x+ - x|| / (alpha max(1, ||grad f||)), or the solver's own relative residual",
        low=0,
        finite=False,
    ),
    Column("gap", "number", "energy", "duality gap, where the run looks at it", finite=False),
    Column("inner_gap", "number", "energy", "what an inexact prox missed by, at most", low=0, finite=False),
    Column("restarts", "whole", "", "of the momentum, since the run began", low=0),
    Column("eta_dd", "number", "1", "diagonal dominance max_i sum_j |L_ij| / |L_ii|, as last evaluated", low=0),
    Column("gamma", "number", "energy/[x]^2", "smallest eigenvalue of L, or a lower bound of it, as last evaluated"),
    Column("cert_kind", "text", "", "what eta_dd and gamma are; the weaker of the two", choices=CERT_KINDS),
    Column("sparsity_wx", "number", "1", "fraction of coefficients with |u| <= tau; tau is in the manifest", low=0, high=1),
    Column(
        "metric_ber",
        "number",
        "of the task",
        "metric of the task, as the caller defines it: the function that is a dial's criterion",
        finite=False,
    ),
    Column("invariant_drift_max", "number", "declared", "largest drift of an invariant; null where none is declared", low=0, finite=False),
    Column(
        "phi_residual",
        "number",
        "declared",
        "largest relative residual of the physics; null where none is declared",
        low=0,
        finite=False,
    ),
    Column("lens_name", "text", "", "the sparsity lens"),
    Column("level_active_max", "whole", "", "finest active level of a multiscale schedule", low=0),
    Column("sparsity_mode", "text", "", "of the sparsity policy", choices=("l1", "group_l1", "tree")),
    Column("flow_family", "text", "", "what the step is", choices=FLOW_FAMILIES),
    Column("warnings", "text", "", "what a reader of this row should know"),
    Column("notes", "text", "", "free text"),
)
BY_NAME = {column.name: column for column in COLUMNS}
TEXT_LIMIT = 4096


def schema() -> pa.Schema:
    """The Arrow schema of telemetry.parquet; each field carries its unit and meaning."""
    fields = [
        pa.field(column.name, _ARROW[column.kind], column.nullable, {"unit": column.unit, "meaning": column.meaning}) for column in COLUMNS
    ]
    return pa.schema(fields, {"schema_version": SCHEMA_VERSION})


SCHEMA = schema()


def table(given: Mapping[str, Any]) -> pa.Table:
    """A block of rows as a table of the registry's schema. Raises RecordInvalid, which names the column, the rule and the remedy.

    given: a column is an array of n values or one value for all rows; those left out are null, and so is what a masked array masks. The
    length is that of `iter`.
    """
    unknown = [name for name in given if name not in BY_NAME]
    if unknown:
        raise RecordInvalid(f"telemetry has no column {unknown[0]!r}; it has {', '.join(BY_NAME)}")
    count = np.size(given["iter"]) if "iter" in given else 0
    made = {column.name: _column(column, given.get(column.name), count) for column in COLUMNS}
    if given.get("warnings") is None:
        made["warnings"] = _told_of_divergence(made["E"], made["grad_norm"])
    return pa.Table.from_arrays(list(made.values()), schema=SCHEMA)


def _told_of_divergence(energy: pa.Array, grad_norm: pa.Array) -> pa.Array:
    """The warnings of rows that bring none: those whose energy or gradient is not finite say so."""
    lost = ~np.isfinite(arrow.values(energy)) | ~np.isfinite(arrow.values(grad_norm))
    return arrow.texts([NOT_FINITE if row else None for row in lost]) if lost.any() else pa.nulls(len(lost), pa.string())


def _column(column: Column, value: Any, count: int) -> pa.Array:
    if value is None:
        if not column.nullable:
            raise RecordInvalid(f"telemetry column {column.name} is missing: {column.meaning}. Every row needs it")
        return pa.nulls(count, _ARROW[column.kind])
    if column.kind == "text":
        return _texts(column, value, count)
    array = np.asarray(value)
    empty = None
    if isinstance(value, np.ma.MaskedArray):  # known in some rows only, as what is looked at where a block ends
        empty = np.ma.getmaskarray(value)
        array = np.asarray(np.ma.filled(value.astype(float), np.nan))
    elif array.dtype == object:  # None among numbers
        empty = np.array([item is None for item in array.ravel()])
        array = np.array([np.nan if item is None else item for item in array.ravel()], float)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or array.size not in (1, count):
        raise RecordInvalid(
            f"telemetry column {column.name} takes a number or {count} numbers (as many as iter); "
            f"this is an array of shape {array.shape} and type {array.dtype}"
        )
    if array.dtype.kind == "f" and column.finite:
        empty = np.isnan(array)
    _check_numbers(column, array, empty)
    if column.kind == "whole" and array.dtype.kind == "f":
        whole = np.where(np.isnan(array), 0, array)
        if (whole != np.floor(whole)).any():
            raise RecordInvalid(
                f"telemetry column {column.name} holds whole numbers; it was given {array[whole != np.floor(whole)].flat[0]}"
            )
        array = whole.astype(np.int64)
    array = np.broadcast_to(array.reshape(-1), (count,)) if array.size != count else array.reshape(-1)
    mask = np.broadcast_to(empty.reshape(-1), (count,)) if empty is not None and empty.any() else None
    return arrow.numbers(array if column.kind == "whole" else array.astype(np.float64, copy=False), mask)


def _check_numbers(column: Column, array: np.ndarray[Any, Any], empty: np.ndarray[Any, Any] | None) -> None:
    """The rules of a numeric column; an empty place is NaN, which no comparison finds."""
    if empty is not None and not column.nullable and empty.any():
        raise RecordInvalid(f"telemetry column {column.name} must not be empty (NaN or None): {column.meaning}")
    if column.finite and array.dtype.kind == "f" and np.isinf(array).any():
        raise RecordInvalid(f"telemetry column {column.name} must be finite; give None where there is no value")
    wrong = None
    if column.low is not None:
        wrong = array[array <= column.low] if column.open_low else array[array < column.low]
        rule = f"> {column.low:g}" if column.open_low else f">= {column.low:g}"
    if column.high is not None and (wrong is None or not wrong.size):
        wrong, rule = array[array > column.high], f"<= {column.high:g}"
    if wrong is not None and wrong.size:
        raise RecordInvalid(f"telemetry column {column.name} is {wrong.flat[0]!s}; it must be {rule} ({column.meaning})")


def _texts(column: Column, value: Any, count: int) -> pa.Array:
    single = isinstance(value, str)
    items = [value] if single else list(value)
    if not single and len(items) != count:
        raise RecordInvalid(f"telemetry column {column.name} has {len(items)} values for {count} rows")
    for item in set(items):
        if item is None and column.nullable:
            continue
        if not isinstance(item, str) or not 0 < len(item) <= TEXT_LIMIT:
            raise RecordInvalid(f"telemetry column {column.name} takes 1 to {TEXT_LIMIT} characters; it was given {item!r:.80}")
        if column.choices and item not in column.choices:
            raise RecordInvalid(f"telemetry column {column.name} is {item!r}; it must be one of {', '.join(column.choices)}")
    return pa.repeat(arrow.texts(items)[0], count) if single else arrow.texts(items)
