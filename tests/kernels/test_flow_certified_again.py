"""Certified runs of energies whose curvature changes on the way, and what remains of the spec that a run was asked for."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import compile_flow
from bridge_adapter.kernels.flow.controller import ControllerConfig
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term


def slope(x: Any) -> Any:
    """Convex where it starts, at pi, and falling to where it is concave."""
    return jnp.sum(jnp.cos(x) - 1.5 * x)


def test_a_run_that_leaves_where_it_was_certified_is_not_green_at_its_end() -> None:
    falling = Term("function", "x", params={"of": slope, "beta": 10.0})  # steps of 0.1 to 0.2
    spec = FlowSpec({"x": Slot(value=np.full(3, np.pi))}, [falling], allow_nonconvex=True)
    lost = run_certified(spec, iterations=12, block=1, tol=0.0)
    assert (lost["stopped"], lost["phase"], lost["card"]["passed"]) == ("cert_fail", "RED", False)
    assert 0 < lost["iterations"] < 12 and -np.cos(lost["state"]["x"]).min() > 1e-6  # the last place where it was certified
    assert lost["energy"] == pytest.approx(float(slope(lost["state"]["x"])))
    on = run_certified(spec, iterations=12, block=1, tol=0.0, config=ControllerConfig(on_failure="degrade"))
    assert (on["stopped"], on["phase"], on["iterations"]) == ("budget", "AMBER", 12)


def test_remediation_asks_lint_no_more_than_the_first_compilation_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFS_NUMERICAL_WARNINGS", "error")  # of which basic mode asks nothing
    flat = Term("quadratic", "x", op=Op("gaussian_blur", sigma=2.0), target=np.ones(16))
    spec = FlowSpec({"x": Slot(shape=(16,))}, [flat, Term("l1", "x", weight=1e-7)])
    result = run_certified(spec, compile_flow(spec, validation="basic"), iterations=2)
    assert (result["phase"], result["controller"]["remedies"]) == ("GREEN", 1)
