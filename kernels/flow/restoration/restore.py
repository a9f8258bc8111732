"""Image restoration as an energy descent: undo a known blur under noise, with total variation or wavelets as the prior.

This module turns an image and a few numbers into a compiled flow, drives it block by block and reports after each;
the terms, the solver and the transforms are in the modules beside it. Everything lives on the torus: blur and
differences are periodic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError
from ..precision import device, precision
from .driver import BLOCK_CAPACITY, Descent, Progress, drive
from .images import as_image, from_planes, noise_level, non_negative, positive, psnr, range_of, to_planes, whole
from .operators import Circulant, gaussian_kernel, norm_sq, transfer_function
from .proximal import ProximalTerm, total_variation, wavelet_l1
from .smooth import SmoothTerm, deconvolution
from .solvers import Metrics, Run, Solver, advance, begin, fista, mfista
from .transforms import MAX_ORDER, max_levels, wavelet, wavelet_order

SOLVERS: dict[str, Callable[[SmoothTerm, ProximalTerm], Solver]] = {"mfista": mfista, "fista": fista}

# weight = factor * noise * ||k||_2 when the caller gives none: noise * ||k||_2 is the standard deviation that the
# noise leaves in grad f. The factors were read off the best weights for photographs under blurs of 0 to 4 pixels and
# noise of 0.005 to 0.08.
WEIGHT_FACTORS = {"tv": 0.6, "wavelet": 1.2}
LEAST_NOISE = 1 / (255 * 12**0.5)  # rounding to 8 bits

DEFAULT_LEVELS = 4


class TotalVariation(NamedTuple):
    """The prior weight * TV, with this many dual steps per prox."""

    inner_steps: int


class WaveletL1(NamedTuple):
    """The prior weight * ||details of W x||_1, W the Daubechies wavelet of this order."""

    order: int
    levels: int


class Plan(NamedTuple):
    """What the compiled block depends on; hashable, so equal plans on equal shapes share one compilation."""

    shape: tuple[int, int]
    prior: TotalVariation | WaveletL1
    solver: str
    capacity: int


class Problem(NamedTuple):
    """The arrays of one run: transfer function and spectrum of the data, beta, weight, tolerance."""

    transfer: jax.Array
    data_spectrum: jax.Array
    beta: jax.Array
    weight: jax.Array
    tol: jax.Array


def _solver(plan: Plan, problem: Problem) -> Solver:
    smooth = deconvolution(Circulant(problem.transfer, plan.shape), problem.data_spectrum, problem.beta)
    match plan.prior:
        case TotalVariation(inner_steps):
            prior = total_variation(problem.weight, inner_steps)
        case WaveletL1(order, levels):
            prior = wavelet_l1(problem.weight, wavelet(plan.shape, order, levels))
    return SOLVERS[plan.solver](smooth, prior)


@partial(jax.jit, static_argnames=("plan",))
def _begin(plan: Plan, problem: Problem, x: jax.Array) -> Run:
    return begin(_solver(plan, problem), x)


@partial(jax.jit, static_argnames=("plan",))
def _advance(plan: Plan, problem: Problem, run: Run, steps: jax.Array) -> tuple[Run, jax.Array, Metrics]:
    return advance(_solver(plan, problem), run, steps, plan.capacity, problem.tol)


def restore(
    image: ArrayLike,
    *,
    blur_sigma: float,
    weight: float | None = None,
    prior: str = "tv",
    iterations: int = 200,
    block: int | None = None,
    tol: float = 2e-3,
    on_progress: Progress | None = None,
    reference: ArrayLike | None = None,
    solver: str = "mfista",
    inner_steps: int = 5,
    wavelet_name: str = "db4",
    levels: int | None = None,
    data_range: float | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Minimises E(x) = 1/2 ||k * x - y||^2 + weight R(x), y the image and k a periodic Gaussian of `blur_sigma` pixels.

    R is the isotropic total variation (`prior="tv"`; its prox is inexact, `inner_steps` dual steps from the last
    dual) or the l1 norm of the wavelet details (`prior="wavelet"`; `wavelet_name` haar or db1 ... db8, `levels`
    halvings, by default up to 4; its prox is exact). Starts at x = y with step 1/beta, beta = max |K^|^2. The same arguments on the same
    machine give the same image, whatever the blocks.

    image: (h, w) or (h, w, channels), whole numbers or floats, white as in `images`. Channels are restored side by side.
    weight: in units of white = 1; None takes it from an estimate of the noise.
    iterations, tol: the run ends when the relative prox-gradient residual ||z - y|| / (step max(1, ||grad f||)) is at
        most `tol` ("converged"), when the energy changes by no more than its rounding error for 20 steps in a row
        ("stagnated"), or after `iterations` ("budget").
    block: steps between two visits of the host; None: about a tenth of a second's worth.
    on_progress: called after each block with {"block", "iteration", "iterations", "energy", "data_term", "prior_term",
        "residual", "inner_gap", "elapsed_s"} and, when `reference` (the true image, in the range of `image`) is given,
        "psnr". Answering "cancel" or False ends the run ("cancelled") with the image reached so far.

    Returns what on_progress last got, and: "image" (of `dtype`, in the range of the input, not clipped), "stopped"
    (the reason in quotes above), "weight", "noise" (the estimate), "beta", "step", "device", "dtype", "history"
    ({"energy", "residual", "inner_gap"}: one value per iteration), with a reference "psnr_before". inner_gap bounds
    by how much the last prox missed its minimum, in units of the energy.

    Raises FlowInputError for arguments that cannot be used and FlowDiverged when the energy overflows.
    Sources: Beck & Teboulle 2009 (FISTA, MFISTA, TV), O'Donoghue & Candes 2015 (restart); see `solvers` and `proximal`.
    """
    flow = Restoration(
        image,
        blur_sigma=blur_sigma,
        weight=weight,
        prior=prior,
        iterations=iterations,
        block=block,
        tol=tol,
        reference=reference,
        solver=solver,
        inner_steps=inner_steps,
        wavelet_name=wavelet_name,
        levels=levels,
        data_range=data_range,
        dtype=dtype,
    )
    with precision(dtype):
        drive(flow.descent, on_progress)
    return flow.result()


class Restoration:
    """The same, block by block: an iterator of progress reports, and at any time the `result` so far.

    It gives checkpoints, so that a session that is recovered goes on from the last one (docs/recovery.md).
    """

    def __init__(
        self,
        image: ArrayLike,
        *,
        blur_sigma: float,
        weight: float | None = None,
        prior: str = "tv",
        iterations: int = 200,
        block: int | None = None,
        tol: float = 2e-3,
        reference: ArrayLike | None = None,
        solver: str = "mfista",
        inner_steps: int = 5,
        wavelet_name: str = "db4",
        levels: int | None = None,
        data_range: float | None = None,
        dtype: str = "float32",
    ) -> None:
        """Takes the arguments of `restore`, on_progress excepted."""
        array = as_image(image, "image")
        white = self._white = range_of(array, data_range)
        truth = None if reference is None else _matching(as_image(reference, "reference"), array)
        planes = to_planes(array, white)
        shape = (planes.shape[-2], planes.shape[-1])
        fixed_block = None if block is None else whole(block, "block", 1)
        prior_name = _choice(prior, "prior", WEIGHT_FACTORS)
        plan = Plan(
            shape=shape,
            prior=_total_variation(inner_steps) if prior_name == "tv" else _wavelet(shape, wavelet_name, levels),
            solver=_choice(solver, "solver", SOLVERS),
            capacity=max(BLOCK_CAPACITY, fixed_block or 0),
        )
        budget, tolerance = whole(iterations, "iterations", 1), non_negative(tol, "tol")

        kernel = gaussian_kernel(shape, non_negative(blur_sigma, "blur_sigma"))
        transfer = transfer_function(kernel)
        self._beta, self._noise = norm_sq(transfer), noise_level(planes)
        self._weight = _default_weight(prior_name, self._noise, kernel) if weight is None else positive(weight, "weight")
        self._dtype = dtype
        self._before: dict[str, float] = {}
        if truth is not None:
            self._before["psnr_before"] = psnr(array, truth, _peak(white, truth, data_range))

        def compare(run: Run) -> dict[str, float]:
            return {} if truth is None else {"psnr": psnr(self._image(run), truth, _peak(white, truth, data_range))}

        with precision(dtype) as real:
            problem = _problem(real, transfer, planes, beta=self._beta, weight=self._weight, tol=tolerance)
            self.descent = Descent(
                lambda run, steps: _advance(plan, problem, run, jnp.int32(steps)),
                _begin(plan, problem, jnp.asarray(planes, real)),
                iterations=budget,
                block=fixed_block,
                measure=compare,
            )

    def __iter__(self) -> Restoration:
        return self

    def __next__(self) -> dict[str, Any]:
        with precision(self._dtype):
            return next(self.descent)

    def _image(self, run: Run) -> NDArray[Any]:
        return from_planes(np.asarray(run.state.x), self._white)

    def result(self) -> dict[str, Any]:
        """What `restore` returns, of the image reached so far; "stopped" is "" while it is not over."""
        with precision(self._dtype) as real:
            image = self._image(self.descent.run)
        return {
            **self.descent.info,
            **self._before,
            "image": image,
            "stopped": self.descent.stopped,
            "weight": self._weight,
            "noise": self._noise,
            "beta": self._beta,
            "step": 1 / self._beta,
            "device": device(),
            "dtype": real.name,
            "history": self.descent.history,
        }

    def __snakebridge_state__(self) -> list[Any]:
        """What two runs that stand at the same place have in common: not their clocks."""
        return [self._weight, self._dtype, *self.descent.checkpoint()["run"]]

    def __snakebridge_checkpoint__(self) -> dict[str, Any]:
        return self.descent.checkpoint()

    def __snakebridge_restore__(self, value: dict[str, Any]) -> None:
        with precision(self._dtype):
            self.descent.restore(value)


def _total_variation(inner_steps: int) -> TotalVariation:
    return TotalVariation(whole(inner_steps, "inner_steps", 1))


def _wavelet(shape: tuple[int, int], name: str, levels: int | None) -> WaveletL1:
    order, most = wavelet_order(str(name)), max_levels(shape)
    if order is None:
        raise FlowInputError(f"wavelet_name is {name!r}; it must be haar or db1 to db{MAX_ORDER}")
    return WaveletL1(order, min(DEFAULT_LEVELS, most) if levels is None else whole(levels, "levels", 1, most))


def _choice(value: str, name: str, options: Iterable[str]) -> str:
    names = list(options)
    if not isinstance(value, str) or value not in names:
        raise FlowInputError(f"{name} is {value!r}; it must be one of {', '.join(names)}")
    return str(value)


def _problem(
    real: np.dtype[Any],
    transfer: NDArray[np.complex128],
    planes: NDArray[np.float64],
    *,
    beta: float,
    weight: float,
    tol: float,
) -> Problem:
    spectrum = np.fft.rfft2(planes)
    complex_type = np.result_type(real, np.complex64)
    return Problem(
        transfer=jnp.asarray(transfer, complex_type),
        data_spectrum=jnp.asarray(spectrum, complex_type),
        beta=jnp.asarray(beta, real),
        weight=jnp.asarray(weight, real),
        tol=jnp.asarray(tol, real),
    )


def _default_weight(prior: str, noise: float, kernel: NDArray[np.float64]) -> float:
    return WEIGHT_FACTORS[prior] * max(noise, LEAST_NOISE) * float(np.linalg.norm(kernel))


def _matching(reference: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]:
    if reference.shape != array.shape:
        raise FlowInputError(f"reference has shape {reference.shape} and image {array.shape}; it is the same picture, undamaged")
    return reference


def _peak(white: float, truth: NDArray[Any], data_range: float | None) -> float:
    return max(white, range_of(truth, data_range))
