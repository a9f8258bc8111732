"""The wavelet prior has its exact prox in every form, and a lens is chosen by what it leaves out of the data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow import atoms
from bridge_adapter.kernels.flow.atoms.base import Asked, Parts
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators.base import Op, Shape
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import ProxTerm
from bridge_adapter.kernels.flow.runs import run
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term
from bridge_adapter.kernels.flow.transforms import LensPolicy, TransformOp, choose_lens

REAL = np.dtype("float64")


def parts(variable: Shape, weight: float, **params: object) -> Parts:
    with precision("float64"):
        return atoms.find("wavelet_l1").build(Asked("prior", (variable,), weight, None, None, REAL), **params)


def test_the_prox_of_the_wavelet_prior_is_exact() -> None:
    with precision("float64"):
        op, phi = parts((7, 6), 0.4, wavelet="db2", levels=2, lambdas={1: 1.0, 2: 0.5})
        term = ProxTerm("prior", "x", op, phi)
        prox = jax.jit(lambda v: term.prox(v, jnp.asarray(0.8), ()))
        cost = jax.jit(jax.vmap(lambda z, v: term.value(z) + jnp.sum((z - v) ** 2) / 1.6, in_axes=(0, None)))
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 7, 6))
        at_x, at_y = (jax.tree.map(np.asarray, prox(v)) for v in (x, y))
        assert np.sum((at_x.point - at_y.point) ** 2) <= np.vdot(at_x.point - at_y.point, x - y) + 1e-12
        near = at_x.point + rng.standard_normal((200, 7, 6)) * np.logspace(-6, 0, 200)[:, None, None]
        costs = np.asarray(cost(np.concatenate([at_x.point[None], near]), x))
        assert np.all(costs[1:] > costs[0])
        assert_allclose(at_x.value + np.sum((at_x.point - x) ** 2) / 1.6, costs[0], rtol=1e-12)


def test_the_approximation_is_free_unless_it_is_asked_to_pay() -> None:
    flat = np.full(8, 3.0)
    for pays, shrunk in ((False, 3.0), (True, 3.0 - 0.1 / np.sqrt(8))):
        term = Term("wavelet_l1", "x", weight=0.1, params={"wavelet": "haar", "levels": 3, "threshold_approx": pays})
        found = run(FlowSpec(slots={"x": Slot(shape=(8,))}, terms=[Term("quadratic", "x", target=flat), term]))
        assert_allclose(found["state"]["x"], shrunk, atol=1e-10)


def test_denoising_is_one_soft_threshold_in_the_basis() -> None:
    rng = np.random.default_rng(1)
    y = np.repeat([0.0, 4.0, 1.0, 2.0], 16) + 0.2 * rng.standard_normal(64)
    prior = Term("wavelet_l1", "x", weight=0.6, params={"transform": Op("dct"), "threshold_approx": True})
    compiled = compile_flow(FlowSpec(slots={"x": Slot(shape=(64,))}, terms=[Term("quadratic", "x", target=y), prior]))
    assert compiled.report.terms["x_wavelet_l1_1"] == "prox"
    with precision("float64"):
        op = compiled.problem.prox["x"].op
        assert isinstance(op, TransformOp)
        u = np.asarray(jax.jit(op.forward)(y))
        expected = jax.jit(op.inverse)(np.sign(u) * np.maximum(np.abs(u) - 0.6, 0))
    assert_allclose(run(compiled)["state"]["x"], expected, atol=1e-10)


def test_a_redundant_frame_is_composite_in_analysis_form_and_a_plain_prox_in_synthesis_form() -> None:
    frame = Op("undecimated", wavelet="haar", levels=1)
    op, phi = parts((6,), 1.0, transform=frame, form="analysis")
    assert isinstance(op, TransformOp) and op.redundant and phi.proximable
    synthesis, phi = parts((12,), 0.3, transform=frame, form="synthesis", shape=(6,), lambdas=2.0)
    assert synthesis.orthonormal()
    with precision("float64"):
        assert_allclose(jax.jit(phi.value)(np.ones(12)), 0.3 * 2.0 * 6)

    y = np.array([0.0, 0.0, 0.0, 4.0, 4.0, 4.0])
    spec = FlowSpec(
        slots={"u": Slot(shape=(12,))},
        terms=[
            Term("quadratic", "u", op=Op("synthesis", of=frame, shape=(6,)), target=y),
            Term("wavelet_l1", "u", weight=1e-3, params={"transform": frame, "form": "synthesis", "shape": (6,)}),
        ],
    )
    found = run(spec, iterations=500)
    with precision("float64"):
        assert_allclose(jax.jit(op.inverse)(found["state"]["u"]), y, atol=0.01)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"transform": Op("undecimated")}, "are different models; say which"),
        ({"transform": Op("dct"), "wavelet": "haar"}, "either transform"),
        ({"transform": Op("dct"), "form": "both"}, "must be one of analysis, synthesis"),
        ({"transform": Op("undecimated"), "form": "synthesis"}, "shape is that of the arrays"),
        ({"transform": Op("undecimated"), "form": "synthesis", "shape": (9,)}, "its variable has shape"),
        ({"lambdas": {7: 1.0}}, "thresholds for the levels"),
        ({"wavelet": "mexican_hat"}, "there is no wavelet"),
    ],
)
def test_an_ambiguous_prior_is_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(FlowInputError, match=said):
        parts((16,), 1.0, **params)


def test_the_lens_is_the_one_with_the_best_few_terms_on_the_data() -> None:
    time = np.arange(128) / 128
    steps, wave = np.sign(np.sin(9 * time)), np.cos(np.pi * 17 * (2 * np.arange(128) + 1) / 256)
    candidates = (Op("wavelet", wavelet="db4", levels=3), Op("wavelet", wavelet="haar", levels=3), Op("dct"))
    policy = LensPolicy(candidates, target_sparsity=0.84)
    with precision("float64"):
        for_steps, for_wave = choose_lens(policy, steps), choose_lens(policy, wave)
        assert for_steps.described is candidates[1] and for_steps.transform.name == "haar"
        assert for_wave.described is candidates[2]
        fewest = choose_lens(LensPolicy(candidates, selection_rule="max_sparsity_at_target"), wave)
        tie = choose_lens(LensPolicy((candidates[1], candidates[1])), steps)
    report = for_wave.report
    assert json.loads(json.dumps(report)) == report
    assert report["selected_index"] == 2 and report["probe_data_shape"] == [128] and report["probe_data_dtype"] == "float64"
    assert report["candidate_results"][2]["best_k_error"] < 1e-13 and report["candidate_results"][2]["terms"] == 21
    assert_allclose(sum(band["energy_share"] for band in report["candidate_results"][0]["bands"]), 1.0)
    assert fewest.report["candidate_results"][2]["terms_at_target_error"] == 1 and fewest.described is candidates[2]
    assert tie.report["selected_index"] == 0, "a tie goes to the first"


def test_lenses_refuse_bad_data_and_bad_policies() -> None:
    with precision("float64"), pytest.raises(FlowInputError, match="NaN or infinity"):
        choose_lens(LensPolicy(), np.array([1.0, np.nan] * 8))
    with pytest.raises(FlowInputError, match="selection_rule"):
        LensPolicy(selection_rule="prettiest")
    with pytest.raises(FlowInputError, match="at least one candidate"):
        LensPolicy(candidates=())
