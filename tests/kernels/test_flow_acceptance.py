"""What no test of a single part shows: the gate of whole flows against dense eigenvalues, classes against each other, going back in
mid-run, and single precision of more classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_adapter.kernels import flow as public
from bridge_adapter.kernels.flow import load_run_manifest, resume_run
from bridge_adapter.kernels.flow.certificates import CertificationProfile, certify, dominance, gap
from bridge_adapter.kernels.flow.certificates.certify import Spectrum, spectral_findings
from bridge_adapter.kernels.flow.certificates.curvature import Block
from bridge_adapter.kernels.flow.certificates.lenses import lens_for
from bridge_adapter.kernels.flow.certificates.structure import Known
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller import FlowPolicy
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.spec import Coupling, FlowSpec, Invariant, Slot, Term

RNG = np.random.default_rng(3)
N = 12
MATRIX = np.eye(N) + 0.3 * RNG.standard_normal((N, N)) / np.sqrt(N)
SIGNAL = np.repeat([0.0, 2.0, -1.0], 4) + 0.2 * RNG.standard_normal(N)
FIT = Term("quadratic", "x", op=Op("dense", matrix=MATRIX), target=SIGNAL)
SPARSE = Term("l1", "x", weight=0.1)
JUMPS = Term("l1", "x", op=Op("dense", matrix=np.diff(np.eye(N), axis=0)), weight=0.3)


def flow(*terms: Term, **more: Any) -> FlowSpec:
    return FlowSpec(slots={"x": Slot(shape=(N,))}, terms=list(terms), **more)


def test_the_gate_never_opens_for_rows_that_are_less_dominant_than_it_asks() -> None:
    profile, opened = CertificationProfile(gamma_min=0.0), 0
    for _ in range(2000):
        size = int(RNG.integers(2, 7))
        matrix = RNG.standard_normal((size, size))
        matrix = matrix + matrix.T
        beside = np.abs(matrix).sum(axis=1) - np.abs(np.diagonal(matrix))
        np.fill_diagonal(matrix, beside / (0.9 * (1 + RNG.normal(0, 10.0 ** RNG.uniform(-14, -1), size))))
        matrix *= 10.0 ** RNG.uniform(-4, 6)
        above = float(np.linalg.norm(matrix, 2))
        block = Block(("x",), ((size,),), lambda v, m=matrix: m @ v, lambda v, m=matrix: v @ m, -np.inf, above, True, False, (), np.nan)
        seen = Known(dense=matrix)
        eta = dominance.eta(block, seen, lens_for("pixel", block))
        green = not spectral_findings(Spectrum(eta, gap.gamma(block, seen, 0.0), "pixel", "everywhere", None), profile)
        sizes = np.abs(matrix)
        true = float(np.max((sizes.sum(axis=1) - np.diagonal(sizes)) / np.diagonal(sizes)))
        assert not (green and true > profile.eta_max * (1 + 1e-12))
        opened += green
    assert 100 < opened < 1900


def half_form(u: Any, hessian: Any) -> Any:
    return u @ hessian @ u / 2


def test_the_verdict_of_a_whole_flow_is_that_of_its_dense_matrix() -> None:
    profile = CertificationProfile(eta_max=1e300)
    for kind in ("definite", "singular", "indefinite") * 2:
        basis, values = np.linalg.qr(RNG.standard_normal((4, 4)))[0], RNG.uniform(0.01, 1, 4)
        values[0] = {"definite": values[0], "singular": 0.0, "indefinite": -(10.0 ** RNG.uniform(-8, 0))}[kind]
        hessian = (basis * values) @ basis.T
        form = Term("function", "x", params={"of": half_form, "beta": 2.0, "arguments": {"hessian": hessian}})
        written = FlowSpec(slots={"x": Slot(value=np.ones(4))}, terms=[form], allow_nonconvex=True)
        verdict = certify(compile_flow(written, solver="ista", validation="expert"), profile)
        assert verdict.phase == ("GREEN" if kind == "definite" else "AMBER")
        assert verdict.value("gamma") == pytest.approx(np.linalg.eigvalsh(hessian)[0], abs=1e-12)


def test_primal_dual_steps_and_proximal_gradient_steps_find_the_same_minimum() -> None:
    # The same energy twice: total variation behind its operator, and as a function with a prox of its own.
    direct = compile_flow(flow(FIT, Term("tv", "x", weight=0.3)), solver="ista", tol=1e-10)
    behind = compile_flow(flow(FIT, JUMPS), solver="condat_vu", tol=1e-10)
    found = [run(compiled, iterations=5000) for compiled in (direct, behind)]
    assert [result["stopped"] for result in found] == ["converged", "converged"]
    np.testing.assert_allclose(found[0]["state"]["x"], found[1]["state"]["x"], atol=1e-6)
    assert found[0]["energy"] == pytest.approx(found[1]["energy"], rel=1e-9)


def test_a_run_that_goes_back_stands_bit_for_bit_where_it_last_was_good() -> None:
    entries = np.geomspace(0.1, 1, N)
    slow = Term("quadratic", "x", op=Op("diagonal", entries=entries), target=np.ones(N))
    held = Invariant("sum", lambda state: state["x"].sum(), absolute=0.5 * float((1 / entries).sum()), relative=0.0)
    profile = CertificationProfile(checks=("lyapunov", "spectral_gap", "invariant"))
    lost = run_certified(
        flow(slow, invariants=[held]), iterations=400, block=4, tol=0.0, cert_profile=profile, flow=FlowPolicy("accelerated")
    )
    good = lost["iterations"]
    assert (lost["stopped"], lost["phase"], good % 4) == ("cert_fail", "RED", 0) and good > 0
    straight = run(compile_flow(flow(slow), solver="mfista", tol=0.0), iterations=good, block=4)
    assert np.array_equal(lost["state"]["x"], straight["state"]["x"])


CLASSES = {
    "condat_vu": flow(FIT, JUMPS),
    "davis_yin": flow(FIT, SPARSE, Term("l2_ball", "x", params={"radius": 1.0})),
    "admm": flow(FIT, SPARSE, couplings=[Coupling({"x": Op("dense", matrix=np.ones((1, N)))}, 0.5)]),
    "preconditioned": flow(FIT, SPARSE),
    "implicit": flow(FIT, SPARSE),
}


@pytest.mark.parametrize("solver", CLASSES)
def test_classes_beside_plain_proximal_gradient_agree_in_both_precisions(solver: str) -> None:
    found = {}
    for dtype in ("float32", "float64"):
        spec = replace(CLASSES[solver], dtype=dtype)
        found[dtype] = run(compile_flow(spec, solver=solver, tol=1e-5, validation="expert"), iterations=2000)
        assert (found[dtype]["stopped"], found[dtype]["state"]["x"].dtype) == ("converged", dtype)
    np.testing.assert_allclose(found["float32"]["state"]["x"], found["float64"]["state"]["x"], atol=2e-4)


def test_a_capsule_is_read_and_gone_on_with_by_the_public_names(tmp_path: Path) -> None:
    spec = flow(FIT, SPARSE)
    cut = run(spec, iterations=4, block=4, tol=0.0, out_dir=tmp_path)
    manifest = load_run_manifest(cut["capsule"])
    assert (manifest["status"], manifest["dtype"]) == ("budget", "float64")
    assert resume_run(cut["capsule"], spec, iterations=8)["iterations"] == 8
    for name in public.__all__:
        assert getattr(public, name) is not None
