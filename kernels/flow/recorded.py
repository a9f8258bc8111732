"""The recorder of a run, and what the run says of itself to it: the fields of its manifest, and pictures of what it made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .certificates import Verdict, freeze
from .certificates.records import weakest
from .compiler import CompiledFlow
from .determinism import in_force
from .divergence import file_name
from .kept import Asked
from .lensing import validated
from .precision import device
from .recorder import NoRecorder, Recorder
from .recorder.pictures import picture_of
from .spec import FlowSpec
from .watching import SPARSITY_TAU, sparse_bases

_PRIMAL_DUAL = ("B", "C", "E")
_FAMILIES = {"ista": "proximal", "fista": "accelerated", "mfista": "accelerated", "preconditioned": "preconditioned"}
_CLASSES = {"B": "primal_dual", "C": "primal_dual", "D": "splitting", "E": "splitting", "R": "riemannian", "motion": "hamiltonian_damped"}


def recorder_in(
    out_dir: str | Path | None, spec: FlowSpec, fields: Callable[[], Mapping[str, Any]], *, redact: bool
) -> contextlib.AbstractContextManager[Recorder]:
    """What a new run of a spec tells: a capsule in the folder, with these fields of its manifest; where none is named, nothing is kept."""
    if out_dir is None:
        return contextlib.nullcontext(NoRecorder())
    from .recorder.capsule import Capsule

    return Capsule.create(out_dir, spec.plain(), fields(), redact=redact)


def budget_fields(iterations: int, block: int | None, **more: Any) -> dict[str, Any]:
    """What is known of a run before its flow is compiled. more: further budgets."""
    return {
        "budgets": {"iterations": iterations} | {name: value for name, value in more.items() if value is not None},
        "determinism": in_force(block),
        "extra": {"device": device()},
    }


def flow_fields(compiled: CompiledFlow) -> dict[str, Any]:
    """What a compiled flow is; in `precision`."""
    report = compiled.report
    bases = {slot: op for slot, op in compiled.bases().items() if op.structure != "identity"}
    dual = report.solver_class in _PRIMAL_DUAL
    return {
        "solver": report.solver,
        "solver_reason": report.reason,
        "lens_name": report.lens_name or None,
        "frame_type": report.frame_type,
        "sparsity_tau": SPARSITY_TAU[compiled.spec.dtype] if sparse_bases(compiled) else None,
        "alpha": float(compiled.controls.alpha),
        "beta": report.beta.record(),
        "seeds": {"seed": int(compiled.controls.seed)},
        "residual": {
            "method": "the larger of the primal and the dual residual" if dual else "the length of a step over alpha",
            "norm": "l2, relative",
            "notes": "the column prox_residual; the run converges where it is at most tol",
            "tol": float(compiled.controls.tol),
        },
        "transforms": {
            **{slot: {"structure": op.structure, "orthonormal": op.orthonormal()} for slot, op in bases.items()},
            **validated(compiled.transforms, compiled.spec.dtype),
        },
        "unit_normalization_table": dict(report.unit_normalization_table),
        "effective_weights": dict(report.weights),
        "warnings": list(report.warnings),
    }


def reference_fields(compiled: CompiledFlow, references: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The numbers that invariants are measured against, by default those where the flow starts; nothing where none is declared."""
    if not any(item.kind == "conserved" for item in compiled.spec.invariants):
        return {}
    return {"invariants": dict(freeze(compiled.spec, compiled.start) if references is None else references)}


def asked_fields(asked: Asked, iterations: int, block: int | None) -> dict[str, Any]:
    """For the manifest: what the run was asked for."""
    profile, config = asked.cert_profile, asked.config
    more = {
        "max_iterations": config.max_iterations,
        "max_wall_time_ms": config.max_wall_time_ms,
        "max_tuner_moves": config.max_tuner_moves if config.tuning else None,
        "max_tuning_ms": config.max_tuning_ms if config.tuning else None,
        "max_rollbacks": config.max_rollbacks,
    }
    fields = budget_fields(iterations, block, **more)
    return {
        **fields,
        "certified": True,
        "gates": {"eta_max": profile.eta_max, "gamma_min": profile.gamma_min},
        "extra": {**fields["extra"], "asked": asked.record()},
    }


def certificate_fields(verdict: Verdict) -> list[dict[str, Any]]:
    """For the manifest: each number with what it is, and whether a check failed by it."""
    failed = {finding.check for finding in verdict.findings}
    return [{"name": name, **bound.record(), "passed": name not in failed} for name, bound in verdict.certificates.items()]


def flow_columns(compiled: CompiledFlow, verdict: Verdict | None) -> dict[str, Any]:
    """What the rows of a certified run say of the flow and its certificates, beside the metrics."""
    report = compiled.report
    made: dict[str, Any] = {"flow_family": _FAMILIES.get(report.solver.removesuffix("_bt"), _CLASSES.get(report.solver_class, "gradient"))}
    if verdict is not None:
        found = [verdict.certificates[name] for name in ("eta_dd", "gamma") if name in verdict.certificates]
        if len(found) == 2 and all(np.isfinite(bound.value) for bound in found):
            made |= {"eta_dd": found[0].value, "gamma": found[1].value}
            made["cert_kind"] = weakest([bound.kind for bound in found], "lower_bound")
    if report.lens_name:
        made["lens_name"] = report.lens_name
    return made


def tell_verdict(recorder: Recorder, verdict: Verdict, before: Verdict | None, iteration: int, asked: Any) -> None:
    """A look of the gate, and the lens of it where that is another than before. asked: the lens of the profile."""
    recorder.event("CERT_CHECK", {**verdict.payload(), "feasible": verdict.feasible}, iteration=iteration)
    if "eta_dd" in verdict.certificates and (before is None or before.lens != verdict.lens):
        rule = asked if isinstance(asked, str) else "given"
        recorder.event("LENS_SELECTED", {"lens": verdict.lens, "role": "certification", "rule": rule}, iteration=iteration)


def tell_lens(recorder: Recorder, compiled: CompiledFlow) -> None:
    """The lenses in which a flow is sparse, of which those that were chosen on data with their rivals and errors."""
    for name, transform in compiled.transforms.items():
        told: dict[str, Any] = {"lens": transform.name, "role": "sparsity", "rule": "as the spec has it"}
        if probe := compiled.report.lens_probe.get(name):
            metric, results = probe["selection_criteria"]["metric"], probe["candidate_results"]
            named = len({one["name"] for one in results}) == len(results)  # or else they differ in their levels, say
            rivals = [one["name" if named else "described"] for one in results]
            told |= {
                "lens": rivals[probe["selected_index"]],
                "rule": probe["selection_criteria"]["rule"],
                "candidates": {rival: one[metric] for rival, one in zip(rivals, results, strict=True)},
            }
        recorder.event("LENS_SELECTED", told, iteration=0)


def keep_first_pictures(recorder: Recorder, compiled: CompiledFlow) -> None:
    """Of slots that look like images, for the report: the data, or where there is none the start."""
    measured = [np.asarray(slot.value) for slot in compiled.spec.slots.values() if slot.role == "data"]
    data = {value.shape: value for value in measured}
    for slot, value in compiled.start.items():
        if _is_picture(value):
            recorder.picture(f"{file_name(slot)}.before", np.asarray(data.get(value.shape, value)))


def keep_last_pictures(recorder: Recorder, state: Mapping[str, Any]) -> None:
    """Of the same slots, to stand beside those: what the run has made of them."""
    for slot, value in state.items():
        if _is_picture(value):
            recorder.picture(f"{file_name(slot)}.after", np.asarray(value))


def _is_picture(value: Any) -> bool:
    return picture_of(np.asarray(value), least=16) is not None
