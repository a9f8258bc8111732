"""What is compiled on the way from a spec to its first step: each program costs more than the step."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from bridge_adapter.kernels.flow import compile_flow, resume_run, run
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term


def deblurring(side: int) -> FlowSpec:
    """Of a side that no other test has, so that nothing is compiled yet."""
    data = np.random.default_rng(side).standard_normal((side, side))
    return FlowSpec(
        {"x": Slot(shape=(side, side)), "y": Slot(value=data, role="data")},
        [Term("quadratic", "x", op=Op("gaussian_blur", sigma=1.0), target="y"), Term("nonnegative", "x")],
    )


def compiled_for(side: int, records: list[logging.LogRecord]) -> list[str]:
    """The programs for arrays of this side, or of its half spectrum."""
    told = [record.getMessage() for record in records]
    shapes = f"[{side},{side}]", f"[{side},{side // 2 + 1}]"
    found = [re.match(r"Compiling (?:jit\()?(\w+)", text) for text in told if any(shape in text for shape in shapes)]
    return sorted({match[1] for match in found if match})


def test_from_a_spec_to_its_first_step_each_stage_is_one_program(caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles():
        run(compile_flow(deblurring(23), solver="fista"), iterations=2)
    assert compiled_for(23, caplog.records) == ["_measured", "_placed", "advance_block", "begin_block"]


def test_a_resumed_run_compiles_no_beginning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    spec = deblurring(29)
    begun = run(spec, iterations=5, out_dir=tmp_path)
    jax.clear_caches()
    caplog.clear()
    with jax.log_compiles():
        resumed = resume_run(begun["capsule"], spec, iterations=9)
    assert resumed["iterations"] == 9
    assert "begin_block" not in compiled_for(29, caplog.records) and "advance_block" in compiled_for(29, caplog.records)
