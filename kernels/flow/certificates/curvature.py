"""The operator L that the spectral certificates are about: the second derivative of f plus the convexity moduli of g, over all variables;
of slots on manifolds the Riemannian one.

L falls apart into blocks, one for each set of slots that some term couples. A block is known by what it does to a vector; everything here
is host side and in float64, whatever the type of the flow, so that a certificate of a float32 flow is about its stored numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..functions.squares import HalfSquare
from ..operators.base import Shape
from ..precision import precision
from ..problem import AnySmooth, Problem, SmoothTerm, State
from .charts import hessian, tangent_bases

# How many vectors L is applied to at once: always this many or one, so that two programs serve all sizes.
ROWS = 64
# How many random vectors a guess of the structure of L is tried on.
PROBES = 4

Vector = NDArray[np.float64]
Apply = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Block:
    """L on some slots. apply and apply_many: L v of a flat vector, or of each row of an array.

    below: a sound lower bound of its smallest eigenvalue from the convexity moduli of the terms alone. above: of its norm, and whether that
    is sound. scaled: whether L stands for D^-1/2 L D^-1/2, or for L in a tangent space. terms: the smooth terms that it is made of.
    """

    slots: tuple[str, ...]
    shapes: tuple[Shape, ...]
    apply: Apply
    apply_many: Callable[[Vector], Vector]
    below: float
    above: float
    above_sound: bool
    scaled: bool = False
    terms: tuple[AnySmooth, ...] = ()
    modulus: float = 0.0  # of g, where it is the same for all slots

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @cached_property
    def probes(self) -> tuple[Vector, Vector]:
        """A few Gaussian vectors, and what L makes of them."""
        directions = np.random.default_rng([29, self.size]).standard_normal((PROBES, self.size))
        return directions, self.apply_many(directions)


@dataclass(frozen=True)
class Curvature:
    """L: its blocks, and whether it is the same at every point."""

    blocks: tuple[Block, ...]
    constant: bool


def in_double(tree: Any) -> Any:
    """A record with its floating point arrays in double precision. Call within `precision("float64")`."""

    def widened(leaf: Any) -> Any:
        array = jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            return array.astype(jnp.complex128)
        return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(widened, tree)


def curvature(problem: Problem, x: State, scale: Mapping[str, Any] | None = None) -> Curvature:
    """L of a problem at x. scale: D^-1 for each slot, where a step is preconditioned by the diagonal D."""
    with precision("float64"):
        problem, x = in_double(problem), in_double(x)
        moduli = {slot: _modulus(problem, slot) for slot in x}
        bases = tangent_bases(problem, x)
        shapes = {slot: bases[slot].shape[:1] if slot in bases else at.shape for slot, at in x.items()}
        roots = {slot: np.sqrt(np.broadcast_to(np.asarray((scale or {}).get(slot, 1.0), np.float64), shapes[slot])) for slot in x}
        constant = not bases and all(not isinstance(term, SmoothTerm) or isinstance(term.phi, HalfSquare) for term in problem.smooth)
        blocks = tuple(
            _block(problem, x, {slot: shapes[slot] for slot in slots}, bases, moduli=moduli, roots=roots, scaled=bool(scale or bases))
            for slots in _components(problem, x)
        )
    return Curvature(blocks, constant)


def _components(problem: Problem, x: State) -> list[tuple[str, ...]]:
    """The slots, in sets that no smooth term couples with each other. Not among them: momenta of pairs that no term is of, whose curvature
    is that of p^2/2m, no part of f."""
    used = {*problem.prox, *(slot for term in problem.smooth for slot in term.slots)}
    free = {momentum for _, momentum, _ in problem.pairs} - used
    sets = [{slot} for slot in x if slot not in free]
    for term in problem.smooth:
        joined = [found for found in sets if found & set(term.slots)]
        sets = [found for found in sets if not found & set(term.slots)] + [set().union(*joined)]
    return [tuple(slot for slot in x if slot in found) for found in sets if found]


def _block(
    problem: Problem, x: State, shaped: dict[str, Shape], bases: State, *, moduli: dict[str, float], roots: dict[str, Any], scaled: bool
) -> Block:
    slots, shapes = tuple(shaped), tuple(shaped.values())
    modulus = np.concatenate([np.full(int(np.prod(shape)), moduli[slot]) for slot, shape in shaped.items()])
    root = np.concatenate([roots[slot].ravel() for slot in slots])
    below, above, sound = (-np.inf, np.inf, False) if bases else _bounds(problem, slots, moduli)
    smallest, largest = float(root.min()) ** 2, float(root.max()) ** 2

    def apply(v: Vector) -> Vector:
        return np.asarray(apply_many(v[None])[0])

    def apply_many(rows: Vector) -> Vector:
        count = len(rows)
        step = 1 if count < ROWS // 4 else ROWS
        images = []
        with precision("float64"):
            for first in range(0, count, step):
                part = rows[first : first + step] * root
                padded = np.pad(part, ((0, step - len(part)), (0, 0)))
                image = np.asarray(_hessian_many(problem, x, bases, jnp.asarray(padded), slots), np.float64)[: len(part)]
                images.append(root * (image + modulus * part))
        return np.asarray(np.concatenate(images))

    below = below * (smallest if below >= 0 else largest)
    terms = tuple(term for term in problem.smooth if set(term.slots) <= set(slots))
    common = moduli[slots[0]] if len({moduli[slot] for slot in slots}) == 1 else float("nan")
    return Block(slots, shapes, apply, apply_many, below, above * largest, sound, scaled, terms, common)


@partial(jax.jit, static_argnames="slots")
def _hessian_many(problem: Problem, x: State, bases: State, rows: jax.Array, slots: tuple[str, ...]) -> jax.Array:
    shapes = {slot: bases[slot].shape[:1] if slot in bases else at.shape for slot, at in x.items()}
    cuts = list(np.cumsum([int(np.prod(shapes[slot])) for slot in slots])[:-1])

    def one(flat: jax.Array) -> jax.Array:
        pieces = dict(zip(slots, jnp.split(flat, cuts), strict=True))
        direction = {
            slot: pieces[slot].reshape(shape) if slot in pieces else jnp.zeros(shape, flat.dtype) for slot, shape in shapes.items()
        }
        image = hessian(problem, x, bases, direction) if bases else problem.hessian(x, direction)
        return jnp.concatenate([image[slot].ravel() for slot in slots])

    return jax.vmap(one)(rows)


def _modulus(problem: Problem, slot: str) -> float:
    """mu with g - mu/2 ||x||^2 convex on the slot: negative for a g that is only weakly convex."""
    total = 0.0
    for terms in (problem.prox, problem.second):
        term = terms.get(slot)
        if term is None:
            continue
        below, _ = term.phi.curvature()
        if term.op.orthonormal() and below.sound_below:
            total += below.value
        elif not term.phi.convex:
            total += -np.inf if not below.sound_below else min(below.value, 0.0) * term.op.norm_sq().value
    return total


def _bounds(problem: Problem, slots: tuple[str, ...], moduli: dict[str, float]) -> tuple[float, float, bool]:
    """Sound bounds of L on these slots from its terms one by one (Weyl): sum of mu_phi lambda_min(A^T A) from below, of beta_phi ||A||^2
    from above. A convex term that says no more counts as 0 from below."""
    below = {slot: moduli[slot] for slot in slots}
    above, sound = max(max(moduli[slot], 0.0) for slot in slots), True
    for term in problem.smooth:
        if not set(term.slots) <= set(slots):
            continue
        squares = term.op.norm_sq()
        if isinstance(term, SmoothTerm):
            least, most = term.phi.curvature()
            mu, beta, known = least.value if least.sound_below else -np.inf, most.value, most.sound_above and squares.sound_above
        else:
            mu = beta = float(term.weight)
            known = squares.sound_above
        above, sound = above + beta * squares.value, sound and known
        if mu < 0:
            reached = mu * squares.value if squares.sound_above and np.isfinite(mu) else -np.inf
        elif len(term.slots) == 1 and term.op.orthonormal():
            reached = mu
        else:
            reached = 0.0
        for slot in term.slots:
            below[slot] += reached
    return min(below.values()), above, sound
