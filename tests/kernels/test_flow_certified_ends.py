"""Where certified runs end: at the minimum of the energy that was asked for, with its weights tuned, and for motion too."""

import numpy as np
import pytest

from bridge_adapter.kernels.flow import (
    ControllerConfig,
    FlowPolicy,
    FlowSpec,
    GapDial,
    MultiscaleSchedule,
    Slot,
    SparsityPolicy,
    Term,
    compile_flow,
    run,
    run_certified,
)
from bridge_adapter.kernels.flow.certificates import CertificationProfile
from bridge_adapter.kernels.flow.solvers.optax_flow import optax_flow

SIGMA = 0.3
TRUTH = np.repeat([0.0, 3.0, 1.0, 2.0], 32)
NOISY = TRUTH + SIGMA * np.random.default_rng(5).standard_normal(128)


def denoise(weight: float = 0.05) -> FlowSpec:
    """A proximal step solves it, so every run is over before a tuner's warm-up is."""
    prior = Term("wavelet_l1", "x", weight=weight, params={"wavelet": "haar", "levels": 5})
    return FlowSpec(slots={"x": Slot(shape=(128,))}, terms=[Term("quadratic", "x", target=NOISY), prior])


@pytest.mark.parametrize("levels", [1, 3, 5, 7])
def test_a_schedule_ends_with_all_scales_whatever_the_number_of_its_levels(levels: int) -> None:
    whole = run(denoise(), tol=1e-10)
    found = run_certified(denoise(), multiscale=MultiscaleSchedule(levels), iterations=200, tol=1e-10, block=2)
    assert found["stopped"] == "converged" and found["phase"] == "GREEN"
    np.testing.assert_allclose(found["state"]["x"], whole["state"]["x"], atol=1e-8)


def test_a_run_that_converges_at_once_is_tuned_all_the_same() -> None:
    """lambda starts far too small: the misfit is a fraction of the noise."""
    untuned = run_certified(denoise(), iterations=200)
    found = run_certified(denoise(), gap_dial=GapDial(sigma=SIGMA), iterations=200)
    assert found["phase"] == "GREEN" and found["stopped"] in ("converged", "stagnated")
    assert found["controller"]["accepted_moves"] > 0 and found["weights"]["lambda"] > 0.05

    def off(result: dict[str, object]) -> float:
        return abs(float(np.mean((result["state"]["x"] - NOISY) ** 2)) - SIGMA**2)  # type: ignore[index]

    assert off(found) < off(untuned)
    adaptive = SparsityPolicy(adaptive_rule="residual_adaptive", sigma=SIGMA)
    assert run_certified(denoise(), sparsity=adaptive, iterations=200)["weights"]["lambda"] > 0.05


def test_a_tuner_that_is_done_or_out_of_time_leaves_the_end_of_the_solver() -> None:
    none = run_certified(denoise(), gap_dial=GapDial(sigma=SIGMA), config=ControllerConfig(max_tuner_moves=0), iterations=200)
    assert none["stopped"] == "converged" and none["controller"]["moves"] == 0
    late = run_certified(denoise(), gap_dial=GapDial(sigma=SIGMA), config=ControllerConfig(max_wall_time_ms=1e-6), iterations=200)
    assert late["stopped"] == "converged" and late["controller"]["moves"] == 0


@pytest.mark.parametrize("least, ridge", [(1.0, False), (1e-9, True)])
def test_motion_is_certified_by_the_curvature_of_its_positions(least: float, ridge: bool) -> None:
    """Of the momenta f says nothing: their energy is p^2/2m."""
    spec = FlowSpec(
        slots={"q": Slot(value=np.array([1.0, 2.0])), "p": Slot(shape=(2,), role="momentum")},
        terms=[Term("weighted_ls", "q", target=np.zeros(2), params={"scale": np.sqrt([least, 1.0])})],
        pairs=[("q", "p", 2.0)],
    )
    found = run_certified(spec, flow=FlowPolicy(discretization="symplectic"), iterations=50)
    assert (found["phase"], found["stopped"]) == ("GREEN", "budget")
    assert found["card"]["descent"]["rule"].startswith("suspended")
    assert (found["changes"]["ridge"] > 0) == ridge
    assert found["verdict"].certificates["gamma"].value == pytest.approx(least + found["changes"]["ridge"])


def test_the_verdict_on_a_run_that_diverged_says_so() -> None:
    spec = FlowSpec(slots={"x": Slot(value=np.full(4, 3.0))}, terms=[Term("quadratic", "x", target=np.zeros(4))])
    compiled = compile_flow(spec, solver=optax_flow("sgd", {"learning_rate": 1e150}), tol=0.0)
    profile = CertificationProfile("convex", checks=("spectral_gap",), allow_estimates=True)
    found = run_certified(spec, compiled, iterations=50, block=5, cert_profile=profile)
    assert (found["stopped"], found["phase"], found["verdict"].phase, found["card"]["passed"]) == ("diverged", "RED", "RED", False)
    assert "not finite" in found["verdict"].told() and found["card"]["findings"]
