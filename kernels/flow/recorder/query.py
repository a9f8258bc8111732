"""SQL over all capsules of a folder, finished and running alike: DuckDB views that read the Parquet files in place and change nothing.

Views: `telemetry` (one row for each run and iteration: where a run was resumed or rolled back, the later row), `telemetry_all` (every row
that was written), `events`, and `runs` (from the manifests).
"""

from __future__ import annotations

import glob
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from . import columns, events, manifest
from .errors import CapsuleError
from .files import whole_tables

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("flow_name", pa.string()),
        ("status", pa.string()),
        ("phase", pa.string()),
        ("started_at", pa.string()),
        ("ended_at", pa.string()),
        ("dtype", pa.string()),
        ("solver", pa.string()),
        ("spec_digest", pa.string()),
        ("iterations", pa.int64()),
        ("final_energy", pa.float64()),
        ("parent", pa.string()),
        ("path", pa.string()),
        ("manifest", pa.string()),
    ]
)
# Kinds of statements that write no file. DESCRIBE, SUMMARIZE and VALUES are among the first.
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True)
class Answer:
    """The rows of a query, with the names of their columns."""

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def records(self) -> list[dict[str, Any]]:
        """By name. Of columns of one name (of a join, say) the later ones are called as DuckDB does: "seq", "seq_1"."""
        names: list[str] = []
        for name in self.names:
            others = (f"{name}_{count}" for count in itertools.count(1))
            names.append(next(free for free in itertools.chain([name], others) if free not in names))
        return [dict(zip(names, row, strict=True)) for row in self.rows]


class Runs:
    """All capsules under a folder, for queries. Files are found anew by every query, so a running capsule shows its latest rows."""

    def __init__(self, base: str | Path = "runs") -> None:
        self.base = Path(base)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        """Runs one statement that reads; `?` stands for a parameter. Raises duckdb.Error as DuckDB words it, and CapsuleError for a
        statement that would write (COPY, CREATE, ...) or for several."""
        # Parts become one file when a run ends, maybe between finding a part and reading it: then the second look finds the whole file.
        for patience in (0.05, 0.2, None):
            with duckdb.connect(":memory:") as connection:
                found = connection.extract_statements(sql)
                if len(found) != 1 or found[0].type not in READING:
                    told = ", ".join(statement.type.name for statement in found) or "nothing"
                    raise CapsuleError(f"the query is {told}; it must be one SELECT: runs are read here, and nothing is changed")
                try:
                    self._views(connection)
                    done = connection.execute(sql, list(parameters))
                    return Answer(tuple(column[0] for column in done.description or ()), done.fetchall())
                except duckdb.InvalidInputException as error:
                    if "'pytz'" not in str(error):
                        raise
                    raise CapsuleError(
                        "the query answers with times in a zone, for which DuckDB needs the Python package pytz; cast them, as in "
                        "started_at::TIMESTAMP, or install it"
                    ) from error
                except duckdb.IOException:
                    if patience is None:
                        raise
                    time.sleep(patience)
        raise AssertionError("unreachable")

    def _views(self, connection: Any) -> None:
        self._files(connection, "telemetry_all", "telemetry", columns.SCHEMA)
        self._files(connection, "events_all", "events", events.SCHEMA)
        for view, source, key in (("telemetry", "telemetry_all", "iter"), ("events", "events_all", "seq")):
            connection.execute(
                f"CREATE VIEW {view} AS SELECT * FROM {source} QUALIFY row_number() OVER (PARTITION BY run_id, {key} ORDER BY seq DESC) = 1"
            )
        connection.register("runs", pa.Table.from_pylist(runs(self.base), RUNS))

    def _files(self, connection: Any, view: str, name: str, schema: pa.Schema) -> None:
        """A view of one table of all capsules; `union_by_name`, for a later version may have more columns."""
        found = whole_tables([*self.base.glob(f"*/{name}.parquet"), *self.base.glob(f"*/{name}/part-*.parquet")])
        if found:
            listed = ", ".join("'" + glob.escape(str(path)).replace("'", "''") + "'" for path in found)
            connection.execute(f"CREATE VIEW {view} AS SELECT * FROM read_parquet([{listed}], union_by_name = true)")
        else:
            connection.register(view, schema.empty_table())

    # The questions that are asked most; each takes its limits as bound parameters.

    def run_summaries(self, flow_name: str | None = None, limit: int = 100) -> Answer:
        """For each run, newest first: its last energy, iterations, duration, mean gradient norm, share of GREEN rows."""
        return self.query(_RUN_SUMMARIES, [flow_name, flow_name, limit])

    def performance_trends(self, flow_name: str, limit: int = 50) -> Answer:
        """The last runs of a flow in order of time: time for a step, iterations, last energy."""
        return self.query(_PERFORMANCE_TRENDS, [flow_name, limit])

    def parameter_correlations(self, flow_name: str) -> Answer:
        """Across the runs of each spec of a flow: how the mean step and the gap go with where the runs end."""
        return self.query(_PARAMETER_CORRELATIONS, [flow_name])

    def best_parameters(self, flow_name: str | None = None) -> Answer:
        """For each spec the run that ended GREEN with the least energy, and its parameters: those of one run, not averages."""
        return self.query(_BEST_PARAMETERS, [flow_name, flow_name])

    def convergence_patterns(self) -> Answer:
        """For each flow, how many rows were in each phase."""
        return self.query(_CONVERGENCE_PATTERNS)


def runs(base: str | Path) -> list[dict[str, Any]]:
    """The capsules of a folder, newest first. A folder without a readable manifest is none. "status" of a killed one: "interrupted"."""
    found = []
    for path in Path(base).glob(f"*/{manifest.FILE}"):
        try:
            told = manifest.load_run_manifest(path.parent)
        except CapsuleError:
            continue
        outcome = told.get("outcome", {})
        found.append(
            {
                **{name: told.get(name) for name in RUNS.names},
                "status": manifest.status_of(path.parent, told),
                "iterations": outcome.get("total_iterations"),
                "final_energy": _number(outcome.get("final_energy")),
                "parent": told.get("parent", {}).get("run_id"),
                "path": str(path.parent),
                "manifest": json.dumps(told, default=str),
            }
        )
    return sorted(found, key=lambda run: str(run["started_at"]), reverse=True)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


# The last row of each run: energies of different segments do not compare, so a minimum over the run would be none of the run.
_LAST = """
    SELECT run_id, flow_name, max(iter) AS iterations, arg_max(E, iter) AS final_energy, arg_max(phase, iter) AS final_phase,
           max(t_wall_ms) AS duration_ms, avg(grad_norm) FILTER (isfinite(grad_norm)) AS avg_grad_norm,
           avg((phase = 'GREEN')::DOUBLE) AS convergence_rate, avg(alpha) AS alpha, arg_max("lambda", iter) AS lambda_last,
           arg_max(gamma, iter) AS gamma_last, arg_max(eta_dd, iter) AS eta_last, median(step_ms) AS step_ms
    FROM telemetry GROUP BY run_id, flow_name
"""

_RUN_SUMMARIES = f"""
    WITH last AS ({_LAST})
    SELECT runs.run_id, runs.flow_name, runs.status, runs.started_at, last.final_energy, last.iterations, duration_ms, avg_grad_norm,
           convergence_rate
    FROM runs LEFT JOIN last USING (run_id)
    WHERE ?::VARCHAR IS NULL OR runs.flow_name = ?
    ORDER BY runs.started_at DESC LIMIT ?
"""

_PERFORMANCE_TRENDS = f"""
    WITH last AS ({_LAST})
    SELECT runs.run_id, runs.started_at, step_ms, last.iterations, duration_ms, last.final_energy
    FROM runs JOIN last USING (run_id)
    WHERE runs.flow_name = ?
    ORDER BY runs.started_at DESC LIMIT ?
"""

_PARAMETER_CORRELATIONS = f"""
    WITH last AS ({_LAST})
    SELECT spec_digest, count(*) AS runs, corr(alpha, last.final_energy) AS alpha_energy,
           corr(gamma_last, avg_grad_norm) AS gamma_grad_norm, corr(lambda_last, last.final_energy) AS lambda_energy
    FROM runs JOIN last USING (run_id)
    WHERE runs.flow_name = ?
    GROUP BY spec_digest ORDER BY runs DESC
"""

_BEST_PARAMETERS = f"""
    WITH last AS ({_LAST})
    SELECT runs.flow_name, spec_digest, runs.run_id, alpha, lambda_last AS "lambda", gamma_last AS gamma, eta_last AS eta_dd,
           last.final_energy
    FROM runs JOIN last USING (run_id)
    WHERE final_phase = 'GREEN' AND isfinite(last.final_energy) AND (?::VARCHAR IS NULL OR runs.flow_name = ?)
    QUALIFY row_number() OVER (PARTITION BY spec_digest ORDER BY last.final_energy, runs.started_at) = 1
    ORDER BY runs.flow_name
"""

_CONVERGENCE_PATTERNS = """
    SELECT flow_name, phase, count(*) AS "rows", count(DISTINCT run_id) AS runs
    FROM telemetry GROUP BY flow_name, phase ORDER BY flow_name, phase
"""
