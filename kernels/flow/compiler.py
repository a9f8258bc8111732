"""From a spec to a flow that runs: lint, terms taken apart and sorted into f, g and h, a solver chosen, its steps bounded.

The choice follows from the structure of the problem and is told, with its reason, in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from .lensing import transforms_of, weakest_frame, with_lenses
from .lint import SCALE_FLOOR, Built, Finding, Mode, lint_problem, lint_spec, mode_of, raise_errors
from .manifolds.base import Manifold
from .operators.base import Operator, owned
from .precision import precision
from .problem import CompositeTerm, Problem, ProxTerm, State
from .solvers.base import Controls, Run, Solver
from .sorting import energies_of, sort, take_apart
from .spec import REMEDY, FlowSpec, Term
from .starting import begin_block, measured, not_in_f
from .transforms.base import TransformOp

__all__ = ["SOLVERS", "CompileReport", "CompiledFlow", "compile_flow"]


@dataclass(frozen=True)
class CompileReport:
    """What the compiler found and chose.

    terms: for each its part in the energy. solver, solver_class, reason: the choice. beta, mu: of f; operator_norm: ||K||^2 of what
    stands behind operators. alpha, sigma: the steps; alpha_limit: the longest that `condition` allows. unit_normalization_table: |E_i| of
    each term, without its weight, where the flow starts, at least SCALE_FLOOR; weights: those in force, with `normalise` divided by it.
    warnings: what lint had to say. lens_name: the transforms, by their names; term_lenses: "{variable}_{type}" -> transform; lens_probe: of
    the terms whose lens was chosen, how; frame_type, c: of the transform that promises least, W^T W = c I if it is "tight"; w_space_aware:
    whether a term is of wavelet coefficients.
    """

    terms: dict[str, str]
    solver: str
    reason: str
    beta: Bound
    alpha: float
    lens_name: str = ""
    frame_type: str = "unitary"
    c: float = 1.0
    term_lenses: dict[str, str] = field(default_factory=dict)
    w_space_aware: bool = False
    lens_probe: dict[str, dict[str, Any]] = field(default_factory=dict)
    invariants_present: bool = False
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
    """A flow that can run: the problem, its solver with its numbers, where it starts, the report, the terms that f does not hold, and the
    transforms by the names of the terms that look through them.

    The methods are the energy as pure functions of a state, a dictionary of the variable slots; call them in `precision(spec.dtype)`.
    """

    spec: FlowSpec
    problem: Problem
    solver: Solver
    controls: Controls
    start: State
    report: CompileReport
    others: tuple[CompositeTerm, ...] = ()
    transforms: Mapping[str, TransformOp] = field(default_factory=dict)

    def begun(self, *, problem: Problem | None = None, controls: Controls | None = None, x: State | None = None) -> Run:
        """A run that stands where the flow starts, or at x; with other numbers, of the same structure, if given."""
        run: Run = begin_block(self.solver, problem or self.problem, controls or self.controls, x or self.start, self.others)[0]
        return run

    def form_of_run(self) -> Run:
        """The shapes and types of a run; nothing is computed."""
        like: Run = jax.eval_shape(self.begun)
        return like

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

    @property
    def manifolds(self) -> dict[str, Manifold]:
        """Of the slots that are not Euclidean."""
        return self.problem.manifolds

    # The parts by the names of the literature.
    @property
    def f(self) -> Callable[[State], jax.Array]:
        """`f_value`."""
        return self.f_value

    @property
    def g(self) -> Callable[[State], jax.Array]:
        """`g_value`."""
        return self.g_value

    @property
    def W(self) -> dict[str, Operator]:
        """`bases()`."""
        return self.bases()

    @property
    def L(self) -> Callable[..., State]:
        """`L_matvec`."""
        return self.L_matvec

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
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.number)) or not tol >= 0:
        raise FlowInputError(f"tol is {tol!r}; it must be 0 or more (0: the run ends by its budget, or where rounding stops it)")
    with precision(spec.dtype) as real:
        start = _start(spec, real)
        seen, probes = with_lenses(spec)
        terms, scales = _weighed(seen, start, real, findings)
        problem, became = sort(spec, terms, real, relative=solver == "bregman")
        own = Own(alpha, sigma, damping, temperature, seed)
        choice = _with_own(solver, problem, real, own, tol) if isinstance(solver, Solver) else None
        if choice is None:
            if not (solver is None or isinstance(solver, str)):
                raise FlowInputError(f"solver is {solver!r}; give a name, a Solver, or None and the compiler chooses")
            asked = solver
            choice = choose(problem, start, real, asked=asked, own=own, tol=tol)
        others = not_in_f(terms, choice.problem)
        energies, slope = measured(choice.solver, choice.problem, choice.controls, start, others)
        weights = {name: float(term.weight) / scales.get(name, 1.0) for name, (term, _) in terms.items()}
        scales = scales or _scales(_unweighted(energies, weights))
        slope_at_zero = slope
        if not problem.manifolds and any(np.any(np.asarray(piece)) for piece in start.values()):
            zero = {slot: jnp.asarray(np.zeros(piece.shape), piece.dtype) for slot, piece in start.items()}
            slope_at_zero = measured(choice.solver, choice.problem, choice.controls, zero, others).slope
        findings += lint_problem(Built(spec, terms, choice.problem, start, _scales(energies), slope, slope_at_zero), mode)
        raise_errors(findings)
        transforms = transforms_of(terms)
        lenses = _lenses(terms, transforms, probes)
        report = _report(became, choice, scales, weights, findings, invariants_present=bool(spec.invariants), **lenses)
        return CompiledFlow(spec, choice.problem, choice.solver, choice.controls, _inside(choice, start), report, others, transforms)


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
    scales = _scales(_unweighted(energies_of(terms, start), {name: float(term.weight) for name, (term, _) in terms.items()}))
    scales |= {name: 1.0 for name in scales if name.startswith(REMEDY)}  # whose weights are of the normalised energy
    return take_apart(spec, real, scales)[0], scales


def _unweighted(energies: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """E_i of the terms w_i E_i: divided by those with their weights, terms would not depend on them at all."""
    return {name: energy / (weights[name] or 1.0) for name, energy in energies.items()}  # 0 gets past lint in the mode "expert"


def _scales(energies: Mapping[str, float]) -> dict[str, float]:
    """|E_i|, at least SCALE_FLOOR; 1 where it is no number."""
    return {name: max(abs(energy), SCALE_FLOOR) if np.isfinite(energy) else 1.0 for name, energy in energies.items()}


def _with_own(solver: Solver, problem: Problem, real: np.dtype[Any], own: Own, tol: float) -> Choice:
    """A solver that the user brings: its own conditions are its own affair."""
    own.check(solver.name, "own")
    if problem.composite or problem.second or problem.couplings:
        raise FlowInputError(f"the solver {solver.name} is for f + g; this energy has terms behind operators, second proxes or couplings")
    nothing = Bound(0.0, "exact", "no operator")
    found = Found(smoothness(problem), nothing, Bound(0.0, "lower_bound", "unknown"))
    step = own.alpha if own.alpha is not None else 1.0
    return Choice(solver, "own", problem, controls_of(Steps(step), tol, real), found, float("inf"), "its own", "brought by the user")


def _lenses(
    terms: Mapping[str, tuple[Term, Parts]], transforms: Mapping[str, TransformOp], probes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What the report says of transforms."""
    frame, c = weakest_frame(transforms)
    by_term: dict[str, list[str]] = {}
    for name, made in transforms.items():
        by_term.setdefault(f"{'_'.join(terms[name][0].slots)}_{terms[name][0].type}", []).append(made.name)
    return {
        "lens_name": ", ".join(sorted({made.name for made in transforms.values()})),
        "frame_type": frame,
        "c": c,
        "term_lenses": {term: ", ".join(names) for term, names in by_term.items()},
        "w_space_aware": any(term.type == "wavelet_l1" for term, _ in terms.values()),
        "lens_probe": probes,
    }


def _report(
    became: dict[str, str], choice: Choice, scales: Mapping[str, float], weights: dict[str, float], findings: list[Finding], **more: Any
) -> CompileReport:
    return CompileReport(
        terms=became,
        solver=choice.solver.name,
        reason=choice.reason,
        beta=choice.found.beta,
        alpha=float(choice.controls.alpha),
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
        **more,
    )
