"""`bridge-adapter flow report`: one run as one HTML page that needs nothing else, no scripts or styles from elsewhere.

Reads a capsule at any time, also while the run goes on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from . import manifest, reading
from .charts import LEFT, RIGHT, WIDTH, Axis, Mark, Panel, Series, Threshold, drawn, lane, number, plot, thinned
from .errors import CapsuleError
from .files import replace_bytes
from .pictures import data_uri, picture_of, shown_range

GOOD = ("CERT_PASS", "TUNER_MOVE_ACCEPTED")
BAD = (
    "SPEC_LINT_FAIL",
    "CERT_FAIL",
    "TUNER_MOVE_REJECTED",
    "TUNING_FAILED",
    "STEP_FAIL",
    "INVARIANT_VALIDATION_ERROR",
    "ROLLBACK",
    "CHECKPOINT_DAMAGED",
    "TIMEOUT",
    "CANCELLED",
    "RUN_FAILED",
)
CHANGE = (
    "PHASE_TRANSITION",
    "SCALE_ACTIVATED",
    "CERT_REMEDIATION",
    "STEP_REMEDIATION",
    "FLOW_RESUMED",
    "GAP_DIAL_ADAPTATION",
    "LENS_SELECTED",
)
SHOWN_EVENTS = 200


def save_report(capsule: str | Path, to: str | Path | None = None) -> Path:
    """Writes the page, by default as artifacts/report.html of the capsule, and returns where."""
    path = Path(to) if to is not None else Path(capsule) / "artifacts" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, page(capsule).encode())
    return path


def page(capsule: str | Path) -> str:
    """The page of a capsule. Raises CapsuleError where there is none."""
    folder = Path(capsule)
    told = manifest.load_run_manifest(folder)
    told = {**told, "status": manifest.status_of(folder, told)}
    rows, events = reading.telemetry(folder), reading.events(folder)
    spec_file = folder / "spec.json"
    try:
        spec = json.loads(spec_file.read_text(encoding="utf-8")) if spec_file.exists() else {}
    except ValueError as error:
        raise CapsuleError(f"{spec_file} cannot be read: {error}. Restore it from a copy, or remove it") from error
    parts = [
        _header(told, rows),
        _failure(events),
        _cards(told, rows, events),
        _timeline(told, rows, events),
        _images(folder / "artifacts"),
        _certificates(told),
        _spec(spec, told),
        _events(events),
        _surroundings(told),
    ]
    style, script = (resources.files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(told['flow_name'])} – {escape(told['run_id'])}</title><style>{style}</style></head>\n<body><main>"
        + "\n".join(part for part in parts if part)
        + f"<footer>Recorded by bridge-adapter {escape(told.get('versions', {}).get('bridge-adapter', ''))}, telemetry schema "
        f"{escape(told['schema_version'])}. Everything on this page comes from the capsule <code>{escape(told['run_id'])}</code>.</footer>"
        f"</main><script>{script}</script></body></html>\n"
    )


def _header(told: Mapping[str, Any], rows: pa.Table) -> str:
    phase = rows["phase"][-1].as_py() if rows.num_rows and told["status"] == manifest.RUNNING else told["phase"]
    solver = f" · {escape(told['solver'])}" if told.get("solver") else ""
    parent = f" · resumed from <code>{escape(told['parent']['run_id'])}</code>" if told.get("parent") else ""
    return (
        f'<div class="top"><h1>{escape(told["flow_name"])}</h1><span class="badge {phase.lower()}">{phase}</span>'
        f'<span class="badge state">{escape(told["status"])}</span></div>'
        f'<p class="sub"><code>{escape(told["run_id"])}</code> · {escape(told["started_at"][:19].replace("T", " "))} UTC'
        f" · {escape(told['dtype'])}{solver}{parent}</p>"
    )


def _failure(events: list[dict[str, Any]]) -> str:
    failed = [event["payload"] for event in events if event["event"] == "RUN_FAILED"]
    if not failed:
        return ""
    return (
        f'<div class="card failure" style="margin-bottom:14px"><b>{escape(failed[-1]["error"])}</b> {escape(failed[-1]["message"])}</div>'
    )


def _cards(told: Mapping[str, Any], rows: pa.Table, events: list[dict[str, Any]]) -> str:
    if not rows.num_rows:
        return '<div class="card">No steps have been recorded yet.</div>'
    last = {name: rows[name][-1].as_py() for name in ("iter", "E", "prox_residual", "t_wall_ms", "gap", "eta_dd", "gamma")}
    steps = reading.numbers(rows, "step_ms")
    shown = [
        ("iterations", number(last["iter"])),
        ("energy E", number(last["E"])),
        ("residual", number(last["prox_residual"])),
        ("duality gap", number(last["gap"]) if last["gap"] is not None else None),
        ("time", _duration(last["t_wall_ms"])),
        ("per step", f"{float(np.nanmedian(steps)):.3g} ms" if np.isfinite(steps).any() else None),
        ("dominance η", number(last["eta_dd"]) if last["eta_dd"] is not None else None),
        ("curvature γ", number(last["gamma"]) if last["gamma"] is not None else None),
        ("rollbacks", str(sum(event["event"] == "ROLLBACK" for event in events)) if told["phase"] != "RED" else None),
    ]
    return f'<div class="cards">{"".join(f"<div><span>{name}</span><b>{text}</b></div>" for name, text in shown if text is not None)}</div>'


def _duration(milliseconds: float) -> str:
    seconds = milliseconds / 1000.0
    if seconds < 1:
        return f"{milliseconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return (
        f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
        if seconds >= 3600
        else f"{int(seconds // 60)} min {int(seconds % 60)} s"
    )


def _timeline(told: Mapping[str, Any], rows: pa.Table, events: list[dict[str, Any]]) -> str:
    if rows.num_rows < 2:
        return ""
    iterations = reading.numbers(rows, "iter")
    axis = Axis(float(iterations[0]), float(iterations[-1]), _phases(rows, iterations))
    marks = [
        Mark(max(event["iter"] or 0, int(axis.low)), _event_text(event), event_style(event["event"])) for event in events if _marked(event)
    ]
    panels = [panel for panel in _panels(told, rows, iterations) if panel.series]
    out, curves = [lane(axis, [mark for mark in marks if mark.iteration <= axis.high])], []
    for place, panel in enumerate(panels):
        svg, data = drawn(panel, axis, labelled=place == len(panels) - 1)
        keys = "".join(f'<span class="key {series.style}">{escape(series.name)}</span>' for series in panel.series)
        hint = f"<small>{escape(panel.hint)}</small>" if panel.hint else ""
        out.append(f"<h3>{escape(panel.title)}{keys if len(panel.series) > 1 else ''}{hint}</h3>{svg}")
        curves.append(data)
    shared = {"low": axis.low, "high": axis.high, "left": LEFT, "right": RIGHT, "width": WIDTH, "panels": curves}
    # "<" is spelled out, so that no name in the data can end the script element.
    embedded = json.dumps(shared, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<h2>The run</h2><figure class="timeline card"><div class="readout"></div>{"".join(out)}</figure>'
        f'<script type="application/json" id="curves">{embedded}</script>'
    )


def _phases(rows: pa.Table, iterations: np.ndarray[Any, Any]) -> list[tuple[str, float, float]]:
    """Stretches of one phase: name, first iteration, first iteration of the next stretch."""
    names = np.asarray(rows["phase"].to_pylist())
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names) - 1]
    return [(str(names[start]), float(iterations[start]), float(iterations[end])) for start, end in pairwise(starts)]


def _panels(told: Mapping[str, Any], rows: pa.Table, iterations: np.ndarray[Any, Any]) -> Iterator[Panel]:
    def curves(*wanted: tuple[str, str, str], stepped: bool = False) -> list[Series]:
        found = [(name, reading.numbers(rows, column), style) for name, column, style in wanted]
        seen = [(name, values, style) for name, values, style in found if np.isfinite(values).any()]
        return [Series(name, iterations, values, style, stepped, bool(np.isnan(values).any())) for name, values, style in seen]

    gates = told.get("gates", {})

    def gate(name: str, told_as: str) -> list[Threshold]:
        return [Threshold(told_as, float(gates[name]))] if name in gates else []

    energy = reading.numbers(rows, "E")
    above = _above_least(energy, reading.numbers(rows, "segment_id"))
    yield Panel("Energy above its least value", [Series("E − min E", iterations, above, "s1")], height=190, hint="by segment, logarithmic")
    parts = curves(("E", "E", "s1"), ("smooth part f", "E_smooth", "s3"), ("g + h", "E_nonsmooth", "s2"))
    positive = bool((energy[np.isfinite(energy)] > 0).all())
    yield Panel("Energy", parts, log=positive, hint="logarithmic" if positive else "")
    yield Panel("Convergence", curves(("residual", "prox_residual", "s1"), ("‖∇f‖", "grad_norm", "s2"), ("duality gap", "gap", "s4")))
    yield Panel("Step α", curves(("α", "alpha", "s1"), stepped=True), log=False, height=100)
    yield Panel(
        "Dominance η", curves(("η", "eta_dd", "s2"), stepped=True), thresholds=gate("eta_max", "η max"), height=130, hint="must stay below"
    )
    yield Panel(
        "Curvature γ", curves(("γ", "gamma", "s3"), stepped=True), thresholds=gate("gamma_min", "γ min"), height=130, hint="must stay above"
    )
    weights = curves(("λ", "lambda", "s4"), stepped=True)
    if weights and np.ptp(weights[0].y[np.isfinite(weights[0].y)]) > 0:
        yield Panel("Sparsity weight λ", weights, height=100)
    yield Panel("Active levels", curves(("finest level", "level_active_max", "s1"), stepped=True), log=False, height=100)
    yield Panel("Sparsity of Wx", curves(("fraction at zero", "sparsity_wx", "s3")), log=False, height=110)
    drift = curves(("invariant drift", "invariant_drift_max", "s2"), ("physics residual φ", "phi_residual", "s4"))
    yield Panel("Invariants and physics", drift, height=120)


def _above_least(energy: np.ndarray[Any, Any], segments: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """E - min E within each segment: energies under different weights do not compare."""
    above = np.full_like(energy, np.nan)
    for segment in np.unique(segments):
        part = (segments == segment) & np.isfinite(energy)
        if part.any():
            above[part] = energy[part] - energy[part].min()
    return above


def _marked(event: Mapping[str, Any]) -> bool:
    """Whether an event is worth a mark: looks of the gate that find it open are many, and seen in the curves."""
    return not (event["event"] == "CERT_CHECK" and event["payload"]["feasible"])


def event_style(kind: str) -> str:
    """How an event looks: "good", "bad", "change" or "plain"."""
    return "good" if kind in GOOD else "bad" if kind in BAD else "change" if kind in CHANGE else "plain"


def _event_text(event: Mapping[str, Any]) -> str:
    return f"{event['event']} at iteration {event['iter']}: {_payload_text(event['payload'])}".rstrip(": ")


def _payload_text(payload: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value_text(value)}" for name, value in payload.items() if value is not None)


def _value_text(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, Mapping):
        return "{" + _payload_text(value) + "}"
    return ", ".join(map(_value_text, value)) if isinstance(value, list) else str(value)


def _images(folder: Path) -> str:
    """Arrays and PNG files of the capsule: pairs `<name>.before`, `<name>.after` under one divider, vectors as curves."""
    arrays = {path.name.removesuffix(".npy"): np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
    out = []
    for name, array in arrays.items():
        stem, _, moment = name.rpartition(".")
        other = arrays.get(f"{stem}.before") if moment == "after" else None
        if moment == "before" and f"{stem}.after" in arrays:
            continue
        label = stem if moment == "after" else name  # what stands alone is not to be taken for the result
        before = other if other is not None and other.shape == array.shape else None
        image = picture_of(array)
        if image is not None:
            out.append(_picture(label, image, None if before is None else picture_of(before)))
        elif array.ndim == 1 and array.size > 1 and array.dtype.kind in "biuf":
            out.append(_curve(label, array, before))
    for path in sorted(folder.glob("*.png")):
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        out.append(_framed(f'<img src="{uri}" alt="">', escape(path.stem)))
    return f'<h2>Before and after</h2><div class="images">{"".join(out)}</div>' if out else ""


def _picture(name: str, array: np.ndarray[Any, Any], before: np.ndarray[Any, Any] | None) -> str:
    low, high = shown_range(array) if before is None else shown_range(array, before)
    after = f'<img src="{data_uri(array, low, high)}" alt="{escape(name)}">'
    told = f"{escape(name)} · {' × '.join(map(str, array.shape))}"
    if before is None:
        return _framed(after, f"<span>{told}</span>")
    pair = (
        f'<div class="compare"><img src="{data_uri(before, low, high)}" alt="{escape(name)} before">{after}'
        f'<input type="range" min="0" max="100" value="50" aria-label="divider between before and after"></div>'
    )
    return _framed(pair, f"<span>before</span><span>{told}</span><span>after</span>")


def _curve(name: str, array: np.ndarray[Any, Any], before: np.ndarray[Any, Any] | None) -> str:
    def series(told: str, values: np.ndarray[Any, Any], style: str) -> Series:
        return Series(told, *thinned(np.arange(values.size, dtype=float), values.astype(float), 2400), style)

    both = [] if before is None else [series("before", before, "muted")]
    return _framed(plot([*both, series("after", array, "s1")], name), f"<span>{escape(name)} · {array.size} values</span>", wide=True)


def _framed(content: str, caption: str, *, wide: bool = False) -> str:
    place = ' style="grid-column:1/-1"' if wide else ""
    return f'<figure class="card"{place}>{content}<figcaption>{caption}</figcaption></figure>'


def _certificates(told: Mapping[str, Any]) -> str:
    records = told.get("certificates") or []
    if told.get("beta") and not any(record.get("name") == "beta" for record in records):
        records = [{**told["beta"], "name": "beta"}, *records]
    if not records:
        return ""
    rows = "".join(
        f"<tr><td>{_verdict(record)}{escape(_called(record))}</td><td class=num>{_value_text(record.get('value', '–'))}</td>"
        f"<td>{escape(str(record.get('kind', '')))}</td><td>{escape(str(record.get('method', '')))}</td>"
        f"<td class=mono>{escape(_payload_text({key: value for key, value in record.items() if key not in _TOLD}))}</td></tr>"
        for record in records
    )
    head = "<tr><th>quantity</th><th class=num>value</th><th>what it is</th><th>method</th><th>more</th></tr>"
    return f'<h2>Certificates</h2><div class="card"><table>{head}{rows}</table></div>'


_NAMES = {
    "beta": "β, the Lipschitz constant of ∇f",
    "gamma": "γ, the smallest eigenvalue of L",
    "eta_dd": "η, the dominance of the diagonal of L",
}
_TOLD = ("name", "value", "kind", "method", "passed")


def _called(record: Mapping[str, Any]) -> str:
    name = str(record.get("name", ""))
    return _NAMES.get(name, name)


def _verdict(record: Mapping[str, Any]) -> str:
    if "passed" not in record:
        return ""
    return f'<span class="dot {"good" if record["passed"] else "bad"}"></span>'


def _spec(spec: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    if not spec:
        return ""
    terms = "".join(
        f"<tr><td>{escape(str(term.get('name')))}</td><td>{escape(str(term.get('type')))}</td>"
        f"<td>{escape(', '.join(term.get('variable', [])))}</td><td>{escape(_op_text(term.get('op')))}</td>"
        f"<td class=num>{number(term.get('weight'))}</td><td class=mono>{escape(_payload_text(term.get('params') or {}))}</td></tr>"
        for term in spec.get("terms", [])
    )
    slots = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(slot.get('role', '')))}</td><td>{' × '.join(map(str, slot.get('shape', [])))}</td>"
        f"<td>{escape(_op_text(slot.get('manifold')))}</td><td>{escape(slot.get('units') or '')}</td></tr>"
        for name, slot in spec.get("slots", {}).items()
    )
    reason = f'<p class="sub">{escape(told["solver"])}: {escape(told["solver_reason"])}</p>' if told.get("solver_reason") else ""
    term_head = "<tr><th>term</th><th>atom</th><th>of</th><th>operator</th><th class=num>weight</th><th>parameters</th></tr>"
    slot_head = "<tr><th>slot</th><th>role</th><th>shape</th><th>manifold</th><th>units</th></tr>"
    return (
        f'<h2>The energy</h2>{reason}<div class="card"><table>{term_head if terms else ""}{terms}</table></div>'
        f'<div class="card" style="margin-top:12px"><table>{slot_head}{slots}</table>'
        f"<details><summary>the whole spec</summary><pre>{escape(json.dumps(spec, indent=1))}</pre></details></div>"
    )


def _op_text(op: Any) -> str:
    """An operator or a manifold: its kind, and its parameters where they are numbers."""
    if isinstance(op, list) and len(op) == 2 and isinstance(op[1], Mapping):
        numbers = {key: value for key, value in op[1].items() if not isinstance(value, Mapping)}
        return f"{op[0]}({_payload_text(numbers)})" if numbers else str(op[0])
    return "" if op is None else str(op)


def _events(events: list[dict[str, Any]]) -> str:
    if not events:
        return ""
    shown = events if len(events) <= SHOWN_EVENTS else [*events[: SHOWN_EVENTS // 2], *events[-SHOWN_EVENTS // 2 :]]
    rows = "".join(
        f"<tr><td class=num>{number(round(event['t_wall_ms'], 1))}</td><td class=num>{number(event['iter'])}</td>"
        f'<td style="white-space:nowrap"><span class="dot {event_style(event["event"])}"></span>{escape(event["event"])}</td>'
        f"<td class=mono>{escape(_payload_text(event['payload']))}</td></tr>"
        for event in shown
    )
    left_out = f'<p class="sub">{len(events) - len(shown)} events in between are not shown.</p>' if len(shown) < len(events) else ""
    head = "<tr><th class=num>ms</th><th class=num>iteration</th><th>event</th><th>payload</th></tr>"
    return f'<h2>Events</h2><div class="card"><table>{head}{rows}</table></div>{left_out}'


def _surroundings(told: Mapping[str, Any]) -> str:
    def listed(title: str, table: Mapping[str, Any]) -> str:
        rows = "".join(
            f"<tr><td>{escape(str(name))}</td><td class=mono>{escape(_value_text(value))}</td></tr>" for name, value in table.items()
        )
        return f'<div class="card"><table><tr><th colspan=2>{title}</th></tr>{rows}</table></div>' if rows else ""

    here = {name: value for name, value in told.get("environment", {}).items() if name != "lock"}  # which is long
    parts = [listed("environment", here), listed("versions", told.get("versions", {}))]
    parts += [listed(name, told.get(name, {})) for name in ("gates", "budgets", "seeds")]
    whole = escape(json.dumps(told, indent=1, default=str))
    unfolded = f"<details><summary>the whole manifest</summary><pre>{whole}</pre></details>"
    return f'<h2>Surroundings</h2><div class="two">{"".join(parts)}</div>{unfolded}'
