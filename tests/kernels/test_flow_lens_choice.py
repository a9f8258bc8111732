"""A policy in the place of a transform: the data choose the lens, the prox looks through it, and the report and the manifest tell it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge_adapter.kernels.flow import compile_flow, load_run_manifest, resume_run, run
from bridge_adapter.kernels.flow.described import spec_from
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.spec import FlowSpec, Invariant, Slot, Term
from bridge_adapter.kernels.flow.transforms import LensPolicy, choose_lens

HAAR, DB4 = Op("wavelet", wavelet="haar", levels=3), Op("wavelet", wavelet="db4", levels=3)
STEPS = np.repeat([1.0, 4.0, 2.0, 3.0, 1.0, 5.0, 2.0, 2.0], 8)
WAVE = np.sin(2 * np.pi * np.arange(64) / 64) + 0.5 * np.sin(4 * np.pi * np.arange(64) / 64)


def denoising(data: Any, transform: Any, **more: Any) -> FlowSpec:
    return FlowSpec(
        {"x": Slot(shape=np.shape(data)), "y": Slot(value=data, role="data")},
        [Term("quadratic", "x", target="y"), Term("wavelet_l1", "x", weight=0.1, params={"transform": transform, **more})],
    )


@pytest.mark.parametrize(("data", "winner"), [(STEPS, HAAR), (WAVE, DB4)])
def test_the_prox_looks_through_the_lens_that_suits_the_data(data: Any, winner: Op) -> None:
    compiled = compile_flow(denoising(data, LensPolicy()))
    name = winner.params["wavelet"]
    report = compiled.report
    assert (report.lens_name, report.term_lenses, report.w_space_aware) == (name, {"x_wavelet_l1": name}, True)
    probe = report.lens_probe["x_wavelet_l1_1"]
    errors = {one["name"]: one["best_k_error"] for one in probe["candidate_results"]}
    assert min(errors, key=errors.__getitem__) == name and len(errors) == 2
    named = run(denoising(data, winner), iterations=50)
    np.testing.assert_array_equal(run(compiled, iterations=50)["state"]["x"], named["state"]["x"])
    assert compile_flow(denoising(data, winner)).report.lens_probe == {}


def test_data_of_its_own_where_it_starts_and_targets_are_probed_too() -> None:
    def chosen(spec: FlowSpec) -> str:
        return compile_flow(spec).report.lens_name

    assert chosen(denoising(STEPS, LensPolicy(calibration=WAVE))) == "db4"
    starting = denoising(STEPS, LensPolicy())
    starting = FlowSpec({**starting.slots, "x": Slot(value=WAVE)}, starting.terms)
    assert chosen(starting) == "db4"
    term = Term("wavelet_l1", "x", params={"transform": LensPolicy()})
    assert chosen(FlowSpec({"x": Slot(shape=(64,))}, [Term("quadratic", "x", target=STEPS), term])) == "haar"


def test_a_policy_is_plain_data_for_other_languages() -> None:
    described = spec_from(
        {
            "slots": {"x": {"shape": [64]}, "y": {"value": WAVE, "role": "data"}},
            "terms": [
                {"type": "quadratic", "variable": "x", "target": "y"},
                {
                    "type": "wavelet_l1",
                    "variable": "x",
                    "params": {
                        "transform": {"candidates": [{"kind": "dct"}, {"kind": "wavelet", "wavelet": "haar"}], "target_sparsity": 0.9}
                    },
                },
            ],
        }
    )
    assert compile_flow(described).report.lens_name == "dct"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            FlowSpec({"x": Slot(shape=(64,))}, [Term("wavelet_l1", "x", params={"transform": LensPolicy()})]),
            "there are 0 data of its",
        ),
        (
            FlowSpec(
                {"x": Slot(shape=(64,)), "y": Slot(value=STEPS, role="data"), "z": Slot(value=WAVE, role="data")},
                [Term("wavelet_l1", "x", params={"transform": LensPolicy()})],
            ),
            r"there are 2 data of its shape \(64,\) \(y, z\); give LensPolicy\(calibration=...\)",
        ),
        (denoising(STEPS, LensPolicy(), form="synthesis", shape=(64,)), r"choose_lens\(policy, data\).described, and give it to all"),
        (denoising(STEPS, {"rule": 1}), "a policy of lenses has no 'rule'; it has candidates"),
        (denoising(STEPS, {"candidates": "haar"}), "give a tuple of transforms"),
        (denoising(STEPS, {"target_sparsity": "much"}), "target_sparsity of a LensPolicy is 'much'; it must be a number"),
        (denoising(STEPS, LensPolicy(calibration=np.full(64, np.nan))), "mask or replace"),
        (
            denoising(STEPS, LensPolicy(calibration="y")),  # type: ignore[arg-type]
            "the term x_wavelet_l1_1: the calibration of its lenses is 'y' of type str; it must be an array of real numbers",
        ),
        (denoising(STEPS, LensPolicy(calibration=[[1.0], [1.0, 2.0]])), "the calibration of its lenses: its lists are ragged"),
        (denoising(STEPS, "dct"), r"the term x_wavelet_l1_1: its transform is 'dct'; give an operator, as Op\('dct'\), or a LensPolicy"),
        (denoising(STEPS, LensPolicy(candidates=(Op("gaussian_blur", sigma=1.0),))), "is no transform"),
    ],
)
def test_a_lens_that_cannot_be_chosen_is_told(spec: FlowSpec, told: str) -> None:
    with pytest.raises(FlowInputError, match=told):
        compile_flow(spec)


def test_a_recorded_run_tells_which_lens_was_chosen_among_which(tmp_path: Any) -> None:
    ended = run(denoising(STEPS, LensPolicy()), iterations=2, out_dir=tmp_path)
    rows = pq.ParquetFile(Path(ended["capsule"]) / "events.parquet").read().to_pylist()
    (told,) = (json.loads(row["payload"]) for row in rows if row["event"] == "LENS_SELECTED")
    assert (told["lens"], told["role"], told["rule"]) == ("haar", "sparsity", "min_reconstruction_error")
    assert told["candidates"]["haar"] < told["candidates"]["db4"]


def test_candidates_of_one_name_are_told_apart(tmp_path: Any) -> None:
    candidates = tuple(Op("wavelet", wavelet="haar", levels=levels) for levels in (1, 3, 2))
    ended = run(denoising(STEPS, LensPolicy(candidates=candidates, target_sparsity=0.86)), iterations=2, out_dir=tmp_path)
    rows = pq.ParquetFile(Path(ended["capsule"]) / "events.parquet").read().to_pylist()
    (told,) = (json.loads(row["payload"]) for row in rows if row["event"] == "LENS_SELECTED")
    assert list(told["candidates"]) == [repr(candidate) for candidate in candidates]
    assert told["lens"] == repr(candidates[1]) == min(told["candidates"], key=told["candidates"].get)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rounding_chooses_no_lens(dtype: Any) -> None:
    data = np.random.default_rng(0).standard_normal(64)
    kept = [LensPolicy(candidates=tuple(order), target_sparsity=0.0) for order in ((HAAR, DB4, Op("dct")), (Op("dct"), DB4, HAAR))]
    with precision(dtype):
        assert [choose_lens(policy, data).report["selected_index"] for policy in kept] == [0, 0]


def test_two_wavelet_terms_of_a_variable_both_stand_in_the_report() -> None:
    terms = [Term("wavelet_l1", "x", weight=0.1, params={"transform": transform}) for transform in (HAAR, Op("dct"))]
    compiled = compile_flow(FlowSpec({"x": Slot(shape=(64,))}, [Term("quadratic", "x", target=STEPS), *terms]))
    assert compiled.report.term_lenses == {"x_wavelet_l1": "haar, dct"}


def test_the_manifest_has_the_lens_its_frame_and_how_it_was_validated(tmp_path: Any) -> None:
    policy = LensPolicy(candidates=(Op("undecimated", wavelet="haar", levels=2),))
    spec = denoising(STEPS, policy, form="analysis")
    ended = run(spec, iterations=4, tol=0.0, out_dir=tmp_path)
    manifest = load_run_manifest(ended["capsule"])
    report = compile_flow(spec).report
    assert manifest["frame_type"] == report.frame_type != "unitary" and manifest["lens_name"] == report.lens_name
    (checked,) = manifest["transforms"]["validation"].values()
    assert checked["passed"] and checked["frame"] == report.frame_type and checked["c"] == report.c
    assert {"mean", "std", "passed"} <= checked["reconstruction"].keys() and "seed" in checked
    again = denoising(STEPS, LensPolicy(candidates=policy.candidates), form="analysis")  # equal, not the same
    assert resume_run(ended["capsule"], again, iterations=6)["iterations"] == 6


def test_a_flow_has_its_parts_by_the_names_of_the_literature() -> None:
    spec = FlowSpec(
        {"x": Slot(shape=(64,)), "q": Slot(value=np.asarray([1.0, 0.0]), manifold="sphere")},
        [Term("quadratic", "x", target=STEPS), Term("wavelet_l1", "x", weight=0.1), Term("quadratic", "q", target=np.asarray([0.0, 1.0]))],
        invariants=[Invariant("mass", check=lambda state: state["x"].sum())],
    )
    compiled = compile_flow(spec)
    with precision("float64"):
        x = {"x": jnp.asarray(WAVE), "q": compiled.start["q"]}
        assert float(compiled.f(x)) == float(compiled.f_value(x)) and float(compiled.g(x)) == float(compiled.g_value(x)) > 0
        np.testing.assert_array_equal(compiled.L(x)["x"], compiled.L_matvec(x)["x"])
        transform = compiled.transforms["x_wavelet_l1_1"]
        u = {"x": compiled.W["x"].matvec(x["x"]), "q": x["q"]}
        np.testing.assert_array_equal(u["x"], transform.forward(x["x"]))
        through = transform.adjoint(compiled.g_prox_in_w(u, 0.5)["x"])
        np.testing.assert_allclose(through, compiled.g_prox(x, 0.5)["x"], atol=1e-14)
    assert list(compiled.manifolds) == ["q"] and compiled.report.invariants_present
