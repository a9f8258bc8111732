"""The rules that ask what the description of a spec alone can answer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from numpy.typing import ArrayLike

from . import atoms, manifolds, operators
from .errors import FlowInputError
from .operators.base import Op, Operator
from .precision import DTYPES, precision
from .rules import Complaint, rule
from .schema import holes, masked
from .spec import GROUPS, Coupling, FlowSpec, Term
from .transforms.base import usual_axes


def _named(spec: FlowSpec) -> Iterator[tuple[str, Term]]:
    for name, term in zip(spec.term_names(), spec.terms, strict=True):
        yield f"the term {name}", term


def _coupled(spec: FlowSpec) -> Iterator[tuple[str, Coupling]]:
    for number, coupling in enumerate(spec.couplings):
        yield f"the coupling {coupling.name or number}", coupling


@rule("spec.version", "basic", "error")
def _version(spec: FlowSpec) -> Iterator[Complaint]:
    if str(spec.spec_version).split(".")[0] != "1":
        yield Complaint("the spec", f"its version is {spec.spec_version!r}, and this runtime reads 1.x", "write it in version 1")


@rule("spec.dtype", "basic", "error")
def _dtype(spec: FlowSpec) -> Iterator[Complaint]:
    if spec.dtype not in DTYPES:
        yield Complaint("the spec", f"its dtype is {spec.dtype!r}", "take one of " + ", ".join(DTYPES))


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


@rule("slot.size", "basic", "error")
def _sizes(spec: FlowSpec) -> Iterator[Complaint]:
    """Of slots that start at 0: an array that is given has been held already."""
    shapes = {name: spec.shape_of(name) for name, slot in spec.slots.items() if slot.value is None and slot.shape is not None}
    width = 4 if spec.dtype == "float32" else 8
    sizes = {name: width * math.prod(max(0, side) for side in shape) for name, shape in shapes.items()}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(sizes.values()) > memory:
        largest = max(sizes, key=lambda name: sizes[name])
        told = (
            f"its shape is {shapes[largest]}, {sizes[largest] / 2**30:.3g} GiB, and the machine has {memory / 2**30:.3g} GiB for all slots"
        )
        yield Complaint(f"the slot {largest}", told, "give a smaller shape, or float32 where it is float64")


@rule("slot.manifold", "basic", "error")
def _manifolds(spec: FlowSpec) -> Iterator[Complaint]:
    for name, slot in spec.slots.items():
        if slot.manifold == "euclidean" or spec.dtype not in DTYPES or (slot.shape is None and slot.value is None):
            continue
        try:
            with precision(spec.dtype) as real:
                manifolds.build(slot.manifold, spec.shape_of(name), real)
        except FlowInputError as error:
            said, _, cure = str(error).rpartition("; ")
            yield Complaint(f"the slot {name}", said or cure, cure if said else "give a name, or a name with its parameters")


def _held(array: ArrayLike, dtype: str) -> bool:
    """Whether all finite numbers stay finite in the type of the flow."""
    return dtype != "float32" or bool(np.all(np.abs(np.asarray(array, np.float64)) <= np.finfo(np.float32).max))


@rule("slot.finite", "basic", "error")
def _finite(spec: FlowSpec) -> Iterator[Complaint]:
    arrays = [(f"the slot {name}", slot.value) for name, slot in spec.slots.items()]
    arrays += [(where, term.target) for where, term in _named(spec) if not isinstance(term.target, str)]
    arrays += [(where, coupling.target) for where, coupling in _coupled(spec)]
    for where, value in arrays:
        if value is None:
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            yield Complaint(where, f"its values are of type {array.dtype}", "give real numbers")
        elif array.dtype.kind in "iuf" and np.isfinite(array).all() and not _held(array, spec.dtype):
            told = f"its largest value is {np.abs(array.astype(np.float64)).max():.3g}, which {spec.dtype} cannot hold"
            yield Complaint(where, told, "scale the data, or compute in float64")
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
    for where, coupling in _coupled(spec):
        for slot, part in coupling.parts.items():
            if missing := holes(part, infinite=True):
                yield Complaint(where, f"{missing} of the numbers in its part of {slot!r} are NaN or infinite", "give finite ones")


@rule("spec.masked", "basic", "error")
def _masked(spec: FlowSpec) -> Iterator[Complaint]:
    """Of a masked array the numbers under the mask would be taken like all others."""
    parts: list[tuple[str, str, object]] = [(f"the slot {name}", "its value", slot.value) for name, slot in spec.slots.items()]
    for where, term in _named(spec):
        parts += [(where, "its target", term.target), (where, "its params", term.params), (where, "its operator", term.op)]
    parts += [(f"the operator {name}", "its parameters", op) for name, op in spec.operators.items()]
    for where, coupling in _coupled(spec):
        parts += [(where, "its target", coupling.target), (where, "its parts", coupling.parts)]
    for where, what, value in parts:
        if count := masked(value):
            cure = "give values.filled(0), and leave what is masked out of the data term by Op('mask', keep=~values.mask)"
            yield Complaint(where, f"{count} of the numbers in {what} are masked, and a flow knows no masked arrays", cure)


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
    described: list[tuple[str, object]] = [(where, term.op) for where, term in _named(spec)]
    described += [(f"the operator {name}", op) for name, op in spec.operators.items()]
    described += [(where, part) for where, coupling in _coupled(spec) for part in coupling.parts.values()]
    for where, term in _named(spec):
        if isinstance(term.op, str) and term.op not in spec.operators:
            yield Complaint(where, f"its operator {term.op!r} is not in the spec's operators", "add it there, or give an Op")
    for where, op in described:
        if isinstance(op, Op) and op.kind not in operators.names():
            yield Complaint(where, f"there is no operator {op.kind!r}", "take one of " + ", ".join(operators.names()))


def _unmoved(spec: FlowSpec, where: str, slots: Iterable[str], cure: str) -> Iterator[Complaint]:
    """Slots that are not there, or that no step moves."""
    for slot in slots:
        if slot not in spec.slots:
            yield Complaint(where, f"its slot {slot!r} is not in the spec", f"the spec has {', '.join(spec.slots)}")
        elif spec.slots[slot].role not in ("variable", "momentum"):
            yield Complaint(where, f"its slot {slot!r} has the role {spec.slots[slot].role}, and no step moves it", cure)


@rule("coupling.slot", "basic", "error")
def _coupled_slots(spec: FlowSpec) -> Iterator[Complaint]:
    for where, coupling in _coupled(spec):
        yield from _unmoved(spec, where, coupling.parts, "put it in the target")


@rule("coupling.factor", "basic", "error")
def _factors(spec: FlowSpec) -> Iterator[Complaint]:
    """Solvers go by ||K||^2: a factor must leave room for its square."""
    most = math.sqrt(np.finfo("float32" if spec.dtype == "float32" else "float64").max) / 10
    for where, coupling in _coupled(spec):
        for slot, part in coupling.parts.items():
            if not isinstance(part, (Op, Operator)) and np.isfinite(part) and abs(part) > most:
                told = f"its part of {slot!r} is {part!r}, whose square {spec.dtype} cannot hold"
                yield Complaint(where, told, f"divide the coupling by it: factors are at most {most:.0e}")


@rule("term.slot", "basic", "error")
def _slots(spec: FlowSpec) -> Iterator[Complaint]:
    for where, term in _named(spec):
        yield from _unmoved(spec, where, term.slots, "make it the target")
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
        elif not _held(term.weight, spec.dtype):
            yield Complaint(where, f"its weight is {term.weight!r}, which {spec.dtype} cannot hold", "take a smaller one, or float64")


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


@rule("invariant.kind", "basic", "error")
def _kinds_of_invariants(spec: FlowSpec) -> Iterator[Complaint]:
    """What is neither would be held at 0, and of two with one name each would be measured against the reference of the last."""
    names = [item.name for item in spec.invariants]
    for item in spec.invariants:
        where = f"the invariant {item.name}"
        if item.kind not in ("conserved", "constraint"):
            yield Complaint(where, f"its kind is {item.kind!r}", "take conserved or constraint")
        for field in ("absolute", "relative"):
            if not 0 <= getattr(item, field) < math.inf:
                yield Complaint(where, f"its {field} is {getattr(item, field)!r}", "give a finite number, 0 or more")
        if names.count(item.name) > 1:
            yield Complaint(where, "several invariants have this name", "give each its own")


@rule("term.group", "basic", "error")
def _groups(spec: FlowSpec) -> Iterator[Complaint]:
    """Of a group of another name no residual would be looked at, but of other terms."""
    for where, term in _named(spec):
        if term.group not in (None, *GROUPS):
            yield Complaint(where, f"its group is {term.group!r}", "take " + ", ".join(GROUPS) + ", or none")


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
        count = term.params.get("ndim") or usual_axes(shape)
        sides = shape[-int(count) :]
        most = int(math.log2(max(1, min(sides)))) if sides else 0
        if not 1 <= levels <= most:
            yield Complaint(where, f"it has {levels} levels on sides {sides}", f"give 1 to {most}")


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
