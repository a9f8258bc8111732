"""Lenses that the compiler chooses: where a wavelet term names a policy in the place of its transform, the data decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np

from .atoms.base import Parts
from .errors import FlowInputError
from .operators.base import plain
from .readers import array
from .spec import FlowSpec, Term
from .transforms import LensPolicy, choose_lens, validation
from .transforms.base import TransformOp

MOST_VALIDATED = 64  # transforms whose figures are kept
FRAMES = ("unitary", "tight", "general")  # from the one that promises most


def with_lenses(spec: FlowSpec) -> tuple[FlowSpec, dict[str, dict[str, Any]]]:
    """The spec with a transform in the place of each policy, and by the names of those terms how it was chosen; in `precision`.

    A lens is chosen on the policy's own `calibration`, or where the slot starts if that is not 0, or on the data (a slot, or the target of
    a term) of its shape. Raises FlowInputError where none of these is there, or several are, and for the synthesis form."""
    terms, found = list(spec.terms), {}
    for number, (name, term) in enumerate(zip(spec.term_names(), spec.terms, strict=True)):
        policy = _policy(name, term)
        if policy is not None:
            if term.params.get("form") == "synthesis":
                raise FlowInputError(
                    f"the term {name}: its variable holds coefficients, for which other terms name the transform too; choose it first, "
                    "choose_lens(policy, data).described, and give it to all"
                )
            lens = choose_lens(policy, _data(spec, name, term, policy))
            terms[number] = replace(term, params={**term.params, "transform": lens.described})
            found[name] = lens.report
    return (replace(spec, terms=terms), found) if found else (spec, found)


def _policy(name: str, term: Term) -> LensPolicy | None:
    given = term.params.get("transform")
    if isinstance(given, str):
        raise FlowInputError(f"the term {name}: its transform is {given!r:.60}; give an operator, as Op({given!r:.60}), or a LensPolicy")
    if isinstance(given, Mapping):  # as it comes from other languages
        known = [one.name for one in fields(LensPolicy)]
        for key in given:
            if key not in known:
                raise FlowInputError(f"the term {name}: a policy of lenses has no {key!r}; it has {', '.join(known)}")
        named: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        given = LensPolicy(**named)
    return given if isinstance(given, LensPolicy) else None


def _data(spec: FlowSpec, name: str, term: Term, policy: LensPolicy) -> Any:
    if policy.calibration is not None:
        return array(policy.calibration, f"the term {name}: the calibration of its lenses")
    slot = term.slots[0]
    shape, value = spec.shape_of(slot), spec.slots[slot].value
    if value is not None and np.any(np.asarray(value)):
        return value
    given = {at: data.value for at, data in spec.slots.items() if data.role == "data" and data.value is not None}
    targets = {f"the target of {at}": one.target for at, one in zip(spec.term_names(), spec.terms, strict=True)}
    given |= {at: target for at, target in targets.items() if target is not None and not isinstance(target, str)}
    likely = {at: data for at, data in given.items() if np.shape(data) == shape}
    if len(likely) == 1:
        return next(iter(likely.values()))
    told = f"there are {len(likely)} data of its shape {shape}" + (f" ({', '.join(likely)})" if likely else "")
    raise FlowInputError(f"the term {name}: on which data its lens is to be chosen is not clear, {told}; give LensPolicy(calibration=...)")


def transforms_of(terms: Mapping[str, tuple[Term, Parts]]) -> dict[str, TransformOp]:
    """The transforms by the names of the terms that look through them."""
    found = {}
    for name, (_, parts) in terms.items():
        for leaf in jax.tree.leaves(parts.op, is_leaf=lambda at: isinstance(at, TransformOp)):
            if isinstance(leaf, TransformOp):
                found[name] = leaf
    return found


def weakest_frame(transforms: Mapping[str, TransformOp]) -> tuple[str, float]:
    """The kind of the frame that promises least, and its c; of no transform, that of pixels."""
    found = sorted(transforms.values(), key=lambda made: FRAMES.index(made.frame))
    return (found[-1].frame, found[-1].c) if found else ("unitary", 1.0)


_VALIDATED: dict[str, dict[str, Any]] = {}


def validated(transforms: Mapping[str, TransformOp], dtype: str) -> dict[str, Any]:
    """For the manifest: {"validation": by term what `transforms.validation` measures of its transform}, {} of a flow without any. Each
    transform is measured once in a process; in `precision`."""
    found = {}
    for name, transform in transforms.items():
        key = json.dumps([type(transform).__name__, transform.record(), plain(jax.tree.leaves(transform)), list(transform.domain), dtype])
        if key not in _VALIDATED:
            if len(_VALIDATED) >= MOST_VALIDATED:
                _VALIDATED.clear()
            _VALIDATED[key] = validation(transform, probes=2)
        found[name] = _VALIDATED[key]
    return {"validation": found} if found else {}
