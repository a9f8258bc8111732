"""Optax as a solver: gradient transformations for smooth energies, schedules of step, weight and temperature, and minibatches.

Its state is part of the run, so a training run is checkpointed, recorded and resumed like any other flow. Adaptive transformations promise
no descent; a slot with a prox takes it after the update, with the step `controls.alpha`, which is a proximal gradient step for plain sgd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..errors import FlowInputError
from ..problem import Problem, State
from .base import Controls, Metrics, Solver, norm

Schedule = Callable[[jax.Array], jax.Array]
Loss = Callable[[State, jax.Array], jax.Array]

# Transformations that can be asked for by name: of optax's own, those whose parameters are numbers.
NAMES = (
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "lamb",
    "lion",
    "nadam",
    "novograd",
    "radam",
    "rmsprop",
    "sgd",
    "yogi",
)


class Trained(NamedTuple):
    """The state: where the flow stands, the transformation's own state, the number of the next step, and the root of all randomness."""

    x: State
    inner: Any
    number: jax.Array
    key: jax.Array
    carries: dict[str, Any]
    metrics: Metrics


def transformation(name: str, params: Mapping[str, Any] | None = None) -> optax.GradientTransformation:
    """One of `NAMES` with its parameters; a parameter may be a schedule, as (name, {parameters}) of optax.schedules.

    Raises FlowInputError.
    """
    if name not in NAMES:
        raise FlowInputError(f"there is no transformation {name!r} by name; there are {', '.join(NAMES)}, or give the object itself")
    given = {key: schedule(*value) if isinstance(value, (tuple, list)) else value for key, value in (params or {}).items()}
    try:
        made: optax.GradientTransformation = getattr(optax, name)(**given)
    except TypeError as error:
        raise FlowInputError(f"optax.{name} cannot be built from {given}: {error}") from error
    return made


def schedule(name: str, params: Mapping[str, Any]) -> Schedule:
    """A schedule of optax by its name, such as "cosine_decay_schedule". Raises FlowInputError."""
    build = getattr(optax.schedules, name, None) if name.endswith("schedule") else None
    if build is None:
        raise FlowInputError(f"there is no schedule {name!r}; optax.schedules has cosine_decay_schedule, exponential_decay and others")
    try:
        made: Schedule = build(**params)
    except TypeError as error:
        raise FlowInputError(f"the schedule {name} cannot be built from {dict(params)}: {error}") from error
    return made


def optax_flow(
    given: optax.GradientTransformation | str,
    params: Mapping[str, Any] | None = None,
    *,
    loss: Loss | None = None,
    temperature: float | Schedule = 0.0,
    threshold: Schedule | None = None,
    seed: int = 0,
    every: int = 1,
) -> Solver:
    """A solver for `compile_flow(spec, solver=...)`.

    given: a transformation, or the name of one with `params`. loss: a stochastic part of the energy, loss(x, key), added to f; its key is
    fold_in(seed, step), so that a minibatch depends on the step alone and a resumed run draws the same. temperature: of Langevin noise
    sqrt(2 T alpha) xi added after each step, a number or a schedule; while it is above 0 the energy need not fall. threshold: multiplies
    the step of the prox (continuation in lambda). every: f itself is evaluated for the metrics only at each such step, the last known
    value stands in between.

    Make it once and keep it: a compiled block belongs to the object.
    """
    tool = transformation(given, params) if isinstance(given, str) else given
    heat: Schedule = temperature if callable(temperature) else lambda step: jnp.asarray(temperature)
    noisy = callable(temperature) or temperature > 0

    def init(problem: Problem, controls: Controls, x: State) -> Trained:
        key = jax.random.key_data(jax.random.key(seed))
        value = problem.f_value(x) + (loss(x, _key(key, jnp.int32(0))) if loss else 0.0)
        metrics = Metrics.standing(value, problem.g_value(x), controls.alpha)
        carries = {slot: term.begin(x[slot]) for slot, term in problem.prox.items()}
        return Trained(x, tool.init(x), jnp.int32(0), key, carries, metrics)

    def step(problem: Problem, controls: Controls, state: Trained) -> Trained:
        own = _key(state.key, state.number)

        def energy(x: State) -> jax.Array:
            return problem.f_value(x) + (loss(x, own) if loss else 0.0)

        before, slope = jax.value_and_grad(energy)(state.x)
        updates, inner = tool.update(slope, state.inner, state.x)
        x: State = optax.apply_updates(state.x, updates)
        if noisy:
            x = _shaken(x, jax.random.fold_in(own, 1), heat(state.number) * controls.alpha)
        alpha = controls.alpha if threshold is None else controls.alpha * threshold(state.number)
        nonsmooth = gap = jnp.zeros((), controls.alpha.dtype)
        carries: dict[str, Any] = {}
        for slot, term in problem.prox.items():
            made = term.prox(x[slot], alpha, state.carries[slot])
            x[slot], carries[slot] = made.point, made.carry
            nonsmooth, gap = nonsmooth + made.value, gap + made.gap
        due = (state.number + 1) % every == 0
        smooth = energy(x) if every == 1 else jax.lax.cond(due, energy, lambda _: before, x)
        grad_norm = norm(slope)
        moved = norm({slot: state.x[slot] - x[slot] for slot in x})
        residual = moved / (alpha * jnp.maximum(1, grad_norm)) if problem.prox else grad_norm
        values = (smooth + nonsmooth, smooth, nonsmooth, residual, grad_norm, gap, state.metrics.restarts, alpha, state.metrics.inertia)
        metrics = Metrics(*(jnp.asarray(value, controls.alpha.dtype) for value in values))
        return Trained(x, inner, state.number + 1, state.key, carries, metrics)

    return Solver("optax", init, step, "suspended")


def minibatch(data: Mapping[str, jax.Array], size: int, loss: Callable[[State, dict[str, jax.Array]], jax.Array]) -> Loss:
    """loss(x, key) on `size` rows of `data`, drawn without replacement by the key; arrays of `data` have the samples first."""
    count = next(iter(data.values())).shape[0]
    if not 1 <= size <= count:
        raise FlowInputError(f"the minibatch has {size} of {count} samples; take 1 to {count}")

    def drawn(x: State, key: jax.Array) -> jax.Array:
        rows = jax.random.choice(key, count, (size,), replace=False)
        return loss(x, {name: array[rows] for name, array in data.items()})

    return drawn


def _key(data: jax.Array, number: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.wrap_key_data(data), number)


def _shaken(x: State, key: jax.Array, heat: jax.Array) -> State:
    noise = {slot: jax.random.normal(jax.random.fold_in(key, i), at.shape, at.dtype) for i, (slot, at) in enumerate(sorted(x.items()))}
    return {slot: at + jnp.sqrt(jnp.asarray(2 * heat, at.dtype)) * noise[slot] for slot, at in x.items()}
