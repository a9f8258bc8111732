"""What the examples share: pictures beside each other with captions, and where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

OUT = Path(__file__).resolve().parents[2] / "out" / "flows"


def figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, sizes in inches."""
    made = Figure(figsize=(width, height), layout="constrained", dpi=110)
    made.suptitle(title, fontsize=13)
    return made


def images(onto: Figure | SubFigure, rows: Sequence[Sequence[tuple[str, Any]]], **how: Any) -> Any:
    """Rows of (caption, image), black at 0 and white at 1; channels may be first. None leaves its place empty. Returns the grid of axes."""
    grid = onto.subplots(len(rows), max(len(row) for row in rows), squeeze=False)
    for axis in grid.ravel():
        axis.set_axis_off()
    for places, row in zip(grid, rows, strict=True):
        for axis, (caption, image) in zip(places, row, strict=False):
            if image is not None:
                show(axis, caption, image, **how)
    return grid


def show(axis: Axes, caption: str, image: Any, **how: Any) -> AxesImage:
    """One image."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3:
        array = np.moveaxis(array, 0, -1)
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0, "interpolation": "nearest"} | how
    shown = axis.imshow(np.clip(array, options["vmin"], options["vmax"]) if array.ndim == 3 else array, **options)
    axis.set_title(caption, fontsize=10)
    axis.set_axis_off()
    return shown


def error(result: Any, truth: Any, gain: float = 4.0) -> Any:
    """Grey where two images agree, brighter and darker by `gain` times their difference."""
    return np.clip(0.5 + gain * (np.asarray(result) - np.asarray(truth)), 0, 1)


def save(made: Figure, name: str) -> Path:
    """Writes out/flows/<name>.png and says so."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    made.savefig(path)
    print(f"picture: {path}")
    return path
