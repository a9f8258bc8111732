"""The lasso path of the diabetes data: forty problems, each from the solution before, each with a duality gap that proves it solved.

    E(x) = 1/2 ||A x - b||^2 + lambda ||x||_1

The gap is E(x) - D(theta) for theta = r min(1, lambda / ||A^T r||_inf), r = b - A x (Ndiaye et al., JMLR 18, 2017): which bounds
E(x) - min E.
"""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from pictures import figure, save
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

from bridge_adapter.kernels import flow
from bridge_adapter.kernels.flow.certificates import duality_gap
from bridge_adapter.kernels.flow.precision import precision


def gap(compiled: flow.CompiledFlow, x: Any) -> float:
    """How much more than the minimum E(x) can be, relative to E(0)."""
    with precision(compiled.spec.dtype):
        found = duality_gap(compiled.problem, {"x": jnp.asarray(x)})
        return found.gap / float(compiled.f_value({"x": jnp.zeros(x.shape)}))


def experiment(count: int = 40, tol: float = 1e-11) -> dict[str, Any]:
    """The path from the smallest lambda that leaves nothing down to a thousandth of it, warm and cold."""
    data = load_diabetes()
    a = data.data / np.linalg.norm(data.data, axis=0)
    b = (data.target - data.target.mean()) / data.target.std()
    strengths = np.abs(a.T @ b).max() * np.geomspace(1.0, 1e-3, count)
    found: dict[str, Any] = {"names": data.feature_names, "strengths": strengths, "a": a, "b": b}
    for start in ("warm", "cold"):
        x, path, gaps, steps, began = np.zeros(a.shape[1]), [], [], [], time.perf_counter()
        for strength in strengths:
            slots = {"x": flow.Slot(value=x if start == "warm" else np.zeros_like(x)), "b": flow.Slot(value=b, role="data")}
            terms = [
                flow.Term("quadratic", "x", op=flow.Op("dense", matrix=a), target="b"),
                flow.Term("l1", "x", weight=float(strength)),
            ]
            # Numbers are arguments of the compiled step: it is compiled for the first lambda and serves them all.
            compiled = flow.compile_flow(flow.FlowSpec(slots, terms, name="lasso"), tol=tol)
            run = flow.run(compiled, iterations=5000)
            x = run["state"]["x"]
            path.append(x)
            gaps.append(gap(compiled, x))
            steps.append(run["iterations"])
        found[start] = {"path": np.array(path), "gaps": np.array(gaps), "steps": np.array(steps), "seconds": time.perf_counter() - began}
    return found


def main() -> None:
    found = experiment()
    strengths, warm, cold = found["strengths"], found["warm"], found["cold"]
    last = Lasso(alpha=strengths[-1] / len(found["b"]), fit_intercept=False, tol=1e-12, max_iter=10**6).fit(found["a"], found["b"])
    print(f"largest relative gap on the path {warm['gaps'].max():.1e}")
    print(f"steps: {warm['steps'].sum()} from the solution before, {cold['steps'].sum()} from zero")
    print(f"coefficients at the smallest lambda differ from scikit-learn's by at most {np.abs(last.coef_ - warm['path'][-1]).max():.1e}")
    made = figure(14, 5.0, "Lasso path of the diabetes data")
    left, middle, right = made.subplots(1, 3, width_ratios=(2, 1, 1))
    for name, line in zip(found["names"], warm["path"].T, strict=True):
        left.semilogx(strengths, line, label=name)
    left.set(title="coefficients", xlabel="λ", ylabel="x")
    left.invert_xaxis()
    left.legend(ncols=2, fontsize=8)
    middle.loglog(strengths, np.maximum(warm["gaps"], 1e-16), "o-", markersize=3)
    middle.axhline(1e-10, color="0.5", linestyle="--", linewidth=1)
    middle.set(title="proven duality gap, as a part of E(0)", xlabel="λ", ylim=(1e-15, 1e-9))
    middle.invert_xaxis()
    for start, style in (("cold", "C3"), ("warm", "C0")):
        right.semilogx(strengths, np.cumsum(found[start]["steps"]), style, label=f"{start} starts")
    right.set(title="steps made so far", xlabel="λ")
    right.invert_xaxis()
    right.legend()
    save(made, "lasso_path")


if __name__ == "__main__":
    main()
