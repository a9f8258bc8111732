"""Spectral certificates: what they say is true of the dense matrix, and the gate never opens for a matrix that it should not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from bridge_adapter.kernels.flow.bounds import Bound
from bridge_adapter.kernels.flow.certificates import CertificationProfile, RefinementTest, certify, convex, dominance, gap
from bridge_adapter.kernels.flow.certificates.certify import Spectrum, spectral_findings
from bridge_adapter.kernels.flow.certificates.curvature import Block, curvature
from bridge_adapter.kernels.flow.certificates.inertia import gamma_below
from bridge_adapter.kernels.flow.certificates.lanczos import smallest
from bridge_adapter.kernels.flow.certificates.lenses import lens_for
from bridge_adapter.kernels.flow.certificates.records import highest, lowest
from bridge_adapter.kernels.flow.certificates.structure import Known, known, local
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.controller import with_alpha, with_ridge
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

rng = np.random.default_rng(7)


def block_of(matrix: np.ndarray, shape: tuple[int, ...] | None = None, below: float = -np.inf) -> Block:
    """A block that is known only by what it does."""
    size = len(matrix)
    above = float(np.linalg.norm(matrix, 2))
    return Block(("x",), (shape or (size,),), lambda v: matrix @ v, lambda rows: rows @ matrix.T, below, above, True, False, (), np.nan)


def eta_of(matrix: np.ndarray) -> float:
    sizes = np.abs(matrix)
    diagonal = np.diagonal(sizes)
    return float(np.max((sizes.sum(axis=1) - diagonal) / np.maximum(diagonal, 1e-9)))


def random_matrix(kind: str, size: int) -> np.ndarray:
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    scale = 10.0 ** rng.uniform(-4, 6)
    values = rng.uniform(0, 1, size)
    if kind == "near the gate":
        values = rng.uniform(0, 4e-6, size) / scale
    if kind == "singular":
        values[0] = 0.0
    if kind == "indefinite":
        values[0] = -(10.0 ** rng.uniform(-9, 0))
    if kind == "diagonal":
        basis = np.eye(size)
        values = np.where(rng.random(size) < 0.3, 0.0, values)
    matrix = scale * (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


KINDS = ["definite", "near the gate", "singular", "indefinite", "diagonal"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_never_opens_for_a_matrix_whose_smallest_eigenvalue_is_below_it(kind: str) -> None:
    profile = CertificationProfile(eta_max=1e300)
    opened = 0
    for trial in range(2000):
        matrix = random_matrix(kind, int(rng.integers(1, 7)))
        block = block_of(matrix)
        seen = Known(dense=matrix) if trial % 8 else known(block)
        gamma = gap.gamma(block, seen, profile.gamma_min)
        true = float(np.linalg.eigvalsh(matrix)[0])
        assert abs(gamma.value - true) <= (gamma.residual or 0.0) + 1e-13 * np.linalg.norm(matrix)
        eta = dominance.eta(block, seen, lens_for("pixel", block))
        green = not spectral_findings(Spectrum(eta, gamma, "pixel", "everywhere", None), profile)
        assert not (green and true < profile.gamma_min * (1 - 1e-12))
        opened += green
    assert opened > 500 or kind != "definite"
    assert opened == 0 or kind not in ("singular", "indefinite")


def test_dominance_is_that_of_the_dense_matrix_in_every_lens() -> None:
    matrix = rng.standard_normal((12, 12))
    matrix = matrix @ matrix.T
    block = block_of(matrix, (3, 4))
    for name in ("pixel", "dft", "dct", "dst"):
        lens = lens_for(name, block)
        turn = np.stack([lens.forward(row) for row in np.eye(12)], axis=1)
        np.testing.assert_allclose(turn @ turn.T, np.eye(12), atol=1e-13)
        np.testing.assert_allclose(np.stack([lens.adjoint(row) for row in np.eye(12)], axis=1), turn.T, atol=1e-13)
        found = dominance.eta(block, known(block), lens)
        assert found.kind == "exact" and abs(found.value - eta_of(turn @ matrix @ turn.T)) <= 1e-9 * found.value


@pytest.mark.parametrize("name", ["pixel", "dft", "dct", "dst"])
def test_a_basis_that_makes_a_block_diagonal_is_found_without_being_told(name: str) -> None:
    shape = (5, 8)
    lens = lens_for(name, block_of(np.eye(40), shape))
    turn = np.stack([lens.forward(row) for row in np.eye(40)], axis=1)
    values = rng.uniform(1e-3, 1, 40)
    if name == "dft":  # of a real symmetric convolution: even in the frequency
        power = np.abs(np.fft.fftn(rng.standard_normal(shape))) ** 2
        values = power.ravel()
    matrix = turn.T @ (values[:, None] * turn)
    block = block_of(matrix, shape)
    found = known(block)
    assert found.eigen is not None and found.eigen[0].name == name
    gamma = gap.gamma(block, found)
    assert gamma.kind == "exact" and abs(gamma.value - values.min()) <= max(gamma.residual or 0.0, 1e-12)
    pixels = dominance.eta(block, found, lens_for("pixel", block))
    assert abs(pixels.value - eta_of(matrix)) <= highest(pixels) - pixels.value + 1e-9 * pixels.value
    # One entry that does not fit, however small beside the rest, is not missed.
    matrix = matrix.copy()
    matrix[2, 30] = matrix[30, 2] = matrix[2, 30] + 1e-5 * np.abs(matrix).max()
    assert known(block_of(matrix, shape)).eigen is None


@pytest.mark.parametrize(("sides", "joined"), [((97,), True), ((50,), False), ((12, 13), True), ((9, 10), False)])
def test_rows_of_a_stencil_are_exact_by_coloured_probing_and_its_gap_is_bounded_from_below(sides: tuple[int, ...], joined: bool) -> None:
    size = int(np.prod(sides))
    grid = np.arange(size).reshape(sides)
    matrix = np.zeros((size, size))
    for axis in range(len(sides)):
        ahead = np.roll(grid, -1, axis)
        kept = slice(None) if joined else slice(0, sides[axis] - 1)
        ends = [np.moveaxis(part, axis, 0)[kept].ravel() for part in (grid, ahead)]
        for one, other in zip(*ends, strict=True):
            matrix[[one, other], [one, other]] += 1
            matrix[one, other] -= 1
            matrix[other, one] -= 1
    matrix += np.diag(rng.uniform(0.01, 0.3, size))
    block = block_of(matrix, sides)
    found = local(block)
    assert found is not None
    np.testing.assert_allclose(found[0].toarray(), matrix, atol=1e-13)
    seen = Known(sparse=found)
    true = float(np.linalg.eigvalsh(matrix)[0])
    gamma = gap.gamma(block, seen, 0.5 * true)
    assert gamma.kind == "lower_bound" and 0.3 * true < gamma.value <= true
    eta = dominance.eta(block, seen, lens_for("pixel", block))
    assert eta.kind == "exact" and eta.value == pytest.approx(eta_of(matrix))


def test_factorisations_never_certify_more_than_there_is() -> None:
    for kind in KINDS[:4]:
        for _ in range(30):
            matrix = random_matrix(kind, 9)
            found = gamma_below(scipy.sparse.csr_matrix(matrix), 0.0, 1e-6)
            true = float(np.linalg.eigvalsh(matrix)[0])
            assert found is None or found.value <= true + 1e-15 * np.linalg.norm(matrix)


def test_lanczos_is_never_more_than_an_estimate_and_stops_at_an_invariant_subspace() -> None:
    singular = block_of(np.diag([1.0, 0.0]))
    assert smallest(singular).kind == "estimate" and abs(smallest(singular).value) < 1e-12
    values = np.concatenate([[1e-3], rng.uniform(0.5, 1, 299)])
    found = smallest(block_of(np.diag(values)))
    assert found.value >= 1e-3 - 1e-12 and found.steps == 60
    repeated = smallest(block_of(np.diag(np.repeat([1.0, 2.0, 3.0], 20))))
    assert repeated.steps is not None and repeated.steps <= 4 and repeated.value == pytest.approx(1.0)
    profile = CertificationProfile()
    passed = Spectrum(Bound(0.0, "exact", "diagonal"), found, "pixel", "everywhere", None)
    assert [finding.check for finding in spectral_findings(passed, profile)] == ["gamma"]
    assert not spectral_findings(passed, CertificationProfile(allow_estimates=True))


def blurred(sigma: float, *terms: Term, shape: tuple[int, ...] = (16, 16), dtype: str = "float64") -> CompiledFlow:
    data = Term("quadratic", "x", op=Op("gaussian_blur", sigma=sigma), target=rng.standard_normal(shape))
    return compile_flow(FlowSpec({"x": Slot(shape=shape)}, [data, *terms], dtype=dtype))  # type: ignore[arg-type]


def dense_hessian(compiled: CompiledFlow) -> np.ndarray:
    (block,) = curvature(compiled.problem, compiled.start).blocks
    return block.apply_many(np.eye(block.size))


def test_a_blur_fails_on_its_gap_and_passes_with_a_ridge_whatever_the_sparsity_weight() -> None:
    for weight in (1e-3, 10.0):
        naive = certify(blurred(2.0, Term("l1", "x", weight=weight)))
        assert naive.phase == "AMBER" and [finding.check for finding in naive.findings] == ["gamma"]
        assert "ridge" in naive.told()
    held = blurred(2.0, Term("l1", "x", weight=0.01), Term("tikhonov", "x", weight=1e-3))
    verdict = certify(held)
    dense = dense_hessian(held)
    assert verdict.feasible and verdict.lens == "dft"
    assert verdict.certificates["gamma"].value == pytest.approx(np.linalg.eigvalsh(dense)[0], rel=1e-9)
    in_pixels = certify(held, lens="pixel")
    assert in_pixels.value("eta_dd") == pytest.approx(eta_of(dense), rel=1e-9)
    assert [(finding.check, finding.remedy) for finding in in_pixels.findings] == [("eta_dd", "switch_lens")]


def test_the_ridge_of_an_elastic_net_counts_as_curvature_and_float32_flows_are_certified_in_double() -> None:
    for dtype in ("float64", "float32"):
        compiled = blurred(2.0, Term("elastic_net", "x", weight=0.1, params={"ridge": 0.5}), dtype=dtype)
        verdict = certify(compiled)
        true = np.linalg.eigvalsh(dense_hessian(compiled))[0]
        assert verdict.feasible
        assert verdict.value("gamma") == pytest.approx(true, abs=1e-12 if dtype == "float64" else 1e-7)
        assert true == pytest.approx(0.05, rel=1e-3)


def test_a_large_sparse_flow_is_certified_by_the_entries_of_its_matrix_also_where_terms_are_curved() -> None:
    nodes = 2100
    edges = np.unique(np.sort(rng.integers(nodes, size=(3000, 2)), axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    terms = [
        Term("graph_dirichlet", "x", weight=0.05, params={"edges": edges}),
        Term("tikhonov", "x", weight=0.3),
        Term("huber", "x", op=Op("incidence", edges=edges[:500]), weight=0.1),
    ]
    compiled = compile_flow(FlowSpec({"x": Slot(shape=(nodes,))}, terms))
    degrees = np.bincount(edges.ravel(), minlength=nodes)
    shared = np.bincount(edges[:500].ravel(), minlength=nodes)
    # Row i: 2 w deg off the diagonal and 2 w deg + ridge on it, and Huber's curvature, which is 1 where the flow starts.
    off = 0.1 * degrees + 0.1 * shared
    verdict = certify(compiled, CertificationProfile(eta_max=0.99))
    assert verdict.value("eta_dd") == pytest.approx((off / (off + 0.3)).max(), rel=1e-9)
    assert verdict.feasible and verdict.certificates["eta_dd"].method == "rows by coloured probing"
    assert verdict.certificates["gamma"].sound_below


def test_a_verdict_says_of_what_its_numbers_are() -> None:
    terms = [Term("quadratic", "x", target=rng.standard_normal((8, 8))), Term("tv", "x", weight=0.1)]
    verdict = certify(compile_flow(FlowSpec({"x": Slot(shape=(8, 8))}, terms)))
    assert verdict.feasible and verdict.value("gamma") == 1.0
    assert "gamma 1 everywhere, of the second derivative of f" in verdict.told() and "not smooth enter no further" in verdict.told()


def test_slots_that_no_term_couples_are_certified_apart() -> None:
    matrix = rng.standard_normal((9, 5))
    terms = [Term("quadratic", "z", op=Op("dense", matrix=matrix)), Term("tikhonov", "x", weight=2.0)]
    compiled = compile_flow(FlowSpec({"x": Slot(shape=(4,)), "z": Slot(shape=(5,))}, terms))
    verdict = certify(compiled)
    least = min(2.0, float(np.linalg.eigvalsh(matrix.T @ matrix)[0]))
    assert verdict.value("gamma") == pytest.approx(least) and verdict.value("eta_dd") == pytest.approx(eta_of(matrix.T @ matrix))
    held = certify(compiled, CertificationProfile(precondition=True, eta_max=100.0))
    root = np.diag(1 / np.sqrt(np.diagonal(matrix.T @ matrix)))
    assert held.value("gamma") == pytest.approx(min(1.0, float(np.linalg.eigvalsh(root @ matrix.T @ matrix @ root)[0])))


def test_a_dominant_definite_matrix_has_the_gap_that_its_dominance_implies() -> None:
    for _ in range(50):
        matrix = rng.standard_normal((6, 6))
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, np.abs(matrix).sum(axis=1) * rng.uniform(1.1, 3))
        eta = eta_of(matrix)
        assert eta < 1
        implied = dominance.gap_from_dominance(eta, float(np.diagonal(matrix).min()))
        assert implied <= np.linalg.eigvalsh(matrix)[0] + 1e-12
        rows = np.abs(matrix).sum(axis=1)
        assert gap.gershgorin(np.diagonal(matrix), rows) <= np.linalg.eigvalsh(matrix)[0] + 1e-12


def test_the_convex_profile_asks_for_a_sound_step_and_not_for_a_gap() -> None:
    compiled = blurred(2.0, Term("l1", "x", weight=0.01))
    assert certify(compiled, convex()).feasible
    hasty = certify(with_alpha(compiled, 3.0), convex())
    assert [(finding.check, finding.remedy) for finding in hasty.findings] == [("alpha", "set_alpha")]
    assert certify(with_alpha(compiled, float(hasty.findings[0].limit or 0)), convex()).feasible


def on_the_sphere(start: int, *terms: Term) -> CompiledFlow:
    """-1/2 <x, A x> for A = diag(5, 3, 1, 0.5), up to a constant, at an eigenvector of A."""
    root = np.diag(np.sqrt(6.0 - np.array([5.0, 3.0, 1.0, 0.5])))
    slot = Slot(value=np.eye(4)[start], manifold="sphere")
    return compile_flow(FlowSpec(slots={"x": slot}, terms=[Term("quadratic", "x", op=Op("dense", matrix=root)), *terms]))


def test_on_a_manifold_the_curvature_is_that_along_it() -> None:
    # Everywhere in space the energy is convex; on the sphere it has its minimum, a saddle and its maximum at eigenvectors.
    least = certify(on_the_sphere(0))
    assert least.phase == "GREEN" and least.scope == "at the reference point"
    assert least.value("gamma") == pytest.approx(5 - 3, abs=1e-12)
    saddle = certify(on_the_sphere(1))
    assert saddle.phase == "AMBER" and saddle.value("gamma") == pytest.approx(3 - 5, abs=1e-12)
    assert [finding.remedy for finding in saddle.findings] == ["none"]
    assert [finding.check for finding in certify(on_the_sphere(0), convex()).findings] == ["convex"]
    assert [finding.check for finding in certify(on_the_sphere(0, Term("l1", "x", weight=0.1))).findings] == ["gamma"]


def test_a_step_that_rests_on_an_estimate_is_not_certified_unless_estimates_are_allowed() -> None:
    double = Op("matvec", forward=lambda x: 2 * x)
    compiled = compile_flow(FlowSpec(slots={"x": Slot(shape=(8,))}, terms=[Term("quadratic", "x", op=double)]), solver="ista")
    assert compiled.report.beta.kind == "estimate"
    assert [finding.check for finding in certify(compiled, convex()).findings] == ["alpha"]
    assert certify(compiled, convex(allow_estimates=True)).feasible
    behind = FlowSpec(slots={"x": Slot(shape=(8,))}, terms=[Term("quadratic", "x"), Term("l1", "x", op=double)])
    assert [finding.check for finding in certify(compile_flow(behind), convex()).findings] == ["alpha"]


def test_a_declared_bound_that_the_curvature_exceeds_is_found_out() -> None:
    params = {"of": lambda u: 2.0 * (u**2).sum(), "convex": True}
    told = [
        certify(compile_flow(FlowSpec(slots={"x": Slot(shape=(8,))}, terms=[Term("function", "x", params={**params, "beta": beta})])))
        for beta in (4.0, 1.0)
    ]
    assert told[0].feasible
    assert [finding.check for finding in told[1].findings] == ["beta"]


def test_independence_of_the_grid_needs_the_finer_grid_and_fails_closed_without_it() -> None:
    profile = CertificationProfile(checks=("spectral_gap", "discretization_independence"))
    held = Term("tikhonov", "x", weight=0.1)
    coarse, fine = blurred(1.0, held), blurred(1.0, held, shape=(32, 32))
    assert [finding.check for finding in certify(coarse, profile).findings] == ["discretization_independence"]
    assert certify(coarse, profile, refined=fine).feasible
    with pytest.raises(FlowInputError, match="grid 4 times as fine"):
        certify(coarse, replace(profile, refinement_test=RefinementTest(scale_factor=4)), refined=fine)
    poor = blurred(1.0, Term("tikhonov", "x", weight=1e-3), shape=(32, 32))
    assert "belongs to the grid" in certify(coarse, profile, refined=poor).told()


def test_numbers_that_are_not_finite_turn_the_verdict_red() -> None:
    matrix = np.array([[1.0, 0.0], [0.0, np.nan]])
    block = block_of(np.eye(2))
    broken = Block(("x",), ((2,),), lambda v: matrix @ v, lambda rows: rows @ matrix.T, -np.inf, 1.0, True, False, (), np.nan)
    seen = known(broken)
    found = spectral_findings(
        Spectrum(dominance.eta(block, known(block), lens_for("pixel", block)), gap.gamma(broken, seen), "pixel", "", None),
        CertificationProfile(),
    )
    assert [finding.check for finding in found] == ["finite"]


def test_an_energy_that_is_infinite_where_the_flow_starts_is_no_flow() -> None:
    term = Term("function", "x", params={"of": lambda u: (u**4).sum(), "convex": True})
    verdict = certify(compile_flow(FlowSpec(slots={"x": Slot(value=np.full(3, 1e100))}, terms=[term])))
    assert verdict.phase == "RED" and "inf where the flow starts" in verdict.told()


def test_gamma_on_a_support_is_that_of_the_submatrix() -> None:
    matrix = rng.standard_normal((5, 8))
    gram = matrix.T @ matrix
    support = np.array([1, 0, 1, 0, 0, 0, 0, 1], bool)
    found = gap.restricted(block_of(gram), support)
    assert found.value == pytest.approx(np.linalg.eigvalsh(gram[np.ix_(support, support)])[0])
    assert lowest(found) > 0 > lowest(gap.gamma(block_of(gram), known(block_of(gram))))


def test_wrong_profiles_and_lenses_are_refused_with_the_cure() -> None:
    with pytest.raises(FlowInputError, match="strict or convex"):
        CertificationProfile(name="lax")  # type: ignore[arg-type]
    with pytest.raises(FlowInputError, match="checks are lyapunov"):
        CertificationProfile(checks=("luck",))
    with pytest.raises(FlowInputError, match="pixel, dft"):
        certify(blurred(1.0), lens="rainbow")
    with pytest.raises(FlowInputError, match="not orthonormal"):
        certify(blurred(1.0), lens=Op("gaussian_blur", sigma=1.0))


def test_verdicts_and_profiles_are_plain_data() -> None:
    import json

    compiled = blurred(2.0, Term("l1", "x", weight=0.01))
    verdict = certify(compiled)
    told = json.loads(json.dumps(verdict.record()))
    assert told["certificates"]["gamma"]["kind"] == "exact" and told["limits"]["gamma_min"] == 1e-6
    assert {"eta_dd", "gamma", "eta_kind", "gamma_kind", "eta_max", "gamma_min", "profile", "reason"} == set(verdict.payload())
    assert json.dumps(CertificationProfile(lens=Op("dft")).record())
    assert with_ridge(compiled.spec, 0.1).terms[-1].weight == 0.1


def test_the_example_of_the_page_does_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flow" / "certificates.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "certificates.md", "exec"), names)
    assert names["naive"].phase == "AMBER" and names["held"].phase == "GREEN" and names["held"].lens == "dft"
