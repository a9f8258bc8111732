"""The classes of solvers, as a table: what each needs of a problem, which steps it takes, and its condition on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .bounds import Bound
from .curvature import block_norm, diagonal, operator_norm, prox_modulus, quadratic_majorant, scaled_norm, smoothness
from .errors import FlowInputError
from .functions.separable import Separable
from .functions.squares import HalfSquare
from .operators.arrays import Dense
from .operators.convolution import Circulant
from .operators.sparse import Sparse
from .problem import AnySmooth, Problem, SmoothTerm, State
from .solvers.admm import admm
from .solvers.base import Solver
from .solvers.bregman import bregman
from .solvers.dynamics import langevin, symplectic
from .solvers.manpg import manpg, suits
from .solvers.preconditioned import preconditioned
from .solvers.primal_dual import chambolle_pock, chambolle_pock_accelerated, condat_vu
from .solvers.proximal_gradient import fista, ista, mfista
from .solvers.riemannian import riemannian_gradient
from .solvers.splitting import davis_yin, implicit

# From this mu/beta on, the constant momentum of strongly convex problems is used; below it, restarts find it better by themselves.
WELL_CONDITIONED = 1e-4
# An implicit step is this many times longer than 1/beta: it is stable for any, and the longer, the more a step costs to solve.
IMPLICIT_STEP = 10.0
# Of a step whose condition is open, how much is taken by default.
INSIDE = 1 - 1e-3


class Found(NamedTuple):
    """What is known of a problem: beta of f; the norm, beside beta, on which steps rest (see `norm_of`); mu of f."""

    beta: Bound
    norm: Bound
    mu: Bound


class Steps(NamedTuple):
    """The numbers of a solver before the user's own: Controls in the making."""

    alpha: float
    sigma: float = 1.0
    momentum: float = 0.0
    modulus: float = 0.0
    scale: State | None = None
    damping: float = 0.0
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Class:
    """A class of solvers. unfit: why it cannot solve a problem, or "". longest: the largest alpha for a sigma, in words `condition`."""

    letter: str
    make: Callable[[], Solver]
    unfit: Callable[[Problem], str]
    steps: Callable[[Problem, State, Found], Steps]
    longest: Callable[[Found, Steps], float]
    condition: str


def norm_of(letter: str, problem: Problem, x: State) -> Bound:
    """The norm, beside beta, on which the steps of a class rest: of the blocks that ADMM moves, of P^-1/2 L P^-1/2, or ||K||^2."""
    if letter == "E":
        return block_norm(problem.couplings, x)
    if letter == "P":
        majorant, known = quadratic_majorant(problem)
        bound = scaled_norm(majorant, x, _jacobi_scale(problem, x))
        return bound if known else replace(bound, kind="estimate")
    return operator_norm(problem.composite)


def _inverse(value: float) -> float:
    return 1.0 / value if 0 < value < np.inf else 1.0


def _only_f_and_g(problem: Problem) -> str:
    if problem.composite:
        return f"{problem.composite[0].name} stands behind an operator, and its prox has no closed form"
    if problem.second:
        return f"{next(iter(problem.second.values())).name} is a second prox on its slot"
    return "slots are coupled" if problem.couplings else ""


def _known_beta(problem: Problem) -> str:
    why = _only_f_and_g(problem)
    return why or ("f has no Lipschitz constant (take the backtracking form, _bt)" if not np.isfinite(smoothness(problem).value) else "")


def _bounded(problem: Problem) -> str:
    """What these classes ask of f itself: they know no backtracking."""
    for term in problem.smooth:
        if not np.isfinite(smoothness(Problem((term,), {}, {}, ())).value):
            return f"{term.name} has no Lipschitz constant, so no step is known to be short enough (give it a beta where it has one)"
    return ""


def _uncoupled(problem: Problem) -> str:
    if problem.composite:
        return f"{problem.composite[0].name} stands behind an operator"
    return "slots are coupled" if problem.couplings else _bounded(problem)


def _separable(problem: Problem) -> str:
    why = _known_beta(problem)
    for term in problem.prox.values():
        if not (term.phi.separable and term.op.structure == "identity"):
            why = why or f"the prox of {term.name} is not a sum over the elements of {term.slot}, so no diagonal P leaves it in closed form"
    return why or ("" if problem.smooth else "there is no smooth term to precondition")


def _quadratic(problem: Problem) -> str:
    why = _only_f_and_g(problem)
    flat = all(not isinstance(term, SmoothTerm) or isinstance(term.phi, HalfSquare) for term in problem.smooth)
    return why or ("" if flat else "f is not quadratic, and only then is its prox a linear system")


def _no_f(problem: Problem) -> str:
    return f"{problem.smooth[0].name} is smooth, and this class has no gradient step (take condat_vu)" if problem.smooth else ""


def _strong_g(problem: Problem) -> str:
    slots = {*problem.prox, *(slot for term in problem.composite for slot in term.slots)}
    return _no_f(problem) or ("" if prox_modulus(problem, slots) > 0 else "g is not strongly convex")


def _admm_only(problem: Problem) -> str:
    if problem.composite or problem.second:
        return "beside couplings there are terms behind operators (take condat_vu)"
    return _bounded(problem) if problem.couplings else "there are no couplings"


def _gradient_steps(problem: Problem, x: State, found: Found) -> Steps:
    return Steps(_inverse(found.beta.value))


def _backtracking_steps(problem: Problem, x: State, found: Found) -> Steps:
    # Backtracking only shortens steps: it starts from twice what an estimate says, from 1 where there is none.
    return Steps(2 * _inverse(found.beta.value) if np.isfinite(found.beta.value) else 1.0)


def _momentum_steps(problem: Problem, x: State, found: Found) -> Steps:
    ratio = found.mu.value / found.beta.value if found.beta.value > 0 else 0.0
    if ratio <= WELL_CONDITIONED:
        return _gradient_steps(problem, x, found)
    root = float(np.sqrt(min(ratio, 1.0)))
    return Steps(_inverse(found.beta.value), momentum=max((1 - root) / (1 + root), float(np.finfo(np.float32).tiny)))


def _condat_steps(problem: Problem, x: State, found: Found) -> Steps:
    beta, squares = found.beta.value, found.norm.value
    # Half of the condition to each: sigma ||K||^2 = beta/2, tau = 1/beta; and inside of it, for on its edge steps may swing for ever, as
    # without K they do. There, they are gradient steps.
    sigma = beta / 2 / squares if beta > 0 and squares > 0 else _inverse(float(np.sqrt(squares)))
    return Steps(_inverse(beta / 2 + sigma * squares) * INSIDE if squares > 0 else _inverse(beta), sigma)


def _pock_steps(problem: Problem, x: State, found: Found) -> Steps:
    step = _inverse(float(np.sqrt(found.norm.value)))
    return Steps(step, step)


def _pock_modulus_steps(problem: Problem, x: State, found: Found) -> Steps:
    return _pock_steps(problem, x, found)._replace(modulus=prox_modulus(problem, set(x)))


def _coupled_steps(problem: Problem, x: State, found: Found) -> Steps:
    beta, squares = found.beta.value, found.norm.value
    rho = beta / squares if beta > 0 and squares > 0 else 1.0
    return Steps(_inverse(beta + rho * squares), rho)


def _jacobi_scale(problem: Problem, x: State) -> State:
    """The diagonal of P^-1."""
    entries, _ = diagonal(problem, x)
    floor = 1e-12 * max((float(jnp.max(value)) for value in entries.values()), default=1.0)
    return {slot: 1 / jnp.maximum(value, floor) for slot, value in entries.items()}


def _jacobi_steps(problem: Problem, x: State, found: Found) -> Steps:
    return Steps(_inverse(found.norm.value), scale=_jacobi_scale(problem, x))


def _implicit_steps(problem: Problem, x: State, found: Found) -> Steps:
    return Steps(IMPLICIT_STEP * _inverse(found.beta.value))


def _times(factor: float) -> Callable[[Found, Steps], float]:
    # An open condition, alpha < 2/beta, is kept by a hair.
    kept = factor if factor <= 1 else factor * (1 - 1e-9)
    return lambda found, steps: kept / found.beta.value if found.beta.value > 0 else float("inf")


def _relative(problem: Problem) -> str:
    why = _only_f_and_g(problem)
    for term in problem.smooth:
        if not hasattr(getattr(term, "phi", None), "relative_smoothness"):
            why = why or f"{term.name} is not smooth relative to Burg's entropy"
        elif _negative_somewhere(term):
            why = (
                why or f"the operator of {term.name} has negative entries, and its energy is smooth relative to Burg's entropy only without"
            )
    for prox in problem.prox.values():
        phi = prox.phi
        free = isinstance(phi, Separable) and bool(jnp.all(phi.lower <= 0) & jnp.all(jnp.isinf(phi.upper)) & jnp.all(phi.ridge == 0))
        if not (free and prox.op.structure == "identity"):
            why = why or f"{prox.name} is more than an l1 term or the bound x >= 0"
    return why


def _negative_somewhere(term: AnySmooth) -> bool:
    """Whether an operator whose entries are at hand has one below 0, beyond its rounding."""
    match term.op:
        case Dense(matrix=held) | Sparse(by_row=(_, _, held)):
            entries = np.asarray(held)
        case Circulant():
            entries = np.asarray(term.op.signal(term.op.transfer))
        case _:
            return False
    return bool(entries.min(initial=0.0) < -1e-6 * np.abs(entries).max(initial=0.0))


def _bregman_steps(problem: Problem, x: State, found: Found) -> Steps:
    for slot, value in x.items():
        if not bool(jnp.all(value > 0)):
            raise FlowInputError(f"the solver bregman starts above 0, and the slot {slot} does not; give it a positive value")
    functions: list[Any] = [getattr(term, "phi", None) for term in problem.smooth]
    # Kept in sigma, which the step does not use, so that the condition can be told.
    relative = sum(float(phi.relative_smoothness().value) for phi in functions)
    return Steps(_inverse(relative), sigma=relative if relative > 0 else 1.0)


def _at_relative(found: Found, steps: Steps) -> float:
    return _inverse(steps.sigma)


def _paired(problem: Problem) -> str:
    why = _only_f_and_g(problem)
    if why or problem.prox:
        return why or f"{next(iter(problem.prox.values())).name} has a prox, and motion needs a gradient"
    momenta = {momentum for _, momentum, _ in problem.pairs}
    for term in problem.smooth:
        if momenta & set(term.slots):
            return f"{term.name} is of a momentum, whose energy is p^2/2m and nothing else (leave the term out)"
    return "" if problem.pairs else "the spec declares no pairs"


def _motion_steps(problem: Problem, x: State, found: Found) -> Steps:
    lightest = min(mass for _, _, mass in problem.pairs)
    return Steps(0.2 * float(np.sqrt(lightest * _inverse(found.beta.value))), sigma=lightest)


def _motion_longest(found: Found, steps: Steps) -> float:
    return 2 * float(np.sqrt(steps.sigma / found.beta.value)) if found.beta.value > 0 else float("inf")


def _curved(problem: Problem) -> str:
    """On a manifold the prox of flat space is not that of the manifold."""
    if not problem.manifolds:
        return "no slot lives on a manifold"
    for slot, made in problem.manifolds.items():
        if slot in problem.prox or slot in problem.second:
            term = problem.prox.get(slot) or problem.second[slot]
            return f"the term {term.name} is not smooth and its slot {slot!r} lives on {made.name} (smooth it, as huber does)"
    return _only_f_and_g(problem)


def _curved_with_prox(problem: Problem) -> str:
    """Only sums over elements, on spheres and Stiefel manifolds, have a proximal step in the tangent space."""
    if not problem.manifolds:
        return "no slot lives on a manifold"
    for slot, made in problem.manifolds.items():
        if slot in problem.prox and not suits(made, problem.prox[slot]):
            name = problem.prox[slot].name
            return f"the term {name} is not smooth and its slot {slot!r} lives on {made.name} (smooth it, as huber does)"
    return _only_f_and_g(problem)


def _any(found: Found, steps: Steps) -> float:
    return float("inf")


def _condat_longest(found: Found, steps: Steps) -> float:
    # Without f the edge belongs to the condition, as for chambolle_pock.
    return _inverse(found.beta.value / 2 + steps.sigma * found.norm.value) * (1 - 1e-9 if found.beta.value > 0 else 1.0)


def _pock_longest(found: Found, steps: Steps) -> float:
    return _inverse(steps.sigma * found.norm.value)


def _jacobi_longest(found: Found, steps: Steps) -> float:
    return 2 * steps.alpha


def _coupled_longest(found: Found, steps: Steps) -> float:
    return _inverse(found.beta.value + steps.sigma * found.norm.value)


CLASSES: dict[str, Class] = {
    "ista": Class("A", ista, _known_beta, _gradient_steps, _times(2.0), "alpha < 2/beta"),
    "fista": Class("A'", fista, _known_beta, _momentum_steps, _times(1.0), "alpha <= 1/beta"),
    "mfista": Class("A'", mfista, _known_beta, _gradient_steps, _times(1.0), "alpha <= 1/beta"),
    "ista_bt": Class("A", lambda: ista(True), _only_f_and_g, _backtracking_steps, _any, "any alpha, which backtracking shortens"),
    "fista_bt": Class("A'", lambda: fista(True), _only_f_and_g, _backtracking_steps, _any, "any alpha, which backtracking shortens"),
    "mfista_bt": Class("A'", lambda: mfista(True), _only_f_and_g, _backtracking_steps, _any, "any alpha, which backtracking shortens"),
    "condat_vu": Class("B", condat_vu, _bounded, _condat_steps, _condat_longest, "1/alpha - sigma ||K||^2 > beta/2"),
    "chambolle_pock": Class("C", chambolle_pock, _no_f, _pock_steps, _pock_longest, "alpha sigma ||K||^2 <= 1"),
    "chambolle_pock_accelerated": Class(
        "C", chambolle_pock_accelerated, _strong_g, _pock_modulus_steps, _pock_longest, "alpha sigma ||K||^2 <= 1"
    ),
    "davis_yin": Class("D", davis_yin, _uncoupled, _gradient_steps, _times(2.0), "alpha < 2/beta"),
    "admm": Class("E", admm, _admm_only, _coupled_steps, _coupled_longest, "alpha <= 1/(beta + rho ||A||^2)"),
    "preconditioned": Class("P", preconditioned, _separable, _jacobi_steps, _jacobi_longest, "alpha < 2/lambda_max(P^-1/2 L P^-1/2)"),
    "implicit": Class("implicit", implicit, _quadratic, _implicit_steps, _any, "any alpha"),
    "riemannian_gradient": Class("R", riemannian_gradient, _curved, _gradient_steps, _any, "any alpha, which the line search shortens"),
    "manpg": Class("R", manpg, _curved_with_prox, _gradient_steps, _any, "any alpha, which the line search shortens"),
    "bregman": Class("Bregman", bregman, _relative, _bregman_steps, _at_relative, "alpha <= 1/L, L h - f convex"),
    "symplectic": Class("motion", symplectic, _paired, _motion_steps, _motion_longest, "alpha < 2/sqrt(beta/m)"),
    "langevin": Class("noise", langevin, _known_beta, _gradient_steps, _times(1.0), "alpha <= 1/beta"),
}

SOLVERS: dict[str, Callable[[], Solver]] = {name: entry.make for name, entry in CLASSES.items()}
