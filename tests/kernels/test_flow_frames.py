"""Transforms are the frames they say they are: as matrices, for odd sizes, several dimensions and batches, in both precisions."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bridge_adapter.kernels.flow.errors import FlowInputError
from bridge_adapter.kernels.flow.operators.base import Op, Shape, build
from bridge_adapter.kernels.flow.operators.convolution import circulant, gaussian_kernel
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.transforms import WAVELETS, TransformOp, level_masks, restricted, scaling_filter, transform_of, validation
from bridge_adapter.kernels.flow.transforms.base import band_thresholds
from bridge_adapter.kernels.flow.transforms.filters import mirrored, symlet

REAL = np.dtype("float64")
# A ring of 14 nodes with two chords.
RING = np.array([*[(node, (node + 1) % 14) for node in range(14)], (0, 5), (3, 11)])
SMALL: list[tuple[Op, Shape]] = [
    (Op("wavelet", wavelet="haar"), (13,)),
    (Op("wavelet", wavelet="db3", levels=2), (7, 9)),
    (Op("wavelet", wavelet="sym4", levels=2), (12, 10)),
    (Op("wavelet", wavelet="db4", levels=1), (12, 2)),  # the filter goes around the shorter side four times
    (Op("wavelet", wavelet="haar", levels=1, ndim=3), (4, 3, 5)),
    (Op("dct"), (9,)),
    (Op("dct"), (4, 7)),
    (Op("dft"), (8,)),
    (Op("dft"), (5, 6)),
    (Op("undecimated", wavelet="db2", levels=2), (11,)),
    (Op("undecimated", wavelet="haar", levels=1), (5, 6)),
    (Op("undecimated", wavelet="starlet", levels=2), (12,)),
    (Op("undecimated", wavelet="starlet", levels=2), (6, 7)),
    (Op("graph_wavelet", edges=RING, levels=2), (14,)),
]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with precision("float64"):
        yield


def matrix(transform: TransformOp) -> np.ndarray:
    size = int(np.prod(transform.sides))
    return np.asarray(jax.jit(transform.forward)(np.eye(size).reshape(size, *transform.sides))).T


@pytest.mark.parametrize("name", WAVELETS)
def test_filters_are_orthonormal_and_have_their_vanishing_moments(name: str) -> None:
    low = scaling_filter(name)
    order = low.size // 2
    for shift in range(order):
        assert_allclose(low[2 * shift :] @ low[: low.size - 2 * shift], float(shift == 0), atol=1e-14)
    for moment in range(order):
        assert abs(mirrored(low) @ np.linspace(-1, 1, low.size) ** moment) < 1e-10


def test_known_filters_come_out() -> None:
    root = np.sqrt(3)
    assert_allclose(scaling_filter("db2"), np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2)), atol=1e-15)
    # Daubechies, Ten Lectures, table 6.3 (N = 4), divided there by sqrt(2).
    published = np.array([-0.107148901418, -0.041910965125, 0.703739068656, 1.136658243408, 0.421234534204, -0.140317624179])
    assert_allclose(symlet(4)[:6] * np.sqrt(2), published, atol=1e-11)


@pytest.mark.parametrize(("described", "shape"), SMALL, ids=str)
def test_a_transform_has_the_frame_the_adjoint_and_the_inverse_that_it_declares(described: Op, shape: Shape) -> None:
    transform = transform_of(described, shape, REAL)
    size = int(np.prod(shape))
    u, rhs = np.random.default_rng(0).standard_normal(transform.codomain), np.random.default_rng(1).standard_normal(shape)

    @jax.jit  # one compilation for all that is looked at
    def forms(units: np.ndarray) -> tuple[jax.Array, ...]:
        inverse = transform.inverse(u) if transform.frame == "general" else transform.rmatvec(u)
        return transform.forward(units), transform.rmatvec(u), inverse, transform.normal_diagonal(), transform.solve_shifted(rhs, 0.7)

    dense, back, inverse, diagonal, solved = (np.asarray(found) for found in forms(np.eye(size).reshape(size, *shape)))
    dense = dense.T
    gram = dense.T @ dense
    lower, upper = transform.frame_bounds()
    if transform.frame == "general":
        eigenvalues = np.linalg.eigvalsh(gram)
        assert_allclose([lower.value, upper.value], eigenvalues[[0, -1]], rtol=1e-10)
        assert upper.value > 1.01 * lower.value
    else:
        assert_allclose(gram, transform.c * np.eye(len(gram)), atol=1e-13)
        assert lower.kind == upper.kind == "exact" and lower.value == upper.value == transform.c
    if transform.frame == "unitary":
        assert dense.shape[0] == dense.shape[1]
        assert transform.orthonormal() and transform.coisometry() == 1.0
    else:
        assert transform.redundant and not transform.orthonormal() and transform.coisometry() is None
    assert_allclose(np.ravel(back), dense.T @ u, atol=1e-12)
    if transform.frame == "general":
        assert_allclose(np.ravel(inverse), np.linalg.pinv(dense) @ u, atol=1e-11)
    assert_allclose(np.ravel(diagonal), np.diag(gram), atol=1e-12)
    assert_allclose(np.ravel(solved), np.linalg.solve(np.eye(len(gram)) + 0.7 * gram, rhs.ravel()), atol=1e-12)


@pytest.mark.parametrize("shape", [(260, 130), (131, 261), (3, 130, 129)], ids=str)
def test_a_large_image_comes_back_and_keeps_its_inner_products(shape: Shape) -> None:
    """Which is put together in another way than a small one."""
    transform = transform_of(Op("wavelet", wavelet="db2", levels=2), shape, REAL)
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal(shape), rng.standard_normal(transform.codomain)
    there, back = jax.jit(transform.forward)(x), jax.jit(transform.adjoint)(u)
    assert_allclose(np.vdot(there, u), np.vdot(x, back), rtol=1e-11)
    assert_allclose(jax.jit(transform.adjoint)(there), x, atol=1e-13)
    assert_allclose(jax.jit(transform.forward)(back), u, atol=1e-13)


@pytest.mark.parametrize(("described", "shape"), SMALL, ids=str)
def test_the_band_table_covers_every_coefficient_once(described: Op, shape: Shape) -> None:
    transform = transform_of(described, shape, REAL)
    offset = 0
    for band in transform.bands:
        assert band.offset == offset
        assert len(band.orientation) == transform.ndim
        offset += band.size
    assert offset == transform.codomain[-1]
    assert [band.approximation for band in transform.bands] == [True] + [False] * (len(transform.bands) - 1)
    levels = [band.level for band in transform.bands]
    assert levels == sorted(levels, reverse=True) and levels[0] == transform.levels


@pytest.mark.parametrize(
    "described", [Op("wavelet", wavelet="db2", levels=1, ndim=2), Op("dft", ndim=1), Op("undecimated", levels=1, ndim=2)]
)
def test_axes_in_front_are_a_batch(described: Op) -> None:
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 5, 8)))
    whole = transform_of(described, x.shape, REAL)
    u = jax.jit(whole.forward)(x)
    assert u.shape == whole.codomain
    one = transform_of(described, x.shape[3 - whole.ndim :], REAL)
    alone = jax.jit(jax.vmap(one.forward))(x.reshape(-1, *one.domain)).reshape(u.shape)
    assert_allclose(u, alone, atol=1e-14)
    assert_allclose(jax.jit(whole.inverse)(u), x, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "described",
    [Op("wavelet", wavelet="db4", levels=3), Op("dft"), Op("undecimated", levels=2), Op("undecimated", wavelet="starlet", levels=2)],
)
def test_validation_passes_in_both_precisions_and_records_its_figures(described: Op, dtype: str) -> None:
    with precision(dtype) as real:
        transform = transform_of(described, (37,), real)
        found = validation(transform)
        u = jax.eval_shape(transform.forward, jnp.zeros(37, real))
        assert u.dtype == jax.eval_shape(transform.inverse, u).dtype == real
    assert found["passed"] and found["dtype"] == dtype
    assert_allclose(found["measured_bounds"]["A"], found["bounds"]["A"], rtol=1e-2)
    assert_allclose(found["measured_bounds"]["B"], found["bounds"]["B"], rtol=1e-2)


def test_chebyshev_filters_of_a_graph_keep_the_bounds_that_they_state_and_are_those_of_its_eigenbasis() -> None:
    weights = np.random.default_rng(5).uniform(0.5, 2, len(RING))
    exact, short, fine = (
        transform_of(Op("graph_wavelet", edges=RING, weights=weights, levels=2, degree=degree), (14,), REAL) for degree in (None, 24, 80)
    )
    dense = matrix(short)
    lower, upper = (bound.value for bound in short.frame_bounds())
    eigenvalues = np.linalg.eigvalsh(dense.T @ dense)
    assert lower <= eigenvalues[0] <= eigenvalues[-1] <= upper and 0.9 < lower < upper < 1.1
    u = np.random.default_rng(0).standard_normal(len(dense))
    assert_allclose(jax.jit(short.adjoint)(u), dense.T @ u, atol=1e-12)
    assert_allclose(jax.jit(short.inverse)(u), np.linalg.pinv(dense) @ u, atol=1e-12)
    assert fine.frame == "general" and exact.frame == "tight" and validation(short)["passed"]
    filters = matrix(exact)
    assert_allclose(matrix(fine), filters, atol=1e-4)
    # Constants are in the approximation alone, and a filter is local: an impulse reaches no farther than its degree.
    level = filters @ np.ones(14)
    assert_allclose(level[:14], 1.0, atol=1e-12)
    assert_allclose(level[14:], 0.0, atol=1e-12)
    line = transform_of(Op("graph_wavelet", edges=np.stack([np.arange(59), np.arange(1, 60)], 1), levels=1, degree=10), (60,), REAL)
    assert not np.any(np.asarray(jax.jit(line.forward)(jnp.eye(60)[0])).reshape(2, 60)[:, 11:])


@pytest.mark.parametrize(("length", "described"), [(37, Op("chirplet", window=12, hop=5)), (32, Op("chirplet", window=8, rates=(0.3,)))])
def test_chirplets_are_tight_by_measurement_and_hold_a_chirp_in_few_coefficients(length: int, described: Op) -> None:
    transform = transform_of(described, (length,), REAL)
    dense = matrix(transform)
    assert_allclose(dense.T @ dense, np.eye(length), atol=1e-13)
    lower, upper = transform.frame_bounds()
    assert "measured" in lower.method and abs(lower.value - 1) < 1e-14 and abs(upper.value - 1) < 1e-14
    u = np.random.default_rng(0).standard_normal(len(dense))
    assert_allclose(jax.jit(transform.adjoint)(u), dense.T @ u, atol=1e-13)
    assert validation(transform)["passed"]
    assert [band.offset for band in transform.bands] == list(np.cumsum([0, *[band.size for band in transform.bands[:-1]]]))
    assert sum(band.size for band in transform.bands) == len(dense)


def test_a_rising_wave_is_sparser_in_chirplets_of_its_rate_than_in_steady_ones() -> None:
    time = np.arange(256)
    chirp = jnp.asarray(np.cos(np.pi * 0.5 / 64 * time**2))  # sweeps through half of the band in 64 samples
    kept = []
    for rate in (0.0, 0.5):
        u = np.sort(np.asarray(jax.jit(transform_of(Op("chirplet", rates=(rate,)), (256,), REAL).forward)(chirp)) ** 2)[::-1]
        kept.append(float(np.sum(u[:16]) / np.sum(u)))
    assert kept[1] > 1.8 * kept[0]


def test_validation_refuses_a_frame_that_claims_to_be_tight() -> None:
    honest = transform_of(Op("undecimated", wavelet="starlet", levels=2), (32,), REAL)
    bragging = dataclasses.replace(honest, frame="tight")
    found = validation(bragging)
    assert not found["passed"]
    assert not found["reconstruction"]["passed"] and not found["parseval"]["passed"] and found["adjoint"]["passed"]


def test_a_circular_blur_is_diagonal_in_the_dft_and_a_reflecting_laplacian_in_the_dct() -> None:
    blur = circulant((9, 8), REAL, gaussian_kernel((9, 8), 1.0))
    waves = transform_of(Op("dft"), (9, 8), REAL)
    seen = jax.jit(jax.vmap(lambda u: waves.forward(blur.rmatvec(blur.matvec(waves.adjoint(u))))))(np.eye(72))
    assert_allclose(seen, np.diag(np.diag(seen)), atol=1e-14)
    difference = np.diff(np.eye(7), axis=0)
    dense = matrix(transform_of(Op("dct"), (7,), REAL))
    turned = dense @ difference.T @ difference @ dense.T
    assert_allclose(turned, np.diag(4 * np.sin(np.pi * np.arange(7) / 14) ** 2), atol=1e-14)


def test_bands_hold_what_their_orientation_says() -> None:
    stripes = np.tile([1.0, -1.0], (8, 4))  # alternates along the last axis: high-pass there, low-pass down the columns
    transform = transform_of(Op("wavelet", wavelet="haar", levels=1), (8, 8), REAL)
    u = np.asarray(jax.jit(transform.forward)(stripes))
    energy = {band.orientation: float(np.sum(u[band.offset : band.offset + band.size] ** 2)) for band in transform.bands}
    assert energy == pytest.approx({"LL": 0, "LH": 64, "HL": 0, "HH": 0}, abs=1e-12)


def test_level_masks_are_nested_and_open_the_coarsest_scale_first() -> None:
    transform = transform_of(Op("wavelet", wavelet="haar", levels=3), (16,), REAL)
    masks = level_masks(transform)
    assert_array_equal(masks.sum(axis=1), [2, 4, 8, 16])
    assert np.all(masks[:-1] <= masks[1:])
    x = jnp.asarray(np.random.default_rng(0).standard_normal(16))
    confined = jax.jit(lambda mask: restricted(transform, x, mask))
    assert_allclose(confined(masks[0]), np.repeat(np.asarray(x).reshape(2, 8).mean(axis=1), 8), atol=1e-14)
    assert_allclose(confined(masks[-1]), x, atol=1e-14)


def test_thresholds_go_by_level_by_band_or_one_for_all() -> None:
    transform = transform_of(Op("wavelet", wavelet="haar", levels=2), (8,), REAL)
    assert_array_equal(band_thresholds(transform, 3.0, approximation=False), [0, 0, 3, 3, 3, 3, 3, 3])
    assert_array_equal(band_thresholds(transform, 3.0, approximation=True), [3] * 8)
    assert_array_equal(band_thresholds(transform, {1: 5.0}, approximation=True), [0, 0, 0, 0, 5, 5, 5, 5])
    assert_array_equal(band_thresholds(transform, [1, 2, 3], approximation=False), [1, 1, 2, 2, 3, 3, 3, 3])
    for wrong, said in (({3: 1.0}, "levels"), ([1.0], "bands"), (-1.0, "at least 0")):
        with pytest.raises(FlowInputError, match=said):
            band_thresholds(transform, wrong, approximation=False)  # type: ignore[arg-type]


def test_synthesis_of_a_tight_frame_is_a_coisometry() -> None:
    frame = Op("undecimated", levels=2)
    size = transform_of(frame, (10,), REAL).codomain
    made = build(Op("synthesis", of=frame, shape=(10,)), size, REAL)
    dense = np.asarray(jax.jit(jax.vmap(made.matvec))(np.eye(size[0]))).T
    assert_allclose(dense @ dense.T, made.coisometry() * np.eye(10), atol=1e-13)
    x = np.random.default_rng(0).standard_normal(10)
    assert_allclose(jax.jit(made.rmatvec)(x), dense.T @ x, atol=1e-13)
    general = Op("undecimated", wavelet="starlet", levels=2)
    size = transform_of(general, (12,), REAL).codomain
    dual = build(Op("synthesis", of=general, shape=(12,)), size, REAL)
    dense = np.asarray(jax.jit(jax.vmap(dual.matvec))(np.eye(size[0]))).T
    x = np.random.default_rng(0).standard_normal(12)
    assert_allclose(jax.jit(dual.rmatvec)(x), dense.T @ x, atol=1e-12)
    assert_allclose(dual.norm_sq().value, np.linalg.norm(dense, 2) ** 2, rtol=1e-10)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (Op("wavelet", wavelet="coif1"), "no wavelet 'coif1'"),
        (Op("wavelet", wavelet="haar", levels=9), "from 1 to 3"),
        (Op("wavelet", wavelet="haar", ndim=3), "ndim must be from 1 to 1"),
        (Op("dct", levels=2), "cannot be built"),
        (Op("identity"), "no transform"),
        (Op("chirplet"), "from 2 to 12"),
        (Op("chirplet", window=8, hop=7), "from 1 to 4"),
        (Op("chirplet", window=8, rates=(2.0,)), "numbers from 0 to 1"),
        (Op("graph_wavelet", edges=RING), "outside 0..11"),
        (Op("graph_wavelet", edges=RING[:5], levels=0), "1 to 12"),
        (Op("graph_wavelet", edges=RING[:5], levels=6, degree=4), "fewer levels"),
        (Op("synthesis", of=Op("dct"), shape=(7,)), "has coefficients of"),
    ],
)
def test_what_cannot_be_built_says_why(described: Op, said: str) -> None:
    with pytest.raises(FlowInputError, match=said):
        transform_of(described, (12,), REAL)
