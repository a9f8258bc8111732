"""Wavelets: orthonormal and exactly invertible for every image size, with a band table that covers each coefficient once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.restoration.transforms import MAX_ORDER, daubechies, max_levels, wavelet, wavelet_order

SHAPES = [(16, 24), (7, 9), (12, 2), (5, 16)]


def matrix(shape: tuple[int, int], order: int, levels: int) -> np.ndarray:
    size = shape[0] * shape[1]
    with precision("float64"):
        return np.asarray(jax.jit(wavelet(shape, order, levels).forward)(jnp.eye(size).reshape(size, *shape))).T


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_daubechies_filters_are_orthonormal_and_have_their_vanishing_moments(order: int) -> None:
    low = daubechies(order)
    assert low.size == 2 * order
    for shift in range(order):
        assert_allclose(low[2 * shift :] @ low[: low.size - 2 * shift], float(shift == 0), atol=1e-13)
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    positions = np.linspace(-1, 1, low.size)
    for moment in range(order):
        assert abs(high @ positions**moment) < 1e-8


def test_db2_is_the_filter_of_daubechies_book() -> None:
    root = np.sqrt(3)
    assert_allclose(daubechies(2), np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2)), atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [1, 4])
def test_the_transform_is_an_orthonormal_matrix_and_its_inverse_the_transpose(shape: tuple[int, int], order: int) -> None:
    levels, size = max_levels(shape), shape[0] * shape[1]
    w = matrix(shape, order, levels)
    assert_allclose(w @ w.T, np.eye(size), atol=1e-12)
    with precision("float64"):
        back = np.asarray(jax.jit(wavelet(shape, order, levels).inverse)(jnp.eye(size))).reshape(size, size).T
    assert_allclose(back, w.T, atol=1e-12)


@pytest.mark.parametrize("order", [1, 4])
def test_float32_reconstructs_and_keeps_the_norm(order: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 37, 50)).astype(np.float32)
    with precision("float32"):
        transform = wavelet((37, 50), order, 4)
        u = jax.jit(transform.forward)(jnp.asarray(x))
        back = jax.jit(transform.inverse)(u)
    assert u.shape == (3, 37 * 50) and u.dtype == np.float32 and back.dtype == np.float32
    assert_allclose(np.linalg.norm(u), np.linalg.norm(x), rtol=1e-5)
    assert np.linalg.norm(np.asarray(back) - x) <= 1e-5 * np.linalg.norm(x)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_band_table_covers_every_coefficient_once_and_in_order(shape: tuple[int, int]) -> None:
    levels = max_levels(shape)
    bands = wavelet(shape, 1, levels).bands
    assert len(bands) == 1 + 3 * levels and bands[0].orientation == "LL"
    end = 0
    for band in bands:
        assert band.offset == end
        end += band.shape[0] * band.shape[1]
    assert end == shape[0] * shape[1]


def test_bands_hold_what_their_orientation_says() -> None:
    stripes = np.tile([1.0, -1.0], (8, 4))  # alternates along the last axis: high-pass there, low-pass down the columns
    with precision("float64"):
        transform = wavelet((8, 8), 1, 1)
        u = np.asarray(transform.forward(jnp.asarray(stripes)))
    energy = {b.orientation: float(np.sum(u[b.offset : b.offset + b.shape[0] * b.shape[1]] ** 2)) for b in transform.bands}
    assert energy == pytest.approx({"LL": 0, "LH": 0, "HL": 64, "HH": 0}, abs=1e-12)


def test_names() -> None:
    assert [wavelet_order(name) for name in ("haar", "db1", "db4", "sym4", "db99")] == [1, 1, 4, None, None]
