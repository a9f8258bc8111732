"""Specs as plain data: equal to those written in Python, and errors that name the place."""

from __future__ import annotations

import _thread
import signal
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bridge_adapter.codec.wrappers import Binary
from bridge_adapter.kernels import flow
from bridge_adapter.kernels.flow import FlowInputError, FlowSpec, Op, Slot, Term
from bridge_adapter.kernels.flow.described import spec_from
from bridge_adapter.kernels.flow.described_runs import certified_from
from bridge_adapter.kernels.flow.named_runs import NamedRuns
from bridge_adapter.kernels.flow.operators.convolution import gaussian_kernel
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
from bridge_adapter.kernels.flow.recorder.errors import CapsuleError, CapsuleLocked, CheckpointRefused
from bridge_adapter.kernels.flow.spec import Coupling

Y = np.array([1.0, -0.2, 3.0])
PLAIN: dict[str, Any] = {
    "slots": {"x": {"shape": [3]}, "y": {"value": Y, "role": "data"}},
    "terms": [{"type": "quadratic", "variable": "x", "target": "y"}, {"type": "l1", "variable": "x", "weight": 0.5}],
}


def slow(scale: float = 1.0) -> FlowSpec:
    """A least squares problem on which a thousand steps are nothing."""
    matrix = np.diag(np.linspace(1e-3, 1.0, 6)) * scale
    return spec_from(
        {
            "slots": {"x": {"shape": [6]}},
            "terms": [{"type": "quadratic", "variable": "x", "op": {"kind": "dense", "matrix": matrix}, "target": [1, 2, 3, 4, 5, 6]}],
        }
    )


def test_a_described_spec_is_the_one_written_in_python() -> None:
    described = spec_from(
        {
            "name": "all",
            "dtype": "float32",
            "slots": {
                "x": {"shape": [4], "manifold": ["sphere", {"radius": 2.0}]},
                "y": {"value": [1.0, 2.0, 3.0, 4.0], "role": "data", "units": "K"},
                "p": {"shape": np.array([4]), "role": "momentum", "value": None},
            },
            "operators": {"blur": {"kind": "convolution", "kernel": [0.25, 0.5, 0.25], "centred": True}},
            "terms": [
                {"type": "quadratic", "variable": "x", "op": "blur", "target": "y", "name": "fit", "group": "data", "units": "1"},
                {"type": "l1", "variable": "x", "op": {"kind": "compose", "of": [{"kind": "identity"}, {"kind": "scale", "factor": 2}]}},
                {"type": "coupling", "variable": ["x", "p"], "weight": 2, "params": {"order": 1}},
            ],
            "pairs": [["x", "p", 1]],
            "couplings": [{"parts": {"x": 1, "p": {"kind": "identity"}}, "target": 0.0}],
            "symmetries": ["rotation"],
            "allow_nonconvex": True,
            "normalise": False,
        }
    )
    written = FlowSpec(
        name="all",
        dtype="float32",
        slots={
            "x": Slot(shape=(4,), manifold=("sphere", {"radius": 2.0})),
            "y": Slot(value=np.array([1.0, 2.0, 3.0, 4.0]), role="data", units="K"),
            "p": Slot(shape=(4,), role="momentum"),
        },
        operators={"blur": Op("convolution", kernel=[0.25, 0.5, 0.25], centred=True)},
        terms=[
            Term("quadratic", "x", op="blur", target="y", name="fit", group="data", units="1"),
            Term("l1", "x", op=Op("compose", of=[Op("identity"), Op("scale", factor=2)])),
            Term("coupling", ("x", "p"), weight=2.0, params={"order": 1}),
        ],
        pairs=[("x", "p", 1.0)],
        couplings=[Coupling({"x": 1.0, "p": Op("identity")}, np.array(0.0))],
        symmetries=["rotation"],
        allow_nonconvex=True,
    )
    assert described.plain() == written.plain()
    assert spec_from(described) is described


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (["x"], "spec is ['x'] of type list; it must be a dictionary"),
        ({"slotz": {}}, "slotz: there is no such key; did you mean slots?"),
        ({"slots": {}}, "terms: it is missing, and spec needs it"),
        ({"slots": {"x": {"shap": [1]}}}, "slots.x.shap: there is no such key; did you mean shape?"),
        ({"slots": {"x": {"shape": [1.5]}}}, "slots.x.shape is [1.5] of type list; it must be a list of whole numbers"),
        ({"slots": {"x": {"shape": [10**5000]}}}, "slots.x.shape is a list with a whole number of thousands of digits; it must be a list"),
        ({"slots": {"x": {"shape": [2**63]}}}, "it must be a list of whole numbers below 2^63"),
        ({"slots": {"x": {"value": [10**5000]}}}, "slots.x.value is a list with a whole number of thousands of digits"),
        ({"slots": {"x": {"value": [[1.0], [1.0, 2.0]]}}}, "slots.x.value: its lists are ragged"),
        ({"slots": {"x": {"value": "photo.png"}}}, "slots.x.value is 'photo.png' of type str; it must be an array of real numbers"),
        ({"slots": {"x": {"value": Binary(b"12")}}}, "slots.x.value is Binary(b'12') of type Binary; it must be an array of real numbers"),
        ({"terms": [{"type": "l1"}]}, "terms[0].variable: it is missing, and terms[0] needs it"),
        ({"terms": [{"type": "l1", "variable": "x", "weight": "2"}]}, "terms[0].weight is '2' of type str; it must be a number"),
        ({"terms": [{"type": "l1", "variable": "x", "op": {"sigma": 2}}]}, 'terms[0].op: it has no "kind"'),
        ({"terms": [{"type": "l1", "variable": "x", "op": {"kind": "blur", "sigma": print}}]}, "terms[0].op.sigma is a function"),
        ({"couplings": [{"parts": {"x": "1"}}]}, "couplings[0].parts.x is '1' of type str; it must be a number"),
        ({"invariants": [{"name": "mass"}]}, "invariants: an invariant is a function of the state"),
        ({"normalise": 1}, "normalise is 1 of type int; it must be true or false"),
        ({1: 2}, "spec: its key 1 of type int is no text; keys are strings"),
    ],
)
def test_an_error_names_the_place(data: Any, told: str) -> None:
    with pytest.raises(FlowInputError) as raised:
        spec_from(data)
    assert told in str(raised.value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "int4", "uint2"])
def test_numbers_of_ml_dtypes_are_taken_as_float32(dtype: str) -> None:
    values = np.array([1, 0, 3], getattr(ml_dtypes, dtype))
    found = spec_from({"slots": {"x": {"value": values}}, "terms": []}).slots["x"].value
    assert found is not None and (found.dtype, found.tolist()) == (np.float32, [1.0, 0.0, 3.0])


def nested(levels: int, wrap: Callable[[Any], Any], inside: Any) -> Any:
    for _ in range(levels):
        inside = wrap(inside)
    return inside


def of(type: str = "l1", side: int = 8, **fields: Any) -> dict[str, Any]:
    """A spec of one term."""
    return {"slots": {"x": {"shape": [side]}}, "terms": [{"type": type, "variable": "x", **fields}]}


def op(kind: str, **params: Any) -> dict[str, Any]:
    return of("quadratic", op={"kind": kind, **params})


MILLION = 10**6
DEEP = nested(400, lambda of: {"kind": "scale", "factor": 1.0, "of": of}, {"kind": "identity"})
HOSTILE: list[tuple[Any, str]] = [
    (of(op=DEEP), "nested deeper than 32 levels"),
    (of(params={"a": nested(300, lambda value: [value], 1.0)}), "nested deeper than 32 levels"),
    ({**of(), "terms": of()["terms"] * MILLION}, "more than 1000 parts"),
    ({**of(), "terms": of()["terms"] * 200}, "it has 200 terms; give 1 to 50"),
    (op("stack", of=[op("stack", of=[{"kind": "identity"}] * 100)["terms"][0]["op"]] * 100), "more than 1000 parts"),
    (of(variable=["x"] * MILLION), "terms[0].variable has 1000000 entries; give at most 1000"),
    (of(side=2**40), "slots.x has the shape (1099511627776,), and all slots together more than 268435456 numbers"),
    ({**of(), "slots": {"x": {"shape": [2**32, 2**32]}}}, "slots.x has the shape (4294967296, 4294967296)"),
    ({**of(), "slots": {"x": {"shape": [10**400]}}}, "it must be a list of whole numbers below 2^63"),
    ({**of(), "slots": {"x": {"shape": [-3]}}}, "give 1 to 4 sides, each above 0"),
    ({**of(), "slots": {"x": {}}}, "slots.x has neither a shape nor a value"),
    ({**of(), "slots": {"x": {"value": [float("nan")] * 8}}}, "8 of its 8 values are NaN or infinite"),
    ({**of(), "slots": {"x": {"value": [10**400]}}}, "it must be an array of real numbers"),
    ({**of(), "slots": {"x": {"value": np.array(["1"])}}}, "an array of shape (1,) and type <U1; it must be an array of real numbers"),
    ({**of(), "name": "x" * MILLION}, "its name has 1000000 characters"),
    (of(weight=-1.0), "its weight is -1.0; give a number above 0"),
    (of(weight=float("nan")), "its weight is nan"),
    (of(weight=10**400), "terms[0].weight is a whole number of 1329 bits"),
    (of("l12"), "there is no atom 'l12'"),
    (of("huber", params={"kappa": "3"}), "terms[0].params.kappa is '3' of type str; it must be a number, not a text of one"),
    (of("wavelet_l1", params={"levels": MILLION}), "it has 1000000 levels on sides (8,); give 1 to 3"),
    (op("gaussian_blur", sigma="wide"), "the blur has sigma 'wide'"),
    (op("scale", factor=1e308), "it must be one number below 1e+150"),
    (op("scale", factor=1.0, self=1), "it has no parameter 'self'"),
    (op("compose", of="blur"), "the term x_quadratic_0: it cannot be built (AttributeError"),
    (op("convolution", kernel={"a": 1}), "the term x_quadratic_0: it cannot be built (TypeError"),
    (op("convolution", kernel=[]), "the kernel has 0 values"),
    (op("sparse", rows=[0], columns=[0], values=[1.0], shape=[10**12, 8]), "the most is 2147483648"),
]


@pytest.mark.parametrize(("data", "told"), HOSTILE, ids=[told[:30] for _, told in HOSTILE])
def test_nonsense_is_refused_before_it_costs_time_or_memory(data: Any, told: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FlowInputError) as raised:
            flow.compile_flow(spec_from(data))
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert told in str(raised.value) and len(str(raised.value)) < 1000


def test_what_a_certified_run_is_asked_for_may_be_plain_data() -> None:
    assert certified_from(False) is None and certified_from(True) == {} == certified_from({"profile": None}) == certified_from([])
    described = {
        "profile": {"name": "convex", "eta_max": 0.5, "lens": {"kind": "wavelet"}, "refinement_test": {"scale_factor": 4}},
        "policy": "preconditioned",
        "multiscale": {"levels": 3, "mode": "residual_driven", "activate_rule": "rel_residual < 1e-3"},
        "gap_dial": {"criterion": "gcv", "knobs": ["lambda", "lambda2"], "ratios": [0.25, 4]},
        "sparsity": {"sparsity_mode": "tree"},
        "config": {"max_tuner_moves": 2, "on_failure": "degrade"},
    }
    made = certified_from(described)
    assert made is not None
    profile = made["cert_profile"]
    assert (profile.name, profile.checks, profile.eta_max, profile.lens.kind) == ("convex", ("lyapunov",), 0.5, "wavelet")
    assert profile.refinement_test.scale_factor == 4
    assert made["flow"] == flow.FlowPolicy("preconditioned", preconditioner="jacobi")
    assert made["multiscale"] == flow.MultiscaleSchedule(3, "residual_driven", "rel_residual < 1e-3")
    assert made["gap_dial"] == flow.GapDial(criterion="gcv", knobs=("lambda", "lambda2"), ratios=(0.25, 4.0))
    assert made["sparsity"].sparsity_mode == "tree"
    assert made["config"] == flow.ControllerConfig(max_tuner_moves=2, on_failure="degrade")
    assert certified_from({"cert_profile": "strict", "flow": {"family": "basic"}}) == {
        "cert_profile": flow.CertificationProfile(),
        "flow": flow.FlowPolicy(),
    }


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (3, "certified is 3 of type int; it must be true, false or a dictionary of profile, policy, multiscale"),
        ({1: 2}, "certified: its key 1 of type int is no text"),
        ({"profil": "strict"}, "certified.profil: there is no such key; did you mean profile?"),
        ({"profile": "lax"}, "certified.profile.name is 'lax' of type str; it must be one of strict, convex"),
        ({"profile": {"gamma_mni": 1}}, "certified.profile.gamma_mni: there is no such key; did you mean gamma_min?"),
        ({"profile": {"eta_max": float("nan")}}, "certified.profile.eta_max is nan of type float; it must be a number, not NaN"),
        ({"profile": {"checks": ["lyapunow"]}}, "certified.profile: the profile names 'lyapunow'; checks are"),
        ({"policy": "basic", "flow": "basic"}, "certified says a thing under two names, of policy, flow; say it once"),
        ({"policy": {"family": "accelerated", "preconditioner": "jacobi"}}, "certified.policy: the family accelerated takes no"),
        ({"multiscale": {"levels": "3"}}, "certified.multiscale.levels is '3' of type str; it must be a whole number"),
        ({"gap_dial": {"criterion": print}}, "certified.gap_dial.criterion is a function; what a client describes is data only"),
        ({"gap_dial": {"ratios": [1]}}, "certified.gap_dial.ratios is [1] of type list; it must be a list of 2"),
        ({"gap_dial": {"validation_iterations": 10**9}}, "it must be a whole number from 1 to 10000"),
        ({"config": {"tuning": True}}, "certified.config.tuning: there is no such key"),
        ({"profile": {"lens": DEEP}}, "nested deeper than 32 levels"),
    ],
)
def test_a_mistake_in_what_is_asked_for_is_named(data: Any, told: str) -> None:
    with pytest.raises(FlowInputError) as raised:
        certified_from(data)
    assert told in str(raised.value)


def test_a_blur_that_is_wider_than_its_image_is_the_mean() -> None:
    assert np.array_equal(gaussian_kernel((4,), 1e9), np.full(4, 0.25))
    assert np.allclose(gaussian_kernel((4,), 7.99), gaussian_kernel((4,), 8.01), rtol=1e-12)


def test_larger_slots_are_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_ADAPTER_FLOW_NUMBERS", "7")
    with pytest.raises(FlowInputError, match=r"more than 7 numbers.*BRIDGE_ADAPTER_FLOW_NUMBERS"):
        spec_from(of())
    monkeypatch.setenv("BRIDGE_ADAPTER_FLOW_NUMBERS", "8")
    assert spec_from({**of(), "operators": []}).shape_of("x") == (8,)


def test_a_named_run_that_was_cut_off_goes_on_and_ends_as_if_it_had_not(tmp_path: Path) -> None:
    compiled = flow.compile_flow(slow(), tol=1e-300, solver="ista")
    whole = flow.run(compiled, iterations=60, block=10)
    runs = NamedRuns(tmp_path)
    seen: list[int] = []

    def stumble(info: dict[str, Any]) -> None:
        seen.append(info["iteration"])
        if info["iteration"] == 30:
            raise RuntimeError("the caller stumbles")

    with pytest.raises(RuntimeError, match="stumbles"):
        runs.run("r", compiled, iterations=60, block=10, save_every=0.0, on_progress=stumble)
    assert runs.list()[0]["status"] == "failed"
    done = runs.run("r", compiled, iterations=60, block=10, on_progress=lambda info: seen.append(info["iteration"]))
    assert seen == [10, 20, 30, 40, 50, 60]
    assert done["stopped"] == "budget" and np.array_equal(done["state"]["x"], whole["state"]["x"])

    again = runs.run("r", compiled, iterations=60, on_progress=stumble)
    assert np.array_equal(again["state"]["x"], whole["state"]["x"]) and again["history"] == {}
    assert (again["energy"], again["iterations"], again["capsule"]) == (done["energy"], 60, done["capsule"])
    more = runs.resume("r", slow(), iterations=80, block=10)
    assert more["iterations"] == 80
    assert np.array_equal(more["state"]["x"], flow.run(compiled, iterations=80, block=10)["state"]["x"])
    (entry,) = runs.list()
    assert (entry["run_id"], entry["status"], entry["iterations"]) == ("r", "budget", 80)


def test_a_run_without_certificates_is_no_answer_to_who_asks_for_some(tmp_path: Path) -> None:
    runs, compiled = NamedRuns(tmp_path), flow.compile_flow(spec_from(PLAIN))
    assert runs.run("r", compiled)["stopped"] == "converged"
    with pytest.raises(FlowInputError, match=r"of a run without certificates; leave `certified` out, .* under another name"):
        runs.run("r", compiled, certified={})
    assert runs.run("other", compiled, certified={})["phase"] == "GREEN"


@pytest.mark.parametrize("certified", [None, {}])
def test_a_run_that_was_cancelled_beyond_a_smaller_budget_has_used_it_up(tmp_path: Path, certified: Any) -> None:
    """And not been cancelled again: who goes on until no run is cancelled would go on for ever."""
    runs, compiled = NamedRuns(tmp_path), flow.compile_flow(slow(), tol=1e-300, solver="ista")
    asks = {"certified": certified, "block": 10}
    assert runs.run("r", compiled, iterations=60, on_progress=lambda info: info["iteration"] < 30, **asks)["stopped"] == "cancelled"
    for _ in range(2):
        smaller = runs.run("r", compiled, iterations=20, **asks)
        assert (smaller["stopped"], smaller["iterations"]) == ("budget", 30)
    assert len(list((tmp_path / "r").glob("*/manifest.toml"))) == 2
    assert runs.resume("r", compiled, iterations=60)["iterations"] == 60


def test_an_interrupted_run_is_saved_where_it_stands(tmp_path: Path) -> None:
    compiled = flow.compile_flow(slow(), tol=1e-300, solver="ista")
    runs, seen = NamedRuns(tmp_path), list[int]()

    def interrupt(info: dict[str, Any]) -> None:
        seen.append(info["iteration"])
        if seen == [10, 20, 30]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run("r", compiled, iterations=60, block=10, on_progress=interrupt)
    (entry,) = runs.list()
    assert (entry["status"], entry["iterations"]) == ("cancelled", 30)
    done = runs.run("r", compiled, iterations=60, block=10, on_progress=interrupt)
    assert seen == [10, 20, 30, 40, 50, 60]
    assert np.array_equal(done["state"]["x"], flow.run(compiled, iterations=60)["state"]["x"])


def test_a_run_is_saved_where_its_callback_failed_or_a_block_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    compiled = flow.compile_flow(slow(), tol=1e-300, solver="ista")
    runs = NamedRuns(tmp_path)

    def stumble(info: dict[str, Any]) -> None:
        if info["iteration"] == 30:
            raise RuntimeError("the caller is gone")

    with pytest.raises(RuntimeError, match="gone"):
        runs.run("failed", compiled, iterations=60, block=10, on_progress=stumble)
    rows = Capsule.rows

    def interrupted(self: Capsule, block: Mapping[str, Any]) -> None:
        rows(self, block)
        _thread.interrupt_main()

    monkeypatch.setattr(Capsule, "rows", interrupted)
    # What a shell starts in the background ignores Ctrl-C, and so would these tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        runs.run("cancelled", compiled, iterations=60, block=10)
    monkeypatch.undo()
    assert {entry["run_id"]: (entry["status"], entry["iterations"]) for entry in runs.list()} == {
        "failed": ("failed", 30),
        "cancelled": ("cancelled", 10),
    }
    whole = flow.run(compiled, iterations=60, block=10)
    for name, steps in (("failed", 30), ("cancelled", 50)):
        more = runs.resume(name, compiled)
        assert more["history"]["energy"].size == steps and np.array_equal(more["state"]["x"], whole["state"]["x"])


def test_a_named_run_refuses_another_spec_another_worker_and_other_names(tmp_path: Path) -> None:
    runs, compiled = NamedRuns(tmp_path), flow.compile_flow(spec_from(PLAIN))
    assert runs.run("r", compiled)["stopped"] == "converged"
    with pytest.raises(CheckpointRefused, match="spec"):
        runs.run("r", flow.compile_flow(slow()))
    (tmp_path / "file").touch()
    for occupied, name in ((runs, "file"), (NamedRuns(tmp_path / "file"), "r")):
        with pytest.raises(CapsuleError, match=r"cannot be recorded in .*give it a runs directory that this process may write in"):
            occupied.run(name, compiled)
    for name in ("../r", "", "a/b", ".hidden"):
        with pytest.raises(FlowInputError, match="a run is called"):
            runs.run(name, compiled)
    with pytest.raises(FlowInputError, match=r"no run 's'.*latest runs are: r"):
        runs.resume("s", spec_from(PLAIN))

    def meddle(info: dict[str, Any]) -> None:
        with pytest.raises(CapsuleLocked):
            NamedRuns(tmp_path).run("busy", compiled)

    assert runs.run("busy", compiled, on_progress=meddle)["stopped"] == "converged"


def test_what_was_recorded_straight_into_the_directory_is_a_run_too(tmp_path: Path) -> None:
    capsule = Path(flow.run(slow(), iterations=20, tol=1e-300, out_dir=tmp_path)["capsule"])
    (entry,) = NamedRuns(tmp_path).list()
    assert entry["run_id"] == capsule.name and entry["iterations"] == 20
    assert NamedRuns(tmp_path).resume(capsule.name, slow(), iterations=25)["iterations"] == 25
