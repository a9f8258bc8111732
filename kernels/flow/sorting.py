"""The terms of a spec taken apart and sorted: what is smooth (f), what has a prox (g, one for each slot, merged where that is legal), what
stands behind an operator (h o K), and what couples slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import atoms, manifolds
from .atoms.base import Asked, Parts
from .errors import FlowInputError
from .functions.base import merge
from .functions.composed import through
from .functions.separable import Separable
from .operators.arrays import Diagonal, Identity
from .operators.balance import Balance
from .operators.base import Op, Operator, build, owned
from .packed import vector
from .problem import AnySmooth, CompositeTerm, CouplingTerm, Problem, ProxTerm, State, smooth_term, taken
from .spec import Coupling, FlowSpec, Term


class Sorted(NamedTuple):
    """The problem, and for each term what it became."""

    problem: Problem
    parts: dict[str, str]


def take_apart(
    spec: FlowSpec, real: np.dtype[Any], scales: Mapping[str, float] | None = None
) -> tuple[dict[str, tuple[Term, Parts]], dict[str, str]]:
    """A and phi of each term, and of those that cannot be built what is wrong, by the names of the terms. scales: by which weights are
    divided (unit normalisation)."""
    made, wrong = {}, {}
    for name, term in zip(spec.term_names(), spec.terms, strict=True):
        if name in made or name in wrong:  # of two, only one would be minimised; no lint has asked in the mode "expert"
            wrong[name] = "several terms have this name; give each its own"
            continue
        try:
            asked = _asked(spec, name, term, real, 1.0 if scales is None else scales[name])
            made[name] = (term, atoms.take_apart(term.type, asked, term.params))
        except FlowInputError as error:
            wrong[name] = _without_name(str(error), f"the term {name}")
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RecursionError) as error:
            # Of NumPy and JAX, about a parameter that no builder expected; they do not know which term it was.
            wrong[name] = f"it cannot be built ({type(error).__name__}: {error}); check its parameters"
    return made, wrong


def _without_name(said: str, name: str) -> str:
    """What an error says of a term, as it stands after "the term ...: "."""
    if not said.startswith(name):
        return said
    rest = said.removeprefix(name)
    return rest.lstrip(":, ") if rest[:1] in (":", ",") else f"it{rest}"


def energies_of(terms: Mapping[str, tuple[Term, Parts]], x: State) -> dict[str, float]:
    """The energy of each term at x."""
    found = _energies(tuple(CompositeTerm(name, term.slots, *parts) for name, (term, parts) in terms.items()), x)
    return dict(zip(terms, np.asarray(found).tolist(), strict=True))


# One program, where each operation would be one.
@jax.jit
def _energies(terms: tuple[CompositeTerm, ...], x: State) -> jax.Array:
    return vector([jnp.reshape(term.value(taken(term.slots, x)), ()) for term in terms])


def sort(spec: FlowSpec, terms: Mapping[str, tuple[Term, Parts]], real: np.dtype[Any], *, relative: bool = False) -> Sorted:
    """Each term by what it can do. relative: terms that are smooth only relative to an entropy count as smooth, as the solver "bregman"
    takes them. Raises FlowInputError for one that no solver can use."""
    smooth: list[AnySmooth] = []
    proxes: dict[str, list[ProxTerm]] = {}
    composite: list[CompositeTerm] = []
    became: dict[str, str] = {}
    for name, (term, (op, phi)) in terms.items():
        single = len(term.slots) == 1
        if relative and hasattr(phi, "relative_smoothness"):
            smooth.append(smooth_term(name, term.slots, op, phi))
            became[name] = "smooth relative to Burg's entropy"
        elif phi.smooth and (np.isfinite(phi.curvature()[1].value) or not phi.proximable):
            smooth.append(smooth_term(name, term.slots, op, phi))
            became[name] = "smooth"
        elif not phi.proximable:
            raise FlowInputError(
                f"the term {name}: its function {type(phi).__name__} has neither a gradient nor a prox, so no step can use it"
            )
        elif single and op.orthonormal():
            became[name] = _add_prox(proxes, ProxTerm(name, term.slots[0], op, phi))
        elif single and (closed := through(op, phi, real)) is not None:
            became[name] = _add_prox(proxes, ProxTerm(name, term.slots[0], Identity(op.domain, op.domain), closed))
        else:
            composite.append(CompositeTerm(name, term.slots, op, phi))
            became[name] = "composite"
    for slot, listed in proxes.items():
        for extra in listed[2:]:
            composite.append(CompositeTerm(extra.name, (slot,), extra.op, extra.phi))
            became[extra.name] = "composite: its slot has two proxes already"
    prox = {slot: listed[0] for slot, listed in proxes.items()}
    second = {slot: listed[1] for slot, listed in proxes.items() if len(listed) > 1}
    pairs = tuple((q, p, float(mass)) for q, p, mass in spec.pairs)
    couplings = tuple(_coupling(spec, number, coupling, real) for number, coupling in enumerate(spec.couplings))
    curved = {
        name: manifolds.build(slot.manifold, spec.shape_of(name), real)
        for name, slot in spec.slots.items()
        if slot.manifold != "euclidean" and slot.role in ("variable", "momentum")
    }
    return Sorted(Problem(tuple(smooth), prox, second, tuple(composite), couplings, pairs, curved), became)


def _add_prox(proxes: dict[str, list[ProxTerm]], term: ProxTerm) -> str:
    """Adds a term, merged with one in the same basis where the sum has a prox of its own. Proxes are never applied one after another in
    the place of the prox of a sum."""
    present = proxes.setdefault(term.slot, [])
    for number, other in enumerate(present):
        if same(other.op, term.op):
            merged = merge(other.phi, term.phi)
            if merged is not None:
                present[number] = ProxTerm(other.name, term.slot, other.op, merged)
                return f"prox, merged with {other.name}"
    present.append(term)
    return "prox" if len(present) == 1 else "second prox"


def same(one: Operator, other: Operator) -> bool:
    """Whether two records are the same operator: equal structure, equal arrays."""
    if one is other:
        return True
    leaves, shape = jax.tree.flatten(one)
    other_leaves, other_shape = jax.tree.flatten(other)
    return bool(str(shape) == str(other_shape) and all(np.array_equal(a, b) for a, b in zip(leaves, other_leaves, strict=True)))


def _asked(spec: FlowSpec, name: str, term: Term, real: np.dtype[Any], scale: float) -> Asked:
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
    return Asked(name, tuple(spec.shape_of(slot) for slot in term.slots), float(term.weight) / scale, owned(target), op, real)


def _coupling(spec: FlowSpec, number: int, coupling: Coupling, real: np.dtype[Any]) -> CouplingTerm:
    name = coupling.name or f"coupling_{number}"
    made = []
    for slot, part in coupling.parts.items():
        if slot not in spec.slots or spec.slots[slot].role not in ("variable", "momentum"):
            raise FlowInputError(f"{name} couples the slot {slot!r}, which is no variable of the spec")
        shape = spec.shape_of(slot)
        try:
            made.append(
                build(part, shape, real) if isinstance(part, (Op, Operator)) else Diagonal(shape, shape, jnp.full(shape, part, real))
            )
        except FlowInputError as error:
            raise FlowInputError(f"{name}, its part of {slot!r}: {error}") from error
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
            # Of NumPy and JAX, about a parameter that no builder expected.
            raise FlowInputError(f"{name}: its part of {slot!r} cannot be built ({type(error).__name__}: {error}); check it") from error
    if len({part.codomain for part in made}) != 1:
        raise FlowInputError(f"{name} adds arrays of the shapes {', '.join(str(part.codomain) for part in made)}; they must be equal")
    codomain = made[0].codomain
    try:
        goal = jnp.asarray(np.broadcast_to(np.array(coupling.target), codomain), real)
    except ValueError as error:
        raise FlowInputError(f"{name}: its target has shape {np.shape(coupling.target)}, but its sum has shape {codomain}") from error
    only = Separable(jnp.zeros((), real), jnp.zeros((), real), goal, goal)
    return CouplingTerm(name, tuple(coupling.parts), Balance(made[0].domain, codomain, tuple(made)), only)
