"""The prox of every atom, in its own coordinates and in those of frames, against brute force: nothing that is tried is lower."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Op, Slot, Term, atoms
from bridge_adapter.kernels.flow.functions import HalfSquare
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import ProxTerm
from bridge_adapter.kernels.flow.sorting import sort, take_apart

REAL = np.dtype("float64")
ROWS = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]])
PATH = np.array([[0, 1], [1, 2]])
LINE, PLANE = (3,), (2, 2)

# atom, shape of the variable, what else the term has
ATOMS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("l1", LINE, {}),
    ("l1_data", LINE, {"target": [1.0, -2.0, 0.5]}),
    ("weighted_l1", LINE, {"weights": [1.0, 0.0, 3.0]}),
    ("elastic_net", LINE, {"ridge": 0.5}),
    ("group_l1", LINE, {"groups": np.array([0, 0, 1])}),
    ("group_l1", LINE, {"groups": [[0, 1], [1, 2]]}),
    ("nuclear", PLANE, {}),
    ("tv", LINE, {}),
    ("tv", PLANE, {}),
    ("tv", PLANE, {"isotropic": False}),
    ("tv", PLANE, {"prox": "inner", "inner_steps": 500}),
    ("tv2", LINE, {}),
    ("trend", LINE, {}),
    ("graph_tv", LINE, {"edges": PATH}),
    ("wavelet_l1", LINE, {"threshold_approx": True}),
    ("poisson", LINE, {"target": [0.0, 1.0, 4.0], "background": 0.1}),
    ("entropy", LINE, {}),
    ("entropy", LINE, {"total": 2.0}),
    ("log_barrier", LINE, {}),
    ("box", LINE, {"lower": -0.5, "upper": [0.0, 1.0, np.inf]}),
    ("nonnegative", LINE, {}),
    ("l2_ball", LINE, {"radius": 1.0}),
    ("l1_ball", LINE, {"radius": 1.0}),
    ("simplex", LINE, {}),
    ("knapsack", LINE, {"costs": [1.0, 2.0, 0.5], "budget": 1.0}),
    ("affine", LINE, {"op": Op("dense", matrix=ROWS), "target": [1.0, 0.5]}),
    ("affine", LINE, {"op": Op("dense", matrix=ROWS), "target": [1.0, 0.5], "nonnegative": True, "inner_steps": 3000}),
    ("rate_limit", LINE, {"limit": 0.3}),
    ("quadratic", LINE, {"target": [1.0, -2.0, 0.5]}),
    ("weighted_ls", LINE, {"target": [1.0, -2.0, 0.5], "scale": [1.0, 0.0, 2.0]}),
    ("huber", LINE, {"kappa": 0.5}),
    ("logistic", LINE, {"target": [1.0, -1.0, 1.0]}),
]
# Half squares too, behind operators of their own.
SQUARES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("tikhonov", LINE, {}),
    ("sobolev", LINE, {}),
    ("biharmonic", LINE, {}),
    ("graph_dirichlet", LINE, {"edges": PATH}),
    ("laplace_residual", LINE, {}),
    ("heat_residual", PLANE, {"kappa": 0.3}),
    ("divergence_residual", (2, 2, 2), {}),
    ("curl_residual", (2, 2, 2), {}),
]
# Of several variables, or without a prox: their gradients are tested with the functions.
WITHOUT = {"coupling", "coupling_l1", "consensus", "orthogonality", "function"}

# l1 in the coordinates of a frame, of odd and of even sides; a redundant frame by its synthesis.
FRAMES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((5,), {"wavelet": "haar", "levels": 2}),
    ((3, 4), {"wavelet": "db2", "levels": 1}),
    ((5,), {"transform": Op("dct")}),
    ((3, 3), {"transform": Op("dft")}),
    ((4,), {"wavelet": "haar", "levels": 2, "sparsity": "tree"}),
    ((3, 4), {"wavelet": "haar", "levels": 1, "sparsity": "group_l1"}),
]
CASES = ATOMS + [("wavelet_l1", shape, params) for shape, params in FRAMES]


def of(kind: str, shape: tuple[int, ...], rest: dict[str, Any]) -> tuple[Any, tuple[int, ...]]:
    """What has the prox, and of arrays of which shape: the term of the slot, or phi where it stands behind its operator."""
    params = {name: value for name, value in rest.items() if name not in ("op", "target")}
    term = Term(kind, "x", weight=0.7, op=rest.get("op"), target=rest.get("target"), params=params)
    spec = FlowSpec({"x": Slot(shape=shape)}, [term])
    made, wrong = take_apart(spec, REAL)
    assert not wrong
    found = sort(spec, made, REAL).problem.prox
    (_, parts), *_ = made.values()
    return (found["x"], shape) if found else (parts.phi, parts.op.codomain)


@jax.jit
def evaluated(term: Any, vs: jax.Array, noise: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The proxes of many points; the objective of the first prox, that of everything that is tried, and how far from the set that is: all
    points between two of the proxes lie in the convex set where phi is finite, and small steps in all directions may."""

    def prox(v: jax.Array) -> jax.Array:
        return jnp.asarray(term.prox(v, tau, term.begin(v)).point)

    def objective(u: jax.Array) -> jax.Array:
        return term.value(u) + jnp.sum((u - vs[0]) ** 2) / (2 * tau)

    zs = jax.lax.map(prox, vs)
    z = zs[0]
    shares = jnp.asarray([1.0, 0.3, 0.1, 1e-2, 1e-3]).reshape(-1, 1, *[1] * z.ndim)
    towards = z + shares * (zs[1:] - z)
    anywhere = z + shares * noise
    tried = jnp.concatenate([towards, anywhere], axis=1).reshape(-1, *z.shape)
    return zs, objective(z), *jax.vmap(lambda u: (objective(u), term.distance(u)))(tried)


@pytest.mark.parametrize(("kind", "shape", "rest"), CASES, ids=[f"{row[0]}-{number}" for number, row in enumerate(CASES)])
def test_a_prox_is_firmly_nonexpansive_and_no_point_that_is_tried_is_lower(kind: str, shape: tuple[int, ...], rest: dict[str, Any]) -> None:
    with precision("float64"):
        term, of_shape = of(kind, shape, rest)
        exact = (term.phi if isinstance(term, ProxTerm) else term).exact
        vs, noise = np.random.default_rng(5).normal(scale=1.5, size=(2, 60, *of_shape))
        zs, least, others, off = (np.asarray(part) for part in evaluated(term, vs, noise, 0.8))
    loose = 1e-10 if exact else 1e-6
    inside = off < 1e-12
    assert inside.sum() >= 59  # more than the point itself was compared
    assert least <= np.min(others[inside]) + loose
    apart, given = (part[:30] - part[30:] for part in (zs, vs))
    axes = tuple(range(1, zs.ndim))
    assert np.all(np.sum(apart**2, axis=axes) <= np.sum(apart * given, axis=axes) + 10 * loose)


def test_every_atom_is_here_or_is_a_square_or_has_no_prox() -> None:
    with precision("float64"):
        assert all(isinstance(of(*row)[0], HalfSquare) for row in SQUARES)
    assert {row[0] for row in ATOMS + SQUARES} | WITHOUT == set(atoms.names())
