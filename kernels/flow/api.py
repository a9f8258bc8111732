"""The call surface for those who drive the steps themselves: one step of a compiled flow at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .compiler import CompiledFlow
from .errors import FlowInputError
from .operators.base import Op, Operator, build
from .precision import precision
from .primitives import dissipate, transform
from .problem import State


def run_flow_step(
    x: Mapping[str, ArrayLike],
    compiled: CompiledFlow,
    eta: float,
    W: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One step F_Dis -> F_Multi -> F_Proj -> F_Multi^-1: x+ = W^T prox_{eta g}(W (x - eta grad f(x))); on a manifold R_x(-eta grad f(x)).

    x: every variable slot; other slots may be there and come back untouched. eta: the step. W: for slots whose prox is to be taken in other
    coordinates than those it was compiled for: an orthonormal operator or its Op, or anything with `forward` and `inverse`; None: the
    compiled ones.

    Raises FlowInputError for a state that is none of this flow, for a step that is not a number above 0, for a W that its slot cannot be
    seen in, and for a flow whose prox has no closed form: with terms behind operators, or with a prox on a manifold.
    """
    if not isinstance(compiled, CompiledFlow):
        raise FlowInputError(f"compiled is {type(compiled).__name__}; give a flow, as compile_flow(spec) makes it")
    problem = compiled.problem
    if problem.composite or problem.second or problem.couplings or problem.manifolds.keys() & problem.prox.keys():
        told = "terms behind operators, second proxes, couplings or a prox on a manifold"
        raise FlowInputError(f"a flow with {told} has no step of this kind; use run")
    if not _is_step(eta):
        raise FlowInputError(f"eta is {eta!r:.60}; a step is a number above 0")
    if not isinstance(x, Mapping):
        raise FlowInputError(f"the state is {type(x).__name__}; give a dictionary of arrays by slot, here of {', '.join(compiled.start)}")
    missing = [slot for slot in compiled.start if slot not in x]
    if missing:
        raise FlowInputError(f"the state lacks the slot {', '.join(missing)}; it has {', '.join(x)}")
    with precision(compiled.spec.dtype) as real:
        bases = _bases(compiled, W, real)
        here: State = {}
        for slot, begun in compiled.start.items():
            value = np.asarray(x[slot])
            if value.dtype.kind not in "biuf":
                raise FlowInputError(f"the slot {slot} has values of type {value.dtype}; give real numbers")
            if value.shape != begun.shape:
                raise FlowInputError(f"the slot {slot} has shape {value.shape}; it was compiled for {begun.shape}")
            here[slot] = jnp.asarray(value, real)
        step = jnp.asarray(eta, real)
        moved = dissipate(here, problem.f_grad(here), step, manifolds=problem.manifolds)
        for slot, term in problem.prox.items():
            u = transform(moved[slot], bases[slot], "forward")
            u = term.phi.prox(u, step, term.phi.begin(u)).point
            moved[slot] = transform(u, bases[slot], "inverse")
        return {**dict(x), **jax.device_get(moved)}


def _is_step(eta: Any) -> bool:
    array = np.asarray(eta)
    return array.shape == () and array.dtype.kind in "iuf" and bool(np.isfinite(array) and array > 0)


def _bases(compiled: CompiledFlow, given: Mapping[str, Any] | None, real: np.dtype[Any]) -> dict[str, Any]:
    """Of each slot that has a prox the coordinates in which it is taken: those that are given, else the compiled ones."""
    made: dict[str, Any] = compiled.bases()
    if given is None:
        return made
    if not isinstance(given, Mapping):
        raise FlowInputError(f"W is {type(given).__name__}; give a dictionary of transforms by slot, or None for the compiled ones")
    for slot, basis in given.items():
        if slot not in compiled.start:
            raise FlowInputError(f"W is of the slot {slot!r}, which no step moves; those are {', '.join(compiled.start)}")
        shape = compiled.start[slot].shape
        known = build(basis, shape, real) if isinstance(basis, (Op, Operator)) else basis
        if isinstance(known, Operator):
            if known.domain != shape:
                raise FlowInputError(f"W of the slot {slot} takes arrays of shape {known.domain}, and the slot has shape {shape}")
            if not known.orthonormal():
                told = f"{basis!r:.80} is not orthonormal, and the prox has no closed form in other coordinates"
                raise FlowInputError(f"W of the slot {slot}: {told}; give an orthonormal wavelet, the DCT or the DFT")
        elif not (hasattr(known, "forward") and hasattr(known, "inverse")):
            told = f"W of the slot {slot} is {type(known).__name__}"
            raise FlowInputError(f"{told}; give a transform, an Op, or an object with forward and inverse")
        if slot in made:
            made[slot] = known
    return made
