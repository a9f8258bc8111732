"""The flow runtime against the same mathematics without it: milliseconds per iteration of accelerated proximal gradient steps.

The problem is 1/2 ||k * x - y||^2 + 0.01 ||Psi x||_1, k a circular Gaussian of sigma 2, Psi the identity ("l1") or an orthonormal Haar
transform ("haar"). `floor` is what JAX does with the bare loop: FISTA in one scan, the normal operator fused into one pair of transforms.
`inner` is our loop, with energy, residual, restart test and a test for finite numbers in every iteration; `mfista` the same with the solver
that users get unless they ask for another; `certified` a whole run under certificates with a capsule on the disk. All take turns, and every
round is checked to reach the same objective to 8 digits. So that nobody stops early, ours runs without the effect of its restarts, its
tolerance and its patience; what they cost is in the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import truediv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bridge_adapter.kernels.flow.certificates import certify, convex
from bridge_adapter.kernels.flow.certified import run_certified
from bridge_adapter.kernels.flow.compiler import CompiledFlow, compile_flow
from bridge_adapter.kernels.flow.operators import Op
from bridge_adapter.kernels.flow.operators.base import build
from bridge_adapter.kernels.flow.precision import device, precision
from bridge_adapter.kernels.flow.running import advance_block
from bridge_adapter.kernels.flow.spec import FlowSpec, Slot, Term

from . import flow_compile as compiling
from . import flow_extra as extra
from .report import Row, note

ROUNDS = 7
MANY = 21  # rounds of the small problems, whose times differ more from one to the next
WEIGHT, SIGMA = 0.01, 2.0
DIGITS = 1e-8


@dataclass(frozen=True)
class Problem:
    """One of the suite: its shape, whether Psi is the Haar transform and of how many levels, and how many iterations a round has."""

    name: str
    shape: tuple[int, ...]
    levels: int
    iterations: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


PROBLEMS = (
    Problem("l1_1e3", (1000,), 0, 5000),
    Problem("haar_1e3", (1024,), 3, 5000),
    Problem("l1_1e5", (100_000,), 0, 200),
    Problem("haar_131072", (131_072,), 5, 200),
    Problem("l1_512", (512, 512), 0, 200),
    Problem("haar_512", (512, 512), 3, 200),
)


def run() -> list[Row]:
    """Every row of the suite."""
    note(f"flow: on {device()}")
    rows: list[Row] = []
    for dtype in ("float64", "float32"):
        for problem in PROBLEMS:
            rows += measured(problem, dtype)
    return rows + summary(rows) + compiling.rows() + extra.rows()


def measured(problem: Problem, dtype: str) -> list[Row]:
    """A problem's rows: who takes how many milliseconds per iteration."""
    name = problem.name + ("_f32" if dtype == "float32" else "")
    note(f"flow: {name}")
    with precision(dtype), contextlib.ExitStack() as stack:
        compiled = endless(compile_flow(described(problem, dtype), solver="fista", tol=0.0))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contenders = {
            "floor": bare(problem, compiled),
            "inner": inner(problem, compiled),
            "mfista": inner(problem, endless(compile_flow(described(problem, dtype), solver="mfista", tol=0.0))),
            "certified": certified(problem, compiled, folder),
        }
        if dtype == "float64":
            contenders |= others(problem, compiled)
        rounds = MANY if problem.size < 10_000 else ROUNDS
        times: dict[str, list[float]] = {who: [] for who in contenders}
        reached: dict[str, float] = {}
        for turn in range(rounds + 1):
            for who, contender in contenders.items():
                began = time.perf_counter()
                x = contender()
                elapsed = time.perf_counter() - began
                if turn:  # the first has compiled
                    times[who].append(1000 * elapsed / problem.iterations)
                reached[who] = objective(compiled, x)
    best = reached["floor"]
    for who, value in reached.items():
        # MFISTA takes other steps to the same minimum.
        if who != "mfista" and abs(value - best) > DIGITS * abs(best) and dtype == "float64":
            raise RuntimeError(f"{name}: {who} reached the objective {value!r}, and the floor {best!r}: they do not do the same")
    medians = {who: statistics.median(spent) for who, spent in times.items()}
    # Round by round, since the machine may be slower in one than in the next.
    ratios = {who: statistics.median(map(truediv, spent, times["floor"])) for who, spent in times.items()}
    rows = [Row(f"{name}.{who}", spent, "ms", rounds, ratio=ratios[who], ratio_to="floor") for who, spent in medians.items()]
    return [*rows, Row(f"{name}.certificates", share(compiled, medians["certified"] * problem.iterations), "of run", ROUNDS)]


def endless(compiled: CompiledFlow) -> CompiledFlow:
    """The flow as it makes every step it is asked for, each as if there were no restarts."""
    real = compiled.controls.alpha.dtype
    never = dataclasses.replace(compiled.controls, tol=jnp.asarray(-1.0, real), patience=2**30, restarts=False)
    return dataclasses.replace(compiled, controls=never)


def share(compiled: CompiledFlow, run_ms: float) -> float:
    """What part of a certified run goes into its certificates."""
    spent = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        certify(compiled, convex())
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent) / run_ms


def described(problem: Problem, dtype: str) -> FlowSpec:
    """The problem as a user says it: a sparse signal, blurred, with a little noise."""
    rng = np.random.default_rng(0)
    truth = np.zeros(problem.size)
    places = rng.choice(problem.size, problem.size // 50, replace=False)
    truth[places] = 3 * rng.standard_normal(places.size)
    blur = build(Op("gaussian_blur", sigma=SIGMA), problem.shape, np.dtype(dtype))
    data = np.asarray(blur.matvec(jnp.asarray(truth.reshape(problem.shape), dtype))) + 0.01 * rng.standard_normal(problem.shape)
    haar = {"wavelet": "haar", "levels": problem.levels, "threshold_approx": True}
    sparse = Term("wavelet_l1", "x", weight=WEIGHT, params=haar) if problem.levels else Term("l1", "x", weight=WEIGHT)
    return FlowSpec(
        name=problem.name,
        slots={"x": Slot(shape=problem.shape), "y": Slot(value=data.astype(dtype), role="data")},
        terms=[Term("quadratic", "x", op=Op("gaussian_blur", sigma=SIGMA), target="y"), sparse],
        dtype="float32" if dtype == "float32" else "float64",
    )


def objective(compiled: CompiledFlow, x: Any) -> float:
    """E at a point."""
    state = {"x": jnp.asarray(np.asarray(x).reshape(compiled.start["x"].shape))}
    return float(compiled.f_value(state) + compiled.g_value(state))


def bare(problem: Problem, compiled: CompiledFlow) -> Callable[[], Any]:
    """FISTA in one scan, nothing measured, nothing checked."""
    term: Any = compiled.problem.smooth[0]
    power, back = jnp.abs(term.op.transfer) ** 2, jnp.conj(term.op.transfer) * term.data
    axes = tuple(range(-len(problem.shape), 0))
    basis = compiled.problem.prox["x"].op
    alpha = compiled.controls.alpha
    threshold = alpha * WEIGHT

    def shrink(v: jax.Array) -> jax.Array:
        u = basis.matvec(v) if problem.levels else v
        u = jnp.sign(u) * jnp.maximum(jnp.abs(u) - threshold, 0)
        return basis.rmatvec(u) if problem.levels else u

    @jax.jit
    def loop(x: jax.Array) -> jax.Array:
        def one(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
            x, y, t = carry
            slope = jnp.fft.irfftn(power * jnp.fft.rfftn(y, axes=axes) - back, s=problem.shape, axes=axes)
            z = shrink(y - alpha * slope)
            following = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            return (z, z + (t - 1) / following * (z - x), following), None

        (x, _, _), _ = jax.lax.scan(one, (x, x, jnp.ones((), x.dtype)), None, length=problem.iterations)
        return x

    return lambda: loop(compiled.start["x"]).block_until_ready()


def inner(problem: Problem, compiled: CompiledFlow) -> Callable[[], Any]:
    """Our loop on the device, without the host."""
    capacity = 1024

    def all_blocks() -> Any:
        current = compiled.begun()
        left = problem.iterations
        while left:
            current, made, _ = advance_block(
                compiled.solver, compiled.problem, compiled.controls, current, jnp.int32(min(left, capacity)), capacity=capacity
            )
            if not int(made):
                break
            left -= int(made)
        return current.state.x["x"].block_until_ready()

    return all_blocks


def certified(problem: Problem, compiled: CompiledFlow, folder: str) -> Callable[[], Any]:
    """A whole run under certificates, recorded."""

    def whole() -> Any:
        result = run_certified(compiled.spec, compiled, cert_profile=convex(), iterations=problem.iterations, out_dir=folder)
        if (result["phase"], result["iterations"]) != ("GREEN", problem.iterations):
            raise RuntimeError(f"{problem.name}: the certified run ended {result['phase']} after {result['iterations']} iterations")
        return result["state"]["x"]

    return whole


def others(problem: Problem, compiled: CompiledFlow) -> dict[str, Callable[[], Any]]:
    """pyproximal's FISTA, with NumPy's transforms and those of PyWavelets."""
    import pylops
    import pyproximal

    term: Any = compiled.problem.smooth[0]
    transfer, data = np.asarray(term.op.transfer), np.asarray(compiled.spec.slots["y"].value)
    axes = tuple(range(len(problem.shape)))

    def forward(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.fft.irfftn(transfer * np.fft.rfftn(x.reshape(problem.shape)), s=problem.shape, axes=axes)).ravel()

    def back(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.fft.irfftn(np.conj(transfer) * np.fft.rfftn(x.reshape(problem.shape)), s=problem.shape, axes=axes)).ravel()

    blur = pylops.FunctionOperator(forward, back, problem.size, problem.size, dtype="float64")
    smooth = pyproximal.L2(Op=blur, b=data.ravel())
    if problem.levels:
        sparse: Any = pyproximal.Orthogonal(pyproximal.L1(sigma=WEIGHT), _haar(problem), partial=True)
    else:
        sparse = pyproximal.L1(sigma=WEIGHT)
    alpha = float(compiled.controls.alpha)
    solve = partial(
        pyproximal.optimization.primal.ProximalGradient,
        smooth,
        sparse,
        x0=np.zeros(problem.size),
        tau=alpha,
        niter=problem.iterations,
        acceleration="fista",
        show=False,
    )
    return {"pyproximal": solve, "jaxopt": _jaxopt(problem, compiled)}


def _jaxopt(problem: Problem, compiled: CompiledFlow) -> Callable[[], Any]:
    """jaxopt's accelerated proximal gradient with the same step, jitted whole; the gradient by automatic differentiation."""
    import jaxopt

    term: Any = compiled.problem.smooth[0]
    blur, data, sparse = term.op, jnp.asarray(compiled.spec.slots["y"].value), compiled.problem.prox["x"]

    def misfit(x: jax.Array) -> jax.Array:
        return jnp.asarray(jnp.sum((blur.matvec(x) - data) ** 2) / 2)

    def prox(x: jax.Array, _: Any, scaling: Any = 1.0) -> jax.Array:
        return sparse.prox(x, jnp.asarray(scaling, x.dtype), ()).point

    solver = jaxopt.ProximalGradient(
        misfit, prox, stepsize=float(compiled.controls.alpha), maxiter=problem.iterations, tol=-1.0, acceleration=True, implicit_diff=False
    )
    solve = jax.jit(lambda x: solver.run(x, None).params)
    return lambda: solve(compiled.start["x"]).block_until_ready()


def _haar(problem: Problem) -> Any:
    """PyWavelets' orthonormal Haar transform as an operator."""
    import pylops
    import pywt

    def decomposed(x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        found = pywt.wavedecn(x.reshape(problem.shape), "haar", mode="periodization", level=problem.levels)
        array, slices = pywt.coeffs_to_array(found)
        return array, slices

    _, slices = decomposed(np.zeros(problem.size))

    def composed(u: NDArray[Any]) -> NDArray[Any]:
        found = pywt.array_to_coeffs(u.reshape(problem.shape), slices)
        return np.asarray(pywt.waverecn(found, "haar", mode="periodization")).ravel()

    return pylops.FunctionOperator(lambda x: decomposed(x)[0].ravel(), composed, problem.size, problem.size, dtype="float64")


def summary(rows: list[Row]) -> list[Row]:
    """The worst ratios over all problems."""
    by_id = {row.id: row for row in rows}
    names = [row.id.removesuffix(".floor") for row in rows if row.id.endswith(".floor")]
    both = [name for name in names if f"{name}.pyproximal" in by_id]
    return [
        Row("inner_vs_floor", max(by_id[f"{name}.inner"].ratio or 0 for name in names), "x", len(names)),
        Row("certified_vs_floor", max(by_id[f"{name}.certified"].ratio or 0 for name in names), "x", len(names)),
        Row("vs_pyproximal", min(by_id[f"{name}.pyproximal"].value / by_id[f"{name}.inner"].value for name in both), "x", len(both)),
        Row("certificates_share", max(by_id[f"{name}.certificates"].value for name in names), "of run", len(names)),
    ]
