"""Pictures for people: images side by side, with titles, in one PNG.

Needs Pillow, which the `demo` extra brings; it is imported when a picture is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FlowInputError, MissingExtra
from .images import as_image, positive, range_of, to_planes

MARGIN = 8
TITLE_HEIGHT = 26
TITLE_SIZE = 15


def difference(a: ArrayLike, b: ArrayLike, gain: float = 4.0, data_range: float | None = None) -> NDArray[np.float32]:
    """1/2 + gain (a - b) with white = 1, clipped to [0, 1]: grey where the images agree."""
    first, second = as_image(a, "a"), as_image(b, "b")
    if first.shape != second.shape:
        raise FlowInputError(f"the images have shapes {first.shape} and {second.shape}; they are compared pixel by pixel")
    white = max(range_of(first, data_range), range_of(second, data_range))
    signed = (first.astype(np.float64) - second.astype(np.float64)) / white
    return np.clip(0.5 + positive(gain, "gain") * signed, 0, 1).astype(np.float32)


def save_panel(
    path: str | os.PathLike[str], images: Sequence[ArrayLike], titles: Sequence[str] | None = None, data_range: float | None = None
) -> str:
    """Writes the images side by side, each under its title, as one PNG, makes its folder, and returns its absolute path.

    images: grey (h, w) or (h, w, 1) or colour (h, w, 3), whole numbers or floats, white as in `images`;
    values outside are clipped. Raises MissingExtra when Pillow is not installed.
    """
    if len(images) == 0:
        raise FlowInputError("images is empty; a panel shows at least one")
    labels = [str(title) for title in titles] if titles is not None else [""] * len(images)
    if len(labels) != len(images):
        raise FlowInputError(f"there are {len(labels)} titles for {len(images)} images; give one each, or none")
    tiles = [_rgb(image, f"images[{index}]", data_range) for index, image in enumerate(images)]
    image_module, draw_module, font_module = _pillow()

    top = MARGIN + (TITLE_HEIGHT if titles is not None else 0)
    width = MARGIN + sum(tile.shape[1] + MARGIN for tile in tiles)
    panel = image_module.new("RGB", (width, top + max(tile.shape[0] for tile in tiles) + MARGIN), "white")
    draw, font = draw_module.Draw(panel), font_module.load_default(size=TITLE_SIZE)
    left = MARGIN
    for tile, label in zip(tiles, labels, strict=True):
        draw.text(
            (left, MARGIN),
            _fitted(label, tile.shape[1], lambda text: draw.textlength(text, font=font)),
            fill="black",
            font=font,
        )
        panel.paste(image_module.fromarray(tile), (left, top))
        left += tile.shape[1] + MARGIN

    target = os.path.abspath(os.fspath(path))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    panel.save(target, format="PNG")
    return target


def _rgb(image: ArrayLike, name: str, data_range: float | None) -> NDArray[np.uint8]:
    array = as_image(image, name)
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        raise FlowInputError(f"{name} has {array.shape[2]} channels; a panel shows grey (1) and colour (3)")
    planes = to_planes(array, range_of(array, data_range))
    colours = np.broadcast_to(planes, (3, *planes.shape[-2:]))
    return np.ascontiguousarray(np.moveaxis(np.rint(np.clip(colours, 0, 1) * 255), 0, -1).astype(np.uint8))


def _fitted(label: str, width: int, length: Any) -> str:
    """The label, shortened until it is no wider than its image: two titles never run into each other."""
    if length(label) <= width:
        return label
    for end in range(len(label) - 1, 0, -1):
        if length(label[:end] + "…") <= width:
            return label[:end] + "…"
    return ""


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtra("saving a picture needs Pillow, which is not installed; run: pip install 'bridge-adapter[demo]'") from error
    return Image, ImageDraw, ImageFont
