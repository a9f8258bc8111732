"""What is refused at once that would else end in an error of Python's, or in a wrong answer without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Invariant, Op, Slot, Term, compile_flow, resume_run, run, run_certified, spec_from
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.lint import SpecLintFailed
from bridge_adapter.kernels.flow.spec import Coupling

SPEC = FlowSpec({"x": Slot(shape=(6,))}, [Term("quadratic", "x", target=np.ones(6))])
MASKED: Any = np.ma.masked_array(np.ones(6), mask=[False, True, True, False, False, False])


@pytest.mark.parametrize("call", [run, run_certified, compile_flow, lambda given: compile_flow(given, validation="expert")])
@pytest.mark.parametrize("given", [{"slots": {}, "terms": []}, None, "spec.py", compile_flow(SPEC).report])
def test_what_is_no_spec_is_told_with_what_is_wanted(call: Callable[[Any], Any], given: Any) -> None:
    cure = "spec_from({...})" if isinstance(given, dict) else "write FlowSpec(slots=..., terms=...)"
    told = rf"the spec is .* of type {type(given).__name__}; it must be a FlowSpec: .*{re.escape(cure)}"
    with pytest.raises(FlowInputError, match=told):
        call(given)


@pytest.mark.parametrize("start", [run, run_certified])
def test_a_run_is_not_resumed_with_what_is_no_spec(tmp_path: Path, start: Any) -> None:
    capsule = start(SPEC, iterations=4, out_dir=tmp_path)["capsule"]
    with pytest.raises(FlowInputError, match=r"the spec is \{\} of type dict; it must be a FlowSpec"):
        resume_run(capsule, {})  # type: ignore[arg-type]


def test_slots_that_fit_into_no_memory_are_refused_by_name_and_size() -> None:
    told = r"the slot y: its shape is \(1000000000000,\), 7\.45e\+03 GiB, and the machine has .* GiB for all slots; give a smaller shape"
    with pytest.raises(SpecLintFailed, match=told):
        run(FlowSpec({"x": Slot(shape=(3,)), "y": Slot(shape=(10**12,))}, [Term("l1", "y")]))


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (FlowSpec({"x": Slot(value=MASKED)}, [Term("l1", "x")]), "the slot x: 2 of the numbers in its value"),
        (
            FlowSpec({"x": Slot(shape=(6,)), "y": Slot(value=MASKED, role="data")}, [Term("quadratic", "x", target="y")]),
            "the slot y: 2 of the numbers in its value",
        ),
        (
            FlowSpec({"x": Slot(shape=(6,))}, [Term("quadratic", "x", target=MASKED)]),
            "the term x_quadratic_0: 2 of the numbers in its target",
        ),
        (
            FlowSpec({"x": Slot(shape=(6,))}, [Term("quadratic", "x", op=Op("diagonal", entries=MASKED))]),
            "the term x_quadratic_0: 2 of the numbers in its operator",
        ),
        (
            FlowSpec({"x": Slot(shape=(6,))}, [Term("box", "x", params={"low": MASKED, "high": 2.0})]),
            "the term x_box_0: 2 of the numbers in its params",
        ),
        (
            FlowSpec({"x": Slot(shape=(6,))}, [Term("l1", "x")], couplings=[Coupling({"x": 1.0}, target=MASKED)]),
            "the coupling 0: 2 of the numbers in its target",
        ),
    ],
)
def test_numbers_under_a_mask_are_not_taken_for_data(spec: FlowSpec, where: str) -> None:
    with pytest.raises(SpecLintFailed, match=re.escape(where) + r" are masked, .*values\.filled\(0\).*Op\('mask', keep=~values\.mask\)"):
        compile_flow(spec)


def test_the_cure_for_a_mask_leaves_what_is_masked_free() -> None:
    values = np.ma.masked_array([1.0, 9.0, 1.0], mask=[False, True, False])
    term = Term("quadratic", "x", op=Op("mask", keep=~values.mask), target=values.filled(0))
    found = run(FlowSpec({"x": Slot(shape=(3,))}, [term, Term("tikhonov", "x", weight=1e-6)]), tol=1e-9)["state"]["x"]
    np.testing.assert_allclose(found, [1.0, 0.0, 1.0], atol=1e-5)
    assert compile_flow(FlowSpec({"x": Slot(value=np.ma.masked_array(np.ones(3)))}, [Term("l1", "x")]))  # nothing is masked


def test_a_described_array_with_a_mask_is_refused() -> None:
    with pytest.raises(FlowInputError, match=r"slots\.x\.value is an array of shape \(6,\).*; it must be an array without a mask"):
        spec_from({"slots": {"x": {"value": MASKED}}, "terms": []})


@pytest.mark.parametrize(("dtype", "held"), [("float64", 1e153), ("float32", 1e18)])
def test_a_factor_of_a_coupling_whose_square_overflows_is_named(dtype: Any, held: float) -> None:
    def coupled(factor: float) -> FlowSpec:
        terms = [Term("quadratic", "x", target=np.ones(6)), Term("l1", "z", weight=0.1)]
        coupling = Coupling({"x": factor, "z": -1.0}, name="tie")
        return FlowSpec({"x": Slot(shape=(6,)), "z": Slot(shape=(6,))}, terms, dtype=dtype, couplings=[coupling])

    for factor in (1e200, -20 * held):
        with pytest.raises(SpecLintFailed, match=rf"the coupling tie: its part of 'x' is {re.escape(repr(factor))}, whose square {dtype}"):
            run(coupled(factor))
    assert np.isfinite(run(coupled(held), iterations=20)["energy"])


@pytest.mark.parametrize("field", ["terms", "couplings", "invariants", "pairs", "symmetries"])
@pytest.mark.parametrize("given", [None, Term("l1", "x"), "abc", (term for term in [Term("l1", "x")])])
def test_what_is_no_list_where_a_list_belongs_is_named(field: str, given: Any) -> None:
    with pytest.raises(SpecLintFailed, match=rf"- {field}: they are .*; give a list of them \[spec.schema\]"):
        run(replace(SPEC, **{field: given}))


@pytest.mark.parametrize("field", ["normalise", "allow_nonconvex"])
def test_a_flag_that_is_no_flag_is_named(field: str) -> None:
    given: Any = {field: "no"}
    with pytest.raises(SpecLintFailed, match=f"its {field} is 'no'; give True or False"):
        run(replace(SPEC, **given))


UNREADABLE: dict[str, dict[str, Any]] = {
    r"the slot x: it is 3; give a Slot": {"slots": {"x": 3}},
    r"terms: they are 'abc'; give a list": {"terms": "abc"},
    r"its weight is None; give a number": {"terms": [Term("quadratic", "x", weight=None)]},  # type: ignore[arg-type]
    r"the slot x: its value is no array: its rows differ": {"slots": {"x": Slot(value=[[1.0], [1.0, 2.0]])}},
    r"couplings\[0\]: its parts are 3": {"couplings": [Coupling(parts=3)]},  # type: ignore[arg-type]
    r"invariants\[0\]: its kind is <built-in function sum>; give a string: Invariant": {
        "invariants": [Invariant("mass", "conserved", sum)]
    },  # type: ignore[arg-type]
    r"invariants\[0\]: its name is 3; give a string": {"invariants": [Invariant(3, sum)]},  # type: ignore[arg-type]
    r"invariants\[0\]: its absolute is '1'; give a number": {"invariants": [Invariant("mass", sum, absolute="1")]},  # type: ignore[arg-type]
    r"the term quadratic, terms\[0\]: its group is 3; give a string": {"terms": [Term("quadratic", "x", group=3)]},  # type: ignore[arg-type]
    r"its units is 3; give a string, or none": {"slots": {"x": Slot(shape=(6,), units=3)}},  # type: ignore[arg-type]
    r"symmetries: one of them is 3; give strings": {"symmetries": [3]},
}


@pytest.mark.parametrize("told", UNREADABLE)
@pytest.mark.parametrize("start", [run, run_certified])
def test_what_is_no_description_is_named_by_a_recorded_run_too(tmp_path: Path, start: Any, told: str) -> None:
    with pytest.raises(SpecLintFailed, match=told):
        start(replace(SPEC, **UNREADABLE[told]), out_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([Invariant("mass", sum, "constraints")], "the invariant mass: its kind is 'constraints'; take conserved or constraint"),  # type: ignore[arg-type]
        ([Invariant("mass", sum, absolute=-1.0)], "the invariant mass: its absolute is -1.0; give a finite number, 0 or more"),
        ([Invariant("mass", sum, relative=np.nan)], "the invariant mass: its relative is nan; give a finite number, 0 or more"),
        ([Invariant("mass", sum), Invariant("mass", max)], "the invariant mass: several invariants have this name; give each its own"),
    ],
)
def test_an_invariant_that_would_be_judged_by_what_it_is_not_is_refused(given: list[Invariant], told: str) -> None:
    with pytest.raises(SpecLintFailed, match=re.escape(told)):
        compile_flow(replace(SPEC, invariants=given))


def test_a_group_that_no_check_knows_is_refused() -> None:
    data = {"slots": {"x": {"shape": [6]}}, "terms": [{"type": "quadratic", "variable": "x", "group": "phisics"}]}
    with pytest.raises(SpecLintFailed, match="the term x_quadratic_0: its group is 'phisics'; take data, physics, regularizer, or none"):
        compile_flow(spec_from(data))


@pytest.mark.parametrize(
    ("argument", "given", "kind"),
    [
        ("cert_profile", "convex", "CertificationProfile"),
        ("config", {"max_tuner_moves": 3}, "ControllerConfig"),
        ("multiscale", 4, "MultiscaleSchedule"),
        ("flow", "accelerated", "FlowPolicy"),
        ("gap_dial", {}, "GapDial"),
        ("sparsity", "pixel", "SparsityPolicy"),
    ],
)
def test_what_a_certified_run_is_asked_for_is_of_its_class(tmp_path: Path, argument: str, given: Any, kind: str) -> None:
    told = rf"{argument} is .* of type {type(given).__name__}; it must be a {kind}, as {kind}\(\.\.\.\) makes it"
    with pytest.raises(FlowInputError, match=told):
        run_certified(SPEC, **{argument: given}, out_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    capsule = run_certified(SPEC, iterations=1, tol=0.0, out_dir=tmp_path)["capsule"]
    with pytest.raises(FlowInputError, match=told):
        resume_run(capsule, SPEC, certified={argument: given})
