"""Image restoration as an energy descent: undo a known blur under noise, with total variation or wavelets as the prior.

This module turns an image and a few numbers into a `FlowSpec`, runs it block by block and reports after each; the terms, the solver and the
loop are those of every flow. Everything lives on the torus: blur and differences are periodic.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiler import compile_flow
from ..errors import FlowDiverged, FlowInputError
from ..operators.base import Op
from ..operators.convolution import gaussian_kernel
from ..precision import device, precision
from ..running import Execution, Progress, is_cancel
from ..spec import FlowSpec, Slot, Term
from ..transforms.filters import MAX_ORDER, WAVELETS
from .images import as_image, from_planes, noise_level, non_negative, positive, psnr, range_of, to_planes, whole

SOLVERS = ("mfista", "fista")

# weight = factor * noise * ||k||_2 when the caller gives none: noise * ||k||_2 is the standard deviation that the
# noise leaves in grad f. The factors were read off the best weights for photographs under blurs of 0 to 4 pixels and
# noise of 0.005 to 0.08.
WEIGHT_FACTORS = {"tv": 0.6, "wavelet": 1.2}
LEAST_NOISE = 1 / (255 * 12**0.5)  # rounding to 8 bits

DEFAULT_LEVELS = 4

# What a report says, and which metric of the flow it is.
REPORTED = {"energy": "energy", "data_term": "smooth", "prior_term": "nonsmooth", "residual": "residual", "inner_gap": "inner_gap"}
HISTORY = ("energy", "residual", "inner_gap")

P = ParamSpec("P")
R = TypeVar("R")


class Restoration:
    """The job of `restore`, block by block: an iterator of progress reports, and at any time the `result` so far.

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
        on_progress: Progress | None = None,
        reference: ArrayLike | None = None,
        solver: str = "mfista",
        inner_steps: int = 5,
        wavelet_name: str = "db4",
        levels: int | None = None,
        data_range: float | None = None,
        dtype: str = "float32",
    ) -> None:
        """Takes the arguments of `restore`."""
        array = as_image(image, "image")
        self._white = range_of(array, data_range)
        self._truth = None if reference is None else _matching(as_image(reference, "reference"), array)
        self._peak = self._white if self._truth is None else max(self._white, range_of(self._truth, data_range))
        planes = to_planes(array, self._white)
        self._iterations = whole(iterations, "iterations", 1)
        self._block = None if block is None else whole(block, "block", 1)
        self._on_progress = on_progress

        kind, sigma = _choice(prior, "prior", WEIGHT_FACTORS), non_negative(blur_sigma, "blur_sigma")
        self._noise = noise_level(planes)
        self._weight = _default_weight(kind, self._noise, planes, sigma) if weight is None else positive(weight, "weight")
        data = Term("quadratic", "x", op=Op("gaussian_blur", sigma=sigma), target=planes, name="data")
        chosen = _total_variation(self._weight, inner_steps) if kind == "tv" else _wavelet(self._weight, planes, wavelet_name, levels)
        spec = FlowSpec({"x": Slot(value=planes)}, [data, chosen], name="restoration", dtype=dtype)  # type: ignore[arg-type]
        method, tolerance = _choice(solver, "solver", SOLVERS), non_negative(tol, "tol")
        # The spec is ours, and sound whatever AFS_VALIDATION asks of those of users.
        self._compiled = compile_flow(spec, solver=method, tol=tolerance, validation="basic")
        self._before = {} if self._truth is None else {"psnr_before": psnr(array, self._truth, self._peak)}
        self._info: dict[str, Any] = {}
        self._history: dict[str, list[float]] = {name: [] for name in HISTORY}
        self._execution = self._begun()

    def _begun(self, saved: Any = None) -> Execution:
        with precision(self._compiled.spec.dtype), self._scaled():
            return Execution(self._compiled, iterations=self._iterations, block=self._block, saved=saved)

    @contextmanager
    def _scaled(self) -> Iterator[None]:
        """The remedy for images, where a flow is not finite."""
        try:
            yield
        except FlowDiverged as error:
            raise FlowDiverged(
                f"the energy is not a finite number: the values are too large for {self._compiled.spec.dtype}. "
                "Scale them so that white is 1, or use dtype='float64'"
            ) from error

    def __iter__(self) -> Restoration:
        return self

    def __next__(self) -> dict[str, Any]:
        """Runs a block. Raises FlowDiverged when the energy of a step is not a finite number."""
        with precision(self._compiled.spec.dtype), self._scaled():
            told = next(self._execution)
        made = self._execution.latest
        assert made is not None
        for name, values in self._history.items():
            values.extend(made.metrics[name].tolist())
        self._info = {name: told[name] for name in ("block", "iteration", "iterations")}
        self._info |= {name: told[metric] for name, metric in REPORTED.items()}
        if self._truth is not None:
            self._info["psnr"] = psnr(self._image(), self._truth, self._peak)
        self._info["elapsed_s"] = told["elapsed_s"]
        if self._on_progress is not None and is_cancel(self._on_progress(dict(self._info))):
            self._execution.cancel()
        return dict(self._info)

    def _image(self) -> NDArray[Any]:
        return from_planes(self._execution.state()["x"], self._white)

    def result(self) -> dict[str, Any]:
        """What `restore` returns, of the image reached so far; "stopped" is "" while it is not over."""
        report = self._compiled.report
        return {
            **self._info,
            **self._before,
            "image": self._image(),
            "stopped": self._execution.stopped,
            "weight": self._weight,
            "noise": self._noise,
            "beta": report.beta.value,
            "step": report.alpha,
            "device": device(),
            "dtype": self._compiled.spec.dtype,
            "history": self._history,
        }

    def __snakebridge_state__(self) -> list[Any]:
        """What two runs that stand at the same place have in common: not their clocks."""
        return [self._weight, self._compiled.spec.dtype, *self._execution.record()["run"]]

    def __snakebridge_checkpoint__(self) -> dict[str, Any]:
        """Where it stands, as plain data and arrays."""
        run = {name: value for name, value in self._execution.record().items() if name != "state"}  # which is in its "run" too
        history = {name: np.asarray(values) for name, values in self._history.items()}
        return {"run": run, "history": history, "info": dict(self._info)}

    def __snakebridge_restore__(self, value: dict[str, Any]) -> None:
        """Goes on from a checkpoint of a run with the same arguments."""
        self._execution = self._begun(value["run"])
        self._execution.stopped = value["run"]["stopped"]  # a run that was cancelled stays so
        self._history = {name: values.tolist() for name, values in value["history"].items()}
        self._info = dict(value["info"])


def _told_as(model: Callable[P, Restoration]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Gives a function the signature of `model`, to readers, type checkers and callers from other languages alike."""

    def told(function: Callable[..., R]) -> Callable[P, R]:
        signature = inspect.signature(model).replace(return_annotation=inspect.signature(function).return_annotation)
        setattr(function, "__signature__", signature)  # noqa: B010 - a function has no such attribute to a type checker
        return function

    return told


@_told_as(Restoration)
def restore(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Minimises E(x) = 1/2 ||k * x - y||^2 + weight R(x), y the image and k a periodic Gaussian of `blur_sigma` pixels.

    R is the isotropic total variation (`prior="tv"`; its prox is inexact, `inner_steps` dual steps from the last
    dual) or the l1 norm of the wavelet details (`prior="wavelet"`; `wavelet_name` haar, db1 to db16 or sym2 to sym16, `levels`
    halvings, by default up to 4; its prox is exact). Starts at x = y with step 1/beta, beta = max |K^|^2. The same arguments on the same
    machine give the same image, whatever the blocks.

    image: (h, w) or (h, w, channels), whole numbers or floats, white as in `images`. Channels are restored side by side.
    weight: in units of white = 1; None takes it from an estimate of the noise.
    iterations, tol: the run ends when the relative prox-gradient residual ||z - y|| / (step max(1, ||grad f||)) is at
        most `tol` ("converged"), when 50 steps in a row change the energy by no more than its rounding error and do not halve the
        residual ("stagnated"), or after `iterations` ("budget").
    block: steps between two visits of the host, rounded up to an even number above 8192 pixels; None: about a fifth of a second's worth.
    on_progress: called after each block with {"block", "iteration", "iterations", "energy", "data_term", "prior_term",
        "residual", "inner_gap", "elapsed_s"} and, when `reference` (the true image, in the range of `image`) is given,
        "psnr". Answering "cancel" or False ends the run ("cancelled") with the image reached so far.

    Returns what on_progress last got, and: "image" (of `dtype`, in the range of the input, not clipped), "stopped"
    (the reason in quotes above), "weight", "noise" (the estimate), "beta", "step", "device", "dtype", "history"
    ({"energy", "residual", "inner_gap"}: one value per iteration), with a reference "psnr_before". inner_gap bounds
    by how much the last prox missed its minimum, in units of the energy.

    Raises FlowInputError for arguments that cannot be used and FlowDiverged when the energy overflows.
    Sources: Beck & Teboulle 2009 (FISTA, MFISTA, TV), O'Donoghue & Candes 2015 (restart); see `solvers.proximal_gradient`
    and `functions.variation`.
    """
    flow = Restoration(*arguments, **options)
    for _ in flow:
        pass
    return flow.result()


def _total_variation(weight: float, inner_steps: int) -> Term:
    params = {"prox": "inner", "inner_steps": whole(inner_steps, "inner_steps", 1), "axes": (-2, -1), "boundary": "periodic"}
    return Term("tv", "x", weight=weight, params=params, name="prior")


def _wavelet(weight: float, planes: NDArray[Any], name: str, levels: int | None) -> Term:
    if name not in WAVELETS:
        raise FlowInputError(f"wavelet_name is {name!r}; it must be haar, db1 to db{MAX_ORDER} or sym2 to sym{MAX_ORDER}")
    most = int(math.log2(min(planes.shape[-2:])))
    depth = min(DEFAULT_LEVELS, most) if levels is None else whole(levels, "levels", 1, most)
    return Term("wavelet_l1", "x", weight=weight, params={"wavelet": name, "levels": depth, "ndim": 2}, name="prior")


def _choice(value: str, name: str, options: Iterable[str]) -> str:
    names = list(options)
    if not isinstance(value, str) or value not in names:
        raise FlowInputError(f"{name} is {value!r}; it must be one of {', '.join(names)}")
    return str(value)


def _default_weight(prior: str, noise: float, planes: NDArray[Any], sigma: float) -> float:
    kernel = gaussian_kernel(planes.shape[-2:], sigma)
    return WEIGHT_FACTORS[prior] * max(noise, LEAST_NOISE) * float(np.linalg.norm(kernel))


def _matching(reference: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]:
    if reference.shape != array.shape:
        raise FlowInputError(f"reference has shape {reference.shape} and image {array.shape}; it is the same picture, undamaged")
    return reference
