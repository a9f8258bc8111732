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
    coordinates than those it was compiled for: an orthonormal operator, or anything with `forward` and `inverse`; None: the compiled ones.

    Raises FlowInputError for a missing slot, for a step that is not a number above 0, and for a flow whose prox has no closed form: with
    terms behind operators, or with a prox on a manifold.
    """
    problem = compiled.problem
    if problem.composite or problem.second or problem.couplings or problem.manifolds.keys() & problem.prox.keys():
        told = "terms behind operators, second proxes, couplings or a prox on a manifold"
        raise FlowInputError(f"a flow with {told} has no step of this kind; use run")
    if not (np.isfinite(eta) and eta > 0):
        raise FlowInputError(f"eta is {eta!r}; a step is a number above 0")
    missing = [slot for slot in compiled.start if slot not in x]
    if missing:
        raise FlowInputError(f"the state lacks the slot {', '.join(missing)}; it has {', '.join(x)}")
    with precision(compiled.spec.dtype) as real:
        here: State = {slot: jnp.asarray(x[slot], real) for slot in compiled.start}
        for slot, value in here.items():
            if value.shape != compiled.start[slot].shape:
                raise FlowInputError(f"the slot {slot} has shape {value.shape}; it was compiled for {compiled.start[slot].shape}")
        step = jnp.asarray(eta, real)
        moved = dissipate(here, problem.f_grad(here), step, manifolds=problem.manifolds)
        for slot, term in problem.prox.items():
            basis = term.op if W is None or slot not in W else W[slot]
            u = transform(moved[slot], basis, "forward")
            u = term.phi.prox(u, step, term.phi.begin(u)).point
            moved[slot] = transform(u, basis, "inverse")
        return {**dict(x), **jax.device_get(moved)}
