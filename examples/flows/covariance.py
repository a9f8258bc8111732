"""Covariances of wine on the manifold of positive definite matrices: their mean along geodesics, and the fit of a Gaussian.

mean: sum_k 1/3 d(X, C_k)^2,  d the affine-invariant distance     fit: 1/2 (log det X + tr(X^-1 S))
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from pictures import figure, save
from sklearn.datasets import load_wine

from bridge_adapter.kernels import flow


def spread(x: Any, roots: Any) -> Any:
    """The mean of d(X, C_k)^2 = ||log(C_k^-1/2 X C_k^-1/2)||^2, given the C_k^-1/2."""
    return jnp.mean(jnp.sum(jnp.log(jnp.linalg.eigvalsh(roots @ x @ roots)) ** 2, axis=-1))


def likelihood(x: Any, scatter: Any) -> Any:
    """Minus the log-likelihood of a Gaussian of covariance X for data of covariance S, per sample and without its constant."""
    return 0.5 * (jnp.linalg.slogdet(x)[1] + jnp.trace(jnp.linalg.solve(x, scatter)))


def on_manifold(name: str, start: Any, term: flow.Term) -> dict[str, Any]:
    """Minimises a function of one positive definite matrix."""
    spec = flow.FlowSpec({"X": flow.Slot(value=start, manifold="spd")}, [term], name=name, allow_nonconvex=True)
    return flow.run(spec, iterations=300, tol=1e-10)


def experiment(measured: int = 13) -> dict[str, Any]:
    """The covariances of three kinds of wine in standard units, their two means, and a fit to all."""
    data = load_wine()
    values = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    values = values[:, :measured]
    kinds = np.stack([np.cov(values[data.target == kind].T) for kind in range(3)])
    eigen, vectors = np.linalg.eigh(kinds)
    roots = (vectors / np.sqrt(eigen)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    plain = kinds.mean(axis=0)
    mean = on_manifold("mean", plain, flow.Term("function", "X", params={"of": spread, "arguments": {"roots": roots}}))
    scatter = np.cov(values.T)
    fit = on_manifold("fit", np.eye(measured), flow.Term("function", "X", params={"of": likelihood, "arguments": {"scatter": scatter}}))
    found = {"names": data.feature_names[:measured], "kinds": kinds, "plain": plain, "scatter": scatter, "mean": mean, "fit": fit}
    log_volumes = [float(np.linalg.slogdet(matrix)[1]) for matrix in (*kinds, mean["state"]["X"], plain)]
    return found | {"log_volumes": log_volumes, "fit_error": float(np.abs(fit["state"]["X"] - scatter).max())}


def ellipse(axis: Axes, matrix: Any, **how: Any) -> None:
    """The curve x^T C^-1 x = 1 of a 2 x 2 covariance."""
    turn = np.linspace(0, 2 * np.pi, 200)
    eigen, vectors = np.linalg.eigh(matrix)
    curve = vectors @ (np.sqrt(eigen)[:, None] * np.stack([np.cos(turn), np.sin(turn)]))
    axis.plot(*curve, **how)


def main() -> None:
    found = experiment()
    mean, fit = found["mean"], found["fit"]
    volumes = found["log_volumes"]
    print(f"log volume of the three {np.round(volumes[:3], 2)}, on average {np.mean(volumes[:3]):.4f}")
    print(f"of their geodesic mean {volumes[3]:.4f}, the same; of the entry-wise mean {volumes[4]:.2f}: it swells")
    print(f"mean: {mean['iterations']} steps, {mean['stopped']}; fit: {fit['iterations']} steps, off S by {found['fit_error']:.0e}")
    made = figure(16, 7.6, "Covariances of three kinds of wine, on the manifold of positive definite matrices")
    grid = made.subplots(2, 4)
    shown = [*((f"kind {i + 1}", kind) for i, kind in enumerate(found["kinds"])), ("geodesic mean", mean["state"]["X"])]
    for axis, (caption, matrix) in zip(grid[0], shown, strict=True):
        picture = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(caption, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks(range(len(found["names"])), found["names"] if caption == "kind 1" else [""] * len(found["names"]), fontsize=7)
    made.colorbar(picture, ax=grid[0, 3], shrink=0.8)
    swollen = grid[1, 0].imshow(found["plain"] - mean["state"]["X"], cmap="RdBu_r", vmin=-0.3, vmax=0.3)
    grid[1, 0].set_title("entry-wise minus geodesic mean", fontsize=10)
    grid[1, 0].set_axis_off()
    made.colorbar(swollen, ax=grid[1, 0], shrink=0.8)
    chosen = [found["names"].index(name) for name in ("color_intensity", "hue")]
    pair = np.ix_(chosen, chosen)
    for i, kind in enumerate(found["kinds"]):
        ellipse(grid[1, 1], kind[pair], color=f"C{i}", label=f"kind {i + 1}")
    ellipse(grid[1, 1], found["plain"][pair], color="0.6", linestyle="--", label="entry-wise mean")
    ellipse(grid[1, 1], mean["state"]["X"][pair], color="k", linewidth=2, label="geodesic mean")
    grid[1, 1].set_title("color intensity and hue, in standard units", fontsize=10)
    grid[1, 1].set(xlabel="color intensity", ylabel="hue", aspect="equal")
    grid[1, 1].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    grid[1, 2].bar(["kind 1", "kind 2", "kind 3", "geodesic\nmean", "entry-wise\nmean"], volumes, color=["C0", "C1", "C2", "k", "0.6"])
    grid[1, 2].axhline(np.mean(volumes[:3]), color="C3", linestyle="--")
    grid[1, 2].set_title("log det (dashed: mean of the kinds)", fontsize=10)
    grid[1, 2].tick_params(axis="x", labelsize=7, rotation=30)
    for name, run in (("mean", mean), ("fit", fit)):
        grid[1, 3].semilogy(run["history"]["grad_norm"], label=name)
    grid[1, 3].set_title("norm of the Riemannian gradient", fontsize=10)
    grid[1, 3].set_xlabel("step")
    grid[1, 3].legend()
    save(made, "covariance")


if __name__ == "__main__":
    main()
