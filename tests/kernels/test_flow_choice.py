"""What the compiler makes of a spec: parts of the energy, the solver with its reason, lint, and unit normalisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.api import run_flow_step
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller.remediation import with_ridge
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.composed import ThroughCoisometry
from bridge_adapter.kernels.flow.functions.separable import Separable
from bridge_adapter.kernels.flow.lint import PROBLEM_RULES, SPEC_RULES, SpecLintFailed, lint_spec
from bridge_adapter.kernels.flow.operators.arrays import Dense
from bridge_adapter.kernels.flow.operators.base import Op, operator
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.pytrees import node
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.spec import Coupling, FlowSpec, Invariant, Slot, Term
from bridge_adapter.kernels.flow.transforms.base import TransformOp

N = 6
Y = np.arange(N, dtype=float)
FIDELITY = Term("quadratic", "x", target=Y, name="fidelity")
SPARSITY = Term("l1", "x", weight=0.5, name="sparsity")
JUMPS = Term("l1", "x", op=Op("dense", matrix=np.diff(np.eye(N), axis=0)), name="jumps")
TURNED = Term("box", "x", op=Op("dense", matrix=np.ones((1, N))), params={"lower": 0.0}, name="turned")


def spec(*terms: Term, **more: Any) -> FlowSpec:
    return FlowSpec(more.pop("slots", {"x": Slot(shape=(N,))}), list(terms), **more)


@pytest.mark.parametrize(
    ("terms", "more", "solver", "said"),
    [
        ((FIDELITY, SPARSITY), {}, "mfista", "one prox"),
        ((FIDELITY,), {}, "fista", "strongly convex"),
        ((FIDELITY, SPARSITY, JUMPS), {}, "condat_vu", "jumps"),
        ((SPARSITY, JUMPS), {}, "chambolle_pock", "jumps"),
        (
            (FIDELITY, Term("l1", "z")),
            {"slots": {"x": Slot(shape=(N,)), "z": Slot(shape=(N,))}, "couplings": [Coupling({"x": 1.0, "z": -1.0})]},
            "admm",
            "coupled",
        ),
    ],
)
def test_the_solver_follows_from_the_structure_and_the_report_says_why(terms: Any, more: dict[str, Any], solver: str, said: str) -> None:
    report = compile_flow(spec(*terms, **more)).report
    assert report.solver == solver
    assert said in report.reason


def test_sums_with_a_prox_of_their_own_are_merged_and_thresholds_add() -> None:
    compiled = compile_flow(spec(FIDELITY, SPARSITY, Term("l1", "x", weight=1.5), Term("box", "x", params={"lower": 0.0}, name="positive")))
    assert compiled.report.terms == {
        "fidelity": "smooth",
        "sparsity": "prox",
        "x_l1_2": "prox, merged with sparsity",
        "positive": "prox, merged with sparsity",
    }
    with precision("float64"):
        moved = compiled.g_prox({"x": jnp.asarray([-5.0, 1.0, 3.0, 0.0, 0.0, 0.0])}, 1.0)["x"]
    np.testing.assert_allclose(moved, [0, 0, 1, 0, 0, 0])


def test_the_prox_through_a_coisometry_is_the_least_point_of_its_objective() -> None:
    """A A^T = nu I, nu = 2.5: against the objective at many points around."""
    rng = np.random.default_rng(5)
    with precision("float64") as real:
        wide = jnp.asarray(np.sqrt(2.5) * np.linalg.qr(rng.standard_normal((N, 3)))[0].T)
        zero = jnp.zeros((), real)
        phi = Separable(zero + 0.7, zero, zero - jnp.inf, zero + jnp.inf)
        term = ThroughCoisometry(Dense((N,), (3,), wide), phi, zero + 2.5)
        v = jnp.asarray(rng.standard_normal(N))
        made = term.prox(v, zero + 0.4, ())

        def objective(x: Any) -> float:
            return float(term.value(x) + jnp.vdot(x - v, x - v) / 0.8)

        least = objective(made.point)
        assert float(made.value) == pytest.approx(float(term.value(made.point)))
        for size in (1.0, 1e-2, 1e-4):
            assert all(objective(made.point + size * rng.standard_normal(N)) >= least for _ in range(20))


def test_a_solver_that_does_not_fit_is_refused_with_the_reason() -> None:
    with pytest.raises(FlowInputError, match="jumps stands behind an operator"):
        compile_flow(spec(FIDELITY, JUMPS), solver="fista")
    with pytest.raises(FlowInputError, match="fidelity is smooth"):
        compile_flow(spec(FIDELITY, JUMPS), solver="chambolle_pock")
    with pytest.raises(FlowInputError, match="must be one of ista"):
        compile_flow(spec(FIDELITY), solver="newton")


def test_beta_is_the_sum_of_the_terms_and_the_dense_hessian_stays_below_it() -> None:
    matrix = np.random.default_rng(1).standard_normal((4, N))
    compiled = compile_flow(spec(Term("quadratic", "x", op=Op("dense", matrix=matrix), weight=2.0), Term("tikhonov", "x", weight=0.5)))
    with precision("float64"):
        apply = jax.jit(compiled.L_matvec)
        hessian = np.stack([apply({"x": row})["x"] for row in np.eye(N)])
    np.testing.assert_allclose(hessian, 2 * matrix.T @ matrix + 0.5 * np.eye(N), atol=1e-12)
    assert np.linalg.eigvalsh(hessian)[-1] <= compiled.report.beta.value + 1e-12
    assert compiled.report.beta.sound_above


def test_one_step_of_the_call_surface_is_a_proximal_gradient_step_and_moves_variables_only() -> None:
    compiled = compile_flow(spec(FIDELITY, SPARSITY))
    data = np.ones(3)
    state = {"x": np.zeros(N), "y": data}
    moved = run_flow_step(state, compiled, 0.5)
    np.testing.assert_allclose(moved["x"], np.maximum(0.5 * Y - 0.25, 0))
    assert moved["y"] is data
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]

    class Turn:
        forward, inverse = staticmethod(lambda v: turn @ v), staticmethod(lambda u: turn.T @ u)

    inside = turn @ (0.5 * Y)
    expected = turn.T @ (np.sign(inside) * np.maximum(np.abs(inside) - 0.25, 0))
    np.testing.assert_allclose(run_flow_step(state, compiled, 0.5, {"x": Turn})["x"], expected)
    for wrong in ({"y": data}, {"x": np.zeros(N + 1)}):
        with pytest.raises(FlowInputError):
            run_flow_step(wrong, compiled, 0.5)
    with pytest.raises(FlowInputError, match="eta"):
        run_flow_step(state, compiled, -1.0)


def test_weights_are_divided_by_the_scale_of_their_terms_only_when_asked() -> None:
    start = {"x": Slot(value=np.full(N, 2.0))}
    plain, scaled = (compile_flow(spec(Term("tikhonov", "x"), SPARSITY, slots=start, normalise=on)).report for on in (False, True))
    assert plain.unit_normalization_table == scaled.unit_normalization_table == {"x_tikhonov_0": 2.0 * N, "sparsity": 2.0 * N}
    assert list(plain.unit_normalization_table) == list(scaled.unit_normalization_table) == list(plain.weights)  # as the spec has them
    assert plain.weights == {"x_tikhonov_0": 1.0, "sparsity": 0.5}
    assert scaled.weights == pytest.approx({"x_tikhonov_0": 1 / (2.0 * N), "sparsity": 0.25 / N})
    assert scaled.beta.value == pytest.approx(1 / (2.0 * N))


@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_weights_matter_where_they_are_normalised(weight: float) -> None:
    """E = sum of w_i E_i / |E_i(start)|: against the minimum by hand, a soft threshold."""
    data = np.linspace(-3, 3, N)
    terms = (Term("quadratic", "x", target=data), Term("l1", "x", weight=weight))
    found = run(spec(*terms, slots={"x": Slot(value=np.ones(N))}, normalise=True), tol=1e-10)
    threshold = weight / N * np.sum((data - 1) ** 2) / 2
    np.testing.assert_allclose(found["state"]["x"], np.sign(data) * np.maximum(np.abs(data) - threshold, 0), atol=1e-8)
    assert found["report"].unit_normalization_table["x_l1_1"] == pytest.approx(N)


BAD: list[tuple[str, FlowSpec]] = [
    ("spec.version", spec(FIDELITY, spec_version="2.0")),
    ("spec.dtype", spec(FIDELITY, dtype="float16")),
    ("spec.size", spec()),
    ("spec.size", spec(FIDELITY, FIDELITY)),
    ("slot.shape", spec(SPARSITY, slots={"x": Slot()})),
    ("slot.shape", spec(SPARSITY, slots={"x": Slot(shape=(2, 0))})),
    ("slot.finite", spec(Term("quadratic", "x", target=np.full(N, np.nan)))),
    ("slot.finite", spec(SPARSITY, slots={"x": Slot(value=np.full(N, 1j))})),
    ("slot.finite", spec(Term("quadratic", "x", target=np.full(N, 1e39)), dtype="float32")),
    ("slot.finite", spec(SPARSITY, slots={"x": Slot(value=np.full(N, -1e39))}, dtype="float32")),
    ("term.weight", spec(Term("l1", "x", weight=1e39), dtype="float32")),
    ("term.atom", spec(Term("l2.5", "x"))),
    ("term.operator", spec(Term("l1", "x", op="blur"))),
    ("term.operator", spec(Term("l1", "x", op=Op("blurr")))),
    ("term.slot", spec(Term("l1", "z"))),
    ("term.slot", spec(FIDELITY, Term("l1", "y"), slots={"x": Slot(shape=(N,)), "y": Slot(value=Y, role="data")})),
    ("term.slot", spec(Term("quadratic", "x", target="z"), slots={"x": Slot(shape=(N,)), "z": Slot(shape=(N,))})),
    ("term.weight", spec(Term("l1", "x", weight=-1.0))),
    ("term.weight", spec(Term("l1", "x", weight=float("nan")))),
    ("term.finite", spec(Term("l1", "x", op=Op("dense", matrix=np.full((2, N), np.nan))))),
    ("term.finite", spec(Term("weighted_l1", "x", params={"weights": [1.0, np.nan]}))),
    ("term.parts", spec(Term("quadratic", "x", op=Op("matvec", forward=lambda x: 2 * x, adjoint=lambda y: 3 * y)))),
    ("term.parts", spec(Term("quadratic", "x", op=Op("matvec", forward=lambda x: 2 * x, norm=1.0)))),
    ("term.parts", spec(Term("quadratic", "x", target=np.zeros(0)))),
    ("spec.schema", spec(Term("l1", "x", weight="2"))),  # type: ignore[arg-type]
    ("spec.schema", spec("l1")),  # type: ignore[arg-type]
    ("spec.schema", spec(FIDELITY, slots=["x"])),
    ("spec.schema", spec(FIDELITY, name=3)),
    ("spec.schema", spec(FIDELITY, slots={"x": np.zeros(N)})),
    ("spec.schema", spec(FIDELITY, slots={"x": Slot(shape=(2.5,))})),  # type: ignore[arg-type]
    ("spec.schema", spec(FIDELITY, pairs=[("x", "p")])),
    ("spec.schema", spec(FIDELITY, couplings=[Coupling({})])),
    ("spec.schema", spec(FIDELITY, couplings=[Coupling([("x", 1.0)])])),  # type: ignore[arg-type]
    ("spec.schema", spec(FIDELITY, couplings=[Coupling({"x": "1"})])),  # type: ignore[dict-item]
    ("spec.schema", spec(FIDELITY, couplings=[Coupling({"x": np.eye(N)})])),  # type: ignore[dict-item]
    ("spec.schema", spec(FIDELITY, couplings=[Coupling({"x": 1.0}, target=None)])),  # type: ignore[arg-type]
    ("slot.finite", spec(FIDELITY, couplings=[Coupling({"x": 1.0}, target=np.nan)])),
    ("slot.finite", spec(FIDELITY, couplings=[Coupling({"x": 1.0}, target=1j)])),
    ("term.finite", spec(FIDELITY, couplings=[Coupling({"x": np.nan})])),
    ("term.finite", spec(FIDELITY, couplings=[Coupling({"x": Op("dense", matrix=np.full((2, N), np.inf))})])),
    ("term.operator", spec(FIDELITY, couplings=[Coupling({"x": Op("blurr")})])),
    ("coupling.slot", spec(FIDELITY, couplings=[Coupling({"z": 1.0})])),
    ("coupling.slot", spec(FIDELITY, couplings=[Coupling({"y": 1.0})], slots={"x": Slot(shape=(N,)), "y": Slot(value=Y, role="data")})),
    ("pair.slots", spec(FIDELITY, pairs=[("x", "p", 1.0)])),
    ("invariant.checker", spec(FIDELITY, invariants=[Invariant("mass", None)])),  # type: ignore[arg-type]
    ("frame.kind", spec(Term("l1", "x", params={"frame": "loose"}))),
    ("frame.kind", spec(Term("l1", "x", params={"frame": "tight"}))),
    ("wavelet.levels", spec(Term("wavelet_l1", "x", params={"levels": 9}))),
]


@pytest.mark.parametrize(("rule", "bad"), BAD, ids=[f"{rule}-{number}" for number, (rule, _) in enumerate(BAD)])
def test_every_error_of_a_spec_names_rule_place_and_cure(rule: str, bad: FlowSpec) -> None:
    with pytest.raises(SpecLintFailed) as caught:
        compile_flow(bad)
    found = [finding for finding in caught.value.findings if finding.rule == rule]
    assert found and all(finding.severity == "error" and finding.where and finding.message and finding.cure for finding in found)
    assert isinstance(caught.value, FlowInputError)
    assert rule in str(caught.value)


def test_levels_of_a_wavelet_are_counted_on_the_axes_that_it_transforms() -> None:
    def colours(**params: Any) -> FlowSpec:
        term = Term("wavelet_l1", "x", params={"wavelet": "haar", **params})
        return FlowSpec(slots={"x": Slot(value=np.ones((3, 16, 16)))}, terms=[Term("quadratic", "x", target=np.ones((3, 16, 16))), term])

    assert compile_flow(colours(levels=4)).report.lens_name
    with pytest.raises(SpecLintFailed, match=r"it has 5 levels on sides \(16, 16\); give 1 to 4"):
        compile_flow(colours(levels=5))
    with pytest.raises(SpecLintFailed, match=r"it has 2 levels on sides \(3, 16, 16\); give 1 to 1"):
        compile_flow(colours(levels=2, ndim=3))


def test_no_term_is_lost_to_another_of_the_same_name() -> None:
    twice = spec(Term("quadratic", "x", target=Y, name="data"), Term("l1", "x", name="data"))
    with pytest.raises(SpecLintFailed, match="the term data: several terms have this name; give each its own"):
        compile_flow(twice, validation="expert")


def test_an_operator_that_a_coupling_cannot_build_is_told_with_its_place() -> None:
    for part in (Op("dense", matrix=np.ones((2, N + 1))), Op("gaussian_blur", sigma="wide")):
        with pytest.raises(FlowInputError, match=r"^ties.* part of 'x'"):
            compile_flow(spec(FIDELITY, couplings=[Coupling({"x": part}, name="ties")]))


@node
class Lopsided(TransformOp):
    """A transform of a user's own, whose adjoint is not its adjoint."""

    def forward(self, x: jax.Array) -> jax.Array:
        return 2 * x

    def adjoint(self, u: jax.Array) -> jax.Array:
        return 3 * u


def test_the_adjoint_of_a_transform_of_ones_own_is_tested() -> None:
    operator("lopsided")(lambda domain, real: Lopsided(domain, domain, "lopsided", 1, 1, "tight", 4.0, ()))
    with pytest.raises(SpecLintFailed, match=r"differ by .*correct rmatvec.*\[operator.adjoint\]"):
        compile_flow(spec(Term("quadratic", "x", op=Op("lopsided"), target=Y)))


def test_bounds_that_exclude_each_other_are_refused() -> None:
    low, high = Term("box", "x", params={"lower": 2.0}), Term("box", "x", params={"upper": 1.0})
    with pytest.raises(FlowInputError, match="exclude each other"):
        compile_flow(spec(FIDELITY, low, high))


def test_a_slot_may_be_called_as_one_likes_up_to_50_characters(tmp_path: Path) -> None:
    image = Slot(value=np.eye(16))
    found = run(FlowSpec(slots={"../bild ü": image}, terms=[Term("tikhonov", "../bild ü")]), out_dir=tmp_path)
    assert found["stopped"] == "converged"
    assert sorted(path.name for path in (found["capsule"] / "artifacts").iterdir()) == ["bild__.after.npy", "bild__.before.npy"]
    with pytest.raises(SpecLintFailed, match="1 to 50 characters"):
        compile_flow(FlowSpec(slots={"x" * 51: image}, terms=[Term("tikhonov", "x" * 51)]))


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(SpecLintFailed) as caught:
        compile_flow(spec(Term("l2.5", "x"), Term("l1", "z", weight=0.0)))
    assert {finding.rule for finding in caught.value.findings} >= {"term.atom", "term.slot", "term.weight"}


DOUBTFUL: list[tuple[str, FlowSpec]] = [
    ("slot.unused", spec(FIDELITY, slots={"x": Slot(shape=(N,)), "idle": Slot(shape=(1,))})),
    ("term.weight_range", spec(FIDELITY, Term("l1", "x", weight=1e-9))),
    ("term.units", spec(FIDELITY, Term("l1", "x", units="J"))),
    ("slot.dtype", spec(SPARSITY, slots={"x": Slot(value=np.ones(N, np.float32))})),
    ("energy.steep", spec(Term("quadratic", "x", target=1e7 * Y))),
    ("energy.flat", spec(Term("quadratic", "x", target=1e-8 * Y))),
    ("energy.scales", spec(Term("tikhonov", "x", weight=1e6), Term("l1", "x", weight=1e-3), slots={"x": Slot(value=Y)})),
]


@pytest.mark.parametrize(("rule", "doubtful"), DOUBTFUL, ids=[rule for rule, _ in DOUBTFUL])
def test_doubts_are_warnings_that_basic_mode_does_not_raise(rule: str, doubtful: FlowSpec) -> None:
    assert rule in {finding.rule for finding in compile_flow(doubtful).report.findings}
    assert not compile_flow(doubtful, validation="basic").report.findings


def test_strict_mode_asks_for_units_and_tests_every_operator() -> None:
    with pytest.raises(SpecLintFailed, match=r"term\.units_missing"):
        compile_flow(spec(FIDELITY), validation="strict")
    told = [Term("quadratic", "x", target=Y, units="1", op=Op("gaussian_blur", sigma=1.0)), Term("l1", "x", units="1")]
    assert compile_flow(spec(*told), validation="strict").report.warnings == ()


def test_the_environment_sets_the_mode_and_turns_numerical_doubts_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFS_NUMERICAL_WARNINGS", "error")
    with pytest.raises(SpecLintFailed, match=r"term\.weight_range"):
        compile_flow(DOUBTFUL[1][1])
    monkeypatch.setenv("AFS_VALIDATION", "expert")
    assert compile_flow(DOUBTFUL[1][1]).report.findings == ()
    monkeypatch.setenv("AFS_VALIDATION", "lenient")
    with pytest.raises(FlowInputError, match="validation mode"):
        compile_flow(spec(FIDELITY))


def test_the_table_of_rules_has_each_id_once_and_expert_mode_asks_none() -> None:
    ids = [rule.id for rule in SPEC_RULES + PROBLEM_RULES]
    assert len(ids) == len(set(ids))
    assert lint_spec(BAD[0][1], "expert") == []


def test_normalising_a_term_that_is_0_at_the_start_is_warned_of_and_leaves_the_ridge_of_remediation_alone() -> None:
    slots = {"x": Slot(shape=(8,)), "y": Slot(value=np.arange(8.0), role="data")}
    terms = [Term("quadratic", "x", target="y"), Term("l1", "x"), Term("nonnegative", "x")]
    report = compile_flow(FlowSpec(slots, terms, normalise=True)).report
    told = [finding for finding in report.findings if finding.rule == "energy.normalised"]
    assert [finding.where for finding in told] == ["the term x_l1_1"] and "multiplies its weight by 1e+08" in told[0].message
    with pytest.raises(SpecLintFailed, match=r"the term x_l1_1: it is 0 where the flow starts.*\[energy\.normalised\]"):
        compile_flow(FlowSpec(slots, [replace(term, units="1") for term in terms], normalise=True), validation="strict")
    begun = FlowSpec({**slots, "x": Slot(value=np.ones(8))}, terms[:2], normalise=True)
    report = compile_flow(with_ridge(begun, 2e-6)).report
    assert not [finding for finding in report.findings if finding.rule == "energy.normalised"]
    assert report.weights["remedy_ridge_x"] == 2e-6 and report.weights["x_l1_1"] == pytest.approx(1 / 8)
