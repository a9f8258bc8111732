"""Degrading, comparing and showing images; and what importing the packages costs."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from bridge_adapter.kernels import flow
from bridge_adapter.kernels.flow.restoration.images import noise_level

rng = np.random.default_rng(6)


def test_degrade_blurs_periodically_and_is_reproducible() -> None:
    image = np.zeros((16, 16))
    image[0, 0] = 1
    blurred = flow.degrade(image, 1.0, 0)
    assert blurred.dtype == np.float32
    assert_allclose(blurred.sum(), 1, rtol=1e-5)
    assert_allclose(blurred[0, 1], blurred[0, 15], rtol=1e-5)  # around the edge
    assert_array_equal(flow.degrade(image, 1.0, 0.1, seed=5), flow.degrade(image, 1.0, 0.1, seed=5))
    assert np.any(flow.degrade(image, 1.0, 0.1, seed=5) != flow.degrade(image, 1.0, 0.1, seed=6))


def test_degrade_keeps_the_range_and_the_noise_level_is_found_again() -> None:
    image = np.full((128, 128, 3), 100, np.uint8)
    noisy = flow.degrade(image, 1.0, 0.05)
    assert noisy.shape == image.shape
    assert noisy.mean() == pytest.approx(100, abs=1) and noisy.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert noise_level(noisy / 255) == pytest.approx(0.05, rel=0.5)


def test_psnr() -> None:
    image = rng.random((8, 8))
    assert flow.psnr(image, image) == math.inf
    assert flow.psnr(image, image + 0.1) == pytest.approx(20)
    whole = np.rint(image * 200).astype(np.uint8)
    assert flow.psnr(whole, whole + 0.255) == pytest.approx(60)
    assert flow.psnr(255 * image, 255 * image + 2.55, data_range=255) == pytest.approx(40)
    with pytest.raises(flow.FlowInputError, match="shapes"):
        flow.psnr(image, image[:4])


def test_a_panel_is_one_png_with_the_images_side_by_side(tmp_path: Path) -> None:
    grey, colour, whole = np.zeros((40, 60)), np.ones((30, 50, 3)) * [1, 0, 0], np.full((40, 60), 128, np.uint8)
    path = flow.save_panel(tmp_path / "new" / "panel.png", [grey, colour, whole], ["grey", "a title far too long", "whole"])
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    assert pixels.shape == (8 + 26 + 40 + 8, 4 * 8 + 60 + 50 + 60, 3)
    assert_array_equal(pixels[50, 20], [0, 0, 0])
    assert_array_equal(pixels[50, 8 + 60 + 8 + 10], [255, 0, 0])
    assert_array_equal(pixels[50, 8 + 60 + 8 + 50 + 8 + 10], [128, 128, 128])
    assert pixels[8:30, 8:40].min() < 100  # a title is written
    assert_array_equal(pixels[8:34, 68:76], 255)  # and stays within its image


def test_a_panel_without_titles_needs_no_room_for_them(tmp_path: Path) -> None:
    with Image.open(flow.save_panel(tmp_path / "p.png", [np.zeros((10, 10))])) as image:
        assert image.size == (26, 26)


def test_difference_is_grey_where_images_agree() -> None:
    a = np.array([[0.5, 0.6], [0.5, 0.0]])
    assert_allclose(flow.difference(a, np.full((2, 2), 0.5)), [[0.5, 0.9], [0.5, 0.0]], atol=1e-6)


def test_panels_refuse_what_they_cannot_show(tmp_path: Path) -> None:
    for images, titles, message in [
        ([], None, "empty"),
        ([np.zeros((4, 4))], ["a", "b"], "2 titles for 1"),
        ([np.zeros((4, 4, 2))], None, "2 channels"),
        ([np.zeros(4)], None, r"images\[0\] has shape"),
    ]:
        with pytest.raises(flow.FlowInputError, match=message):
            flow.save_panel(tmp_path / "p.png", images, titles)
    assert list(tmp_path.iterdir()) == []


def test_without_pillow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(flow.MissingExtra, match=r"bridge-adapter\[demo\]"):
        flow.save_panel(tmp_path / "p.png", [np.zeros((4, 4))])


def test_importing_the_kernels_package_loads_neither_jax_nor_numpy() -> None:
    code = "import sys, bridge_adapter.kernels; print(sorted({'jax', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
