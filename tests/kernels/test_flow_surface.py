"""What callers may hand to the named functions of a flow: an argument of another kind is refused with a sentence that says what to give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_adapter.kernels.flow import (
    CertificationProfile,
    ControllerConfig,
    FlowSpec,
    GapDial,
    MultiscaleSchedule,
    Op,
    Slot,
    Term,
    compile_flow,
    resume_run,
    run,
    run_certified,
    run_flow_step,
)
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.lint import SpecLintFailed

DATA = np.array([3.0, -1.0, 0.5, 2.0, 0.0, 1.0, -2.0, 4.0])


def denoise(data: Any = DATA, **wavelet: Any) -> FlowSpec:
    prior = Term("wavelet_l1", "x", weight=0.5, params=wavelet) if wavelet else Term("l1", "x", weight=0.5)
    return FlowSpec(
        slots={"x": Slot(shape=(8,)), "y": Slot(value=data, role="data")},
        terms=[Term("quadratic", "x", target="y"), prior],
    )


def other() -> FlowSpec:
    return denoise(2 * DATA)


STATE = {"x": np.zeros(8)}


@pytest.mark.parametrize(
    "state, eta, basis, told",
    [
        (np.zeros(8), 0.5, None, "dictionary of arrays by slot"),
        ({"x": np.zeros(8) * 1j}, 0.5, None, "real numbers"),
        ({"x": "zeros"}, 0.5, None, "real numbers"),
        (STATE, "0.5", None, "above 0"),
        (STATE, None, None, "above 0"),
        (STATE, np.array([0.5, 0.5]), None, "above 0"),
        (STATE, True, None, "above 0"),
        (STATE, 0.5, Op("dct"), "by slot"),
        (STATE, 0.5, {"z": Op("dct")}, "'z'"),
        (STATE, 0.5, {"x": 3}, "forward and inverse"),
        (STATE, 0.5, {"x": Op("undecimated", wavelet="haar", levels=1)}, "not orthonormal"),
        (STATE, 0.5, {"x": Op("diagonal", entries=np.full(8, 2.0))}, "not orthonormal"),
    ],
)
def test_a_step_refuses_what_it_cannot_take(state: Any, eta: Any, basis: Any, told: str) -> None:
    with pytest.raises(FlowInputError, match=told):
        run_flow_step(state, compile_flow(denoise()), eta, basis)


def test_a_step_refuses_coordinates_of_another_shape_and_a_flow_that_is_not_compiled() -> None:
    small = FlowSpec(slots={"x": Slot(shape=(4,))}, terms=[Term("wavelet_l1", "x", params={"wavelet": "haar", "levels": 1})])
    basis = compile_flow(small).bases()["x"]
    with pytest.raises(FlowInputError, match=r"shape \(4,\), and the slot has shape \(8,\)"):
        run_flow_step(STATE, compile_flow(denoise()), 0.5, {"x": basis})
    with pytest.raises(FlowInputError, match="compile_flow"):
        run_flow_step(STATE, denoise(), 0.5)  # type: ignore[arg-type]


def test_the_coordinates_of_a_step_may_be_described() -> None:
    moved = run_flow_step(STATE, compile_flow(denoise()), 0.5, {"x": Op("wavelet", wavelet="haar", levels=2)})["x"]
    with_wavelet = compile_flow(denoise(wavelet="haar", levels=2, threshold_approx=True))
    np.testing.assert_allclose(moved, run_flow_step(STATE, with_wavelet, 0.5)["x"], atol=1e-14)


def test_a_certified_run_refuses_a_flow_of_another_spec() -> None:
    """It would record the one and run the other."""
    with pytest.raises(FlowInputError, match="another spec"):
        run_certified(denoise(), compile_flow(other()), iterations=2)
    with pytest.raises(FlowInputError, match="it must be a FlowSpec"):
        run_certified(compile_flow(denoise()), iterations=2)  # type: ignore[arg-type]
    assert run_certified(denoise(), compile_flow(denoise()), iterations=20)["phase"] == "GREEN"


def test_resuming_without_a_spec_gives_what_there_is_to_go_on_from(tmp_path: Path) -> None:
    ended = run(denoise(), iterations=6, tol=0.0, block=2, out_dir=tmp_path)
    found = resume_run(ended["capsule"])
    assert {"state", "tuner_state", "phase", "iter", "rng_key"} <= found.keys()
    assert found["iter"] == ended["iterations"] and found["phase"] == "AMBER"
    np.testing.assert_array_equal(found["state"]["x"], ended["state"]["x"])
    with pytest.raises(FlowInputError, match="takes its spec"):
        resume_run(ended["capsule"], iterations=10)
    with pytest.raises(FlowInputError, match="it must be a FlowSpec"):
        resume_run(ended["capsule"], {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "made, told",
    [
        (lambda: ControllerConfig(on_failure="ignore"), "abort or degrade"),
        (lambda: ControllerConfig(max_wall_time_ms=0), "above 0"),
        (lambda: ControllerConfig(max_iterations=-1), "above 0"),
        (lambda: ControllerConfig(max_tuning_ms=float("nan")), "above 0"),
        (lambda: MultiscaleSchedule(levels=2.5), "2.5 levels"),
        (lambda: GapDial(sigma=1.0, ratios=(2.0, 0.5)), "least <= most"),
        (lambda: GapDial(sigma=1.0, no_improve=0), "no_improve is 0"),
        (lambda: CertificationProfile(tolerances={"lyapunov": -1.0}), "lyapunov is -1.0"),
    ],
)
def test_limits_that_mean_nothing_are_refused(made: Callable[[], Any], told: str) -> None:
    with pytest.raises(FlowInputError, match=told):
        made()


@pytest.mark.parametrize(
    "manifold, told",
    [
        ("torus", "there is no manifold 'torus'"),
        (("sphere", {"r": 2}), "'sphere' cannot be built"),
        (("stiefel", {"n": 3, "k": 2}), "its last two axes"),
        (("sphere",), "give a name"),
        (5, "give a name"),
    ],
)
def test_a_manifold_that_there_is_not_fails_lint_by_the_name_of_its_slot(manifold: Any, told: str) -> None:
    spec = FlowSpec(slots={"x": Slot(shape=(8,), manifold=manifold)}, terms=[Term("quadratic", "x", target=DATA)])
    with pytest.raises(SpecLintFailed, match=f"the slot x: .*{told}"):
        compile_flow(spec)


def test_a_declared_frame_must_be_that_of_the_transform() -> None:
    for right in ({"frame": "unitary"}, {"frame": "tight", "c": 1.0}, {"frame": "general"}):
        assert compile_flow(denoise(wavelet="haar", levels=2, **right)).report.terms["x_wavelet_l1_1"] == "prox"
    redundant = Op("undecimated", wavelet="haar", levels=2)
    for wrong in (
        {"wavelet": "haar", "frame": "tight", "c": 2.0},
        {"transform": redundant, "form": "analysis", "frame": "unitary"},
        {"transform": Op("undecimated", wavelet="starlet", levels=2), "form": "analysis", "frame": "tight", "c": 1.0},
    ):
        with pytest.raises(SpecLintFailed, match=r"declares a \w+ frame"):
            compile_flow(denoise(**wrong))


def test_levels_are_whole() -> None:
    with pytest.raises(SpecLintFailed, match=r"2\.5 levels"):
        compile_flow(denoise(wavelet="haar", levels=2.5))


def test_an_unknown_wish_about_numerical_warnings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFS_NUMERICAL_WARNINGS", "loud")
    with pytest.raises(FlowInputError, match="warn or error"):
        compile_flow(denoise())


@pytest.mark.parametrize("started", [run, run_certified])
@pytest.mark.parametrize(
    "given, told",
    [
        ({"on_progress": 3}, "on_progress is 3; give a function"),
        ({"save_every": -1.0}, "save_every is -1.0; it must be a number of seconds, 0 or more"),
        ({"save_every": float("nan")}, "save_every is nan"),
        ({"save_every": "x"}, "save_every is 'x'"),
        ({"redact": "yes"}, "redact is 'yes'; it must be True or False"),
        ({"tol": "x"}, "tol is 'x'; it must be 0 or more"),
    ],
)
def test_how_a_run_is_told_of_and_kept_is_checked_before_it_starts(started: Callable[..., Any], given: dict[str, Any], told: str) -> None:
    with pytest.raises(FlowInputError, match=told):
        started(denoise(), iterations=2, **given)


@pytest.mark.parametrize("solver", [None, "langevin"])
def test_a_checkpoint_has_the_key_of_the_next_noise(tmp_path: Path, solver: str | None) -> None:
    flow = compile_flow(denoise(), solver=solver, seed=7, temperature=0.1 if solver else 0.0)
    keys = [resume_run(run(flow, iterations=steps, tol=0.0, out_dir=tmp_path)["capsule"])["rng_key"] for steps in (2, 3)]
    assert all(key.dtype == np.uint32 and key.shape == (2,) for key in keys)
    assert (keys[0].tolist() != keys[1].tolist()) == (solver is not None)
    assert solver is not None or keys[0].tolist() == [0, 7]
