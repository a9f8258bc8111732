"""Atoms: every row of the table is built from a description, has the energy of its formula, and says what is wrong with bad parameters."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow import atoms
from bridge_adapter.kernels.flow.atoms.base import Asked, Parts, take_apart
from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions import LineVariation, Orthogonality, Poisson, Variation, through
from bridge_adapter.kernels.flow.operators.base import Op, names
from bridge_adapter.kernels.flow.precision import precision

rng = np.random.default_rng(5)
REAL = np.dtype("float64")
X, XX, V = rng.uniform(0.2, 1.5, 6), rng.uniform(0.2, 1.5, (4, 3)), rng.normal(size=(2, 4, 4))
B = rng.uniform(0.2, 2.0, 6)
SIGNS = np.where(rng.random(6) < 0.5, -1.0, 1.0)
M = rng.normal(size=(6, 6))
EDGES, ARCS = np.array([[0, 1], [1, 4], [5, 2]]), np.array([1.0, 0.5, 2.0])
W = 0.7


def part(kind: str, *values: np.ndarray, weight: float = W, target: object = None, op: Op | None = None, **params: object) -> Parts:
    return take_apart(kind, Asked("t", tuple(value.shape for value in values), weight, target, op, REAL), params)


@pytest.fixture(autouse=True)
def _double():  # type: ignore[no-untyped-def]
    with precision("float64"):
        yield


def grad(x: np.ndarray) -> np.ndarray:
    return np.stack([np.diff(x, axis=a, append=np.take(x, [-1], a)) for a in range(x.ndim)])


def lap(x: np.ndarray) -> np.ndarray:
    p = np.pad(x, 1)
    return p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4 * x


def ahead(x: np.ndarray, axis: int) -> np.ndarray:
    return np.roll(x, -1, axis) - x


def norm(x: np.ndarray) -> float:
    return float(np.sum(np.asarray(x) ** 2))


# name, variables, what else the term has, the energy that the formula gives
DENSE = Op("dense", matrix=M)
ENERGIES = [
    ("quadratic", (X,), {"op": DENSE, "target": B}, W / 2 * norm(M @ X - B)),
    ("weighted_ls", (X,), {"target": B, "scale": B}, W / 2 * norm(B * (X - B))),
    ("tikhonov", (X,), {"op": DENSE}, W / 2 * norm(M @ X)),
    ("huber", (X,), {"target": B, "kappa": 0.2}, W * sum(r * r / 2 if r <= 0.2 else 0.2 * r - 0.02 for r in abs(X - B))),
    ("l1_data", (X,), {"op": DENSE, "target": B}, W * np.sum(abs(M @ X - B))),
    ("poisson", (X,), {"target": B, "background": 0.3}, W * np.sum(X + 0.3 - B * np.log(X + 0.3))),
    ("logistic", (X,), {"target": SIGNS}, W * np.sum(np.log(1 + np.exp(-SIGNS * X)))),
    ("l1", (X,), {}, W * np.sum(abs(X))),
    ("weighted_l1", (X,), {"weights": B}, W * np.sum(B * abs(X))),
    (
        "group_l1",
        (X,),
        {"groups": np.array([0, 0, 1, 1, 1, 2]), "weights": [1.0, 2, 3]},
        W * sum(c * norm(g) ** 0.5 for c, g in zip([1, 2, 3], np.split(X, [2, 5]), strict=True)),
    ),
    ("group_l1", (X,), {"groups": [[0, 1, 2], [2, 3]]}, W * (norm(X[:3]) ** 0.5 + norm(X[2:4]) ** 0.5)),
    ("elastic_net", (X,), {"ridge": 0.4}, W * (np.sum(abs(X)) + 0.2 * norm(X))),
    ("tv", (X,), {}, W * np.sum(abs(np.diff(X)))),
    ("tv", (XX,), {}, W * np.sum(np.sqrt(np.sum(grad(XX) ** 2, axis=0)))),
    ("tv", (XX,), {"isotropic": False}, W * np.sum(abs(grad(XX)))),
    ("tv", (XX,), {"prox": "inner"}, W * np.sum(np.sqrt(np.sum(grad(XX) ** 2, axis=0)))),
    ("tv2", (XX,), {}, W * (np.sum(abs(np.diff(XX, 2, 0))) + np.sum(abs(np.diff(XX, 2, 1))))),
    ("trend", (X,), {}, W * np.sum(abs(np.diff(X, 2)))),
    ("sobolev", (XX,), {}, W * norm(grad(XX))),
    ("biharmonic", (XX,), {"boundary": "dirichlet"}, W * norm(lap(XX))),
    ("nuclear", (XX,), {}, W * np.sum(np.linalg.svd(XX)[1])),
    ("graph_dirichlet", (X,), {"edges": EDGES, "weights": ARCS}, W * np.sum(ARCS * (X[EDGES[:, 0]] - X[EDGES[:, 1]]) ** 2)),
    ("graph_tv", (X,), {"edges": EDGES, "weights": ARCS}, W * np.sum(ARCS * abs(X[EDGES[:, 0]] - X[EDGES[:, 1]]))),
    ("entropy", (X,), {}, W * np.sum(X * np.log(X))),
    ("entropy", (X,), {"total": 3.0}, W * np.sum(X * np.log(X))),
    ("log_barrier", (X,), {}, -W * np.sum(np.log(X))),
    ("coupling", (X, B), {"left": DENSE}, W / 2 * norm(M @ X - B)),
    ("coupling_l1", (X, B), {"right": DENSE}, W * np.sum(abs(X - M @ B))),
    ("consensus", (X, B), {}, W / 2 * norm(X - B)),
    ("orthogonality", (XX,), {}, W * norm(XX.T @ XX - np.eye(3))),
    ("laplace_residual", (XX,), {"target": np.ones((4, 3))}, W * norm(lap(XX) - 1)),
    (
        "heat_residual",
        (V[0],),
        {"kappa": 0.3, "boundary": "periodic"},
        W * norm(V[0][1:] - V[0][:-1] - 0.3 * (np.roll(ahead(V[0], 1), 1, 1) * -1 + ahead(V[0], 1))[:-1]),
    ),
    ("divergence_residual", (V,), {}, W * norm(ahead(V[0], 0) + ahead(V[1], 1))),
    ("curl_residual", (V,), {}, W * norm(ahead(V[1], 0) - ahead(V[0], 1))),
    ("function", (X,), {"of": lambda x, c: jnp.sum(jnp.cos(c * x)), "arguments": {"c": 2.0}}, W * np.sum(np.cos(2 * X))),
    ("function", (X, B), {"of": lambda xs: jnp.vdot(*xs)}, W * X @ B),
]

# name, variable, what else the term has, a point inside, a point outside
SETS = [
    ("box", X, {"lower": 0.0, "upper": B}, B / 2, -X),
    ("nonnegative", X, {}, X, -X),
    ("l2_ball", X, {"radius": 0.5, "target": B}, B + 0.1, B + 1),
    ("l1_ball", X, {"radius": 1.0}, X / 20, X),
    ("simplex", X, {"total": 2.0}, 2 * X / X.sum(), X / X.sum()),
    ("simplex", XX, {"rows": True}, XX / XX.sum(1, keepdims=True), XX / XX.sum()),
    ("knapsack", X, {"costs": B, "budget": 1.0}, X * 0, X * 0 + 1),
    ("affine", X, {"op": Op("dense", matrix=M[:3]), "target": M[:3] @ B}, B, B + 1),
    ("affine", X, {"op": Op("dense", matrix=M[:3]), "target": M[:3] @ B, "nonnegative": True}, B, B + 1),
    ("rate_limit", X, {"limit": 0.5}, np.linspace(0, 1, 6), np.linspace(0, 9, 6)),
]


# One compilation for each atom, its weights together.
VALUE = jax.jit(lambda op, phi, x: phi.value(op.matvec(x)))
MEASURED = jax.jit(lambda op, phi, x: (phi.value(op.matvec(x)), phi.distance(op.matvec(x))))


@pytest.mark.parametrize(("kind", "values", "rest", "energy"), ENERGIES, ids=[f"{row[0]}-{number}" for number, row in enumerate(ENERGIES)])
def test_an_atom_has_the_energy_of_its_formula_and_is_linear_in_its_weight(kind, values, rest, energy) -> None:  # type: ignore[no-untyped-def]
    x = jnp.asarray(values[0]) if len(values) == 1 else tuple(jnp.asarray(value) for value in values)
    for weight in (W, 2 * W):
        op, phi = part(kind, *values, weight=weight, **rest)
        assert_allclose(VALUE(op, phi, x), energy * weight / W, rtol=1e-12)
    assert phi.smooth or phi.proximable
    assert phi.convex == (kind not in ("orthogonality", "function"))


@pytest.mark.parametrize(("kind", "x", "rest", "inside", "outside"), SETS, ids=[f"{row[0]}-{number}" for number, row in enumerate(SETS)])
def test_an_atom_of_a_set_measures_the_distance_to_it(kind, x, rest, inside, outside) -> None:  # type: ignore[no-untyped-def]
    op, phi = part(kind, x, **rest)
    (value, near), (_, far) = (MEASURED(op, phi, point) for point in (inside, outside))
    assert float(value) == 0
    assert float(near) < 1e-12
    assert float(far) > 1e-3


def test_every_atom_of_the_table_is_tested_and_documented() -> None:
    ours = {row[0] for row in ENERGIES} | {row[0] for row in SETS}
    elsewhere = {name for name in atoms.names() if "wavelet" in name or "frame" in name}
    assert set(atoms.names()) - elsewhere == ours
    page = (Path(__file__).parents[2] / "docs" / "flow" / "energies.md").read_text()
    described = set(re.findall(r"^\| `(\w+)`", page, re.M))
    assert ours <= described
    assert {"dense", "sparse", "differences", "parallel_projection", "matvec", "stack"} <= described & set(names())


def test_total_variation_takes_the_form_that_its_solver_is_best_with() -> None:
    assert isinstance(part("tv", X).phi, LineVariation)
    assert part("tv", XX).op.structure == "stencil"
    assert isinstance(part("tv", XX, prox="inner").phi, Variation)
    assert part("tv", X, prox="composite").op.structure == "stencil"
    for axis in (0, 1):
        phi = part("tv", XX, axes=axis).phi
        assert isinstance(phi, LineVariation) and phi.axis == axis - 2
    with pytest.raises(FlowInputError, match="exact prox along one axis"):
        part("tv", XX, prox="exact")


def test_functions_behind_operators_get_a_closed_prox_where_there_is_one() -> None:
    picked = part("l1", X, op=Op("subsample", step=2))
    blurred = part("quadratic", X, op=Op("gaussian_blur", sigma=1.0), target=B)
    for op, phi in (picked, blurred):
        closed = through(op, phi, REAL)
        assert closed is not None
        z = np.asarray(jax.jit(closed.prox)(X, 0.6).point)
        value = jax.jit(closed.value)
        for _ in range(5):
            other = z + 0.1 * rng.normal(size=6)
            assert value(z) + norm(z - X) / 1.2 <= value(other) + norm(other - X) / 1.2
    assert through(*part("tv2", X), REAL) is None
    assert isinstance(through(*part("poisson", X, target=B), REAL), Poisson)
    assert isinstance(part("orthogonality", XX).phi, Orthogonality)


BAD = [
    ("nonesuch", {}, "there is no atom 'nonesuch'"),
    ("l1", {"strength": 1.0}, "no parameter 'strength'"),
    ("weighted_ls", {"target": B}, "needs the parameter 'scale'"),
    ("quadratic", {"target": B[:2]}, "target has shape"),
    ("l1_data", {}, "needs a target"),
    ("tikhonov", {"target": B}, "use quadratic"),
    ("poisson", {"target": -B}, "counts must be 0 or more"),
    ("logistic", {"target": B}, r"\+1 and -1"),
    ("huber", {"kappa": 0.0}, "above 0"),
    ("group_l1", {"groups": [["a"]]}, "array of labels"),
    ("nuclear", {}, "of matrices"),
    ("box", {"lower": 1.0, "upper": 0.0}, "no x is in the box"),
    ("box", {"lower": np.nan}, "one number"),
    ("knapsack", {"costs": 1.0, "budget": -1.0}, "above the budget"),
    ("affine", {"target": B}, "needs an operator"),
    ("affine", {"op": Op("dense", matrix=np.ones((2, 6))), "target": np.array([0.0, 1.0])}, "no x satisfies"),
    ("tv", {"prox": "magic"}, "one of auto"),
    ("graph_tv", {"edges": [[0, 0]]}, "joins a node to itself"),
    ("coupling", {}, "give variable as a pair"),
    ("orthogonality", {}, "cannot be orthonormal"),
    ("function", {"of": lambda x: x}, "one number"),
    ("function", {"of": lambda x: x @ jnp.ones(2)}, "its function fails"),
]


@pytest.mark.parametrize(("kind", "rest", "message"), BAD, ids=[f"{row[0]}-{number}" for number, row in enumerate(BAD)])
def test_a_bad_parameter_is_refused_with_the_term_the_rule_and_the_remedy(kind, rest, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FlowInputError, match=message):
        part(kind, X, **rest)


def test_an_atom_of_one_variable_refuses_several() -> None:
    with pytest.raises(FlowInputError, match="use a coupling atom"):
        part("l1", X, B)
    with pytest.raises(FlowInputError, match="must be the same"):
        part("consensus", X, B[:3])


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flow" / "energies.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "energies.md", "exec"), {})
