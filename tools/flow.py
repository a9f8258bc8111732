"""The tools of the flow runtime: `flow.compile`, `flow.certify`, `flow.run`, `flow.resume`, `flow.cancel`, `flow.list`. JAX is loaded by
the first call that computes.

A run is answered with its result, or streamed: a report after each block of steps, the result last. Recorded runs are known by their
`run_id` in the worker's runs directory (BRIDGE_ADAPTER_FLOW_RUNS, `runs` by default), where a run that was cut off is found again.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .registry import Payload, ToolContext, invalid

if TYPE_CHECKING:
    from bridge_adapter.kernels.flow.certificates import Verdict
    from bridge_adapter.kernels.flow.compiler import CompiledFlow, CompileReport

DIRECTORY = "BRIDGE_ADAPTER_FLOW_RUNS"
_COMPILING = ("solver", "tol", "alpha", "sigma", "damping", "temperature", "seed", "validation")
_RESUMING = ("iterations", "block", "save_every", "certified")
_RUNNING = (*_RESUMING, "redact")
# What the payload of any tool may say of its call, for whoever carries it (docs/tools.md).
_VERSIONS = ("protocol_version", "min_supported_version", "payload_version")
_REPEATING = ("idempotent", "idempotency_key", "mutates", "max_restarts", "max_attempts", "backoff_ms", "jitter", "retry_on")
_CIRCUMSTANCES = ("call_type", "function", "library", "python_module", "module_path", "module", "streaming", "correlation_id")
_OF_CALLS = ("session_id", *_VERSIONS, *_REPEATING, *_CIRCUMSTANCES)
# A thread that waits for longer cannot be interrupted in the meantime.
_PATIENCE = 0.1
_GRACE = 1.0

Report = Callable[[dict[str, Any]], Any]


class _Running:
    """A run of this worker, from its call until its end."""

    def __init__(self, run_id: str, call: Any = None) -> None:
        self.run_id = run_id
        self.call = call  # what the caller calls this very request, for a cancellation that is to meet no later one
        self.cancelled = False
        self.ended = threading.Event()
        self.info: dict[str, Any] = {}


_running: dict[str, _Running] = {}
_guard = threading.Lock()


def compile(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """The report on a spec: solver and reason, steps, bounds, warnings. Payload: `spec`, and `options` (solver, tol, alpha, ...)."""
    _begin(payload, context, "flow.compile", "spec", "options")
    return _report(_compiled(payload, _options(payload, _COMPILING)).report)


def certify(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """What can be certified of a spec before it moves: the record of the verdict, with `told`, the verdict in words. Payload: `spec`, and
    `options`: those of `compile`, and `profile` ("strict", "convex", or its fields)."""
    _begin(payload, context, "flow.certify", "spec", "options")
    options = _options(payload, (*_COMPILING, "profile"))
    profile = options.pop("profile", None)
    from bridge_adapter.kernels.flow import certificates
    from bridge_adapter.kernels.flow.precision import precision

    compiled = _compiled(payload, options)
    with precision(compiled.spec.dtype):
        return _verdict(certificates.certify(compiled, profile or certificates.CertificationProfile()))


def run(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """Minimises the energy of a spec; the result, as `kernels.flow.run` has it, with the report as a map and the `run_id`.

    Payload: `spec`; `options` (iterations, tol, solver, alpha, block, validation, ...), of which `certified`, true or the fields of a
    certified run (profile, policy, multiscale, gap_dial, sparsity, config), makes it one, whose result also has phase, verdict, card,
    controller and changes; `on_progress`, a function that gets a report after
    each block and may answer "cancel"; `run_id`, under which the run is recorded; `record`: true or false, default: if it has a run_id. A
    run that was asked for before goes on from its last checkpoint, and one that is over gives its answer again.
    """
    return _run(payload, context, _progress(payload))


def resume(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """Goes on with a recorded run, also one that had been cancelled or was to have fewer steps. Payload: as of `run`; the same spec."""
    return _resume(payload, context, _progress(payload))


def run_stream(payload: Payload, context: ToolContext) -> Iterator[Any]:
    """`run` as a stream of {"event": "progress", ...} and, last, {"event": "result", ...}."""
    return _Reports(payload, context, _run)


def resume_stream(payload: Payload, context: ToolContext) -> Iterator[Any]:
    """`resume` as a stream."""
    return _Reports(payload, context, _resume)


def cancel(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """Ends a run of this worker after its current block, whoever started it; its result says "cancelled". Payload: `run_id`, and `call`, by
    which only the run is meant whose request had the same `call`. The answer says whether such a run was there."""
    _begin(payload, context, "flow.cancel", "run_id", "call")
    run_id = _name(payload, needed=True)
    with _guard:
        running = _running.get(run_id)
    if running is not None and payload.get("call") not in (None, running.call):
        running = None
    if running is not None:
        running.cancelled = True
    return {"run_id": run_id, "cancelled": running is not None}


def list_runs(payload: Payload, context: ToolContext) -> list[dict[str, Any]]:
    """The runs that are recorded in the runs directory, and those that run in this worker, the latest first. Payload: `recorded`; false:
    only the latter, for which JAX is not loaded."""
    _begin(payload, context, "flow.list", "recorded")
    with _guard:
        here = {run_id: running.info for run_id, running in _running.items()}
    recorded: dict[str, dict[str, Any]] = {}
    if _flag(payload, "recorded") is not False:
        from bridge_adapter.kernels.flow.named_runs import NamedRuns

        recorded = {entry["run_id"]: entry for entry in NamedRuns(_directory()).list()}
    live = []
    for run_id, info in here.items():
        known = recorded.pop(run_id, {"run_id": run_id, "capsule": None})
        now = {"status": "running", "iterations": info.get("iteration", 0), "energy": info.get("energy")}
        live.append({**known, **now})
    return live + list(recorded.values())


def _run(payload: Payload, context: ToolContext, report: Report | None) -> dict[str, Any]:
    _begin(payload, context, "flow.run", "spec", "options", "run_id", "call", "on_progress", "record")
    options = _options(payload, (*_COMPILING, *_RUNNING))
    record = _flag(payload, "record")
    named = _name(payload)
    record = named is not None if record is None else record
    with _Registered(named or os.urandom(8).hex(), payload.get("call")) as running:
        if record:
            _check(running.run_id)
        compiled = _compiled(payload, _taken(options, _COMPILING))
        options["on_progress"] = _visit(running, report)
        if record:
            from bridge_adapter.kernels.flow.named_runs import NamedRuns

            return _result(NamedRuns(_directory()).run(running.run_id, compiled, **options), running.run_id)
        from bridge_adapter.kernels import flow

        certified = options.pop("certified", None)
        if certified is None:
            return _result(flow.run(compiled, **options), running.run_id)
        return _result(flow.run_certified(compiled.spec, compiled, **options, **certified), running.run_id)


def _resume(payload: Payload, context: ToolContext, report: Report | None) -> dict[str, Any]:
    _begin(payload, context, "flow.resume", "spec", "options", "run_id", "call", "on_progress")
    options = _options(payload, (*_COMPILING, *_RESUMING))
    run_id = _name(payload, needed=True)
    from bridge_adapter.kernels.flow.described import spec_from
    from bridge_adapter.kernels.flow.named_runs import NamedRuns

    with _Registered(run_id, payload.get("call")) as running:
        _check(run_id, begun=True)
        asked = _taken(options, _COMPILING)
        spec = _compiled(payload, asked) if asked else spec_from(payload.get("spec"))
        return _result(NamedRuns(_directory()).resume(run_id, spec, on_progress=_visit(running, report), **options), run_id)


class _Registered:
    """Context in which a run can be cancelled and is listed."""

    def __init__(self, run_id: str, call: Any) -> None:
        self._running = _Running(run_id, call)

    def __enter__(self) -> _Running:
        run_id = self._running.run_id
        with _guard:
            before = _running.setdefault(run_id, self._running)
        if before is not self._running:
            # A caller who lost his connection may be back before his run has noticed.
            before.ended.wait(_GRACE)
            with _guard:
                if _running.setdefault(run_id, self._running) is not self._running:
                    from bridge_adapter.kernels.flow.recorder.errors import CapsuleLocked

                    # The same error as from another worker, which sees the lock of the capsule only.
                    text = f"the run {run_id!r} is running in this worker already; wait for its end, or end it with flow.cancel"
                    raise CapsuleLocked(errno.EWOULDBLOCK, text)
        return self._running

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        finally:  # a call that is interrupted is so again and again: here, too
            self._leave()

    def _leave(self) -> None:
        # Without the guard, which an interruption might leave locked: this is one step of the dictionary.
        if _running.get(self._running.run_id) is self._running:
            _running.pop(self._running.run_id, None)
        self._running.ended.set()


class _Reports:
    """The reports of a run, made in a thread of its own at the pace at which they are read; closing it cancels the run."""

    def __init__(self, payload: Payload, context: ToolContext, start: Callable[[Payload, ToolContext, Report], dict[str, Any]]) -> None:
        if payload.get("on_progress") is not None:
            raise invalid("a streamed run tells its progress by its items; leave on_progress out, or make a call")
        self._items: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._closed = False
        self._thread = threading.Thread(target=self._make, args=(payload, context, start), name="flow.run", daemon=True)

    def _make(self, payload: Payload, context: ToolContext, start: Callable[[Payload, ToolContext, Report], dict[str, Any]]) -> None:
        try:
            self._put({"event": "result", **start(payload, context, self._tell)})
            self._put(StopIteration())
        except BaseException as error:
            self._put(error)

    def _tell(self, info: dict[str, Any]) -> str | None:
        self._put({"event": "progress", **info})
        return "cancel" if self._closed else None

    def _put(self, item: Any) -> None:
        while not self._closed:
            try:
                return self._items.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue

    def __snakebridge_resume__(self, skip: int) -> None:
        """A run that goes on tells where it stands. What it told before it was cut off is not told again, so there is nothing to skip."""

    def __iter__(self) -> _Reports:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        if self._thread.ident is None:
            self._thread.start()
        while True:
            try:
                item = self._items.get(timeout=_PATIENCE)
                break
            except queue.Empty:
                continue
            except BaseException:  # the reader was interrupted, and may be again before anybody closes this
                self._closed = True
                raise
        if isinstance(item, BaseException):
            self._closed = True
            raise item
        return item

    def close(self) -> None:
        """Ends the run, and returns when it has ended."""
        self._closed = True
        if self._thread.ident is not None:
            self._thread.join()


def _visit(running: _Running, report: Report | None) -> Report:
    def visit(info: dict[str, Any]) -> Any:
        running.info = info
        answer = report({**info, "run_id": running.run_id}) if report is not None else None
        return "cancel" if running.cancelled else answer

    return visit


def _compiled(payload: Payload, options: Mapping[str, Any]) -> CompiledFlow:
    from bridge_adapter.kernels import flow
    from bridge_adapter.kernels.flow.described import spec_from

    return flow.compile_flow(spec_from(payload.get("spec")), **options)


def _result(result: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """The result as plain data. The spec of a certified run stays here: the caller has it, and `changes` tells how it differs."""
    told = {name: value for name, value in result.items() if name != "spec"}
    if "verdict" in told:
        told["verdict"] = _verdict(told["verdict"])
    capsule = result["capsule"]
    return {**told, "run_id": run_id, "report": _report(result["report"]), "capsule": None if capsule is None else str(capsule)}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {**verdict.record(), "told": verdict.told()}


def _report(report: CompileReport) -> dict[str, Any]:
    told = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    bounds = {name: value.record() for name, value in told.items() if hasattr(value, "record")}
    return {**told, **bounds, "warnings": list(report.warnings), "findings": [dataclasses.asdict(finding) for finding in report.findings]}


def _begin(payload: Payload, context: ToolContext, tool: str, *known: str) -> None:
    """Whether the caller may, and whether the payload says nothing else than what is known. A field that nobody reads is a mistake: a run
    would not be recorded, or not be gone on with when its worker dies."""
    if context.policy is not None:
        context.policy.named(tool)
    for name, value in payload.items():
        nothing = value is None or (name in ("args", "kwargs") and not value)  # as generic calls have them
        if not nothing and name not in known and name not in _OF_CALLS:
            near = difflib.get_close_matches(str(name)[:100], [*known, *_OF_CALLS], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise invalid(f"{str(name)[:80]}: {tool} has no such field; {hint}")
    for name in ("idempotent", "mutates"):
        _flag(payload, name)


def _flag(payload: Payload, name: str) -> bool | None:
    value = payload.get(name)
    if not (value is None or isinstance(value, bool)):
        raise invalid(f"{name} must be true or false, not {str(value)[:40]!r}")
    return value


def _check(run_id: str, *, begun: bool = False) -> None:
    """Refuses a run that could not be recorded (begun: or gone on with) before its flow is compiled."""
    from bridge_adapter.kernels.flow.named_runs import NamedRuns

    NamedRuns(_directory()).check(run_id, begun=begun)


def _directory() -> str:
    return os.environ.get(DIRECTORY, "runs")


def _name(payload: Payload, *, needed: bool = False) -> Any:
    name = payload.get("run_id")
    if (name is None and needed) or name == "" or not (name is None or isinstance(name, str)):
        raise invalid(f"run_id must be the name of a run, not {str(name)[:40]!r}")
    return name


def _progress(payload: Payload) -> Report | None:
    function = payload.get("on_progress")
    if function is not None and not callable(function):
        raise invalid(f"on_progress must be a function of one argument, not {str(function)[:40]!r}")
    return function


def _options(payload: Payload, known: tuple[str, ...]) -> dict[str, Any]:
    from bridge_adapter.kernels.flow.described_runs import options_from
    from bridge_adapter.kernels.flow.errors import FlowInputError

    try:
        options = options_from(payload.get("options"), known)
    except FlowInputError as error:
        raise invalid(str(error)) from None
    chosen = [name for name in ("solver", "alpha", "sigma") if name in options]
    if chosen and "flow" in (options.get("certified") or {}):
        raise invalid(f"options.{chosen[0]}: options.certified.policy says how the flow steps; leave out one of the two")
    return options


def _taken(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Takes those of the names out that are there."""
    return {name: options.pop(name) for name in names if name in options}
