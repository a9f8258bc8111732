"""What runs tell: each event where it happens, each column where it is known, and invariants that count because a spec declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Invariant, Op, Slot, Term, resume_run, run, watching
from bridge_adapter.kernels.flow.certificates import CertificationProfile, convex, duality_gap, physics_residuals
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller import ControllerConfig, GapDial, SparsityPolicy
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.recorder import columns, events, reading
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest
from bridge_adapter.kernels.flow.recorder.report import page
from bridge_adapter.kernels.flow.recorder.sampling import Sampling
from bridge_adapter.kernels.flow.running import at_end

N = 128
NOISE = 0.1
SPARSE = Term("l1", "x", weight=0.05)
SEEN = Term("quadratic", "x", target="y")
BLURRED = Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target="y", group="data")
WAVELETS = Term("wavelet_l1", "x", weight=0.3, params={"wavelet": "haar", "levels": 4})


def measured() -> np.ndarray:
    rng = np.random.default_rng(0)
    truth = np.zeros(N)
    truth[rng.choice(N, 8, replace=False)] = 3.0
    return truth + NOISE * rng.standard_normal(N)


def spec(*terms: Term, **more: Any) -> FlowSpec:
    return FlowSpec(slots={"x": Slot(shape=(N,)), "y": Slot(value=measured(), role="data")}, terms=list(terms), **more)


def told(result: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The payloads of the events of a kind; on the way, that every row and event is valid."""
    found = reading.events(result["capsule"])
    for event in found:
        events.payload_text(event["event"], event["payload"])
    rows = reading.telemetry(result["capsule"])
    columns.table({name: rows[name].to_pylist() for name in rows.column_names})
    return [event["payload"] for event in found if event["event"] == kind]


def column(result: dict[str, Any], name: str) -> dict[int, Any]:
    """By iteration what the rows say that say something."""
    rows = reading.telemetry(result["capsule"])
    return {at: value for at, value in zip(rows["iter"].to_pylist(), rows[name].to_pylist(), strict=True) if value is not None}


def test_each_look_of_the_gate_and_the_lens_that_it_takes_are_told(tmp_path: Path) -> None:
    result = run_certified(spec(BLURRED, SPARSE), iterations=40, out_dir=tmp_path)
    looks = told(result, "CERT_CHECK")
    assert [look["feasible"] for look in looks] == [False, True] and looks[-1]["gamma"] >= 1e-6 and looks[-1]["profile"] == "strict"
    assert told(result, "LENS_SELECTED") == [{"lens": "dft", "role": "certification", "rule": "auto"}]


def test_a_run_whose_certificate_is_of_a_point_tells_each_later_look(tmp_path: Path) -> None:
    flow = spec(SEEN, Term("logistic", "x", target=np.sign(measured())))
    result = run_certified(flow, iterations=30, block=2, out_dir=tmp_path)
    looks = told(result, "CERT_CHECK")
    assert result["verdict"].scope != "everywhere" and len(looks) == 1 + -(-result["iterations"] // 2) > 3
    assert len({look["gamma"] for look in looks}) > 2 and len(told(result, "LENS_SELECTED")) == 1


def test_the_sparsity_lens_is_told_by_its_name(tmp_path: Path) -> None:
    result = run(spec(SEEN, WAVELETS), iterations=20, out_dir=tmp_path)
    assert [(one["lens"], one["role"]) for one in told(result, "LENS_SELECTED")] == [("haar", "sparsity")]
    assert set(column(result, "lens_name").values()) == {"haar"} and load_run_manifest(result["capsule"])["lens_name"] == "haar"


@pytest.mark.parametrize("certified", [False, True])
def test_a_budget_of_steps_that_ends_a_run_is_told(tmp_path: Path, certified: bool) -> None:
    flow = spec(BLURRED, SPARSE)
    result = run_certified(flow, iterations=7, tol=0.0, out_dir=tmp_path) if certified else run(flow, iterations=7, tol=0, out_dir=tmp_path)
    assert (result["stopped"], told(result, "BUDGET_EXCEEDED")) == ("budget", [{"iteration": 7, "status": "budget"}])


def test_limits_of_the_controller_that_end_a_run_are_told_and_an_end_of_its_own_is_not(tmp_path: Path) -> None:
    flow = spec(BLURRED, SPARSE)
    limited = run_certified(flow, tol=0.0, block=5, out_dir=tmp_path, config=ControllerConfig(max_wall_time_ms=1e-3))
    assert told(limited, "BUDGET_EXCEEDED") == [{"iteration": 5, "status": "timeout"}] and told(limited, "TIMEOUT")
    assert not told(run_certified(spec(SEEN, SPARSE), out_dir=tmp_path), "BUDGET_EXCEEDED")


def far(state: Any) -> float:
    return float(np.sum((state["x"] - np.clip(measured(), 2.0, None)) ** 2))


def test_a_dial_tells_what_it_changes_and_rows_whose_move_they_belong_to(tmp_path: Path) -> None:
    dial = GapDial(criterion=far, knobs=("lambda",), warmup_iterations=5)
    result = run_certified(spec(BLURRED, Term("l1", "x", weight=0.4)), iterations=120, block=10, tol=0.0, out_dir=tmp_path, gap_dial=dial)
    changes, accepted = told(result, "GAP_DIAL_ADAPTATION"), told(result, "TUNER_MOVE_ACCEPTED")
    assert len(changes) == len(accepted) == result["controller"]["accepted_moves"] > 1
    assert changes[-1]["lambda"] == pytest.approx(result["weights"]["lambda"]) and changes[-1]["gamma_after"] == result["verdict"].value(
        "gamma"
    )
    belongs, metric = column(result, "trial_id"), column(result, "metric_ber")
    assert 5 not in belongs and set(belongs.values()) <= {move["trial_id"] for move in accepted} and belongs[max(belongs)]
    by_trial = {move["trial_id"]: move["objective"] for move in accepted}
    assert metric and all(metric[at] == by_trial[belongs[at]] for at in metric)


def test_a_run_that_is_cut_goes_on_with_the_same_trial(tmp_path: Path) -> None:
    flow = spec(BLURRED, Term("l1", "x", weight=0.4))
    dial = GapDial(sigma=0.5, warmup_iterations=5, monitoring_interval=30)
    asked: dict[str, Any] = {"block": 10, "tol": 0.0, "out_dir": tmp_path, "gap_dial": dial}
    whole = run_certified(flow, iterations=200, **asked)
    first = run_certified(flow, iterations=20, **asked)
    rest = resume_run(first["capsule"], flow, iterations=200)
    said = {at: trial for at, trial in column(whole, "trial_id").items() if at > 20}
    assert said and {at: trial for at, trial in column(rest, "trial_id").items() if at > 20} == said
    np.testing.assert_array_equal(rest["state"]["x"], whole["state"]["x"])


def test_a_tuner_that_gains_nothing_or_cannot_judge_says_so(tmp_path: Path) -> None:
    flat = GapDial(criterion=lambda state: float("nan"), no_improve=2, warmup_iterations=1, monitoring_interval=1)
    result = run_certified(spec(BLURRED, SPARSE), iterations=60, block=5, tol=0.0, out_dir=tmp_path, gap_dial=flat)
    assert told(result, "TUNING_FAILED") == [{"reason": "nothing better by the criterion in 2 rounds"}]
    idle = run_certified(spec(SEEN, SPARSE), iterations=50, out_dir=tmp_path, gap_dial=GapDial(knobs=("lambda2",), sigma=NOISE))
    assert ["nothing to turn" in one["reason"] for one in told(idle, "TUNING_FAILED")] == [True]
    with pytest.raises(FlowInputError, match="squared data term"):
        run_certified(spec(Term("tikhonov", "x"), SPARSE), out_dir=tmp_path / "lost", gap_dial=GapDial(sigma=NOISE))
    (lost,) = (tmp_path / "lost").iterdir()
    assert "squared data term" in told({"capsule": lost}, "TUNING_FAILED")[0]["reason"]


class Fickle:
    """A checker that fails from one call to another."""

    def __init__(self, *fails: int) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, state: Any) -> float:
        self.calls += 1
        if self.calls in self.fails:
            raise ValueError("no sum today")
        return 0.0


def test_a_checker_that_raises_is_told_of_once_until_it_works_again(tmp_path: Path) -> None:
    profile = CertificationProfile(invariants=False)
    broken = Invariant("odd", lambda state: 1 / 0)
    fickle = Invariant("fickle", Fickle(5, 6, 7, 9), kind="constraint")
    flow = spec(BLURRED, Term("tikhonov", "x", weight=1e-3), invariants=[broken, fickle])
    result = run_certified(flow, iterations=60, block=5, tol=0.0, out_dir=tmp_path, cert_profile=profile)
    assert result["phase"] == "GREEN"
    reasons = {"odd": "ZeroDivisionError: division by zero", "fickle": "ValueError: no sum today"}
    assert [(one["name"], one["reason"]) for one in told(result, "INVARIANT_VALIDATION_ERROR")] == [
        (name, reasons[name]) for name in ("odd", "fickle", "fickle")
    ]
    plain = run(spec(SEEN, SPARSE, invariants=[broken]), iterations=5, out_dir=tmp_path, redact=True)
    assert told(plain, "INVARIANT_VALIDATION_ERROR") == [{"name": "odd", "reason": "ZeroDivisionError"}]


def test_a_redacted_capsule_has_the_text_of_a_failing_checker_nowhere(tmp_path: Path) -> None:
    def check(state: Any) -> float:
        raise ValueError("the patient is 42")

    result = run_certified(spec(SEEN, invariants=[Invariant("odd", check)]), iterations=5, out_dir=tmp_path, redact=True)
    assert result["stopped"] == "cert_fail" and "its checker raised ValueError" in result["verdict"].told()
    files = [path for path in Path(result["capsule"]).rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"patient" in path.read_bytes()]
    tables = [pq.ParquetFile(path).read().to_pylist() for path in files if path.suffix == ".parquet"]
    assert "patient" not in str(tables)


@pytest.mark.parametrize("profile", [CertificationProfile(), convex()], ids=["strict", "convex"])
def test_an_invariant_that_a_spec_declares_counts_unless_the_profile_says_otherwise(profile: CertificationProfile) -> None:
    drifting = spec(SEEN, invariants=[Invariant("sum", lambda state: state["x"].sum())])
    lost = run_certified(drifting, iterations=50, cert_profile=profile)
    assert (lost["stopped"], lost["phase"], lost["card"]["checks"]["invariant"]) == ("cert_fail", "RED", False)
    assert lost["verdict"].phase == "RED" and lost["verdict"].told().startswith("RED: the invariant sum is off by")
    failing = spec(SEEN, invariants=[Invariant("odd", lambda state: 1 / 0)])
    assert run_certified(failing, iterations=50, cert_profile=profile)["stopped"] == "cert_fail"
    free = CertificationProfile(name=profile.name, checks=profile.checks, invariants=False)
    let_go = run_certified(drifting, iterations=50, cert_profile=free)
    assert let_go["phase"] == "GREEN" and "invariant" not in let_go["card"]["checks"] and let_go["card"]["invariants"]


def test_a_damaged_checkpoint_that_is_passed_over_is_told(tmp_path: Path) -> None:
    flow = spec(BLURRED, SPARSE)
    result = run(flow, iterations=30, block=10, tol=0, save_every=0, out_dir=tmp_path)
    newest = max((result["capsule"] / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-40])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        rest = resume_run(result["capsule"], flow, iterations=40)
    (damage,) = told(rest, "CHECKPOINT_DAMAGED")
    assert damage["file"] == newest.name and damage["reason"]


def test_a_run_that_has_more_steps_than_it_is_now_to_have_has_none_left(tmp_path: Path) -> None:
    flow = spec(BLURRED, SPARSE)
    rest = resume_run(run(flow, iterations=9, tol=0, out_dir=tmp_path)["capsule"], flow, iterations=5)
    assert load_run_manifest(rest["capsule"])["sparsity_tau"] == 1e-8 and column(rest, "sparsity_wx").keys() <= {9}
    assert (rest["iterations"], [one["remaining_iters"] for one in told(rest, "FLOW_RESUMED")]) == (9, [0])


def test_what_is_known_in_some_rows_only_may_be_a_whole_number() -> None:
    row = {"run_id": "r", "flow_name": "f", "seq": 0, "phase": "RED", "segment_id": 0, "t_wall_ms": 0.0, "alpha": 1.0, "E": 0.0}
    levels = np.ma.masked_array([3, 4], mask=[True, False])
    made = columns.table({**row, "grad_norm": 0.0, "iter": np.arange(2), "level_active_max": levels})
    assert made["level_active_max"].to_pylist() == [None, 4]


def test_rows_that_end_a_block_say_what_was_seen_there(tmp_path: Path) -> None:
    flow = spec(BLURRED, SPARSE)
    profile = convex(checks=("lyapunov", "duality_gap"), tolerances={"duality_gap": 0.0})
    result = run_certified(flow, iterations=1500, block=103, tol=0.0, out_dir=tmp_path, cert_profile=profile)
    compiled, x = compile_flow(flow), result["state"]
    last = result["iterations"]
    ends = [*range(103, last, 103), last]
    gap, phi, zeros = (column(result, name) for name in ("gap", "phi_residual", "sparsity_wx"))
    assert list(gap) == ends and set(phi) <= set(ends) and set(zeros) <= set(ends)
    with precision("float64"):
        state = {"x": jax.numpy.asarray(x["x"])}
        assert gap[last] == duality_gap(compiled.problem, state).gap
    assert phi[last] == pytest.approx(physics_residuals(compiled, state)[0].relative)
    manifest = load_run_manifest(result["capsule"])
    assert manifest["sparsity_tau"] == 1e-8 and zeros[last] == np.mean(np.abs(x["x"]) <= 1e-8) > 0.3
    shown = page(result["capsule"])
    assert all(title in shown for title in ("duality gap", "Sparsity of Wx", "Invariants and physics"))


def test_what_nothing_declares_or_asks_for_is_null_and_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for costly in ("applied", "residuals_of", "duality_gap"):
            patched.setattr(watching, costly, None)
        result = run_certified(spec(SEEN, WAVELETS), iterations=30, out_dir=tmp_path, cert_profile=convex())
    for name in ("gap", "phi_residual", "sparsity_wx", "metric_ber", "trial_id", "invariant_drift_max"):
        assert not column(result, name), name
    asked = run_certified(spec(SEEN, WAVELETS), iterations=30, out_dir=tmp_path, cert_profile=convex(), sparsity=SparsityPolicy())
    share = column(asked, "sparsity_wx")
    assert max(share) == asked["iterations"] and 0 < share[asked["iterations"]] < 1


def test_the_drift_of_a_plain_run_is_that_where_its_blocks_end(tmp_path: Path) -> None:
    flow = spec(BLURRED, SPARSE, invariants=[Invariant("sum", lambda state: state["x"].sum())])
    result = run(flow, iterations=30, block=10, tol=0, out_dir=tmp_path)
    for found in (result, resume_run(result["capsule"], flow, iterations=40)):
        drift = column(found, "invariant_drift_max")
        assert drift[max(drift)] == pytest.approx(abs(found["state"]["x"].sum()))


def test_the_prox_in_coordinates_is_that_of_the_slot_seen_in_them() -> None:
    compiled = compile_flow(
        FlowSpec(
            {"x": Slot(value=measured()), "z": Slot(value=np.ones(3))},
            [Term("quadratic", "x", target=measured()), WAVELETS, Term("tikhonov", "z")],
        )
    )
    W = compiled.bases()["x"]
    with precision("float64"):
        u = {"x": W.matvec(jax.numpy.asarray(np.random.default_rng(1).standard_normal(N))), "z": compiled.start["z"]}
        inside = compiled.g_prox_in_w(u, 0.7)
        outside = compiled.g_prox({**u, "x": W.rmatvec(u["x"])}, 0.7)
        np.testing.assert_allclose(inside["x"], W.matvec(outside["x"]), rtol=0, atol=1e-12)
        assert np.count_nonzero(np.asarray(inside["x"])) < N and inside["z"] is u["z"]


def test_what_is_seen_where_a_block_ends_stays_there_where_rows_are_left_out(tmp_path: Path) -> None:
    with Capsule.create(tmp_path, spec(SEEN).plain(), sampling=Sampling(first=2, every=3)) as capsule:
        capsule.rows({"iter": np.arange(1, 8), "E": 1.0, "grad_norm": 0.0, "alpha": 1.0, "gap": at_end(5.0, 7)})
    assert column({"capsule": capsule.path}, "gap") == {7: 5.0}
    assert reading.telemetry(capsule.path)["iter"].to_pylist() == [1, 2, 3, 6, 7]


def test_the_row_that_ends_a_block_is_kept_if_there_is_room() -> None:
    steps = np.arange(1001, 1006)
    assert Sampling().chosen(steps, 0, ends=True).tolist() == [False] * 4 + [True]
    assert not Sampling().chosen(steps, 0).any() and not Sampling(cap=10).chosen(steps, 10, ends=True).any()


def test_points_that_a_report_has_not_looked_between_are_shown(tmp_path: Path) -> None:
    result = run_certified(spec(SEEN, SPARSE), iterations=4, tol=0.0, out_dir=tmp_path)
    zeros = column(result, "sparsity_wx")
    shown = page(result["capsule"]).partition("Sparsity of Wx")[2].partition("</svg>")[0]
    assert shown.count("<circle") == len(zeros) > 0


def test_the_manifest_names_every_package_that_is_installed(tmp_path: Path) -> None:
    lock = load_run_manifest(run(spec(SEEN, SPARSE), iterations=2, out_dir=tmp_path)["capsule"])["environment"]["lock"]
    assert {f"numpy=={np.__version__}", f"jax=={jax.__version__}"} <= set(lock) and lock == sorted(set(lock))
