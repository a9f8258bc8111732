"""Operators are the matrices that they say: adjoints, norms, diagonals and shifted inverses, against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.functions.squares import HalfSquare
from bridge_adapter.kernels.flow.operators import spectra
from bridge_adapter.kernels.flow.operators.base import Op, Operator, build, names
from bridge_adapter.kernels.flow.operators.combined import beside, scaled
from bridge_adapter.kernels.flow.operators.convolution import gaussian_kernel
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.problem import SpectralSquare, smooth_term

rng = np.random.default_rng(11)
REAL = np.dtype("float64")
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])
SPARSE = scipy.sparse.random_array((5, 6), density=0.4, rng=np.random.default_rng(3))


def D(**params: object) -> Op:
    return Op("differences", **params)


CASES: list[tuple[Op, tuple[int, ...]]] = [
    (Op("identity"), (3,)),
    (Op("diagonal", entries=np.array([1.0, -2.0, 0.0])), (3,)),
    (Op("dense", matrix=rng.normal(size=(4, 6))), (2, 3)),
    (Op("mask", keep=np.array([True, False, True])), (3,)),
    (Op("subsample", step=(2, 1)), (5, 2)),
    (Op("subsample", indices=[4, 0, 2]), (2, 3)),
    (Op("sparse", matrix=SPARSE), (6,)),
    (Op("sparse", rows=[0, 1, 1, 0], columns=[0, 1, 1, 2], values=[1.0, 2.0, 3.0, 4.0], shape=(2, 4)), (2, 2)),
    (Op("incidence", edges=EDGES, factors=[1.0, 2.0, 0.5, 1.0, 3.0]), (4,)),
    (Op("graph_laplacian", edges=EDGES, weights=[1.0, 2.0, 0.5, 1.0, 3.0]), (4,)),
    (D(), (4, 3)),
    (D(axes=-1, boundary="periodic"), (2, 5)),
    (D(boundary="periodic", spacing=(1.0, 0.5)), (4, 3)),
    (D(boundary="dirichlet"), (3, 4)),
    (D(order=2, boundary="free"), (5, 4)),
    (D(order=2, boundary="neumann", axes=0, spacing=2.0), (9, 2)),
    (D(order=2, boundary="dirichlet"), (4, 3)),
    (D(order=2, boundary="periodic", axes=1), (2, 6)),
    (D(axes=0), (12,)),
    (Op("gradient", boundary="periodic"), (3, 2, 4)),
    (Op("laplacian", boundary="neumann", spacing=(1.0, 2.0)), (4, 3)),
    (Op("laplacian", boundary="periodic"), (5, 4)),
    (Op("laplacian", boundary="dirichlet", axes=1), (2, 6)),
    (Op("divergence"), (2, 4, 3)),
    (Op("divergence", boundary="neumann", spacing=0.5), (3, 2, 3, 2)),
    (Op("curl"), (2, 4, 4)),
    (Op("curl", boundary="neumann"), (3, 3, 2, 3)),
    (Op("heat_residual", kappa=0.3, interval=0.5), (4, 5)),
    (Op("heat_residual", kappa=2.0, boundary="periodic"), (3, 2, 3)),
    (Op("parallel_projection", angles=[0.0, 0.4, 1.2, 2.5]), (5, 4)),
    (Op("gaussian_blur", sigma=0.8), (4, 5)),
    (Op("scale", factor=-3.0), (3,)),
    (Op("scale", factor=2.0, of=Op("subsample", step=2)), (5,)),
    (Op("compose", of=(D(axes=0), Op("dense", matrix=rng.normal(size=(3, 4))))), (4,)),
    (Op("compose", of=(Op("subsample", step=2), Op("scale", factor=2.0))), (5,)),
    (Op("sum", of=(Op("identity"), Op("laplacian"))), (5,)),
    (Op("stack", of=(Op("identity"), D())), (3, 2)),
    (Op("matvec", forward=lambda x: x[::-1].cumsum()), (4,)),
]


def told(case: tuple[Op, tuple[int, ...]]) -> str:
    return f"{case[0].kind}-{'x'.join(map(str, case[1]))}"


def units(shape: tuple[int, ...]) -> np.ndarray:
    return np.eye(int(np.prod(shape))).reshape(-1, *shape)


# The images of all unit arrays under A and A^T, the diagonal of A^T A and (I + tau A^T A)^-1 rhs, as a compiled step sees the operator.
FORMS = jax.jit(
    lambda op, rhs, tau: (
        jax.vmap(op.matvec)(units(op.domain)),
        jax.vmap(op.rmatvec)(units(op.codomain)),
        op.normal_diagonal(),
        op.solve_shifted(rhs, tau),
    )
)

ROWS = jax.jit(lambda op: jax.vmap(op.matvec)(units(op.domain)))


def dense(op: Operator) -> np.ndarray:
    """The matrix of an operator, column by column."""
    rows = np.asarray(ROWS(op))
    return rows.reshape(len(rows), -1).T


@pytest.fixture(autouse=True)
def _double():  # type: ignore[no-untyped-def]
    with precision("float64"):
        yield


@pytest.mark.parametrize("case", CASES, ids=told)
def test_an_operator_has_the_adjoint_the_norm_and_the_closed_forms_of_its_matrix(case: tuple[Op, tuple[int, ...]]) -> None:
    op = build(*case, REAL)
    rhs = rng.normal(size=op.domain)
    matrix, back, diagonal, solved = (None if told is None else np.asarray(told) for told in FORMS(op, jnp.asarray(rhs), jnp.asarray(0.7)))
    assert matrix.shape == (int(np.prod(op.domain)), *op.codomain)
    assert back.shape == (int(np.prod(op.codomain)), *op.domain)
    matrix, back = matrix.reshape(len(matrix), -1).T, back.reshape(len(back), -1)
    assert_allclose(back, matrix, atol=1e-12)

    true, bound = np.linalg.norm(matrix, 2) ** 2, op.norm_sq()
    if bound.kind == "exact":
        assert_allclose(bound.value, true, rtol=1e-9, atol=1e-12)
    else:
        assert true * (1 - 1e-9) <= bound.value <= 8 * true

    nu = op.coisometry()
    if nu is not None:
        assert_allclose(matrix @ matrix.T, nu * np.eye(len(matrix)), atol=1e-12)
    if diagonal is not None:
        assert_allclose(np.ravel(diagonal), np.sum(matrix**2, axis=0), atol=1e-11)
    if solved is not None:
        expected = np.linalg.solve(np.eye(matrix.shape[1]) + 0.7 * matrix.T @ matrix, rhs.ravel())
        assert_allclose(np.ravel(solved), expected, atol=1e-11)


@pytest.mark.parametrize("sides", [(3, 4), (5, 3)])
def test_a_convolution_is_circular_and_its_square_is_the_same_in_the_fourier_domain(sides: tuple[int, int]) -> None:
    kernel = rng.standard_normal(sides)  # not symmetric, so that a missing conjugate shows
    matrix = np.stack([np.roll(kernel, (i, j), (0, 1)).ravel() for i in range(sides[0]) for j in range(sides[1])], axis=1)
    op = build(Op("convolution", kernel=kernel), (2, *sides), REAL)
    x, y = rng.standard_normal((2, 2, *sides))
    term = smooth_term("data", ("x",), op, HalfSquare(jnp.asarray(1.0), jnp.asarray(y), jnp.asarray(1.0)))
    assert isinstance(term, SpectralSquare)
    image, value, slope = CONVOLVED(term, x)
    seen = x.reshape(2, -1) @ matrix.T
    assert_allclose(np.reshape(image, seen.shape), seen, atol=1e-12)
    misfit = seen - y.reshape(2, -1)
    assert_allclose(value, 0.5 * np.sum(misfit**2), rtol=1e-12)
    assert_allclose(np.reshape(slope, seen.shape), misfit @ matrix, atol=1e-11)
    assert_allclose(op.norm_sq().value, np.linalg.norm(matrix, 2) ** 2, rtol=1e-12)


CONVOLVED = jax.jit(lambda term, x: (term.op.matvec(x), term.value(term.lift(x)), term.drop(term.cotangent(term.lift(x)))))


def test_the_gaussian_is_a_wrapped_density_and_sigma_zero_is_the_identity() -> None:
    kernel = gaussian_kernel((16, 21), 1.5)
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    assert_allclose(kernel[1:], kernel[:0:-1], atol=1e-16)  # even about index 0
    assert kernel[1, 0] / kernel[0, 0] == pytest.approx(np.exp(-0.5 / 1.5**2))
    assert_allclose(gaussian_kernel((16, 21), 500), 1 / (16 * 21), rtol=1e-6)  # much wider than the torus: flat
    assert_allclose(gaussian_kernel((4, 6), 0), np.eye(1, 24).reshape(4, 6))


def test_the_table_names_every_operator_that_is_tested_here() -> None:
    assert {op.kind for op, _ in CASES} <= set(names())


def test_norms_of_differences_stay_exact_or_above_when_arrays_are_large() -> None:
    for boundary in ("periodic", "neumann", "dirichlet"):
        assert build(D(boundary=boundary), (1000, 1000), REAL).norm_sq().kind == "exact"
        assert 7.99 < build(D(boundary=boundary), (1000, 1000), REAL).norm_sq().value <= 8
    long = build(D(order=2, boundary="free"), (5000,), REAL).norm_sq()
    assert (long.value, long.kind) == (16.0, "upper_bound")


def test_large_sparse_matrices_and_graphs_have_sound_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from bridge_adapter.kernels.flow.operators import sparse

    monkeypatch.setattr(sparse, "DENSE", 0)  # as if all of these were large
    for seed in range(2):
        pairs = np.random.default_rng(seed).integers(0, 12, (30, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        for op in (Op("incidence", edges=pairs), Op("graph_laplacian", edges=pairs)):
            made = build(op, (12,), REAL)
            bound, true = made.norm_sq(), np.linalg.norm(dense(made), 2) ** 2
            assert bound.kind == "upper_bound" and true <= bound.value * (1 + 1e-12)
        degrees = np.bincount(pairs.ravel(), minlength=12)
        assert build(Op("incidence", edges=pairs), (12,), REAL).norm_sq().value <= 2 * degrees.max()


def test_the_estimated_norm_is_above_and_close_and_says_how_likely_it_is_wrong() -> None:
    matrix = rng.normal(size=(300, 200))
    bound = spectra.largest_eigenvalue(lambda x: jnp.asarray(matrix).T @ (jnp.asarray(matrix) @ x), (200,))
    true = np.linalg.norm(matrix, 2) ** 2
    assert bound.kind == "estimate" and bound.steps == 60 and "KW92" in bound.method
    assert true <= bound.value <= 1.06 * true
    diagonal, beside_it = spectra.lanczos(lambda x: jnp.asarray([3.0, 3.0, 1.0]) * x, jnp.ones(3), 3)
    values, residuals = spectra.ritz(np.asarray(diagonal), np.asarray(beside_it))
    assert_allclose(values, [1, 3], atol=1e-12)  # two different eigenvalues: the space ends after two steps
    assert np.all(residuals < 1e-12)
    assert spectra.missed_share(10**6, 60) == pytest.approx(0.0317, rel=0.05)
    assert spectra.missed_share(50, 50) == 0.0


def test_operators_side_by_side_act_on_several_variables() -> None:
    left, right = build(Op("dense", matrix=rng.normal(size=(3, 4))), (4,), REAL), build(Op("identity"), (3,), REAL)
    both = beside([left, scaled(right, -2.0)])
    x = (jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=3)))
    y = jnp.asarray(rng.normal(size=3))
    assert_allclose(both.matvec(x), left.matvec(x[0]) - 2 * x[1])
    back = both.rmatvec(y)
    assert_allclose(jnp.vdot(both.matvec(x), y), sum(jnp.vdot(a, b) for a, b in zip(x, back, strict=True)))
    whole = np.hstack([dense(left), -2 * np.eye(3)])
    assert np.linalg.norm(whole, 2) ** 2 <= both.norm_sq().value * (1 + 1e-12)
    with pytest.raises(FlowInputError, match="must be the same"):
        beside([left, build(Op("identity"), (2,), REAL)], ["u", "v"])


def test_projections_are_the_line_integrals_of_a_disc() -> None:
    """A disc of radius r looks the same from everywhere: 2 sqrt(r^2 - t^2), and its mass is pi r^2."""
    i, j = np.mgrid[:41, :41] - 20.0
    # Smoothed over one pixel at its edge, as a picture of a disc is.
    disc = np.clip(12.5 - np.hypot(i, j), 0, 1)
    op = build(Op("parallel_projection", angles=np.linspace(0, np.pi, 7), detectors=41), (41, 41), REAL)
    seen = np.asarray(op.matvec(jnp.asarray(disc)))
    t = np.arange(41) - 20.0
    expected = 2 * np.sqrt(np.maximum(12.0**2 - t**2, 0))
    assert np.max(np.abs(seen - expected)[:, np.abs(t) < 10]) < 0.6
    assert_allclose(seen.sum(axis=1), disc.sum(), rtol=0.01)
    assert_allclose(seen[0], disc.sum(axis=0), atol=1e-12)  # along the columns
    assert_allclose(
        build(Op("parallel_projection", angles=[np.pi / 2], detectors=41), (41, 41), REAL).matvec(jnp.asarray(disc))[0],
        disc.sum(axis=1),
        atol=1e-9,
    )


def test_a_written_operator_is_tested_before_it_is_believed() -> None:
    def half(x: jax.Array) -> jax.Array:
        return 0.5 * x[1:]

    right = build(Op("matvec", forward=half, adjoint=lambda y: jnp.pad(0.5 * y, (1, 0)), norm=0.5), (4,), REAL)
    assert (right.norm_sq().value, right.norm_sq().kind) == (0.25, "upper_bound")
    for params, message in (
        ({"forward": half, "adjoint": lambda y: jnp.pad(y, (1, 0))}, r"is .* of \|\|x\|\| \|\|y\|\|, above the tolerance 1e-12"),
        ({"forward": half, "adjoint": lambda y: y}, "is not that of forward|fails on an array"),
        ({"forward": lambda x: x + 1}, "not linear.*move constants into the target"),
        ({"forward": lambda x: x @ jnp.ones((7, 7))}, "fails on a variable of shape"),
        ({"forward": half, "norm": -1.0}, "must be a bound"),
    ):
        with pytest.raises(FlowInputError, match=message):
            build(Op("matvec", **params), (4,), REAL)
    with precision("float32"):  # single precision is looser, and still finds a wrong factor
        build(Op("matvec", forward=half), (4,), np.dtype("float32"))
        with pytest.raises(FlowInputError, match="tolerance 1e-05"):
            build(Op("matvec", forward=half, adjoint=lambda y: jnp.pad(0.4999 * y, (1, 0))), (4,), np.dtype("float32"))


BAD = [
    (Op("nonesuch"), (3,), "there is no operator 'nonesuch'"),
    (Op("dense"), (3,), "needs the parameter 'matrix'"),
    (Op("dense", matrix=np.eye(3), transposed=True), (3,), "no parameter 'transposed'"),
    (D(order=3), (5,), "must be 1 or 2"),
    (D(axes=(0, 0)), (5, 5), "different numbers"),
    (D(boundary="sticky"), (5,), "one of periodic"),
    (D(spacing=0.0), (5,), "positive"),
    (D(order=2, boundary="free"), (2,), "need 3 samples"),
    (Op("mask", keep=[0.5, 1, 1]), (3,), "use diagonal"),
    (Op("subsample"), (3,), "exactly one"),
    (Op("subsample", indices=[7]), (3,), "from 0 to 2"),
    (Op("sparse", matrix=np.eye(3)), (3,), "use dense"),
    (Op("incidence", edges=[[0, 9]]), (3,), "outside 0..2"),
    (Op("incidence", edges=[[0, 1]], factors=[-1.0]), (3,), "above 0"),
    (Op("curl"), (4, 3, 3), "vector field"),
    (Op("parallel_projection", angles=[]), (3, 3), "finite numbers"),
    (Op("sum", of=(Op("identity"), D())), (3,), "must be the same"),
    (Op("stack", of=()), (3,), "at least one"),
]


@pytest.mark.parametrize(("op", "shape", "message"), BAD, ids=[message for _, _, message in BAD])
def test_what_cannot_be_built_is_refused_with_the_rule(op: Op, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(FlowInputError, match=message):
        build(op, shape, REAL)
