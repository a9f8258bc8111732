"""`bridge-adapter flow ...`: runs specs from files, and looks at what was recorded.

A spec file is a Python module that defines `spec` (a FlowSpec) and, if it likes, `iterations`, `tol`, `solver`, `alpha` and `block`; for
certified runs also `profile`, `config`, `multiscale`, `policy`, `gap_dial` and `sparsity`; or a JSON file with these names. Exit codes:
0, 1 when a flow cannot be used or did not pass, 2 for a wrong command line. JAX is loaded only by what computes.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from . import determinism
from .errors import FlowError
from .recorder.charts import number
from .recorder.files import refuse_unwritable

if TYPE_CHECKING:
    from .certificates import CertificationProfile, Verdict
    from .compiler import CompiledFlow
    from .recorder.query import Answer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Tools of bridge-adapter.", pretty_exceptions_enable=False)
flow = typer.Typer(no_args_is_help=True, help="Flows: run them, certify them, and read what they recorded.")
app.add_typer(flow, name="flow")

SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC", exists=True, dir_okay=False, help="SPEC.py defines `spec`, SPEC.json describes it")
]
CapsuleDir = Annotated[Path, typer.Argument(metavar="CAPSULE", exists=True, file_okay=False, help="the folder of a run")]
ProfileName = Annotated[str | None, typer.Option("--profile", help="strict or convex; by default that of the file, or strict")]
Estimates = Annotated[bool, typer.Option("--allow-estimates", help="let numbers that are only estimates open the gate")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="the same bits each time: one thread or no atomics, and blocks of a fixed size")
]
Base = Annotated[Path, typer.Option("--base", exists=True, file_okay=False, help="the folder that holds the capsules")]
Number = TypeVar("Number", int, float)
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
    certified: Annotated[bool, typer.Option("--certified", help="under certificates; exit code 1 if it does not end GREEN")] = False,
    profile: ProfileName = None,
    allow_estimates: Estimates = False,
    deterministic: Deterministic = False,
) -> None:
    """Runs a flow to its end. Ctrl-C ends it after the present block, with a checkpoint; a second one at once."""
    if (profile or allow_estimates) and not certified:
        raise typer.BadParameter("they are of certified runs; add --certified", param_hint="--profile, --allow-estimates")
    if record:
        refuse_unwritable(out)
    given = _loaded(spec_file, deterministic=deterministic)
    from .certified import run_certified
    from .runs import run as run_flow

    budget = iterations or _given(given, "iterations", 1000, _whole)
    block = _block(given, determinism.BLOCK if deterministic else None)
    options: dict[str, Any] = {"iterations": budget, "out_dir": out if record else None, "redact": redact, "block": block}
    compiled = _compiled(given, tol)
    with _progress(given["spec"].name, budget) as on_progress:
        if certified:
            asked = {**_asked(given), "cert_profile": _profile(given, profile, allow_estimates)}
            result = run_certified(given["spec"], compiled, tol=_tol(given, tol), on_progress=on_progress, **options, **asked)
        else:
            result = run_flow(compiled, on_progress=on_progress, **options)
    _print_result(result)
    if certified:
        _end_by(result["verdict"], result["phase"])


@flow.command()
def resume(
    capsule: CapsuleDir,
    spec_file: SpecFile,
    iterations: Annotated[int | None, typer.Option(min=1, help="in all; by default as many as the run was to have")] = None,
    deterministic: Deterministic = False,
) -> None:
    """Goes on with a run from its last good checkpoint, with the spec that it had; a certified one under its controller."""
    given = _loaded(spec_file, deterministic=deterministic)
    from .recorder.manifest import load_run_manifest
    from .runs import resume_run

    certified = _asked(given) if load_run_manifest(capsule).get("certified") else None
    with _progress(given["spec"].name, iterations) as on_progress:
        result = resume_run(
            capsule, given["spec"], iterations=iterations, on_progress=on_progress, block=given.get("block"), certified=certified
        )
    _print_result(result)
    if certified is not None:
        _end_by(result["verdict"], result["phase"])


@flow.command()
def tune(
    spec_file: SpecFile,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="where the capsule goes")] = Path("runs"),
    iterations: Annotated[int | None, typer.Option(min=1)] = None,
    sigma: Annotated[float | None, typer.Option(min=0.0, help="the noise of the data, for discrepancy and sure")] = None,
    criterion: Annotated[str | None, typer.Option(help="discrepancy (with sigma the default), gcv (else) or sure")] = None,
    knob: Annotated[list[str] | None, typer.Option(help="lambda, lambda2 or alpha; may be given more than once")] = None,
    rate: Annotated[float, typer.Option("--adaptation-rate", min=0.0, max=1.0, help="the first relative move of a weight")] = 0.1,
    moves: Annotated[int, typer.Option(min=1, help="at most so many rounds of the tuner")] = 10,
    profile: ProfileName = None,
    allow_estimates: Estimates = False,
    deterministic: Deterministic = False,
) -> None:
    """Turns the weights of a flow while it runs under certificates, and says where they ended: exit code 0 if it is GREEN then.

    The dial of the spec file (`gap_dial`) is used if it defines one and no option about it is given.
    """
    refuse_unwritable(out)
    given = _loaded(spec_file, deterministic=deterministic)
    from .certified import run_certified
    from .controller import ControllerConfig, GapDial

    asked: dict[str, Any] = {**_asked(given), "cert_profile": _profile(given, profile, allow_estimates)}
    if "gap_dial" not in asked or sigma is not None or criterion is not None or knob:
        chosen: Any = criterion or ("gcv" if sigma is None else "discrepancy")
        cap = max(rate, 0.2)
        asked["gap_dial"] = GapDial(
            knobs=tuple(knob or ("lambda",)), criterion=chosen, sigma=sigma or None, proposal=rate, lambda_move_cap=cap
        )
    asked["config"] = dataclasses.replace(asked.get("config", ControllerConfig()), max_tuner_moves=moves)
    budget = iterations or _given(given, "iterations", 1000, _whole)
    with _progress(given["spec"].name, budget) as on_progress:
        result = run_certified(
            given["spec"],
            _compiled(given, None),
            tol=_tol(given, None),
            iterations=budget,
            # A move is tried between blocks: half of the run has room for all of them, and the rest settles.
            block=_block(given, max(5, budget // (2 * moves))),
            on_progress=on_progress,
            out_dir=out,
            **asked,
        )
    _print_result(result)
    table = Table("knob", "began at", "ended at", box=None)
    for name, value in result["weights"].items():
        if name in asked["gap_dial"].knobs:
            table.add_row(name, number(value / result["changes"]["factors"].get(name, 1.0)), number(value))
    console = Console()
    console.print(table)
    told = result["controller"]
    console.print(f"{told['accepted_moves']} of {told['moves']} moves were kept")
    _end_by(result["verdict"], result["phase"])


@flow.command()
def certify(
    spec_file: SpecFile,
    profile: ProfileName = None,
    allow_estimates: Estimates = False,
) -> None:
    """Says what can be certified of a flow before it moves: exit code 0 if it is GREEN, 1 if not, with the reason and the remedy."""
    given = _loaded(spec_file)
    from .certificates import certify
    from .precision import precision

    compiled = _compiled(given, None)
    with precision(compiled.spec.dtype):
        verdict = certify(compiled, _profile(given, profile, allow_estimates))
    table = Table("certificate", "value", "what it is", "method", box=None)
    for name, bound in verdict.certificates.items():
        table.add_row(name, number(bound.value), bound.kind, bound.method)
    Console().print(table)
    _end_by(verdict, verdict.phase)


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
    print(json.dumps(_strict(answer.records()), default=str))


def _strict(value: Any) -> Any:
    """As strict JSON can hold it: NaN and infinities as text, as in the records of a capsule."""
    from .recorder.events import plain

    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return plain(value, "query") if isinstance(value, float) else value


_FORMS: dict[str, Callable[[Answer], None]] = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _loaded(path: Path, *, deterministic: bool = False) -> dict[str, Any]:
    """What a spec file defines. Raises FlowError where it defines no spec."""
    if deterministic:
        determinism.deterministic()  # before the file loads JAX
    if path.suffix.lower() == ".json":
        return _described(path)
    found = runpy.run_path(str(path))
    from .spec import FlowSpec

    if not isinstance(found.get("spec"), FlowSpec):
        raise FlowError(f"{path} defines no `spec`, or one that is no FlowSpec; write spec = FlowSpec(...) at its top level")
    return found


def _described(path: Path) -> dict[str, Any]:
    """What a JSON file describes. Raises FlowError, with the place of a mistake."""
    from .described_runs import file_from

    try:
        return file_from(json.loads(path.read_bytes()))
    except FlowError as error:
        raise FlowError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # FlowInputError is a ValueError, too
        raise FlowError(f"{path} cannot be read as JSON: {error}; a file in Python is called SPEC.py") from error


def _compiled(given: Mapping[str, Any], tol: float | None) -> CompiledFlow:
    """The flow with the solver, or that of the policy, and the step of the file."""
    from .compiler import compile_flow

    options = {name: given[name] for name in ("solver", "alpha") if name in given}
    if policy := _meant(given, "policy"):
        if options:
            raise FlowError(f"the file has a policy, which says how the flow steps, and {' and '.join(options)}; leave out one of the two")
        options["solver"] = policy.solver
    return compile_flow(given["spec"], tol=_tol(given, tol), **options)


def _tol(given: Mapping[str, Any], tol: float | None) -> float:
    return _given(given, "tol", 1e-6, float) if tol is None else tol


def _whole(value: Any) -> int:
    """1e4 is a whole number, too."""
    if isinstance(value, (bool, str, bytes)) or int(value) != value:
        raise ValueError(value)
    return int(value)


def _block(given: Mapping[str, Any], usual: int | None) -> Any:
    """That of the spec file; what it may be, the run knows."""
    return usual if given.get("block") is None else given["block"]


def _given(given: Mapping[str, Any], name: str, usual: Number, kind: Callable[[Any], Number]) -> Number:
    """A number of the spec file. Raises FlowError for what is none."""
    try:
        return kind(given.get(name, usual))
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "a whole number" if kind is _whole else "a finite number"
        raise FlowError(f"{name} is {given[name]!r} in the spec file; it must be {wanted}") from error


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the file asks of a certified run, by the names of `run_certified`."""
    names = {"profile": "cert_profile", "policy": "flow"}
    asked = {name: _meant(given, name) for name in ("profile", "config", "multiscale", "policy", "gap_dial", "sparsity")}
    return {names.get(name, name): value for name, value in asked.items() if value is not None}


def _meant(given: Mapping[str, Any], name: str) -> Any:
    """A field of a certified run in the file: of its class, or described as in JSON. What is neither is not meant so."""
    from .certificates import CertificationProfile
    from .controller import ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy
    from .described_runs import certified_field

    kinds = (CertificationProfile, ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy)
    value = given.get(name)
    if isinstance(value, (str, Mapping)):
        return certified_field(name, value)
    return value if isinstance(value, kinds) else None


def _profile(given: Mapping[str, Any], name: str | None, allow_estimates: bool) -> CertificationProfile:
    from .certificates import CertificationProfile, convex

    profile: CertificationProfile = _asked(given).get("cert_profile", CertificationProfile())
    if name is not None:
        if name not in ("strict", "convex"):
            raise typer.BadParameter(f"it is {name!r}; it must be strict or convex", param_hint="--profile")
        profile = convex() if name == "convex" else CertificationProfile()
    return dataclasses.replace(profile, allow_estimates=profile.allow_estimates or allow_estimates)


def _end_by(verdict: Verdict, phase: str) -> NoReturn:
    """Says the verdict, and ends with 0 if the flow is GREEN, else with 1."""
    told = verdict.told()
    if phase != verdict.phase:  # the gate was passed, and something was lost on the way
        told = f"{phase}: what was certified did not hold to the end; the events of the capsule say what was lost"
    Console().print(f"[{_PHASE_STYLE[phase]}]{escape(told)}", soft_wrap=True)
    raise typer.Exit(0 if phase == "GREEN" else 1)


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
