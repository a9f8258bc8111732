"""Restoring images: the right minimum, a falling energy, honest reports, and every way a run can end."""

import ctypes
import inspect
import json
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.data import camera

from bridge_adapter.codec import Atom
from bridge_adapter.kernels import flow
from bridge_adapter.kernels.flow.operators.convolution import gaussian_kernel
from bridge_adapter.kernels.flow.running import BLOCK_SECONDS, CAPACITY, next_block

CROP = camera()[64:192, 160:288] / 255.0
BLURRED = flow.degrade(CROP, 1.5, 0.02, seed=3)
SMALL = BLURRED[:16, :12]  # few shapes, since each is compiled


def restore(image: Any = BLURRED, **options: Any) -> dict[str, Any]:
    return flow.restore(image, **{"blur_sigma": 1.5, **options})


def dense_blur(kernel: np.ndarray) -> np.ndarray:
    """The matrix of circular convolution, column by column, without a Fourier transform."""
    height, width = kernel.shape
    columns = [np.roll(kernel, (i, j), (0, 1)).ravel() for i in range(height) for j in range(width)]
    return np.stack(columns, axis=1)


def haar_matrix(n: int) -> np.ndarray:
    """One level of the orthonormal Haar transform of a vector: averages, then differences."""
    identity = np.eye(n)
    return np.concatenate([identity[0::2] + identity[1::2], identity[0::2] - identity[1::2]]) / np.sqrt(2)


def test_the_wavelet_energy_agrees_with_plain_ista_on_dense_matrices() -> None:
    side, weight = 12, 0.02
    y = np.random.default_rng(4).random((side, side))
    blur = dense_blur(gaussian_kernel((side, side), 0.8))
    w = np.kron(haar_matrix(side), haar_matrix(side))
    detail = np.ones((side, side), bool)
    detail[: side // 2, : side // 2] = False
    thresholds = weight * detail.ravel()

    # A step w (x - blur^T (blur x - y)) of x = w^T u, as one matrix.
    onward, constant, u = w @ (np.eye(side**2) - blur.T @ blur) @ w.T, w @ blur.T @ y.ravel(), w @ y.ravel()
    for _ in range(30000):
        v = onward @ u + constant
        u = np.sign(v) * np.maximum(np.abs(v) - thresholds, 0)
    x = w.T @ u
    expected = 0.5 * np.sum((blur @ x - y.ravel()) ** 2) + np.sum(thresholds * np.abs(w @ x))

    ours = flow.restore(
        y, blur_sigma=0.8, weight=weight, prior="wavelet", wavelet_name="haar", levels=1,
        iterations=3000, tol=1e-7, dtype="float64",
    )  # fmt: skip
    assert ours["energy"] == pytest.approx(expected, rel=1e-8)
    assert_allclose(ours["image"].ravel(), x, atol=1e-3)


@pytest.mark.parametrize(("solver", "dtype", "rel"), [("mfista", "float64", 1e-6), ("fista", "float32", 1e-5)])
def test_the_tv_energy_agrees_with_a_primal_dual_method_on_dense_matrices(solver: str, dtype: str, rel: float) -> None:
    side, weight = 10, 0.05
    y = np.random.default_rng(5).random((side, side))
    expected = tv_energy_by_condat_vu(side, weight, 0.8, rounds=20000)
    ours = flow.restore(y, blur_sigma=0.8, weight=weight, solver=solver, inner_steps=20, iterations=2000, tol=1e-7, dtype=dtype)
    assert ours["energy"] == pytest.approx(expected, rel=rel)


@lru_cache  # one answer for every solver
def tv_energy_by_condat_vu(side: int, weight: float, sigma: float, rounds: int) -> float:
    y = np.random.default_rng(5).random((side, side))
    size = y.size
    blur, units = dense_blur(gaussian_kernel((y.shape[0], y.shape[1]), sigma)), np.eye(size).reshape(size, *y.shape)
    d = np.concatenate([(np.roll(units, -1, axis) - units).reshape(size, size).T for axis in (1, 2)])
    x, u, tau, pace = y.ravel().copy(), np.zeros(2 * size), 0.9, 0.07  # 1/tau - 8 pace >= 1/2
    for _ in range(rounds):
        ahead = x - tau * (blur.T @ (blur @ x - y.ravel()) + d.T @ u)
        dual = (u + pace * d @ (2 * ahead - x)).reshape(2, size)
        u = (dual * (weight / np.maximum(weight, np.hypot(dual[0], dual[1])))).ravel()
        x = ahead
    rows, columns = (d @ x).reshape(2, size)
    return float(0.5 * np.sum((blur @ x - y.ravel()) ** 2) + weight * np.sum(np.hypot(rows, columns)))


@pytest.mark.parametrize("prior", ["tv", "wavelet"])
def test_the_energy_of_mfista_never_rises(prior: str) -> None:
    energy = np.array(restore(prior=prior, tol=0, iterations=120)["history"]["energy"])
    assert np.all(np.diff(energy) <= 0) and energy[-1] < energy[0]


def test_total_variation_restores_a_photograph_by_more_than_one_and_a_half_decibels() -> None:
    result = restore(reference=CROP)
    assert result["psnr"] > result["psnr_before"] + 1.5
    assert result["psnr"] == pytest.approx(flow.psnr(result["image"], CROP), abs=1e-6)
    assert result["psnr_before"] == pytest.approx(flow.psnr(BLURRED, CROP), abs=1e-6)
    assert result["stopped"] == "converged" and result["residual"] <= 2e-3
    assert result["image"].dtype == np.float32 and result["image"].shape == CROP.shape


def test_wavelets_restore_a_photograph_too() -> None:
    result = restore(prior="wavelet", reference=CROP)
    assert result["psnr"] > result["psnr_before"] + 1
    assert result["inner_gap"] == 0


def test_the_noise_is_estimated_and_sets_the_weight() -> None:
    result = restore(iterations=1)
    assert result["noise"] == pytest.approx(0.02, rel=0.1)
    assert restore(flow.degrade(CROP, 1.5, 0.08), iterations=1)["weight"] > 3 * result["weight"]


def test_the_image_does_not_depend_on_how_the_run_is_cut_into_blocks() -> None:
    one, seven, timed = (restore(iterations=40, tol=0, block=block) for block in (1, 7, None))
    assert_array_equal(one["image"], seven["image"])
    assert_array_equal(one["image"], timed["image"])
    assert one["history"] == seven["history"] == timed["history"]
    assert (one["block"], seven["block"]) == (20, 5)  # of two and of eight steps


def test_progress_is_reported_after_every_block_in_plain_python_values() -> None:
    seen: list[dict[str, Any]] = []
    result = restore(iterations=10, block=4, tol=0, reference=CROP, on_progress=seen.append)
    assert [info["iteration"] for info in seen] == [4, 8, 10] and [info["block"] for info in seen] == [1, 2, 3]
    names = {
        "block", "iteration", "iterations", "energy", "data_term", "prior_term", "residual", "inner_gap", "psnr", "elapsed_s",
    }  # fmt: skip
    for info in seen:
        assert set(info) == names and {type(value) for value in info.values()} == {int, float}
        assert info["energy"] == pytest.approx(info["data_term"] + info["prior_term"])
    assert result["stopped"] == "budget" and len(result["history"]["energy"]) == 10
    json.dumps({name: value for name, value in result.items() if name != "image"})  # nothing of numpy is left
    assert "psnr" not in restore(iterations=1)


@pytest.mark.parametrize("answer", ["cancel", Atom("cancel"), False])
def test_the_callback_cancels_and_the_image_so_far_is_kept(answer: Any) -> None:
    result = restore(block=4, tol=0, on_progress=lambda info: answer if info["block"] == 2 else None)
    assert result["stopped"] == "cancelled" and result["iteration"] == 8
    assert_array_equal(result["image"], restore(iterations=8, tol=0)["image"])


@pytest.mark.parametrize("answer", [None, True, 0, "ok", Atom("ok"), Atom("false")])
def test_any_other_answer_goes_on(answer: Any) -> None:
    assert restore(iterations=4, block=2, tol=0, on_progress=lambda _: answer)["stopped"] == "budget"


def test_an_error_of_the_callback_reaches_the_caller() -> None:
    def fail(_: dict[str, Any]) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        restore(on_progress=fail)


def test_an_exception_raised_into_the_thread_unwinds_and_the_next_run_works() -> None:
    class Interrupted(BaseException):
        pass

    running, raised = threading.Event(), threading.Event()
    outcome: list[Any] = []

    def report(_: dict[str, Any]) -> None:
        running.set()
        raised.wait(60)

    def work() -> None:
        try:
            outcome.append(restore(block=1, on_progress=report))
        except Interrupted as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(60)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted)) == 1
    raised.set()
    thread.join(60)
    assert isinstance(outcome[0], Interrupted)
    assert restore(iterations=2)["iteration"] == 2


def test_a_run_that_has_reached_its_rounding_error_stagnates() -> None:
    result = restore(SMALL, tol=0, iterations=5000)
    assert result["stopped"] == "stagnated" and result["iteration"] < 5000


def test_an_image_that_is_its_own_restoration_converges_at_once() -> None:
    result = restore(np.full(SMALL.shape, 0.5))
    assert result["stopped"] == "converged" and result["iteration"] == 1
    assert_allclose(result["image"], 0.5, atol=1e-5)


def test_whole_numbers_and_colour_keep_their_range_and_axes() -> None:
    grey = restore(np.rint(np.clip(BLURRED, 0, 1) * 255).astype(np.uint8), iterations=30, tol=0)["image"]
    floats = restore(np.rint(np.clip(BLURRED, 0, 1) * 255) / 255, iterations=30, tol=0)["image"]
    assert grey.dtype == np.float32 and 100 < grey.max() < 300
    assert_allclose(grey / 255, floats, atol=1e-4)

    ranged = restore(BLURRED * 255, iterations=30, tol=0, data_range=255)["image"]
    assert_allclose(ranged / 255, restore(iterations=30, tol=0)["image"], atol=1e-3)

    colour = np.stack([SMALL] * 3, axis=-1)
    restored = restore(colour, weight=0.002, iterations=20, tol=0)["image"]
    assert restored.shape == (16, 12, 3)
    assert_allclose(restored[..., 0], restore(SMALL, weight=0.002, iterations=20, tol=0)["image"], atol=0.02)


def test_a_picture_of_odd_sides_and_no_blur_is_denoised() -> None:
    clean = CROP[:61, :97]
    noisy = flow.degrade(clean, 0, 0.05)
    # Both sides are odd on the second level too; more levels only take longer to compile.
    for prior, options in (("tv", {}), ("wavelet", {"levels": 2})):
        result = flow.restore(noisy, blur_sigma=0, prior=prior, reference=clean, **options)
        assert result["psnr"] > result["psnr_before"] + 1.5, prior


def test_float64_is_used_for_one_run_and_not_left_on() -> None:
    import jax.numpy as jnp

    assert restore(BLURRED[:10, :10], inner_steps=20, dtype="float64", iterations=3)["image"].dtype == np.float64
    assert jnp.ones(1).dtype == np.float32
    assert restore(iterations=3)["image"].dtype == np.float32


BAD = [
    ({"image": np.full((4, 4), np.nan)}, "NaN"),
    ({"image": np.where(np.eye(4) > 0, np.inf, 0.0)}, r"4 values .* first at \(0, 0\)"),
    ({"image": np.zeros(5)}, r"shape \(5,\)"),
    ({"image": np.zeros((1, 9))}, "2 by 2"),
    ({"image": np.zeros((4, 4, 0))}, "2 by 2"),
    ({"image": np.zeros((4, 4), complex)}, "complex128"),
    ({"image": [["a", "b"], ["c", "d"]]}, "dtype"),
    ({"image": [[1.0], [1.0, 2.0]]}, "not an array"),
    ({"blur_sigma": -1}, "blur_sigma is -1"),
    ({"blur_sigma": "2"}, "blur_sigma is '2'"),
    ({"blur_sigma": float("nan")}, "finite"),
    ({"weight": 0}, "weight is 0"),
    ({"weight": True}, "weight is True"),
    ({"prior": "ridge"}, "tv, wavelet"),
    ({"prior": ["tv"]}, "prior is"),
    ({"solver": "newton"}, "mfista, fista"),
    ({"iterations": 0}, "at least 1"),
    ({"iterations": 1.5}, "whole number"),
    ({"block": 0}, "block is 0"),
    ({"inner_steps": 0}, "inner_steps is 0"),
    ({"tol": -1e-3}, "tol is"),
    ({"prior": "wavelet", "wavelet_name": "coif1"}, "db16"),
    ({"prior": "wavelet", "levels": 9}, "from 1 to 7"),
    ({"reference": np.zeros((3, 3))}, "reference has shape"),
    ({"reference": np.full((128, 128), np.inf)}, "reference has 16384 values"),
    ({"dtype": "float16"}, "float32, float64"),
    ({"data_range": 0}, "data_range"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_with_the_value_and_the_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(flow.FlowInputError, match=message):
        restore(**options)


def test_the_rules_for_specs_of_users_do_not_concern_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFS_VALIDATION", "strict")
    assert restore(iterations=3)["iteration"] == 3


def test_values_too_large_for_the_dtype_are_a_clear_error() -> None:
    with pytest.raises(flow.FlowDiverged, match="white is 1"):
        restore(BLURRED.astype(np.float64) * 1e30)
    small = BLURRED[:10, :10].astype(np.float64) * 1e30
    assert np.isfinite(restore(small, inner_steps=20, dtype="float64", iterations=3)["energy"])


def test_the_device_is_named() -> None:
    assert flow.device().split(":")[0] in ("cpu", "gpu", "tpu", "rocm", "cuda", "METAL")
    assert restore(iterations=1)["device"] == flow.device()


def test_block_sizes_follow_the_clock_within_their_limits() -> None:
    assert next_block(1, 2.0) == 1  # the first block compiles
    assert next_block(8, BLOCK_SECONDS / 10) == 32  # at most four times as many
    assert next_block(16, 2 * BLOCK_SECONDS) == 8
    assert next_block(CAPACITY, 0.0) == CAPACITY


def test_a_run_that_goes_on_from_a_checkpoint_ends_where_it_would_have_ended() -> None:
    options: dict[str, Any] = {"blur_sigma": 1.5, "iterations": 16, "block": 4, "tol": 0, "reference": CROP}
    first, second = (flow.Restoration(BLURRED, **options) for _ in range(2))
    assert [next(first)["iteration"], next(first)["iteration"]] == [4, 8]
    second.__snakebridge_restore__(first.__snakebridge_checkpoint__())
    assert second.result()["iteration"] == 8 and second.result()["stopped"] == ""
    assert [info["iteration"] for info in second] == [12, 16]
    result, expected = second.result(), flow.restore(BLURRED, **options)
    assert_array_equal(result["image"], expected["image"])
    assert result["history"] == expected["history"]
    assert result.keys() == expected.keys() and result["stopped"] == "budget"


def test_a_restoration_and_restore_take_the_same_arguments() -> None:
    ours, theirs = inspect.signature(flow.Restoration).parameters, inspect.signature(flow.restore).parameters
    assert list(ours) == list(theirs) and theirs["dtype"].default == "float32" and theirs["tol"].default == 2e-3
    with pytest.raises(TypeError, match="blur"):
        flow.restore(BLURRED, blur=1.5)  # type: ignore[call-arg]
