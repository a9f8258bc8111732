"""From a spec to a flow that runs: lint, terms taken apart and sorted into f, g and h, a solver chosen, its steps bounded.

The choice follows from the structure of the problem and is told, with its reason, in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import manifolds
from .atoms.base import Parts
from .bounds import Bound
from .choosing import SOLVERS, Choice, Found, Own, Steps, choose, controls_of
from .curvature import smoothness
from .errors import FlowInputError
from .functions.separable import finite_everywhere
from .lint import SCALE_FLOOR, Built, Finding, Mode, lint_problem, lint_spec, mode_of, raise_errors
from .operators.base import Operator, owned
from .precision import precision
from .problem import Problem, ProxTerm, State
from .solvers.base import Controls, Solver
from .sorting import measured, sort, take_apart
from .spec import REMEDY, FlowSpec, Term

__all__ = ["SOLVERS", "CompileReport", "CompiledFlow", "compile_flow"]


@dataclass(frozen=True)
class CompileReport:
    """What the compiler found and chose.

    terms: for each its part in the energy. solver, solver_class, reason: the choice. beta, mu: of f; operator_norm: ||K||^2 of what
    stands behind operators. alpha, sigma: the steps; alpha_limit: the longest that `condition` allows. unit_normalization_table: |E_i| of
    each term, without its weight, where the flow starts, at least SCALE_FLOOR; weights: those in force, with `normalise` divided by it.
    warnings: what lint had to say.
    """

    terms: dict[str, str]
    solver: str
    reason: str
    beta: Bound
    alpha: float
    lens_name: str = ""
    frame_type: str = "unitary"
    unit_normalization_table: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    solver_class: str = ""
    mu: Bound | None = None
    operator_norm: Bound | None = None
    sigma: float = 1.0
    alpha_limit: float = float("inf")
    condition: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class CompiledFlow:
    """A flow that can run: the problem, its solver with its numbers, where it starts, and the report.

    The methods are the energy as pure functions of a state, a dictionary of the variable slots; call them in `precision(spec.dtype)`.
    """

    spec: FlowSpec
    problem: Problem
    solver: Solver
    controls: Controls
    start: State
    report: CompileReport

    def f_value(self, x: State) -> jax.Array:
        """f(x), the smooth part."""
        return self.problem.f_value(x)

    def f_grad(self, x: State) -> State:
        """grad f(x)."""
        return self.problem.f_grad(x)

    def value_and_grad(self, x: State) -> tuple[jax.Array, State]:
        """f(x) and grad f(x), from one application of the operators."""
        lifted = self.problem.lift(x)
        return self.problem.f_lifted(lifted), self.problem.gradient_lifted(lifted, x)

    def g_value(self, x: State) -> jax.Array:
        """g(x) + h(K x)."""
        return self.problem.g_value(x)

    def g_prox(self, x: State, alpha: Any) -> State:
        """prox_{alpha g}(x), slot by slot."""
        return {slot: self._prox(self.problem.prox[slot], at, alpha) if slot in self.problem.prox else at for slot, at in x.items()}

    def g_prox_in_w(self, u: State, alpha: Any) -> State:
        """The prox in the coordinates u = W x of each slot's own basis."""
        found = dict(u)
        for slot, term in self.problem.prox.items():
            found[slot] = term.phi.prox(u[slot], jnp.asarray(alpha, u[slot].dtype), term.phi.begin(u[slot])).point
        return found

    def bases(self) -> dict[str, Operator]:
        """W of each slot that has a prox."""
        return {slot: term.op for slot, term in self.problem.prox.items()}

    def L_matvec(self, v: State, x: State | None = None) -> State:
        """L v, L the Hessian of f at x (by default where the flow starts)."""
        return self.problem.hessian(self.start if x is None else x, v)

    @staticmethod
    def _prox(term: ProxTerm, at: jax.Array, alpha: Any) -> jax.Array:
        return term.prox(at, jnp.asarray(alpha, at.dtype), term.begin(at)).point


def compile_flow(
    spec: FlowSpec,
    *,
    solver: str | Solver | None = None,
    tol: float = 1e-6,
    alpha: float | None = None,
    sigma: float | None = None,
    damping: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    validation: Mode | None = None,
) -> CompiledFlow:
    """Compiles a spec.

    solver: one by name instead of the one that the structure asks for, or a `Solver` of one's own (see `solvers.optax_flow`). tol: of the
    relative residual. alpha, sigma: the steps, where the default is not wanted; refused where it would not converge. damping: of motion on
    pairs (solver="symplectic"); temperature, seed: of noise ("langevin"). validation:
    "basic", "flexible", "strict" or "expert" (see `lint`); by default that of the environment variable AFS_VALIDATION.

    Raises FlowInputError, which names the term, the rule and the remedy; as SpecLintFailed it holds every finding.
    """
    mode = mode_of(validation)
    findings = lint_spec(spec, mode)
    raise_errors(findings)
    if not tol >= 0:
        raise FlowInputError(f"tol is {tol!r}; it must be 0 or more (0: the run ends by its budget, or where rounding stops it)")
    with precision(spec.dtype) as real:
        start = _start(spec, real)
        terms, scales = _weighed(spec, start, real, findings)
        problem, became = sort(spec, terms, real, relative=solver == "bregman")
        choice = _with_own(solver, problem, real, alpha, tol) if isinstance(solver, Solver) else None
        if choice is None:
            if not (solver is None or isinstance(solver, str)):
                raise FlowInputError(f"solver is {solver!r}; give a name, a Solver, or None and the compiler chooses")
            asked = solver
            choice = choose(problem, start, real, asked=asked, own=Own(alpha, sigma, damping, temperature, seed), tol=tol)
        energies, slope = measured(terms, problem.smooth, start)
        weights = {name: float(term.weight) / scales.get(name, 1.0) for name, (term, _) in terms.items()}
        scales = scales or _scales(_unweighted(energies, weights))
        moved = not problem.manifolds and any(np.any(np.asarray(piece)) for piece in start.values())
        slope_at_zero = measured(terms, problem.smooth, jax.tree.map(jnp.zeros_like, start)).slope if moved else slope
        findings += lint_problem(Built(spec, terms, choice.problem, start, _scales(energies), slope, slope_at_zero), mode)
        raise_errors(findings)
        report = _report(became, choice, scales, weights, findings)
        return CompiledFlow(spec, choice.problem, choice.solver, choice.controls, _inside(choice, start), report)


def _start(spec: FlowSpec, real: np.dtype[Any]) -> State:
    found = {}
    for name, slot in spec.slots.items():
        if slot.role not in ("variable", "momentum"):
            continue
        if slot.manifold == "euclidean":
            found[name] = jnp.asarray(np.zeros(spec.shape_of(name)) if slot.value is None else owned(slot.value), real)
        else:
            found[name] = manifolds.placed(name, manifolds.build(slot.manifold, spec.shape_of(name), real), owned(slot.value), real)
    return found


def _inside(choice: Choice, start: State) -> State:
    """The start, moved by the prox into the set on which g is finite where it is outside, or on an edge where a logarithm is infinite. E
    counts no set, so a point outside may lie below the minimum, and a solver that never lets E rise would stay there."""
    found = dict(start)
    for slot, term in choice.problem.prox.items():
        if slot in choice.problem.second or slot in choice.problem.manifolds or finite_everywhere(term.phi):
            continue
        distance, value = _placed(term, start[slot])
        if float(distance) > 0 or (term.phi.differentiable and not np.isfinite(value)):
            found[slot] = _moved(term, start[slot], choice.controls.alpha)
    return found


# Each one program, where each of its operations would be one.
@jax.jit
def _placed(term: ProxTerm, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return term.distance(x), term.value(x)


@jax.jit
def _moved(term: ProxTerm, x: jax.Array, alpha: jax.Array) -> jax.Array:
    return term.prox(x, alpha, term.begin(x)).point


def _weighed(
    spec: FlowSpec, start: State, real: np.dtype[Any], findings: list[Finding]
) -> tuple[dict[str, tuple[Term, Parts]], dict[str, float]]:
    """The terms with the weights in force and, if those are normalised, the scales by which they are. Raises SpecLintFailed, with these
    findings too, for terms that cannot be built."""
    terms, wrong = take_apart(spec, real)
    told = {
        name: said.rpartition("; ") if "; " in said else (said, "", "check its parameters") for name, said in wrong.items()
    }  # what is wrong; the cure
    raise_errors([*findings, *(Finding("term.parts", "error", f"the term {name}", said, cure) for name, (said, _, cure) in told.items())])
    if not spec.normalise:
        return terms, {}
    scales = _scales(_unweighted(measured(terms, (), start).energies, {name: float(term.weight) for name, (term, _) in terms.items()}))
    scales |= {name: 1.0 for name in scales if name.startswith(REMEDY)}  # whose weights are of the normalised energy
    return take_apart(spec, real, scales)[0], scales


def _unweighted(energies: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """E_i of the terms w_i E_i: divided by those with their weights, terms would not depend on them at all."""
    return {name: energy / (weights[name] or 1.0) for name, energy in energies.items()}  # 0 gets past lint in the mode "expert"


def _scales(energies: Mapping[str, float]) -> dict[str, float]:
    """|E_i|, at least SCALE_FLOOR; 1 where it is no number."""
    return {name: max(abs(energy), SCALE_FLOOR) if np.isfinite(energy) else 1.0 for name, energy in energies.items()}


def _with_own(solver: Solver, problem: Problem, real: np.dtype[Any], alpha: float | None, tol: float) -> Choice:
    """A solver that the user brings: its own conditions are its own affair."""
    if problem.composite or problem.second or problem.couplings:
        raise FlowInputError(f"the solver {solver.name} is for f + g; this energy has terms behind operators, second proxes or couplings")
    nothing = Bound(0.0, "exact", "no operator")
    found = Found(smoothness(problem), nothing, Bound(0.0, "lower_bound", "unknown"))
    step = alpha if alpha is not None else 1.0
    return Choice(solver, "own", problem, controls_of(Steps(step), tol, real), found, float("inf"), "its own", "brought by the user")


def _report(
    became: dict[str, str], choice: Choice, scales: Mapping[str, float], weights: dict[str, float], findings: list[Finding]
) -> CompileReport:
    bases = {str(getattr(term.op, "name", term.op.structure)) for term in choice.problem.prox.values()}
    return CompileReport(
        terms=became,
        solver=choice.solver.name,
        reason=choice.reason,
        beta=choice.found.beta,
        alpha=float(choice.controls.alpha),
        lens_name=", ".join(sorted(bases - {"identity"})),
        unit_normalization_table=dict(scales),
        warnings=tuple(str(finding) for finding in findings),
        solver_class=choice.letter,
        mu=choice.found.mu,
        operator_norm=choice.found.norm,
        sigma=float(choice.controls.sigma),
        alpha_limit=choice.limit,
        condition=choice.condition,
        weights=weights,
        findings=tuple(findings),
    )
