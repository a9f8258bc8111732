"""Whole runs, recorded and under the controller: the gate opens for what is certified and for nothing else, places are gone back to, and a
run that was cut goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge_adapter.kernels.flow import FlowDiverged, FlowInputError, FlowSpec, Invariant, Op, Slot, Term, resume_run, run
from bridge_adapter.kernels.flow.certificates import CertificationProfile, convex
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller import ControllerConfig, FlowPolicy, GapDial, MultiscaleSchedule, SparsityPolicy
from bridge_adapter.kernels.flow.lint import SpecLintFailed
from bridge_adapter.kernels.flow.recorder import reading
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest

N = 128
NOISE = 0.1


def signal() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.zeros(N)
    truth[rng.choice(N, 8, replace=False)] = 3.0
    return truth, truth + NOISE * rng.standard_normal(N)


def spec(*terms: Term, **more: Any) -> FlowSpec:
    return FlowSpec(slots={"x": Slot(shape=(N,)), "y": Slot(value=signal()[1], role="data")}, terms=list(terms), **more)


SPARSE = Term("l1", "x", weight=0.01)
BLURRED = Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target="y")
SEEN = Term("quadratic", "x", target="y")
WAVELETS = Term("wavelet_l1", "x", weight=0.3, params={"wavelet": "haar", "levels": 4})


def events(result: dict[str, Any]) -> list[str]:
    return pq.read_table(Path(result["capsule"]) / "events.parquet")["event"].to_pylist()  # type: ignore[no-any-return]


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(Path(result["capsule"]) / "events.parquet").to_pylist()  # type: ignore[no-any-return]


def test_a_blur_has_no_gap_and_becomes_green_by_the_ridge_that_is_recorded(tmp_path: Path) -> None:
    result = run_certified(spec(BLURRED, SPARSE), iterations=60, out_dir=tmp_path)
    assert (result["phase"], result["controller"]["remedies"]) == ("GREEN", 1)
    gamma = result["verdict"].certificates["gamma"]
    assert gamma.kind == "exact" and gamma.value >= 1e-6
    assert [term.name for term in result["spec"].terms if (term.name or "").startswith("remedy")] == ["remedy_ridge_x"]
    told = events(result)
    assert told[0] == "RUN_STARTED" and told[-1] == "RUN_FINISHED" and told.count("RUN_FINISHED") == 1
    assert told.index("CERT_REMEDIATION") < told.index("CERT_PASS")
    rows = pq.read_table(Path(result["capsule"]) / "telemetry.parquet").to_pylist()
    assert [row["iter"] for row in rows] == list(range(1, 61))
    assert {row["phase"] for row in rows} == {"GREEN"} and all(row["gamma"] >= 1e-6 for row in rows)
    manifest = load_run_manifest(result["capsule"])
    assert manifest["certified"] and manifest["phase"] == "GREEN" and manifest["gates"] == {"eta_max": 0.9, "gamma_min": 1e-6}
    # Those of the flow that ran, with its ridge, and not of the one that was given.
    assert manifest["alpha"] == result["history"]["alpha"][-1] and "remedy_ridge_x" in manifest["effective_weights"]
    assert {record["name"] for record in manifest["certificates"] if record["passed"]} >= {"eta_dd", "gamma"}
    assert manifest["environment"]["x64"] and manifest["latest_checkpoint"]["iter"] == 60


def test_without_leave_to_change_the_energy_the_same_blur_fails_with_the_reason(tmp_path: Path) -> None:
    result = run_certified(spec(BLURRED, SPARSE), iterations=60, out_dir=tmp_path, config=ControllerConfig(ridge_cap=0.0))
    assert (result["stopped"], result["phase"], result["iterations"]) == ("cert_fail", "RED", 0)
    assert "gamma is" in result["verdict"].told() and "curvature" in result["verdict"].told()
    assert "CERT_FAIL" in events(result)
    assert not np.any(result["state"]["x"])


def test_a_run_that_may_degrade_goes_on_in_amber() -> None:
    settings = ControllerConfig(ridge_cap=0.0, on_failure="degrade")
    result = run_certified(spec(BLURRED, SPARSE), iterations=30, config=settings, gap_dial=GapDial(sigma=NOISE))
    assert (result["stopped"], result["phase"], result["iterations"]) == ("budget", "AMBER", 30)
    assert result["controller"]["moves"] == 0


def test_the_policy_that_is_told_is_the_one_that_ran(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"flow": FlowPolicy("basic"), "sparsity": SparsityPolicy(sparsity_mode="tree")}
    result = run_certified(spec(BLURRED, WAVELETS), iterations=40, out_dir=tmp_path, cert_profile=convex(), **asked)
    rows = pq.read_table(Path(result["capsule"]) / "telemetry.parquet").to_pylist()
    assert result["spec"].terms[1].params["sparsity"] == "tree" and {row["sparsity_mode"] for row in rows} == {"tree"}
    assert result["report"].solver == "ista" and "FLOW_POLICY_APPLIED" in events(result)
    assert np.all(np.diff(result["history"]["energy"]) <= 1e-12)


def test_scales_are_unlocked_once_each_and_the_energy_never_rises(tmp_path: Path) -> None:
    whole = Term("wavelet_l1", "x", weight=0.3, params={"levels": 4, "threshold_approx": True})
    schedule = MultiscaleSchedule(4, "residual_driven", "gap < 0.1")
    result = run_certified(spec(SEEN, whole), iterations=200, out_dir=tmp_path, multiscale=schedule)
    told = events(result)
    assert told.count("SCALE_ACTIVATED") == 4 and told.count("MULTISCALE_SCHEDULE_INIT") == 1
    rules = [json.loads(row["payload"]) for row in rows_of(result) if row["event"] == "SCALE_ACTIVATED"]
    assert any(rule["rule"] == "gap < 0.1" and rule["value"] < 0.1 for rule in rules)
    assert result["stopped"] == "converged"
    assert np.all(np.diff(result["history"]["energy"]) <= 1e-9)
    straight = run(spec(SEEN, whole), iterations=200)
    np.testing.assert_allclose(result["state"]["x"], straight["state"]["x"], atol=1e-6)


def test_the_tuner_moves_only_when_green_and_towards_the_noise(tmp_path: Path) -> None:
    heavy = spec(Term("quadratic", "x", op=Op("gaussian_blur", sigma=0.4), target="y"), Term("l1", "x", weight=0.4))
    dial = GapDial(sigma=NOISE, lambda_move_cap=0.2, proposal=0.2)
    result = run_certified(heavy, iterations=240, tol=1e-14, block=10, out_dir=tmp_path, gap_dial=dial)
    assert result["phase"] == "GREEN" and result["controller"]["accepted_moves"] >= 1
    weight = float(result["report"].weights["x_l1_1"])
    turned = np.exp(sum(np.log(move) for move in accepted(result)))
    assert weight == 0.4 and turned < 1


def test_a_run_ends_where_its_duality_gap_is_small() -> None:
    checks = ("lyapunov", "spectral_gap", "duality_gap")
    profile = CertificationProfile(checks=checks, tolerances={"duality_gap": 1e-2})
    early = run_certified(spec(BLURRED, SPARSE), iterations=400, tol=1e-300, block=5, cert_profile=profile)
    assert early["stopped"] == "converged" and early["iterations"] < 400
    assert early["card"]["passed"] and 0 <= early["card"]["duality_gap"]["relative"] <= 1e-2


def test_total_variation_under_primal_dual_steps_that_balance_themselves_keeps_its_certificate() -> None:
    image = np.kron(np.array([[0.0, 1.0], [0.6, 0.2]]), np.ones((8, 8))) + 0.1 * np.random.default_rng(3).standard_normal((16, 16))
    terms = [Term("quadratic", "x", target=image), Term("tv", "x", weight=0.15)]
    result = run_certified(FlowSpec({"x": Slot(shape=(16, 16))}, terms), iterations=600, block=100, tol=1e-12, cert_profile=convex())
    assert (result["phase"], result["iterations"]) == ("GREEN", 600) and result["card"]["passed"]
    assert len(result["history"]["energy"]) == 600  # no step was made twice
    assert result["history"]["restarts"][-1] >= 3


def accepted(result: dict[str, Any]) -> list[float]:
    return [json.loads(row["payload"])["move"]["lambda"] for row in rows_of(result) if row["event"] == "TUNER_MOVE_ACCEPTED"]


def test_a_lost_invariant_ends_the_run_in_the_last_good_state() -> None:
    drifting = spec(SEEN, invariants=[Invariant("sum", lambda state: state["x"].sum())])
    profile = CertificationProfile(checks=("lyapunov", "spectral_gap", "invariant"))
    result = run_certified(drifting, iterations=50, cert_profile=profile)
    assert (result["stopped"], result["phase"]) == ("cert_fail", "RED")
    assert not np.any(result["state"]["x"])  # the start, where nothing had drifted
    assert not result["card"]["passed"]


def test_mfista_does_not_pass_for_descending_where_its_steps_are_too_long_to_be_taken() -> None:
    bent = Term("function", "x", params={"of": lambda u: 2 * jnp.sum(u**2) + jnp.sum(jnp.sqrt(1 + 9 * u**2)), "beta": 1.0, "convex": True})
    untrue = FlowSpec({"x": Slot(value=np.linspace(-5.0, 7.0, 20))}, [bent, Term("l1", "x", weight=0.02)])
    result = run_certified(untrue, compile_flow(untrue, solver="mfista"), iterations=100, block=10, cert_profile=convex())
    # Of steps that were undone, the card says nothing.
    assert (result["phase"], result["card"]["passed"]) == ("GREEN", True) and result["energy"] < 20 + 1e-9


def test_a_step_too_long_is_shortened_and_kept(tmp_path: Path) -> None:
    from bridge_adapter.kernels.flow.compiler import compile_flow
    from bridge_adapter.kernels.flow.controller import with_alpha

    compiled = with_alpha(compile_flow(spec(SEEN, SPARSE), solver="ista"), 2.6)
    settings = ControllerConfig(max_remediation_attempts=0, on_failure="degrade")
    result = run_certified(compiled.spec, compiled, iterations=40, out_dir=tmp_path, config=settings)
    assert "STEP_REMEDIATION" in events(result)
    assert result["stopped"] in ("converged", "budget") and result["history"]["alpha"][-1] < 2


def quartic() -> FlowSpec:
    """sum of x^4 / 4 with a bound of its curvature that is wrong: it is 27 where the flow starts."""
    steep = Term("function", "x", params={"of": lambda u: (u**4).sum() / 4, "beta": 1.0, "convex": True})
    return FlowSpec(name="quartic", slots={"x": Slot(value=np.full(4, 3.0)), "z": Slot(shape=(2,))}, terms=[steep, Term("tikhonov", "z")])


def dump(result: dict[str, Any] | Path) -> dict[str, Any]:
    capsule = result if isinstance(result, Path) else Path(result["capsule"])
    (path,) = capsule.glob("artifacts/diverged-?.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_a_certified_run_whose_numbers_overflow_goes_back_and_takes_smaller_steps(tmp_path: Path) -> None:
    # Without the check of descent, which would see the wrong bound before anything overflows.
    steps: dict[str, Any] = {"cert_profile": CertificationProfile(name="convex", checks=()), "flow": FlowPolicy("basic"), "block": 8}
    result = run_certified(quartic(), iterations=40, tol=0.0, out_dir=tmp_path, **steps)
    told = events(result)
    assert (result["phase"], result["stopped"], told.count("ROLLBACK"), told.count("STEP_NOT_FINITE")) == ("GREEN", "budget", 2, 2)
    assert result["history"]["alpha"][-1] == 0.125 and np.all(np.isfinite(result["state"]["x"]))

    once = ControllerConfig(max_rollbacks=0)
    result = run_certified(quartic(), iterations=40, out_dir=tmp_path, config=once, **steps)
    assert (result["phase"], result["stopped"], result["card"]["passed"]) == ("RED", "diverged", False)
    assert np.array_equal(result["state"]["x"], np.full(4, 3.0))  # the last good state: where it started
    assert load_run_manifest(result["capsule"])["status"] == "diverged"
    found = dump(result)
    assert found["slot"] is None and found["slots"]["x"]["not_finite"] == 0 and found["metrics"]["energy"] == "Infinity"
    (finished,) = (event for event in reading.events(result["capsule"]) if event["event"] == "RUN_FINISHED")
    assert finished["payload"]["total_iterations"] == result["iterations"] == 0


@pytest.mark.parametrize("redact", [False, True])
def test_a_plain_run_with_a_step_that_is_not_finite_says_where_and_leaves_a_capsule(tmp_path: Path, redact: bool) -> None:
    # The well known trap: the derivative of this norm at 0 is NaN, and the first step leads there.
    trap = Term("function", "x", params={"of": lambda u: jnp.sqrt(u * u).sum(), "beta": 1.0, "convex": True})
    flow = FlowSpec(
        name="trap", slots={"x": Slot(value=np.ones(70)), "a/z": Slot(shape=(2,))}, terms=[trap, Term("tikhonov", "a/z", weight=1e-9)]
    )
    with pytest.raises(
        FlowDiverged, match=r"step 2 of trap is not finite: 70 of 70 values of the slot x are NaN .* smaller alpha"
    ) as raised:
        run(flow, solver="ista", alpha=1.0, block=8, out_dir=tmp_path, redact=redact)
    assert (raised.value.step, raised.value.slot) == (2, "x")
    (capsule,) = tmp_path.iterdir()
    assert load_run_manifest(capsule)["status"] == "diverged"
    found, (row,) = dump(capsule), reading.telemetry(capsule).to_pylist()
    assert (row["iter"], row["E"]) == (1, found["last_good"]["metrics"]["energy"]) == (1, 0.0)
    assert (found["slots"]["x"]["not_finite"], found["slots"]["a/z"]["not_finite"]) == (70, 0)
    assert (capsule / "artifacts/diverged-2.x.npy").exists() is not redact
    assert (capsule / "artifacts/diverged-2.a_z.npy").exists()  # two numbers tell nothing
    assert [event["event"] for event in reading.events(capsule)][-3:] == ["STEP_NOT_FINITE", "RUN_FAILED", "RUN_FINISHED"]


@pytest.mark.parametrize("iterations", [0, -3, 2.5, True, float("nan"), "30"])
def test_iterations_that_are_no_number_of_steps_are_refused_and_leave_no_capsule(tmp_path: Path, iterations: Any) -> None:
    for start in (run, run_certified):
        with pytest.raises(FlowInputError, match="it must be a whole number, 1 or more"):
            start(spec(SEEN, SPARSE), iterations=iterations, out_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_lint_is_recorded_and_raised(tmp_path: Path) -> None:
    with pytest.raises(SpecLintFailed, match="there is no atom 'nope'"):
        run_certified(spec(Term("nope", "x")), out_dir=tmp_path)
    (capsule,) = tmp_path.iterdir()
    assert {"SPEC_LINT_FAIL", "RUN_FINISHED"} <= set(events({"capsule": capsule}))


def test_a_callback_cancels_and_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path: Path) -> None:
    flow = spec(BLURRED, WAVELETS, invariants=[Invariant("sum", lambda state: state["x"].sum())])
    whole = run(flow, iterations=90, tol=0.0, block=10)
    cut = run(
        flow, iterations=90, tol=0.0, block=10, out_dir=tmp_path, on_progress=lambda info: "cancel" if info["iteration"] == 40 else None
    )
    assert (cut["stopped"], cut["iterations"]) == ("cancelled", 40)
    told = load_run_manifest(cut["capsule"])
    assert (told["phase"], told["budgets"], told["invariants"]) == ("AMBER", {"iterations": 90}, {"sum": 0.0})
    assert told["determinism"] == {"deterministic": False, "xla": False, "block": 10} and told["seeds"] == {"seed": 0}
    assert told["transforms"]["x"]["orthonormal"] and told["residual"]["tol"] == 0.0
    rest = resume_run(cut["capsule"], flow)
    assert rest["iterations"] == 90
    assert np.array_equal(rest["state"]["x"], whole["state"]["x"])
    assert rest["energy"] == whole["energy"]
