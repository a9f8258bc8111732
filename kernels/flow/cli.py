"""`bridge-adapter flow ...`: runs specs from files, and looks at what was recorded.

A spec file is a Python module that defines `spec` (a FlowSpec) and, if it likes, `iterations`, `tol`, `solver` and `alpha`. Exit codes: 0,
1 when a flow cannot be used or did not pass, 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import csv
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from .errors import FlowError
from .recorder.charts import number
from .spec import FlowSpec

if TYPE_CHECKING:
    from .recorder.query import Answer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Tools of bridge-adapter.", pretty_exceptions_enable=False)
flow = typer.Typer(no_args_is_help=True, help="Flows: run them, certify them, and read what they recorded.")
app.add_typer(flow, name="flow")

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.py", exists=True, dir_okay=False, help="defines `spec`")]
CapsuleDir = Annotated[Path, typer.Argument(metavar="CAPSULE", exists=True, file_okay=False, help="the folder of a run")]
Base = Annotated[Path, typer.Option("--base", help="the folder that holds the capsules")]
_PHASE_STYLE = {"RED": "bold red", "AMBER": "bold yellow", "GREEN": "bold green"}


@app.callback()
def _bridge_adapter() -> None:
    """Keeps `flow` a name of its own: an app with one group would do without it."""


@flow.command()
def run(
    spec_file: SpecFile,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="where the capsule goes")] = Path("runs"),
    iterations: Annotated[int | None, typer.Option(min=1)] = None,
    tol: Annotated[float | None, typer.Option(min=0.0)] = None,
    redact: Annotated[bool, typer.Option("--redact", help="record no data, only statistics; such a run cannot be resumed")] = False,
    record: Annotated[bool, typer.Option("--record/--no-record", help="whether to keep a capsule")] = True,
) -> None:
    """Runs a flow to its end. Ctrl-C ends it after the present block, with a checkpoint; a second one at once."""
    from .runs import run as run_flow

    given = _loaded(spec_file)
    options = {name: given[name] for name in ("solver", "alpha") if name in given}
    budget = iterations or int(given.get("iterations", 1000))
    with _progress(given["spec"].name, budget) as on_progress:
        result = run_flow(
            given["spec"],
            iterations=budget,
            tol=given.get("tol", 1e-6) if tol is None else tol,
            out_dir=out if record else None,
            redact=redact,
            on_progress=on_progress,
            **options,
        )
    _print_result(result)


@flow.command()
def resume(
    capsule: CapsuleDir,
    spec_file: SpecFile,
    iterations: Annotated[int | None, typer.Option(min=1, help="in all; by default as many as the run was to have")] = None,
) -> None:
    """Goes on with a run from its last good checkpoint, with the spec that it had."""
    from .runs import resume_run

    given = _loaded(spec_file)
    with _progress(given["spec"].name, iterations) as on_progress:
        result = resume_run(capsule, given["spec"], iterations=iterations, on_progress=on_progress)
    _print_result(result)


@flow.command()
def certify(
    spec_file: SpecFile,
    profile: Annotated[str, typer.Option(help="strict or convex")] = "strict",
    allow_estimates: Annotated[bool, typer.Option("--allow-estimates")] = False,
) -> None:
    """Says what can be certified of a flow before it moves: exit code 0 if it is GREEN, 1 if not, with the reason and the remedy."""
    from .certificates import CertificationProfile, certify
    from .compiler import compile_flow
    from .precision import precision

    given = _loaded(spec_file)
    compiled = compile_flow(given["spec"])
    with precision(compiled.spec.dtype):
        wanted: Any = profile
        verdict = certify(compiled, CertificationProfile(name=wanted, allow_estimates=allow_estimates))
    table = Table("certificate", "value", "what it is", "method", box=None)
    for name, bound in verdict.certificates.items():
        table.add_row(name, number(bound.value), bound.kind, bound.method)
    console = Console()
    console.print(table)
    console.print(f"[{_PHASE_STYLE[verdict.phase]}]{escape(verdict.told())}")
    raise typer.Exit(0 if verdict.feasible else 1)


@flow.command()
def report(
    capsule: CapsuleDir,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="by default artifacts/report.html of the capsule")] = None,
) -> None:
    """Makes one self-contained HTML page of a run, finished or not."""
    from .recorder.report import save_report

    print(save_report(capsule, to))


@flow.command()
def runs(base: Base = Path("runs"), limit: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """Lists the runs of a folder, newest first."""
    from .recorder.query import runs as listed

    table = Table(Column("run", overflow="fold"), "status", "phase", "iterations", "energy", "started", box=None)
    for told in listed(base)[:limit]:
        phase = f"[{_PHASE_STYLE[told['phase']]}]{told['phase']}"
        started = str(told["started_at"])[:19].replace("T", " ")
        table.add_row(escape(told["run_id"]), told["status"], phase, number(told["iterations"]), number(told["final_energy"]), started)
    Console().print(table)


@flow.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="over the views telemetry, telemetry_all, events and runs")],
    base: Base = Path("runs"),
    form: Annotated[str, typer.Option("--format", help="table, csv or json")] = "table",
) -> None:
    """Asks DuckDB about all runs of a folder."""
    import duckdb

    from .recorder.query import Runs

    if form not in _FORMS:
        raise typer.BadParameter(f"it is {form!r}; it must be one of {', '.join(_FORMS)}", param_hint="--format")
    try:
        answer = Runs(base).query(sql)
    except duckdb.Error as error:
        raise FlowError(f"DuckDB refused the query: {error}") from error
    _FORMS[form](answer)


def _print_table(answer: Answer) -> None:
    table = Table(*answer.names, box=None)
    for row in answer.rows:
        table.add_row(*(escape(str(value)) for value in row))
    Console().print(table)


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(answer.names)
    writer.writerows(answer.rows)


def _print_json(answer: Answer) -> None:
    print(json.dumps(answer.records(), default=str))


_FORMS: dict[str, Callable[[Answer], None]] = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _loaded(path: Path) -> dict[str, Any]:
    """What a spec file defines. Raises FlowError where it defines no spec."""
    found = runpy.run_path(str(path))
    if not isinstance(found.get("spec"), FlowSpec):
        raise FlowError(f"{path} defines no `spec`, or one that is no FlowSpec; write spec = FlowSpec(...) at its top level")
    return found


@contextlib.contextmanager
def _progress(name: str, budget: int | None) -> Iterator[Callable[[Mapping[str, Any]], str]]:
    """A live bar, as the `on_progress` of a run; within the block the first Ctrl-C cancels the run instead of raising."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    asked: list[int] = []

    def interrupt(number: int, _frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(escape(name), total=budget, told="")

            def on_progress(info: Mapping[str, Any]) -> str:
                told = f"E {number(info['energy'])}  residual {number(info['residual'])}"
                bar.update(task, completed=info["iteration"], total=info["iterations"], told=told)
                return "cancel" if asked else ""

            yield on_progress
    finally:
        signal.signal(signal.SIGINT, before)


def _print_result(result: Mapping[str, Any]) -> None:
    told = f"[bold]{escape(str(result['stopped']))}[/] after {number(result['iterations'])} iterations, {result['elapsed_s']:.2f} s"
    console = Console()
    console.print(f"{told}: E {number(result['energy'])}, residual {number(result['residual'])}")
    if result.get("capsule"):
        console.print(f"capsule {escape(str(result['capsule']))}", soft_wrap=True)


def main() -> None:
    """The console script: errors of a flow are told in a sentence, not with a traceback."""
    try:
        app()
    except FlowError as error:
        Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
