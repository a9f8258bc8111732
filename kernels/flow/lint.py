"""Lint: what can be wrong or doubtful in a spec, as a table of rules.

Each rule has an id, the modes in which it is asked, and a severity for each; what it finds names the term or slot, the rule and the cure.
`lint_spec` asks what the description alone can answer, `lint_problem` what needs operators built and the energy evaluated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import atoms, operators
from .atoms.base import Parts
from .errors import FlowInputError
from .operators.base import Op, Operator, adjoint_error, applied
from .problem import Problem, State
from .schema import holes, malformed
from .spec import FlowSpec, Term
from .transforms.base import TransformOp

Mode = Literal["basic", "flexible", "strict", "expert"]
Severity = Literal["error", "warning"]
MODES: tuple[Mode, ...] = ("basic", "flexible", "strict", "expert")

VALIDATION = "AFS_VALIDATION"
NUMERICAL_WARNINGS = "AFS_NUMERICAL_WARNINGS"

STEEP = 1e6  # ||grad f|| at the start
FLAT = 1e-3  # the same there and at 0: below 1, the residual that tol is about is not relative
FAR_APART = 1e6  # the ratio of the largest term to the smallest, where the flow starts
ADJOINT_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found. where: the term, slot or coupling; cure: what to do."""

    rule: str
    severity: Severity
    where: str
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}{'; ' if self.cure else ''}{self.cure} [{self.rule}]"


class SpecLintFailed(FlowInputError):
    """A spec has errors. `findings` are all of them, warnings too."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = tuple(findings)
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        super().__init__("the spec cannot be compiled:\n" + "\n".join(f"- {error}" for error in errors))


class Complaint(NamedTuple):
    """What a rule yields: it adds its own id and severity."""

    where: str
    message: str
    cure: str


class Built(NamedTuple):
    """What the rules on a built problem see."""

    spec: FlowSpec
    terms: Mapping[str, tuple[Term, Parts]]
    problem: Problem
    start: State
    scales: Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """id; since: the first mode that asks it (basic, flexible, strict); severity in that mode and, where different, in strict; numerical:
    AFS_NUMERICAL_WARNINGS=error makes it an error."""

    id: str
    since: Mode
    severity: Severity
    strict: Severity
    numerical: bool
    ask: Callable[[Any], Iterator[Complaint]]


SPEC_RULES: list[Rule] = []
PROBLEM_RULES: list[Rule] = []


def rule(
    id: str, since: Mode, severity: Severity, *, strict: Severity | None = None, numerical: bool = False, built: bool = False
) -> Callable[[Callable[[Any], Iterator[Complaint]]], Callable[[Any], Iterator[Complaint]]]:
    """Enters a rule into the table."""

    def enter(ask: Callable[[Any], Iterator[Complaint]]) -> Callable[[Any], Iterator[Complaint]]:
        (PROBLEM_RULES if built else SPEC_RULES).append(Rule(id, since, severity, strict or severity, numerical, ask))
        return ask

    return enter


def mode_of(asked: str | None) -> Mode:
    """The mode asked for, or that of the environment, or "flexible"."""
    name = asked or os.environ.get(VALIDATION) or "flexible"
    for mode in MODES:
        if mode == name:
            return mode
    raise FlowInputError(f"the validation mode is {name!r}; it must be one of {', '.join(MODES)}")


def lint_spec(spec: FlowSpec, mode: Mode = "flexible") -> list[Finding]:
    """What the description alone shows."""
    if mode != "expert":
        wrong = [Finding("spec.schema", "error", *told) for told in malformed(spec)]
        if wrong:
            return wrong
    return _asked(SPEC_RULES, spec, mode)


def lint_problem(built: Built, mode: Mode) -> list[Finding]:
    """What the built operators and the energy at the start show."""
    return _asked(PROBLEM_RULES, built, mode)


def raise_errors(findings: list[Finding]) -> None:
    """Raises SpecLintFailed if there are errors among the findings."""
    if any(finding.severity == "error" for finding in findings):
        raise SpecLintFailed(findings)


def _asked(rules: list[Rule], subject: Any, mode: Mode) -> list[Finding]:
    if mode == "expert":
        return []
    harsh = os.environ.get(NUMERICAL_WARNINGS) == "error"
    found = []
    for each in rules:
        if MODES.index(each.since) > MODES.index(mode):
            continue
        severity = each.strict if mode == "strict" else each.severity
        severity = "error" if each.numerical and harsh else severity
        found += [Finding(each.id, severity, *complaint) for complaint in each.ask(subject)]
    return found


def _named(spec: FlowSpec) -> Iterator[tuple[str, Term]]:
    for name, term in zip(spec.term_names(), spec.terms, strict=True):
        yield f"the term {name}", term


@rule("spec.version", "basic", "error")
def _version(spec: FlowSpec) -> Iterator[Complaint]:
    if str(spec.spec_version).split(".")[0] != "1":
        yield Complaint("the spec", f"its version is {spec.spec_version!r}, and this runtime reads 1.x", "write it in version 1")


@rule("spec.dtype", "basic", "error")
def _dtype(spec: FlowSpec) -> Iterator[Complaint]:
    if spec.dtype not in ADJOINT_TOLERANCE:
        yield Complaint("the spec", f"its dtype is {spec.dtype!r}", "take one of " + ", ".join(ADJOINT_TOLERANCE))


@rule("spec.size", "basic", "error")
def _size(spec: FlowSpec) -> Iterator[Complaint]:
    if not 1 <= len(spec.terms) <= 50:
        yield Complaint("the spec", f"it has {len(spec.terms)} terms", "give 1 to 50")
    if not spec.slots:
        yield Complaint("the spec", "it has no slots", "give at least one variable")
    if not 1 <= len(spec.name) <= 100:
        yield Complaint("the spec", f"its name has {len(spec.name)} characters", "give 1 to 100")
    if spec.slots and not any(slot.role in ("variable", "momentum") for slot in spec.slots.values()):
        yield Complaint("the spec", "none of its slots may move", 'give one the role "variable"')
    names = spec.term_names()
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Complaint(f"the term {name}", "several terms have this name", "give each its own")


@rule("slot.shape", "basic", "error")
def _shapes(spec: FlowSpec) -> Iterator[Complaint]:
    for name, slot in spec.slots.items():
        where = f"the slot {name}"
        if slot.shape is None and slot.value is None:
            yield Complaint(where, "it has neither a shape nor a value", "give one of them")
            continue
        shape = spec.shape_of(name)
        if len(shape) > 4 or any(side <= 0 for side in shape):
            yield Complaint(where, f"its shape is {shape}", "give 1 to 4 sides, each above 0")
        if slot.shape is not None and slot.value is not None and np.shape(slot.value) != shape:
            yield Complaint(where, f"its shape is {shape} and its value has shape {np.shape(slot.value)}", "leave the shape out")
        if slot.role not in ("variable", "data", "parameter", "momentum"):
            yield Complaint(where, f"its role is {slot.role!r}", "take variable, data, parameter or momentum")


@rule("slot.finite", "basic", "error")
def _finite(spec: FlowSpec) -> Iterator[Complaint]:
    arrays = [(f"the slot {name}", slot.value) for name, slot in spec.slots.items()]
    arrays += [(where, term.target) for where, term in _named(spec) if not isinstance(term.target, str)]
    for where, value in arrays:
        if value is None:
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            yield Complaint(where, f"its values are of type {array.dtype}", "give real numbers")
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            yield Complaint(
                where, f"{count} of its {array.size} values are NaN or infinite", "remove them, or mask them out of the data term"
            )


@rule("term.finite", "basic", "error")
def _finite_parts(spec: FlowSpec) -> Iterator[Complaint]:
    cure = "remove them: a bound may be infinite, and nothing else"
    for where, term in _named(spec):
        op = None if isinstance(term.op, str) else term.op
        if missing := holes(term.params) + holes(op):
            yield Complaint(where, f"{missing} of the numbers in its params or its operator are NaN or infinite", cure)
    for name, described in spec.operators.items():
        if missing := holes(described):
            yield Complaint(f"the operator {name}", f"{missing} of its numbers are NaN or infinite", cure)


@rule("slot.dtype", "flexible", "warning", strict="error")
def _one_dtype(spec: FlowSpec) -> Iterator[Complaint]:
    for name, slot in spec.slots.items():
        dtype = getattr(slot.value, "dtype", None)
        if dtype is not None and np.dtype(dtype).kind == "f" and np.dtype(dtype).name != spec.dtype:
            yield Complaint(
                f"the slot {name}", f"its value is {np.dtype(dtype).name} and the flow computes in {spec.dtype}", "convert it first"
            )


@rule("term.atom", "basic", "error")
def _atoms(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        if term.type not in atoms.names():
            yield Complaint(where, f"there is no atom {term.type!r}", "take one of " + ", ".join(atoms.names()))


@rule("term.operator", "basic", "error")
def _operators(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        if isinstance(term.op, str) and term.op not in spec.operators:
            yield Complaint(where, f"its operator {term.op!r} is not in the spec's operators", "add it there, or give an Op")
        elif isinstance(term.op, Op) and term.op.kind not in operators.names():
            yield Complaint(where, f"there is no operator {term.op.kind!r}", "take one of " + ", ".join(operators.names()))
    for name, op in spec.operators.items():
        if isinstance(op, Op) and op.kind not in operators.names():
            yield Complaint(f"the operator {name}", f"there is no operator {op.kind!r}", "take one of " + ", ".join(operators.names()))


@rule("term.slot", "basic", "error")
def _slots(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        for slot in term.slots:
            if slot not in spec.slots:
                yield Complaint(where, f"its slot {slot!r} is not in the spec", f"the spec has {', '.join(spec.slots)}")
            elif spec.slots[slot].role not in ("variable", "momentum"):
                yield Complaint(
                    where, f"its slot {slot!r} has the role {spec.slots[slot].role}, and no step moves it", "make it the target"
                )
        if isinstance(term.target, str):
            if term.target not in spec.slots:
                yield Complaint(where, f"its target {term.target!r} is no slot of the spec", "add the slot, or give an array")
            elif spec.slots[term.target].role not in ("data", "parameter"):
                cure = "give it the role data, or couple the two by a term on both"
                yield Complaint(where, f"its target {term.target!r} is a variable, and a target stands still", cure)
            elif spec.slots[term.target].value is None:
                yield Complaint(where, f"its target {term.target!r} has no value", "give the slot its data")


@rule("term.weight", "basic", "error")
def _weights(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        if not (np.isfinite(term.weight) and term.weight > 0):
            yield Complaint(where, f"its weight is {term.weight!r}", "give a number above 0, or leave the term out")


@rule("pair.slots", "basic", "error")
def _pairs(spec: FlowSpec) -> Iterator[Complaint]:
    for q, p, mass in spec.pairs:
        where = f"the pair ({q}, {p})"
        if q not in spec.slots or p not in spec.slots:
            yield Complaint(where, "one of its slots is not in the spec", "declare both")
        elif spec.shape_of(q) != spec.shape_of(p) or spec.slots[p].role != "momentum":
            yield Complaint(where, "a momentum has the shape of its position and the role momentum", "declare it so")
        if not mass > 0:
            yield Complaint(where, f"its mass is {mass!r}", "give a number above 0")


@rule("invariant.checker", "basic", "error")
def _invariants(spec: FlowSpec) -> Iterator[Complaint]:
    for item in spec.invariants:
        if not callable(item.check):
            yield Complaint(f"the invariant {item.name}", "it has no checker", "give a function of the state")


@rule("frame.kind", "basic", "error")
def _frames(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        frame = term.params.get("frame")
        if frame is not None and frame not in ("unitary", "tight", "general"):
            yield Complaint(where, f"its frame is {frame!r}", "take unitary, tight or general")
        if frame == "tight" and not isinstance(term.params.get("c"), (int, float)):
            yield Complaint(where, "its frame is tight without a number c", "give c with W^T W = c I")


@rule("wavelet.levels", "basic", "error")
def _levels(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        levels = term.params.get("levels")
        if "wavelet" not in term.type or not isinstance(levels, int) or any(slot not in spec.slots for slot in term.slots):
            continue
        shape = spec.shape_of(term.slots[0])
        count = int(term.params.get("ndim") or len(shape))
        most = int(math.log2(max(1, min(shape[-count:])))) if shape else 0
        if not 1 <= levels <= most:
            yield Complaint(where, f"it has {levels} levels on sides {shape[-count:]}", f"give 1 to {most}")


@rule("slot.unused", "flexible", "warning")
def _unused(spec: FlowSpec) -> Iterator[Complaint]:
    used = {slot for term in spec.terms for slot in term.slots} | {term.target for term in spec.terms if isinstance(term.target, str)}
    used |= {slot for q, p, _ in spec.pairs for slot in (q, p)} | {slot for item in spec.couplings for slot in item.parts}
    for name in spec.slots:
        if name not in used:
            yield Complaint(f"the slot {name}", "no term uses it", "remove it, or add a term")


@rule("term.weight_range", "flexible", "warning", numerical=True)
def _weight_range(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        if 0 < term.weight < 1e-6 or term.weight > 1e6:
            yield Complaint(where, f"its weight is {term.weight:g}, outside [1e-6, 1e6]", "change the units of the data, or normalise=True")


@rule("term.units", "flexible", "warning", strict="error")
def _units(spec: FlowSpec) -> Iterator[Complaint]:
    declared = {where: term.units for where, term in _named(spec)}
    given = {units for units in declared.values() if units is not None}
    if not given:
        return
    for where, units in declared.items():
        if units is None:
            yield Complaint(where, "it has no units, and other terms do", "declare units on every term or on none")
    if len(given) > 1:
        yield Complaint("the sum of the terms", f"it adds {', '.join(sorted(given))}", "give all terms the same units, by their weights")


@rule("term.units_missing", "strict", "error")
def _units_missing(spec: FlowSpec) -> Iterator[Complaint]:
    if not any(term.units for term in spec.terms):
        yield Complaint("the spec", "no term declares its units", 'declare them, "1" where there are none')


@rule("device.float64", "flexible", "warning")
def _double_on_gpu(spec: FlowSpec) -> Iterator[Complaint]:
    if spec.dtype == "float64" and jax.default_backend() != "cpu":
        yield Complaint("the spec", f"it computes in float64 on a {jax.default_backend()}", "float32 is faster there by far")


@rule("term.nonconvex", "basic", "error", built=True)
def _convexity(built: Built) -> Iterator[Complaint]:
    for name, (_, parts) in built.terms.items():
        if not parts.phi.convex and not built.spec.allow_nonconvex:
            cure = "set allow_nonconvex=True if a local minimum will do"
            yield Complaint(f"the term {name}", "it is not convex", cure)


def _linear(name: str, op: Operator, real: np.dtype[Any]) -> Iterator[Complaint]:
    tolerance = ADJOINT_TOLERANCE[real.name]
    try:
        rng = np.random.default_rng(2)
        x, y = (rng.standard_normal(op.domain).astype(real) for _ in range(2))
        images = applied(op, x), applied(op, y), applied(op, 0.5 * x - 2.0 * y)
    except (TypeError, ValueError) as error:
        yield Complaint(f"the term {name}", f"its operator cannot be applied: {error}", "check its shapes")
        return
    if images[0].shape != op.codomain:
        yield Complaint(f"the term {name}", f"A x has shape {images[0].shape}, declared is {op.codomain}", "correct the declaration")
        return
    off = float(np.linalg.norm((images[2] - 0.5 * images[0] + 2.0 * images[1]).ravel()))
    size = float(np.linalg.norm(images[0].ravel()) + np.linalg.norm(images[1].ravel()))
    if not off <= tolerance * max(size, 1e-300) * 10:
        yield Complaint(f"the term {name}", f"its operator is not linear, A(ax+by) is off by {off:.2g}", "move constants to the target")
        return
    apart = adjoint_error(op, real)
    if not apart <= tolerance * math.sqrt(max(math.prod(op.domain), 1)):
        yield Complaint(f"the term {name}", f"<Ax, y> and <x, A^T y> differ by {apart:.2g}", "correct rmatvec, or leave it out")


@rule("operator.adjoint", "flexible", "error", built=True)
def _adjoint_of_own(built: Built) -> Iterator[Complaint]:
    """Operators of which nothing is known, such as functions of the user; in strict mode all are tested, by the next rule."""
    for name, (term, parts) in built.terms.items():
        if _unknown(parts.op) and len(term.slots) == 1:
            yield from _linear(name, parts.op, np.dtype(built.spec.dtype))


@rule("operator.adjoint_all", "strict", "error", built=True)
def _adjoint_of_all(built: Built) -> Iterator[Complaint]:
    for name, (term, parts) in built.terms.items():
        if not _unknown(parts.op) and parts.op.structure != "identity" and len(term.slots) == 1:
            yield from _linear(name, parts.op, np.dtype(built.spec.dtype))


def _unknown(op: Operator) -> bool:
    # Of our transforms the frame is known, and with it W^T W; to apply a large one seven times would cost more than all other rules.
    ours = isinstance(op, TransformOp) and type(op).__module__.startswith(f"{__package__}.")
    return op.structure == "general" and not ours


@rule("energy.steep", "flexible", "warning", numerical=True, built=True)
def _steep(built: Built) -> Iterator[Complaint]:
    size = float(_slope(built.problem, built.start))
    if not np.isfinite(size):
        yield Complaint("the energy", "its gradient is not finite where the flow starts", "start inside the domain")
    elif size > STEEP:
        yield Complaint("the energy", f"||grad f|| is {size:.3g} where the flow starts", "scale the data, or start nearer")


@rule("energy.flat", "flexible", "warning", built=True)
def _flat(built: Built) -> Iterator[Complaint]:
    if built.problem.manifolds:
        return
    size = float(_slope(built.problem, built.start))
    if any(np.any(np.asarray(piece)) for piece in built.start.values()):
        # Near a minimum it is small whatever the units; at 0 it tells the size of the data.
        size = max(size, float(_slope(built.problem, {slot: jnp.zeros_like(piece) for slot, piece in built.start.items()})))
    if 0 < size < FLAT:
        message = f"||grad f|| is {size:.3g} where the flow starts and at 0, and the residual is relative to it only above 1"
        yield Complaint("the energy", message, f"scale the data so that it is about 1, or take a tol of about {1e-6 * size:.0e}")


@jax.jit
def _slope(problem: Problem, x: State) -> jax.Array:
    """||grad f||."""
    pieces = problem.f_grad(x).values()
    return jnp.sqrt(sum((jnp.vdot(piece, piece) for piece in pieces), start=jnp.zeros(())))


@rule("energy.scales", "flexible", "warning", numerical=True, built=True)
def _scales(built: Built) -> Iterator[Complaint]:
    scales = {name: scale for name, scale in built.scales.items() if scale > 1e-8}
    if scales and max(scales.values()) > FAR_APART * min(scales.values()):
        large, small = max(scales, key=lambda name: scales[name]), min(scales, key=lambda name: scales[name])
        message = f"{large} is {scales[large] / scales[small]:.2g} times {small} where the flow starts"
        yield Complaint("the energy", message, "weigh the terms, or normalise=True")
