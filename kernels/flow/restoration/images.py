"""Images as they come in and go out: plain arrays, checked, on the host.

An image is (height, width) or (height, width, channels). Whole numbers count from 0 to the maximum of their type,
floats are taken as they are with 1 as white, unless a `data_range` says otherwise. Inside a flow white is 1, so a
weight means the same for all of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError
from ..operators.convolution import gaussian_kernel


def as_image(image: ArrayLike, name: str) -> NDArray[Any]:
    """The image as an array. Raises FlowInputError when it is not a finite real image of at least 2 by 2 pixels."""
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise FlowInputError(f"{name} is not an array: {error}") from None
    if array.dtype.kind not in "uif":
        raise FlowInputError(f"{name} has dtype {array.dtype}; an image holds whole or floating point numbers")
    if array.ndim not in (2, 3):
        raise FlowInputError(f"{name} has shape {array.shape}; an image is (height, width) or (height, width, channels)")
    if min(array.shape[:2]) < 2 or array.size == 0:
        raise FlowInputError(f"{name} has shape {array.shape}; an image is at least 2 by 2 pixels")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        place = ", ".join(str(index) for index in bad[0])
        raise FlowInputError(f"{name} has {len(bad)} values that are NaN or infinite, the first at ({place}); replace them first")
    return array


def range_of(array: NDArray[Any], data_range: float | None = None) -> float:
    """The distance from black to white: `data_range` when given, else the maximum of a whole number type, else 1."""
    if data_range is not None:
        return positive(data_range, "data_range")
    return float(np.iinfo(array.dtype).max) if array.dtype.kind in "ui" else 1.0


def to_planes(array: NDArray[Any], white: float) -> NDArray[np.float64]:
    """(h, w) as it is and (h, w, c) as (c, h, w), with `white` scaled to 1."""
    planes = array if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return planes.astype(np.float64) / white


def from_planes(planes: NDArray[Any], white: float) -> NDArray[Any]:
    """The inverse of `to_planes`, in the dtype of the planes."""
    array = planes if planes.ndim == 2 else np.moveaxis(planes, 0, -1)
    return np.ascontiguousarray(array * planes.dtype.type(white))


def degrade(image: ArrayLike, blur_sigma: float, noise_sigma: float, seed: int = 0, data_range: float | None = None) -> NDArray[np.float32]:
    """k * image + noise: a periodic Gaussian blur of `blur_sigma` pixels and seeded white noise of `noise_sigma`
    (black is 0, white is 1).

    The result has the range of the input and is not clipped, so that it stays exactly what `restore` assumes.
    """
    array = as_image(image, "image")
    blur, noise = non_negative(blur_sigma, "blur_sigma"), non_negative(noise_sigma, "noise_sigma")
    white = range_of(array, data_range)
    planes = to_planes(array, white)
    height, width = planes.shape[-2:]
    transfer = np.fft.rfft2(gaussian_kernel((height, width), blur))
    blurred = np.fft.irfft2(transfer * np.fft.rfft2(planes), s=(height, width))
    noisy = blurred + noise * np.random.default_rng(seed).standard_normal(planes.shape)
    return from_planes(noisy, white).astype(np.float32)


def psnr(a: ArrayLike, b: ArrayLike, data_range: float | None = None) -> float:
    """10 log10(range^2 / mean((a - b)^2)) in dB; infinity when they are equal.

    `data_range` is 1 unless given, or unless one of the two has a whole number type, whose maximum it then is.
    """
    first, second = as_image(a, "a"), as_image(b, "b")
    if first.shape != second.shape:
        raise FlowInputError(f"the images have shapes {first.shape} and {second.shape}; they are compared pixel by pixel")
    peak = max(range_of(first, data_range), range_of(second, data_range))
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def noise_level(planes: NDArray[np.float64]) -> float:
    """The standard deviation of white noise: median(|d|) / 0.6745 over the finest diagonal Haar coefficients d = (a -
    b - c + e) / 2.

    Blur leaves almost nothing of the picture there. Source: Donoho & Johnstone, Biometrika 81(3), 1994.
    """
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    even = planes[..., :height, :width]
    by_rows = even[..., 0::2, :] - even[..., 1::2, :]
    return float(np.median(np.abs(by_rows[..., 0::2] - by_rows[..., 1::2])) / (2 * 0.6745))


def non_negative(value: float, name: str) -> float:
    """The number, or FlowInputError when it is negative or not finite."""
    number = _number(value, name)
    if number < 0:
        raise FlowInputError(f"{name} is {number}; it must be 0 or more")
    return number


def positive(value: float, name: str) -> float:
    """The number, or FlowInputError when it is not above 0 or not finite."""
    number = _number(value, name)
    if number <= 0:
        raise FlowInputError(f"{name} is {number}; it must be above 0")
    return number


def _number(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
        raise FlowInputError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def whole(value: int, name: str, least: int, most: int | None = None) -> int:
    """The whole number, or FlowInputError when it is none or lies outside [least, most]."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise FlowInputError(f"{name} is {value!r}; it must be a whole number")
    if value < least or (most is not None and value > most):
        raise FlowInputError(f"{name} is {value}; it must be {f'at least {least}' if most is None else f'from {least} to {most}'}")
    return int(value)
