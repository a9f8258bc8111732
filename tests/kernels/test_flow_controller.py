"""The controller: its table of phases, and that no path tunes outside GREEN or ends a run twice."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_adapter.kernels.flow.bounds import Bound
from bridge_adapter.kernels.flow.certificates import CertificationProfile, certify
from bridge_adapter.kernels.flow.certificates.descent import Descent
from bridge_adapter.kernels.flow.certificates.records import Finding, Phase, Remedy, Verdict
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller import (
    Accepted,
    BlockDone,
    Cancelled,
    Certified,
    ControllerConfig,
    ControllerState,
    Diverged,
    Failed,
    FlowPolicy,
    Linted,
    MoveProposed,
    MoveTried,
    NoMove,
    exhausted,
    remedied,
    status,
    step,
)
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

TOLD = {"flow_name": "test", "dtype": "float64"}
FELL, ROSE = Descent(True, "E+ <= E"), Descent(False, "E+ <= E", 0, 1.0)


def verdict(phase: Phase = "GREEN", remedy: Remedy = "raise_ridge") -> Verdict:
    findings = () if phase == "GREEN" else (Finding("gamma", "gamma is too small", remedy, "Raise the ridge", 0.0, 1e-6),)
    return Verdict("strict", phase, {"eta_dd": Bound(0.0, "exact", "d"), "gamma": Bound(1.0, "exact", "d")}, findings)


def played(config: ControllerConfig, *happenings: Any) -> tuple[ControllerState, list[str], list[str]]:
    state, events, actions = ControllerState(), [], []
    for happened in happenings:
        made = step(config, state, happened)
        state = made.state
        events += [name for name, _ in made.events]
        actions += [action.act for action in made.actions]
    return state, events, actions


START = (Accepted(TOLD, 1.0), Linted(), Certified(verdict()))


def block(iteration: int, energy: float = 1.0, descent: Descent = FELL, **more: Any) -> BlockDone:
    return BlockDone(iteration, energy, descent, **more)


def moved(feasible: bool = True, better: bool = True, **more: Any) -> MoveTried:
    return MoveTried({"lambda": 0.9}, verdict("GREEN" if feasible else "AMBER"), True, better, **more)


def test_a_run_goes_from_red_over_amber_to_green_and_ends_once() -> None:
    state, events, actions = played(ControllerConfig(), *START, block(100), block(150, stopped="converged"), block(200), Cancelled())
    assert events == ["RUN_STARTED", "PHASE_TRANSITION", "CERT_PASS", "PHASE_TRANSITION", "RUN_FINISHED"]
    assert actions == ["lint", "certify", "keep", "iterate", "keep", "iterate", "keep", "stop"]
    assert (state.phase, state.status, state.iteration) == ("GREEN", "converged", 150)
    assert status(state)["checkpoints_available"] == 1


def test_a_spec_with_lint_errors_stays_red() -> None:
    state, events, _ = played(ControllerConfig(), Accepted(TOLD, 1.0), Linted(("a term is of no slot",)), Certified(verdict()))
    assert (state.phase, state.status, events) == ("RED", "lint_fail", ["RUN_STARTED", "SPEC_LINT_FAIL", "RUN_FINISHED"])


def test_remediation_is_tried_m_times_and_then_the_run_aborts_in_red() -> None:
    failed = [Certified(verdict("AMBER"))] * 5
    state, events, actions = played(ControllerConfig(), *START[:2], *failed)
    assert events[2:] == ["CERT_REMEDIATION"] * 3 + ["CERT_FAIL", "PHASE_TRANSITION", "RUN_FINISHED"]
    assert actions.count("remedy") == 3 and (state.phase, state.status) == ("RED", "cert_fail")
    state, events, _ = played(ControllerConfig(), *START[:2], *failed[:2], Certified(verdict()))
    assert state.phase == "GREEN" and state.attempts == 2


def test_what_no_remedy_can_change_is_not_tried_again() -> None:
    _, events, _ = played(ControllerConfig(), *START[:2], Certified(verdict("AMBER", "none")))
    assert events[2:] == ["CERT_FAIL", "PHASE_TRANSITION", "RUN_FINISHED"]
    state, events, actions = played(ControllerConfig(on_failure="degrade"), *START[:2], Certified(verdict("AMBER", "none")), block(10))
    assert (state.phase, events[2:], actions[-1]) == ("AMBER", ["CERT_FAIL"], "iterate")


def test_a_step_that_does_not_descend_is_tried_with_smaller_steps_that_are_kept() -> None:
    config = ControllerConfig()
    state, events, _ = played(config, *START, block(10), block(20, 2.0, ROSE), block(20, 0.5))
    assert state.alpha == 0.5 and state.step_attempts == 0 and events[-1] == "STEP_REMEDIATION"
    rises = [block(20, 2.0, ROSE)] * 4
    state, events, actions = played(config, *START, block(10), *rises)
    assert events[-2:] == ["STEP_FAIL", "ROLLBACK"] and state.alpha == 0.125 and actions[-2:] == ["restore", "iterate"]
    state, events, actions = played(config, *START, block(10), *rises * 4)
    assert events.count("ROLLBACK") == 3 and events[-1] == "RUN_FINISHED" and actions[-2:] == ["restore", "stop"]
    assert (state.phase, state.status, state.iteration) == ("RED", "cert_fail", 10)


def test_a_lost_certificate_ends_the_run_with_the_last_good_state_or_degrades_it() -> None:
    lost = (Finding("invariant", "the mass drifted", "none", "Look at the coupling"),)
    state, events, actions = played(ControllerConfig(tuning=True), *START, block(10, 3.0), block(20, 1.0, findings=lost))
    assert events[-4:] == ["CERT_FAIL", "PHASE_TRANSITION", "PHASE_TRANSITION", "RUN_FINISHED"]
    assert state.iteration == 10 and state.energy == 3.0 and actions[-2] == "restore"
    config = ControllerConfig(tuning=True, on_failure="degrade")
    state, events, actions = played(config, *START, block(10), block(20, findings=lost), block(30))
    assert state.phase == "AMBER" and not state.tuning and actions[-1] == "iterate"


def test_numbers_that_are_not_finite_send_a_run_back_with_a_smaller_step_until_it_has_been_so_too_often() -> None:
    bad = Diverged(17, "x is NaN")
    state, events, actions = played(ControllerConfig(), *START, block(10, 3.0), bad)
    assert (events[-1], actions[-2:], state.alpha) == ("ROLLBACK", ["restore", "iterate"], 0.5)
    assert (state.phase, state.iteration, state.energy) == ("GREEN", 10, 3.0)
    state, events, actions = played(ControllerConfig(), *START, block(10, 3.0), *[bad] * 5)
    assert events.count("ROLLBACK") == 3 and actions[-2:] == ["restore", "stop"]
    assert (state.phase, state.status, state.iteration, state.energy) == ("RED", "diverged", 10, 3.0)
    # Where nothing was ever certified, back means to where the block began.
    config = ControllerConfig(on_failure="degrade", max_rollbacks=1)
    state, events, _ = played(config, *START[:2], Certified(verdict("AMBER", "none")), block(10, 3.0), bad, block(20, 2.0), bad)
    assert (state.status, state.iteration, events.count("ROLLBACK")) == ("diverged", 20, 1)


def test_moves_are_kept_only_if_certified_and_better_and_bad_ones_roll_back() -> None:
    config = ControllerConfig(tuning=True)
    proposed = MoveProposed({"lambda": 0.9}, "t1")
    state, events, actions = played(config, *START, block(10), proposed, moved(reanchors=True))
    assert actions[-4:] == ["try", "commit", "keep", "iterate"] and state.segment == 1 and events[-1] == "TUNER_MOVE_ACCEPTED"
    state, events, _ = played(config, *START, block(10), proposed, moved(better=False))
    assert events[-1] == "TUNER_MOVE_REJECTED" and state.rollbacks == 0
    state, events, actions = played(config, *START, block(10), proposed, moved(feasible=False))
    assert events[-2:] == ["ROLLBACK", "TUNER_MOVE_REJECTED"] and actions[-2:] == ["restore", "iterate"]
    bad = (proposed, moved(feasible=False))
    state, events, _ = played(config, *START, block(10), *bad * 4)
    assert (events.count("ROLLBACK"), state.status, state.phase) == (3, "completed", "GREEN")


def test_an_exhausted_tuner_budget_ends_tuning_and_not_the_run() -> None:
    config = ControllerConfig(tuning=True, max_tuner_moves=2)
    moves = (MoveProposed({"lambda": 0.9}), moved())
    state, events, actions = played(config, *START, block(10), *moves * 3, block(200))
    assert events.count("TIMEOUT") == 1 and events.count("TUNER_MOVE_ACCEPTED") == 2 and "RUN_FINISHED" not in events
    assert not state.ended and actions[-1] == "iterate" and events[-1] == "TUNER_MOVE_REJECTED"


def test_the_time_and_the_iterations_of_a_run_are_limited() -> None:
    state, events, _ = played(ControllerConfig(max_wall_time_ms=50), *START, block(10, elapsed_ms=60))
    assert (events[-2:], state.status) == (["TIMEOUT", "RUN_FINISHED"], "timeout")
    assert played(ControllerConfig(max_iterations=10), *START, block(10))[0].status == "budget"
    assert played(ControllerConfig(), *START, Cancelled("asked"))[1][-2:] == ["CANCELLED", "RUN_FINISHED"]
    assert played(ControllerConfig(), *START, Failed("OSError", "disk full"))[1][-2:] == ["RUN_FAILED", "RUN_FINISHED"]


NOT_GREEN: list[tuple[Phase, Remedy]] = [("AMBER", "raise_ridge"), ("AMBER", "none"), ("RED", "none")]
happenings = st.one_of(
    st.builds(lambda: Accepted(TOLD, 1.0)),
    st.sampled_from([Linted(), Linted(), Linted(("no",))]),
    st.sampled_from([Certified(verdict()), Certified(verdict()), *(Certified(verdict(*one)) for one in NOT_GREEN)]),
    st.builds(
        block,
        st.integers(1, 50),
        st.floats(-1, 1),
        st.sampled_from([FELL, FELL, ROSE]),
        findings=st.sampled_from([(), (), (Finding("invariant", "drift", "none", ""),)]),
        stopped=st.sampled_from([None] * 9 + ["converged"]),
        elapsed_ms=st.floats(0, 120),
    ),
    st.builds(Diverged, st.integers(1, 50), st.just("NaN")),
    st.builds(lambda: MoveProposed({"lambda": 1.1})),
    st.builds(moved, st.booleans(), st.booleans(), reanchors=st.booleans()),
    st.sampled_from([NoMove()]),
    st.sampled_from([*[NoMove()] * 8, Cancelled(), Failed("E", "m")]),
)
configs = st.builds(
    ControllerConfig,
    max_wall_time_ms=st.sampled_from([None, 100.0]),
    max_tuner_moves=st.integers(0, 4),
    max_rollbacks=st.integers(0, 3),
    tuning=st.booleans(),
    on_failure=st.sampled_from(["abort", "degrade"]),
)


@settings(max_examples=300, deadline=None)
@given(configs, st.booleans(), st.lists(happenings, max_size=40))
def test_no_path_tunes_outside_green_or_finishes_twice(config: ControllerConfig, begun: bool, happened: list[Any]) -> None:
    state, names = ControllerState(), []
    for one in [*(START if begun else ()), *happened, Cancelled()]:
        before = state
        made = step(config, state, one)
        state = made.state
        for name, payload in made.events:
            json.dumps(payload)
            names.append(name)
            if name.startswith("TUNER_MOVE_") and name != "TUNER_MOVE_REJECTED":
                assert before.phase == "GREEN" and config.tuning
            if name == "PHASE_TRANSITION":
                assert payload["from"] != payload["to"]
        for action in made.actions:
            assert action.act not in ("propose", "try", "commit") or (before.phase == "GREEN" and state.phase == "GREEN" and config.tuning)
        assert state.phase != "GREEN" or before.phase == "GREEN" or isinstance(one, Certified)
        assert not before.ended or (made.state == before and not made.events and not made.actions)
        assert state.rollbacks <= config.max_rollbacks
    assert names.count("RUN_FINISHED") == names.count("RUN_STARTED") == 1 and names[-1] == "RUN_FINISHED"


def naive() -> FlowSpec:
    data = Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target=np.ones((16, 16)))
    return FlowSpec({"x": Slot(shape=(16, 16))}, [data, Term("l1", "x", weight=0.01)])


def test_remediation_raises_the_ridge_until_the_gate_opens_and_never_above_its_cap() -> None:
    compiled, profile = compile_flow(naive()), CertificationProfile()
    found = certify(compiled, profile)
    changed = remedied(compiled, profile, found.findings[0], ridge_cap=1e-2, recompile=compile_flow)
    assert changed is not None and changed.changed["ridge"] == pytest.approx(2e-6, rel=1e-3)
    assert certify(changed.compiled, changed.profile).feasible
    again = remedied(changed.compiled, profile, found.findings[0], ridge_cap=1e-2, recompile=compile_flow)
    assert again is not None and again.changed["ridge"] == 2 * changed.changed["ridge"] and len(again.compiled.spec.terms) == 3
    assert remedied(compiled, profile, found.findings[0], ridge_cap=0.0, recompile=compile_flow) is None
    given_up = exhausted(found, found.findings[0])
    assert played(ControllerConfig(), *START[:2], Certified(given_up))[0].status == "cert_fail"


def test_remediation_turns_to_the_lens_in_which_the_operator_is_diagonal() -> None:
    from bridge_adapter.kernels.flow.controller import with_ridge

    compiled, profile = compile_flow(with_ridge(naive(), 0.01)), CertificationProfile(lens="pixel")
    found = certify(compiled, profile)
    changed = remedied(compiled, profile, found.findings[0], ridge_cap=0.0, recompile=compile_flow)
    assert changed is not None and certify(changed.compiled, changed.profile).lens == "dft"
    assert certify(changed.compiled, changed.profile).feasible


def test_remediation_preconditions_a_badly_scaled_flow_and_its_steps_are_those_that_are_certified() -> None:
    scales = np.logspace(0, 2, 12)
    matrix = np.linalg.cholesky(np.eye(12) + 0.05).T * scales  # A^T A is nearly diagonal, once scaled
    terms = [Term("quadratic", "x", op=Op("dense", matrix=matrix), target=np.ones(12)), Term("l1", "x", weight=0.01)]
    spec = FlowSpec({"x": Slot(shape=(12,))}, terms)
    compiled, profile = compile_flow(spec), CertificationProfile()
    (finding,) = certify(compiled, profile).findings
    assert (finding.check, finding.remedy) == ("eta_dd", "precondition") and (finding.value or 0) > 10
    assert certify(compiled, CertificationProfile(precondition=True)).findings[0].check == "precondition"
    changed = remedied(compiled, profile, finding, ridge_cap=0.0, recompile=compile_flow)
    assert changed is not None and changed.compiled.solver.name == "preconditioned"
    gram = matrix.T @ matrix
    root = 1 / np.sqrt(np.diagonal(gram))
    seen = root[:, None] * gram * root
    verdict = certify(changed.compiled, changed.profile)
    assert verdict.feasible and verdict.value("gamma") == pytest.approx(np.linalg.eigvalsh(seen)[0])
    assert verdict.value("eta_dd") == pytest.approx((np.abs(seen).sum(axis=1) - 1).max())
    result = run_certified(spec, iterations=300, tol=1e-10)
    assert (result["phase"], result["report"].solver, result["stopped"]) == ("GREEN", "preconditioned", "converged")
    assert result["energy"] == pytest.approx(run(spec, iterations=20000, tol=1e-12)["energy"], rel=1e-9)
    asked = run_certified(spec, flow=FlowPolicy("basic"), iterations=10)
    assert (asked["stopped"], asked["iterations"]) == ("cert_fail", 0)  # a policy is not changed behind one's back


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FlowInputError, match="between 0 and 1"):
        ControllerConfig(step_alpha_reduction_factor=1.0)
    with pytest.raises(FlowInputError, match="must not be negative"):
        ControllerConfig(max_rollbacks=-1)
