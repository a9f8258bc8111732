"""Which solver fits a problem, why, and with which numbers; the classes of solvers are in `classes`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .bounds import Bound
from .classes import CLASSES, SOLVERS, WELL_CONDITIONED, Found, Steps, norm_of
from .curvature import smoothness, strong_convexity
from .errors import FlowInputError
from .problem import CompositeTerm, Problem, State
from .sizes import SMALL
from .solvers.base import Controls, Solver
from .solvers.primal_dual import PrimalDualControls

__all__ = ["CLASSES", "SOLVERS", "Again", "Choice", "Found", "Own", "Steps", "again", "behind_operators", "choose", "controls_of"]

# The first change of the steps of a primal-dual solver that balances its residuals, as a part of them.
BALANCE = 0.5


# The classes of solvers that go by a number of the user's own; by the others all do.
_OF_CLASSES = {"sigma": ("B", "C", "E"), "damping": ("motion",), "temperature": ("noise",)}


class Own(NamedTuple):
    """The user's own numbers, in the place of the solver's; damping of motion, temperature and seed of noise."""

    alpha: float | None = None
    sigma: float | None = None
    damping: float = 0.0
    temperature: float = 0.0
    seed: int = 0

    def check(self, solver: str, letter: str) -> None:
        """Raises FlowInputError for what is no such number, and for a number that a solver of this class would not go by."""
        for name, given in self._asdict().items():
            if given is None:
                continue
            number = _whole(name, given) if name == "seed" else _positive(name, given, least=name in ("damping", "temperature"))
            letters = _OF_CLASSES.get(name, (letter,))
            if number and letter not in letters:
                takes = ", ".join(other for other, entry in CLASSES.items() if entry.letter in letters)
                raise FlowInputError(f"{name} is {given!r}, and {solver} has none; leave it out, or take a solver that has: {takes}")


@dataclass(frozen=True)
class Choice:
    """A solver with the problem arranged for it, its numbers, the longest step that its condition allows, and why it was chosen."""

    solver: Solver
    letter: str
    problem: Problem
    controls: Controls
    found: Found
    limit: float
    condition: str
    reason: str


def choose(problem: Problem, x: State, real: np.dtype[Any], *, asked: str | None, own: Own, tol: float) -> Choice:
    """The solver that the structure asks for, or the one asked for where it can solve the problem. Raises FlowInputError."""
    found = Found(smoothness(problem), Bound(0.0, "exact", "no operator"), strong_convexity(problem, x))
    name, reason = (asked, "asked for") if asked is not None else _by_structure(problem, x, found)
    if name not in CLASSES:
        raise FlowInputError(f"solver is {name!r}; it must be one of {', '.join(CLASSES)}")
    entry = CLASSES[name]
    arranged = behind_operators(problem) if entry.letter in ("B", "C") else problem
    why = entry.unfit(arranged)
    if problem.manifolds and entry.letter != "R":
        why = f"{', '.join(problem.manifolds)} lives on a manifold, which steps in flat space leave"
    if why:
        raise FlowInputError(f"the solver {name} cannot be used: {why}; leave solver out and the compiler chooses")
    own.check(name, entry.letter)
    found = found._replace(norm=norm_of(entry.letter, arranged, x))
    steps = entry.steps(arranged, x, found)
    alpha = own.alpha
    steps = steps._replace(damping=own.damping, temperature=own.temperature, seed=own.seed)
    if own.sigma is not None:
        steps = steps._replace(sigma=float(own.sigma))
        steps = steps._replace(alpha=min(steps.alpha, entry.longest(found, steps)))
    limit = entry.longest(found, steps)
    if alpha is not None:
        steps = steps._replace(alpha=float(alpha))
        if alpha > limit * (1 + 1e-12) and found.beta.sound_above and found.norm.sound_above:
            raise FlowInputError(
                f"alpha is {alpha:.6g}; {name} converges for {entry.condition}, here {limit:.6g}: take a smaller one, or none"
            )
    controls = controls_of(steps, tol, real)
    if entry.letter in ("B", "C"):
        # Steps of the user's own stay as they are, and so do those of an f that has no beta.
        share = found.beta.value * steps.alpha / 2
        balance = BALANCE if own.alpha is None and own.sigma is None and share < 1 else 0.0
        share = share if share < 1 else 0.0
        controls = balancing(controls, share, balance, real)
    solver = entry.make()
    if all(value.size <= SMALL for value in x.values()):
        solver = solver._replace(stride=1)  # the copies that a stride spares are worth less here than the compilation it costs
    return Choice(solver, entry.letter, arranged, controls, found, limit, entry.condition, reason)


def controls_of(steps: Steps, tol: float, real: np.dtype[Any]) -> Controls:
    """As arrays of the flow's type."""
    if not steps.alpha <= np.finfo(real).max:
        raise FlowInputError(f"the step alpha is {steps.alpha:.6g}, which {real} cannot hold, so flat is f: give its terms larger weights")
    numbers = (steps.alpha, steps.sigma, 1.0, steps.momentum, tol, steps.modulus)
    alpha, sigma, relaxation, momentum, limit, modulus = (jnp.asarray(number, real) for number in numbers)
    damping, temperature = jnp.asarray(steps.damping, real), jnp.asarray(steps.temperature, real)
    seed = jnp.asarray(steps.seed, jnp.uint32)
    return Controls(alpha, sigma, relaxation, momentum, limit, modulus, steps.scale or {}, damping, temperature, seed)


class Again(NamedTuple):
    """What is known of the problem after the weights of smooth terms have changed, and the controls that fit it."""

    found: Found
    controls: Controls


def again(name: str, problems: tuple[Problem, Problem], x: State, controls: Controls, real: np.dtype[Any]) -> Again:
    """The steps of a solver for a problem that differs from the one before in weights of smooth terms only: alpha and sigma stay the same
    part of what the class takes by itself, momentum and scale are its own. A solver of one's own keeps its controls. Host side."""
    letter = CLASSES[name].letter if name in CLASSES else ""
    before, after = (Found(smoothness(problem), norm_of(letter, problem, x), strong_convexity(problem, x)) for problem in problems)
    if name not in CLASSES:
        return Again(after, controls)
    entry = CLASSES[name]
    old, new = (entry.steps(problem, x, found) for problem, found in zip(problems, (before, after), strict=True))
    changed = replace(
        controls,
        alpha=controls.alpha * jnp.asarray(new.alpha / old.alpha, real),
        sigma=controls.sigma * jnp.asarray(new.sigma / old.sigma, real),
        momentum=jnp.where(controls.momentum > 0, jnp.asarray(new.momentum, real), controls.momentum),
        scale=new.scale or {},
    )
    if isinstance(changed, PrimalDualControls):
        changed = replace(changed, share=jnp.minimum(changed.alpha * after.beta.value / 2, 1))
    return Again(after, changed)


def longest(name: str, found: Found, sigma: float) -> float:
    """The longest alpha that the condition of a solver allows beside a dual step; infinite of a solver of one's own."""
    return CLASSES[name].longest(found, Steps(1.0, sigma)) if name in CLASSES else float("inf")


def balancing(controls: Controls, share: float, balance: float, real: np.dtype[Any]) -> PrimalDualControls:
    """Controls of primal-dual steps, which may trade tau for sigma."""
    kept = {field.name: getattr(controls, field.name) for field in fields(controls)}
    return PrimalDualControls(**kept, share=jnp.asarray(share, real), balance=jnp.asarray(balance, real))


def behind_operators(problem: Problem) -> Problem:
    """Second proxes and couplings as composite terms: what the primal-dual classes take."""
    seconds = tuple(CompositeTerm(term.name, (slot,), term.op, term.phi) for slot, term in problem.second.items())
    return Problem(problem.smooth, problem.prox, {}, problem.composite + seconds + problem.couplings, (), (), problem.manifolds)


def _by_structure(problem: Problem, x: State, found: Found) -> tuple[str, str]:
    unbounded = not np.isfinite(found.beta.value)
    if problem.manifolds:
        curved = ", ".join(f"{slot} on {made.name}" for slot, made in problem.manifolds.items())
        if any(slot in problem.prox for slot in problem.manifolds):
            return "manpg", f"{curved}: proximal gradient steps in the tangent space, then a retraction"
        return "riemannian_gradient", f"{curved}: Riemannian gradient steps with a line search"
    if problem.couplings and not (problem.composite or problem.second):
        return "admm", "slots are coupled by a linear constraint: ADMM, each block by proximal steps"
    if problem.composite or problem.couplings:
        behind = ", ".join(term.name for term in behind_operators(problem).composite)
        if not problem.smooth:
            # The accelerated form is left to be asked for: its 1/k^2 holds from the start, but plain steps mostly end up linear.
            return "chambolle_pock", f"no smooth term, and {behind} behind an operator: primal-dual steps"
        return "condat_vu", f"a smooth term, and {behind} behind an operator: primal-dual steps with the gradient of f"
    if problem.second:
        both = ", ".join(f"{problem.prox[slot].name} and {term.name}" for slot, term in problem.second.items())
        return "davis_yin", f"two proxes on one slot that do not merge ({both}): three-operator splitting"
    if problem.nonconvex():
        return "ista_bt", "a term is not convex: plain steps with backtracking, whose energy falls all the same"
    if unbounded or not found.beta.sound_above:
        known = "has no bound" if unbounded else "is only estimated"
        return "mfista_bt", f"f + g with one prox for each slot, and beta {known}: accelerated with backtracking"
    if found.mu.value > WELL_CONDITIONED * found.beta.value and not problem.prox:
        return "fista", "f alone, strongly convex: accelerated with the momentum of mu and beta"
    return "mfista", "f + g with one prox for each slot: accelerated, and the energy never rises"


def _positive(name: str, value: Any, *, least: bool = False) -> float:
    """The number, above 0, or 0 at the least."""
    number = np.asarray(value) if not isinstance(value, (str, bytes, bool)) else np.asarray(None)
    if number.ndim or number.dtype.kind not in "iuf" or not (np.isfinite(number) and (number > 0 or (least and number == 0))):
        raise FlowInputError(f"{name} is {value!r:.60}; it must be a number " + ("of at least 0" if least else "above 0"))
    return float(number)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**32:
        raise FlowInputError(f"{name} is {value!r:.60}; it must be a whole number from 0 to {2**32 - 1}")
    return int(value)
