"""Circular blur and differences: linear, with exact adjoints and exact norms."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.restoration import operators as ops
from bridge_adapter.kernels.flow.restoration.smooth import deconvolution

SHAPES = [(8, 10), (7, 9), (12, 5)]
rng = np.random.default_rng(1)


def dense_blur(kernel: np.ndarray) -> np.ndarray:
    """The matrix of circular convolution, column by column, without a Fourier transform."""
    height, width = kernel.shape
    columns = [np.roll(kernel, (i, j), (0, 1)).ravel() for i in range(height) for j in range(width)]
    return np.stack(columns, axis=1)


def circulant(kernel: np.ndarray) -> ops.Circulant:
    height, width = kernel.shape
    return ops.Circulant(jnp.asarray(ops.transfer_function(kernel)), (height, width))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_blur_is_circular_convolution_with_an_exact_adjoint_and_an_exact_norm(shape: tuple[int, int]) -> None:
    kernel = rng.standard_normal(shape)  # not symmetric, so that a missing conjugate shows
    dense = dense_blur(kernel)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape)
    with precision("float64"):
        op = circulant(kernel)
        blurred, back = np.asarray(ops.convolve(op, jnp.asarray(x))), np.asarray(ops.correlate(op, jnp.asarray(y)))
    assert_allclose(blurred.ravel(), dense @ x.ravel(), atol=1e-12)
    assert_allclose(back.ravel(), dense.T @ y.ravel(), atol=1e-12)
    assert_allclose(np.vdot(blurred, y), np.vdot(x, back), rtol=1e-12)
    assert_allclose(ops.norm_sq(ops.transfer_function(kernel)), np.linalg.norm(dense, 2) ** 2, rtol=1e-12)


def test_the_gaussian_is_a_wrapped_density_and_sigma_zero_is_the_identity() -> None:
    kernel = ops.gaussian_kernel((16, 21), 1.5)
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    assert_allclose(kernel[1:], kernel[:0:-1], atol=1e-16)  # even about index 0
    assert kernel[1, 0] / kernel[0, 0] == pytest.approx(np.exp(-0.5 / 1.5**2))
    assert_allclose(ops.gaussian_kernel((16, 21), 500), 1 / (16 * 21), rtol=1e-6)  # much wider than the torus: flat
    identity = np.zeros((4, 6))
    identity[0, 0] = 1
    assert_allclose(ops.gaussian_kernel((4, 6), 0), identity)
    assert ops.norm_sq(ops.transfer_function(kernel)) == pytest.approx(1, abs=1e-14)


def test_differences_have_an_exact_adjoint_and_the_stated_norm() -> None:
    x, p = rng.standard_normal((6, 8)), (rng.standard_normal((6, 8)), rng.standard_normal((6, 8)))
    with precision("float64"):
        rows, columns = (np.asarray(d) for d in ops.differences(jnp.asarray(x)))
        back = np.asarray(ops.differences_adjoint((jnp.asarray(p[0]), jnp.asarray(p[1]))))
        units = jnp.eye(48).reshape(48, 6, 8)
        matrix = np.concatenate([np.asarray(d).reshape(48, 48) for d in ops.differences(units)], axis=1)
    assert rows[5, 0] == x[0, 0] - x[5, 0] and columns[0, 7] == x[0, 0] - x[0, 7]  # periodic
    assert_allclose(np.vdot(rows, p[0]) + np.vdot(columns, p[1]), np.vdot(x, back), rtol=1e-12)
    assert np.linalg.norm(matrix, 2) ** 2 == pytest.approx(ops.DIFFERENCE_NORM_SQ, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_data_term_in_the_fourier_domain_is_the_one_in_the_image(shape: tuple[int, int]) -> None:
    kernel, x, y = rng.standard_normal(shape), rng.standard_normal((2, *shape)), rng.standard_normal((2, *shape))
    dense = dense_blur(kernel)
    misfit = np.stack([dense @ plane.ravel() - data.ravel() for plane, data in zip(x, y, strict=True)])
    with precision("float64"):
        f = deconvolution(circulant(kernel), jnp.fft.rfft2(jnp.asarray(y)), jnp.asarray(1.0))
        lifted = f.lift(jnp.asarray(x))
        value, slope = float(f.value(lifted)), np.asarray(f.gradient(lifted))
    assert value == pytest.approx(0.5 * np.sum(misfit**2), rel=1e-12)
    assert_allclose(slope.reshape(2, -1), misfit @ dense, atol=1e-11)
