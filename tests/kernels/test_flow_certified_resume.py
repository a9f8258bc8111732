"""Certified runs that survive: whatever ends the process, the run goes on under its controller as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_adapter.kernels.flow import (
    FlowInputError,
    FlowSpec,
    Op,
    Slot,
    Term,
    compile_flow,
    judging,
    resume_run,
    run,
    run_certified,
    tuning,
)
from bridge_adapter.kernels.flow.controller import ControllerConfig, GapDial, MultiscaleSchedule
from bridge_adapter.kernels.flow.named_runs import NamedRuns
from bridge_adapter.kernels.flow.recorder import reading
from bridge_adapter.kernels.flow.recorder.errors import CheckpointRefused
from bridge_adapter.kernels.flow.recorder.manifest import load_run_manifest

N, NOISE, BLOCK, BUDGET = 64, 0.1, 10, 240


class Deadline(BaseException):
    """What ends a call from outside."""


def blurred() -> FlowSpec:
    """A blur that needs a ridge to be GREEN, with a wavelet term that is far too heavy for the noise: a dial has something to turn."""
    rng = np.random.default_rng(0)
    seen = np.repeat([0.0, 2.0, -1.0, 0.5], N // 4) + NOISE * rng.standard_normal(N)
    return FlowSpec(
        name="blurred",
        slots={"x": Slot(shape=(N,)), "y": Slot(value=seen, role="data")},
        terms=[
            Term("quadratic", "x", op=Op("gaussian_blur", sigma=1.5), target="y"),
            Term("wavelet_l1", "x", weight=0.5, params={"wavelet": "haar", "levels": 3}),
        ],
    )


def uneven() -> FlowSpec:
    """Four numbers, GREEN as they are."""
    matrix = Op("dense", matrix=np.diag(np.linspace(0.5, 1.0, 4)))
    terms = [Term("quadratic", "x", op=matrix, target=np.arange(4.0)), Term("l1", "x", weight=0.1)]
    return FlowSpec(slots={"x": Slot(shape=(4,))}, terms=terms)


def asked() -> dict[str, Any]:
    """Everything that a controller may be asked for."""
    return {
        "gap_dial": GapDial(sigma=NOISE, proposal=0.2, per_scale_seed="median", validation_iterations=5),
        "multiscale": MultiscaleSchedule(levels=3, activate_rule="level_iters >= 30"),
        "config": ControllerConfig(max_tuner_moves=6),
    }


def begin(folder: str, pause_at: int) -> None:
    """In a process of its own: a run that reaches a block and stays in it."""

    def pause(info: dict[str, Any]) -> None:
        if info["iteration"] >= pause_at:
            print("there", flush=True)
            time.sleep(600)

    certified = {**asked(), "tol": 0.0}
    NamedRuns(folder).run(
        "killed", compile_flow(blurred()), iterations=BUDGET, block=BLOCK, save_every=0.0, certified=certified, on_progress=pause
    )


def killed(folder: Path, pause_at: int) -> None:
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); from {here.stem} import begin; begin({str(folder)!r}, {pause_at})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.kill()


def controlled(result: dict[str, Any]) -> Any:
    return result["stopped"], result["phase"], result["iterations"], result["controller"], result["card"], result["verdict"]


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert np.array_equal(one["state"]["x"], other["state"]["x"])
    assert (one["energy"], one["residual"]) == (other["energy"], other["residual"])
    assert controlled(one) == controlled(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_certified(blurred(), iterations=BUDGET, block=BLOCK, tol=0.0, out_dir=tmp_path_factory.mktemp("whole"), **asked())


def test_a_killed_run_goes_on_under_its_controller_bit_for_bit(tmp_path: Path, whole: dict[str, Any]) -> None:
    killed(tmp_path, 60)
    runs, compiled = NamedRuns(tmp_path), compile_flow(blurred())
    (entry,) = runs.list()
    assert (entry["status"], entry["iterations"]) == ("interrupted", 50)
    rest = runs.run("killed", compiled, iterations=BUDGET, block=BLOCK, certified={})
    same(rest, whole)
    # What is tested here is there: a ridge that was added, moves that were kept and refused, scales that were unlocked.
    assert rest["controller"]["remedies"] == 1 and rest["controller"]["accepted_moves"] >= 1
    told = [event["event"] for event in reading.events(rest["capsule"])]
    assert told.count("RUN_FINISHED") == told.count("RUN_STARTED") == 1 and "FLOW_RESUMED" in told
    assert told.count("SCALE_ACTIVATED") >= 3 and load_run_manifest(rest["capsule"])["phase"] == "GREEN"
    assert reading.telemetry(rest["capsule"])["iter"].to_pylist() == list(range(1, rest["iterations"] + 1))

    again = runs.run("killed", compiled, iterations=BUDGET, certified={})
    assert np.array_equal(again["state"]["x"], whole["state"]["x"]) and again["history"] == {}
    assert controlled(again) == controlled(whole) and again["spec"].digest() == whole["spec"].digest()


def test_a_run_is_saved_wherever_it_is_ended_from_outside(tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(info: dict[str, Any]) -> None:
        if info["iteration"] >= 60:
            raise error

    runs, compiled = NamedRuns(tmp_path), compile_flow(blurred(), tol=0.0)
    asks = {"iterations": BUDGET, "block": BLOCK, "certified": asked()}
    for name, status, error in (("visited", "cancelled", Deadline()), ("failing", "failed", RuntimeError("the caller is gone"))):
        with pytest.raises(type(error)):
            runs.run(name, compiled, on_progress=end, **asks)
        assert (runs.list()[0]["status"], runs.list()[0]["iterations"]) == (status, 60)
        same(runs.resume(name, compiled, block=BLOCK), whole)

    findings, made = judging.findings, list[Any]()

    def interrupted(execution: Any, *rest: Any) -> Any:
        made.append(execution)
        if len(made) == 3:
            raise Deadline
        return findings(execution, *rest)

    monkeypatch.setattr(judging, "findings", interrupted)
    with pytest.raises(Deadline):
        runs.run("judged", compiled, **asks)
    monkeypatch.undo()
    same(runs.resume("judged", compiled, block=BLOCK), whole)


@pytest.mark.parametrize("kind", [Deadline, KeyboardInterrupt])
def test_a_run_that_is_ended_while_it_tunes_goes_on_where_it_began_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """A proximal step solves it, so moves are tried where the solver is at rest: after one that was kept, and after one that was not."""
    noisy = np.repeat([0.0, 3.0, 1.0, 2.0], 16) + 0.3 * np.random.default_rng(5).standard_normal(64)
    prior = Term("wavelet_l1", "x", weight=0.2, params={"levels": 4})
    spec = FlowSpec(slots={"x": Slot(shape=(64,))}, terms=[Term("quadratic", "x", target=noisy), prior])
    asks: dict[str, Any] = {"gap_dial": GapDial(sigma=0.3, proposal=0.2, no_improve=3), "iterations": 200, "block": 2}
    whole = run_certified(spec, out_dir=tmp_path / "whole", **asks)
    told = [event["event"] for event in reading.events(whole["capsule"])]
    tried = [name for name in told if name in ("TUNER_MOVE_ACCEPTED", "TUNER_MOVE_REJECTED")]
    certify = tuning.certify
    for end in (1, tried.index("TUNER_MOVE_REJECTED") + 2):
        made = list[Any]()

        def interrupted(*given: Any, end: int = end, made: list[Any] = made, **options: Any) -> Any:
            made.append(given)
            if len(made) == end:
                raise kind
            return certify(*given, **options)

        monkeypatch.setattr(tuning, "certify", interrupted)
        try:
            assert run_certified(spec, out_dir=tmp_path / str(end), **asks)["stopped"] == "cancelled"
        except Deadline:
            assert kind is Deadline
        monkeypatch.undo()
        (cut,) = (tmp_path / str(end)).iterdir()
        same(resume_run(cut, spec), whole)


def test_a_cancelled_run_and_one_with_too_small_a_budget_go_on_likewise(tmp_path: Path, whole: dict[str, Any]) -> None:
    cut = run_certified(
        blurred(),
        iterations=20,
        block=BLOCK,
        tol=0.0,
        out_dir=tmp_path,
        **asked(),
    )
    assert cut["stopped"] == "budget"
    cut = resume_run(cut["capsule"], blurred(), iterations=BUDGET, block=BLOCK, on_progress=lambda info: info["iteration"] < 70 or "cancel")
    assert (cut["stopped"], cut["iterations"]) == ("cancelled", 70)
    rest = resume_run(cut["capsule"], compile_flow(blurred()), block=BLOCK)
    same(rest, whole)
    assert load_run_manifest(rest["capsule"])["parent"]["run_id"] == Path(cut["capsule"]).name


def test_a_run_goes_on_from_right_behind_a_move_that_was_rolled_back(tmp_path: Path) -> None:
    # Longer steps are better by the criterion and refused by the gate, so the run stands anew where it was good.
    dial = GapDial(knobs=("alpha",), sigma=0.01, warmup_iterations=0, monitoring_interval=1, validation_iterations=3)
    spec, settings = uneven(), {"gap_dial": dial, "config": ControllerConfig(max_rollbacks=9)}
    compiled = compile_flow(spec, tol=0.0)
    undisturbed = run_certified(spec, compiled, iterations=8, block=2, **settings)
    assert undisturbed["controller"]["rollbacks"] >= 2
    for stop in (2, 4):
        cut = run_certified(
            spec,
            compiled,
            iterations=8,
            block=2,
            out_dir=tmp_path,
            on_progress=lambda info, stop=stop: info["iteration"] < stop or "cancel",
            **settings,
        )
        assert (cut["stopped"], cut["iterations"]) == ("cancelled", stop)
        same(resume_run(cut["capsule"], compiled, block=2), undisturbed)


def test_steps_that_a_remedy_has_preconditioned_stay_so(tmp_path: Path) -> None:
    matrix = np.linalg.cholesky(np.eye(4) + 0.05).T * np.logspace(0, 2, 4)
    terms = [Term("quadratic", "x", op=Op("dense", matrix=matrix), target=np.ones(4)), Term("l1", "x", weight=0.01)]
    spec = FlowSpec({"x": Slot(shape=(4,))}, terms)
    undisturbed = run_certified(spec, iterations=6, block=2, tol=0.0)
    assert undisturbed["report"].solver == "preconditioned"
    cut = run_certified(spec, iterations=2, block=2, tol=0.0, out_dir=tmp_path)
    same(resume_run(cut["capsule"], spec, iterations=6), undisturbed)


def test_what_a_checkpoint_cannot_hold_is_asked_for_by_name(tmp_path: Path) -> None:
    spec = uneven()
    often = {"warmup_iterations": 0, "monitoring_interval": 1, "validation_iterations": 3}
    dial = GapDial(criterion=lambda state: float(abs(state["x"].sum() - 5.0)), **often)
    cut = run_certified(spec, iterations=4, block=2, tol=0.0, out_dir=tmp_path, gap_dial=dial)
    with pytest.raises(CheckpointRefused, match=r'criterion of the run\'s gap_dial.*certified=\{"gap_dial": ...\}'):
        resume_run(cut["capsule"], spec, iterations=8)
    with pytest.raises(FlowInputError, match="takes no 'dial'; it takes cert_profile, config, multiscale"):
        resume_run(cut["capsule"], spec, iterations=8, certified={"dial": dial, "gap_dial": dial})
    rest = resume_run(cut["capsule"], spec, iterations=8, block=2, certified={"gap_dial": dial})
    assert rest["iterations"] == 8 and rest["controller"]["moves"] > cut["controller"]["moves"]
    plain = run(spec, iterations=4, tol=0.0, out_dir=tmp_path)
    with pytest.raises(FlowInputError, match="without certificates"):
        resume_run(plain["capsule"], spec, certified={})
