"""From a spec to a flow that runs: terms are taken apart, sorted into f, g and h, given a solver, and bounded.

The choice follows from the structure of the problem and is told, with its reason, in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import atoms, manifolds
from .atoms.base import Asked
from .bounds import Bound, total
from .errors import FlowInputError
from .operators.base import Op, Operator
from .precision import precision
from .problem import AnySmooth, CompositeTerm, Problem, ProxTerm, SmoothTerm, State, smooth_term
from .solvers.base import Controls, Solver
from .solvers.manpg import manpg, suits
from .solvers.proximal_gradient import fista, ista, mfista
from .solvers.riemannian import riemannian_gradient
from .spec import FlowSpec, Term

SOLVERS: dict[str, Callable[[], Solver]] = {
    "ista": ista,
    "fista": fista,
    "mfista": mfista,
    "riemannian_gradient": riemannian_gradient,
    "manpg": manpg,
}


@dataclass(frozen=True)
class CompileReport:
    """What the compiler found and chose: for each term its part in the energy, the solver and why, bounds with their kinds."""

    terms: dict[str, str]
    solver: str
    reason: str
    beta: Bound
    alpha: float
    lens_name: str = ""
    frame_type: str = "unitary"
    unit_normalization_table: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompiledFlow:
    """A flow that can run: the problem, its solver with its numbers, where it starts, and the report."""

    spec: FlowSpec
    problem: Problem
    solver: Solver
    controls: Controls
    start: State
    report: CompileReport


def compile_flow(spec: FlowSpec, *, solver: str | None = None, tol: float = 1e-6) -> CompiledFlow:
    """Compiles a spec. solver: one by name instead of the one that the structure asks for. tol: of the relative residual.

    Raises FlowInputError, which names the term, the rule and the remedy.
    """
    with precision(spec.dtype) as real:
        problem, parts = _sorted(spec, real)
        start = {
            name: manifolds.placed(name, problem.manifolds[name], slot.value, real)
            if name in problem.manifolds
            else jnp.asarray(np.zeros(spec.shape_of(name)) if slot.value is None else slot.value, real)
            for name, slot in spec.slots.items()
            if slot.role in ("variable", "momentum")
        }
        chosen, reason = _chosen(problem, solver)
        beta = total([_smoothness(term) for term in problem.smooth])
        alpha = 1.0 / beta.value if beta.value > 0 else 1.0
        numbers = (alpha, 1.0, 1.0, 0.0, tol)
        controls = Controls(*(jnp.asarray(number, real) for number in numbers))
        report = CompileReport(parts, chosen.name, reason, beta, alpha)
        return CompiledFlow(spec, problem, chosen, controls, start, report)


def _sorted(spec: FlowSpec, real: np.dtype[Any]) -> tuple[Problem, dict[str, str]]:
    """The terms as f, g and h, and for each what it became."""
    smooth: list[AnySmooth] = []
    proxes: dict[str, list[ProxTerm]] = {}
    composite: list[CompositeTerm] = []
    parts: dict[str, str] = {}
    for name, term in zip(spec.term_names(), spec.terms, strict=True):
        op, phi = atoms.find(term.type).build(_asked(spec, name, term, real), **term.params)
        if phi.smooth:
            smooth.append(smooth_term(name, term.slots, op, phi))
            parts[name] = "smooth"
        elif op.orthonormal() and len(term.slots) == 1:
            parts[name] = _add_prox(proxes, ProxTerm(name, term.slots[0], op, phi))
        else:
            composite.append(CompositeTerm(name, term.slots, op, phi))
            parts[name] = "composite"
    prox = {slot: terms[0] for slot, terms in proxes.items()}
    second = {slot: terms[1] for slot, terms in proxes.items() if len(terms) > 1}
    for slot, terms in proxes.items():
        for extra in terms[2:]:
            composite.append(CompositeTerm(extra.name, (slot,), extra.op, extra.phi))
            parts[extra.name] = "composite"
    curved = {
        name: manifolds.build(slot.manifold, spec.shape_of(name), real)
        for name, slot in spec.slots.items()
        if slot.manifold != "euclidean" and slot.role in ("variable", "momentum")
    }
    return Problem(tuple(smooth), prox, second, tuple(composite), curved), parts


def _add_prox(proxes: dict[str, list[ProxTerm]], term: ProxTerm) -> str:
    """Adds a term, merged with one in the same basis where the sum has a prox of its own."""
    present = proxes.setdefault(term.slot, [])
    for number, other in enumerate(present):
        if _same_basis(other.op, term.op):
            merged = other.phi.merged(term.phi)
            if merged is not None:
                present[number] = ProxTerm(other.name, term.slot, other.op, merged)
                return f"prox, merged with {other.name}"
    present.append(term)
    return "prox"


def _same_basis(one: Operator, other: Operator) -> bool:
    return one.structure == other.structure == "identity"


def _asked(spec: FlowSpec, name: str, term: Term, real: np.dtype[Any]) -> Asked:
    for slot in term.slots:
        if slot not in spec.slots:
            raise FlowInputError(f"the term {name} is of the slot {slot!r}, which the spec does not have; it has {', '.join(spec.slots)}")
    op: Op | None = None
    if isinstance(term.op, str):
        if term.op not in spec.operators:
            raise FlowInputError(f"the term {name} names the operator {term.op!r}, which the spec does not have; add it to operators")
        op = spec.operators[term.op]
    else:
        op = term.op
    target: Any = term.target
    if isinstance(target, str):
        if target not in spec.slots:
            raise FlowInputError(f"the term {name} has the target {target!r}, which is no slot of the spec")
        target = spec.slots[target].value
    return Asked(name, tuple(spec.shape_of(slot) for slot in term.slots), float(term.weight), target, op, real)


def _smoothness(term: AnySmooth) -> Bound:
    """The Lipschitz constant of the gradient of a smooth term: that of phi times ||A||^2."""
    squares = term.op.norm_sq()
    if not isinstance(term, SmoothTerm):
        return squares.scaled(float(term.weight))
    _, above = term.phi.curvature()
    kind = squares if not squares.sound_above else above
    return Bound(above.value * squares.value, kind.kind, squares.method)


def _chosen(problem: Problem, asked: str | None) -> tuple[Solver, str]:
    """A solver for the structure, and why."""
    if problem.manifolds:
        return _chosen_on_manifolds(problem, asked)
    if asked is not None:
        if asked not in SOLVERS:
            raise FlowInputError(f"solver is {asked!r}; it must be one of {', '.join(SOLVERS)}")
        return SOLVERS[asked](), "asked for"
    if problem.composite or problem.second:
        raise FlowInputError("no solver for composite terms yet")
    return mfista(), "f + g with one prox for each slot: accelerated, and the energy never rises"


def _chosen_on_manifolds(problem: Problem, asked: str | None) -> tuple[Solver, str]:
    """On a manifold the prox of the flat space is not that of the manifold; there is a way round it for a few."""
    if problem.composite or problem.second:
        name = problem.composite[0].name if problem.composite else next(iter(problem.second.values())).name
        raise FlowInputError(
            f"the term {name} needs a splitting solver, and there is none for problems with manifolds; smooth it, as huber"
        )
    curved = ", ".join(f"{slot} on {made.name}" for slot, made in problem.manifolds.items())
    nonsmooth = {slot: problem.prox[slot] for slot in problem.manifolds if slot in problem.prox}
    for slot, term in nonsmooth.items():
        if not suits(problem.manifolds[slot], term):
            raise FlowInputError(
                f"the term {term.name} is not smooth and its slot {slot!r} lives on {problem.manifolds[slot].name}; only sums over "
                f"elements such as l1, on a sphere or a Stiefel manifold, have a proximal step there: smooth it, as huber"
            )
    fitting = ("manpg",) if nonsmooth else ("riemannian_gradient", "manpg")
    if asked not in (None, *fitting):
        raise FlowInputError(f"solver is {asked!r}, which does not know manifolds ({curved}); leave it out, or take {' or '.join(fitting)}")
    if nonsmooth or asked == "manpg":
        return manpg(), f"{curved}: proximal gradient steps in the tangent space, then a retraction"
    return riemannian_gradient(), f"{curved}: Riemannian gradient steps with a line search"
