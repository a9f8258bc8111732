"""What is compiled on the way from a spec to its first step: each program costs more than the step."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
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
    assert compiled_for(23, caplog.records) == ["_placed", "advance_block", "begin_block"]


def test_a_resumed_run_compiles_what_a_new_one_does_and_no_more(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    spec = deblurring(29)
    begun = run(spec, iterations=5, out_dir=tmp_path)
    jax.clear_caches()
    caplog.clear()
    with jax.log_compiles():
        resumed = resume_run(begun["capsule"], spec, iterations=9)
    assert resumed["iterations"] == 9
    assert compiled_for(29, caplog.records) == ["_placed", "advance_block", "begin_block"]


RUNNING = Path(__file__).parent.parent.parent / "docs" / "flow" / "running.md"
IN_A_NEW_PROCESS = """
import hashlib, sys
import jax
import numpy as np
from bridge_adapter.kernels.flow import FlowSpec, Op, Slot, Term, run

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
data = np.random.default_rng(0).standard_normal(37)
terms = [Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target="y"), Term("l1", "x", weight=0.1)]
made = run(FlowSpec({"x": Slot(shape=(37,)), "y": Slot(value=data, role="data")}, terms), iterations=9, tol=0.0)
print(len(hits), hashlib.sha256(made["state"]["x"].tobytes()).hexdigest())
"""


def test_a_new_process_finds_the_programs_of_the_last_one_and_computes_the_same_bits(tmp_path: Path) -> None:
    """With the variables that the documentation names for it."""
    keeping = dict(re.findall(r"^export (JAX_\w+)=(\S+)", RUNNING.read_text(), re.MULTILINE))
    assert "JAX_COMPILATION_CACHE_DIR" in keeping
    keeping["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path)
    # Not what a whole run of the tests keeps (.ci/test), where the first process would find what other tests have compiled.
    without = {name: value for name, value in os.environ.items() if name not in keeping}
    told = []
    for environment in ({}, keeping, keeping):
        command = [sys.executable, "-c", IN_A_NEW_PROCESS]
        done = subprocess.run(command, env={**without, **environment}, capture_output=True, text=True, check=True, timeout=90)
        told.append(done.stdout.split())
    assert [int(hits) for hits, _ in told[:2]] == [0, 0] and int(told[2][0]) >= 3
    assert len({bits for _, bits in told}) == 1
