"""What a checkpoint keeps of a certified run beside its steps: what was asked, where the controller, the tuner and the schedule stand, and
how the flow became what it is.

A changed flow is kept as its changes (the ridge that was added, the moves of the tuner in their order), never as its arrays: made again
from the same spec by the same operations, they give the same bits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .bounds import Bound
from .certificates import CertificationProfile, Descent, Finding, RefinementTest, Verdict
from .compiler import CompiledFlow, compile_flow
from .controller import (
    ControllerConfig,
    ControllerState,
    FlowPolicy,
    GapDial,
    Move,
    MultiscaleSchedule,
    ScheduleState,
    SparsityPolicy,
    TunerState,
    committed,
    with_ridge,
)
from .controller.remediation import ridge_of
from .errors import FlowInputError
from .operators.base import Op, Operator
from .problem import Problem
from .recorder.errors import CheckpointRefused
from .running import Snapshot, refilled
from .spec import FlowSpec

_MARK = "is_a"
_LOST = "what a checkpoint cannot hold"
_ITEMS = "a mapping by other keys than strings"
# An end of these kinds came from outside: such a run may go on.
OPEN_ENDS = ("cancelled", "budget", "timeout")


@dataclass(frozen=True)
class Asked:
    """What a certified run was asked for; see `run_certified`. solver: that of a flow that came compiled."""

    cert_profile: CertificationProfile = field(default_factory=CertificationProfile)
    config: ControllerConfig = field(default_factory=ControllerConfig)
    multiscale: MultiscaleSchedule | None = None
    flow: FlowPolicy | None = None
    gap_dial: GapDial | None = None
    sparsity: SparsityPolicy | None = None
    tol: float = 1e-6
    solver: str | None = None

    def with_given(self, given: Mapping[str, Any]) -> Asked:
        """With some of it anew, by the names of `run_certified`; None leaves a thing as it was. Raises FlowInputError for other names."""
        _known(given)
        made = replace(self, **{name: value for name, value in given.items() if value is not None})
        if made.gap_dial is None and made.sparsity is not None:
            made = replace(made, gap_dial=made.sparsity.dial())
        return replace(made, config=replace(made.config, tuning=made.gap_dial is not None))

    def applied(self, given: FlowSpec | CompiledFlow) -> FlowSpec | CompiledFlow:
        """The flow with the sparsity that was asked for: as it was given, or the changed spec."""
        spec = given.spec if isinstance(given, CompiledFlow) else given
        sparse = spec if self.sparsity is None else self.sparsity.applied(spec)
        return given if sparse is spec else sparse

    def record(self) -> dict[str, Any]:
        """For manifests: plain data, functions and operators by their names."""
        told = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "cert_profile"}
        return {"cert_profile": self.cert_profile.record()} | {name: _plain(packed(value)) for name, value in told.items()}


_CLASSES: dict[str, type] = {
    made.__name__: made
    for made in (
        Asked,
        Bound,
        CertificationProfile,
        ControllerConfig,
        ControllerState,
        Descent,
        Finding,
        FlowPolicy,
        GapDial,
        Move,
        MultiscaleSchedule,
        RefinementTest,
        ScheduleState,
        SparsityPolicy,
        TunerState,
        Verdict,
    )
}


def packed(value: Any) -> Any:
    """Our records as tagged dictionaries, exactly; a function or an operator as a note that it is lost."""
    if isinstance(value, Op):
        return {_MARK: "Op", "kind": value.kind, "params": packed(value.params)}
    if type(value).__name__ in _CLASSES:
        return {_MARK: type(value).__name__} | {one.name: packed(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return {_MARK: _ITEMS, "items": [[packed(key), packed(item)] for key, item in value.items()]}
        return {key: packed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(packed(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Operator) or callable(value):
        return {_MARK: _LOST, "what": getattr(value, "__qualname__", type(value).__name__)}
    return value


def unpacked(value: Any, where: str = "certified", given: Mapping[str, Any] | None = None) -> Any:
    """What was packed, but for the fields that are given. Raises CheckpointRefused."""
    if isinstance(value, (list, tuple)):
        return type(value)(unpacked(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind == _LOST:
        argument = where.split(".")[1] if "." in where else where
        raise CheckpointRefused(
            f"the {where.rpartition('.')[2]} of the run's {argument} is {value['what']}, code that a checkpoint cannot hold; "
            f'give it again: certified={{"{argument}": ...}}'
        )
    items = {name: item for name, item in value.items() if name != _MARK}
    found = {name: unpacked(item, f"{where}.{name}") for name, item in items.items() if not given or given.get(name) is None}
    if kind is None:
        return found
    if kind == _ITEMS:
        return dict(found["items"])
    if kind == "Op":
        return Op(found["kind"], **found["params"])
    try:
        return _CLASSES[kind](**found)
    except (KeyError, TypeError) as error:
        raise CheckpointRefused(f"{where} is a {kind} of another version of this software ({error}); start the run anew") from error


def asked_again(saved: Mapping[str, Any], given: Mapping[str, Any] | None) -> Asked:
    """What a run was asked for, some of it given anew. Raises CheckpointRefused for what only the caller can give and does not."""
    _known(given or {})
    asked: Asked = unpacked(saved, given=given)
    return asked.with_given(given or {})


_KINDS: dict[str, type] = {
    "cert_profile": CertificationProfile,
    "config": ControllerConfig,
    "multiscale": MultiscaleSchedule,
    "flow": FlowPolicy,
    "gap_dial": GapDial,
    "sparsity": SparsityPolicy,
}


def _known(given: Mapping[str, Any]) -> None:
    known = [one.name for one in dataclasses.fields(Asked) if one.name != "solver"]
    for name in given:
        if name not in known:
            raise FlowInputError(f"a certified run takes no {name!r}; it takes {', '.join(known)}")
        kind, value = _KINDS.get(name), given[name]
        if kind is not None and not (value is None or isinstance(value, kind)):
            told = f"{name} is {value!r:.60} of type {type(value).__name__}"
            raise FlowInputError(f"{told}; it must be a {kind.__name__}, as {kind.__name__}(...) makes it")


def _plain(value: Any) -> Any:
    """For the eye: without tags."""
    if isinstance(value, dict):
        if value.get(_MARK) == _LOST:
            return value["what"]
        return {name: _plain(item) for name, item in value.items() if name != _MARK}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def told_descents(blocks: Iterable[Descent]) -> list[Descent]:
    """What a run card needs of all blocks: the first that did not descend, and the last."""
    held = list(blocks)
    failed = next((block for block in held if not block.passed), None)
    return ([] if failed is None or failed is held[-1] else [failed]) + held[-1:]


@dataclass(frozen=True)
class Changes:
    """What became of a flow under the controller. ridge: that remediation added. solver: the one that ran in the end. moves: of the tuner,
    in their order. profile: of its fields those that remediation changed. controls: the leaves of its numbers after all of it."""

    ridge: float
    solver: str
    moves: tuple[Move, ...]
    profile: Mapping[str, Any]
    controls: list[np.ndarray[Any, Any]]

    @classmethod
    def between(cls, asked: Asked, profile: CertificationProfile, compiled: CompiledFlow, moves: Iterable[Move]) -> Changes:
        """From what was asked to what there is now."""
        changed = {
            name: getattr(profile, name) for name in ("lens", "precondition") if getattr(profile, name) != getattr(asked.cert_profile, name)
        }
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(compiled.controls)]
        return cls(ridge_of(compiled.spec), compiled.solver.name, tuple(moves), changed, leaves)

    def again(self, asked: Asked, given: FlowSpec | CompiledFlow, recompile: Callable[..., CompiledFlow]) -> CompiledFlow:
        """The changed flow, made anew; in `precision`."""
        spec = given.spec if isinstance(given, CompiledFlow) else given
        if self.ridge != ridge_of(spec):
            compiled = recompile(with_ridge(spec, self.ridge))
        elif isinstance(given, CompiledFlow) and asked.flow is None:
            compiled = given
        else:
            compiled = compile_flow(spec, solver=asked.flow.solver if asked.flow else asked.solver, tol=asked.tol)
        if compiled.solver.name != self.solver:
            compiled = recompile(compiled.spec, solver=self.solver)
        for move in self.moves:
            compiled = committed(compiled, move, asked.gap_dial.step_rule if asked.gap_dial else "c/beta")
        return replace(compiled, controls=refilled(compiled.controls, self.controls, "the controls"))


_CLASSES["Changes"] = Changes


def place_record(place: Snapshot) -> dict[str, Any]:
    """Of a place to go back to, what going back needs."""
    return {
        "x": {slot: np.asarray(value) for slot, value in place.run.state.x.items()},
        "controls": [np.asarray(leaf) for leaf in jax.tree.leaves(place.controls)],
        "done": place.done,
        "segment": place.segment,
    }


def place_from(saved: Mapping[str, Any], compiled: CompiledFlow, problem: Problem) -> Snapshot:
    """The place again; in `precision`."""
    controls = refilled(compiled.controls, saved["controls"], "the controls")
    x = {slot: jnp.asarray(value, value.dtype) for slot, value in saved["x"].items()}
    run = compiled.begun(problem=problem, controls=controls, x=x)
    return Snapshot(run, problem, controls, int(saved["done"]), int(saved["segment"]))


def opened_again(controller: ControllerState, *, left: bool) -> ControllerState:
    """The controller of a run that is gone on with. left: whether there are steps left of its budget; where there are none, that is how it
    ends now, if it had been cancelled."""
    if not controller.ended or controller.status not in OPEN_ENDS:
        return controller
    if left:
        return replace(controller, ended=False, status="")
    return replace(controller, status="budget") if controller.status == "cancelled" else controller


def counts(controller: ControllerState) -> dict[str, int]:
    """What a controller did, for results."""
    return {
        "rollbacks": controller.rollbacks,
        "moves": controller.moves,
        "accepted_moves": controller.accepted_moves,
        "remedies": controller.attempts,
    }


def told_changes(ridge: float, moves: Iterable[Move]) -> dict[str, Any]:
    """How an energy differs from the one that was asked for: the ridge that was added, and by which factor each knob was turned."""
    factors: dict[str, float] = {}
    for move in moves:
        for name, factor in move.factors.items():
            factors[name] = factors.get(name, 1.0) * float(factor)
    return {"ridge": ridge, "factors": factors}


def certified_answer(capsule: Path, record: Mapping[str, Any], spec: FlowSpec) -> dict[str, Any] | None:
    """What the answer of a certified run that is over says beyond that of any run, from its last checkpoint; None where it was killed
    before its run card was written."""
    from .recorder.manifest import load_run_manifest

    card = json.loads((capsule / "run_card.json").read_text(encoding="utf-8")).get("card")
    if card is None:
        return None
    kept = record["certified"]
    changes, state, sparsity = (unpacked(item) for item in (kept["changes"], kept["controller"], kept["asked"]["sparsity"]))
    spec, ridge = spec if sparsity is None else sparsity.applied(spec), changes.ridge
    return {
        "phase": load_run_manifest(capsule)["phase"],
        "verdict": unpacked(kept["verdict"]),
        "card": card,
        "controller": counts(state),
        "weights": kept["weights"],
        "spec": spec if ridge == ridge_of(spec) else with_ridge(spec, ridge),
        "changes": told_changes(ridge, changes.moves),
    }
