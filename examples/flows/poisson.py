"""A telescope counts photons: deconvolution with the likelihood of counts, beside Richardson-Lucy and beside least squares.

E(x) = sum (k * x + d) - b log(k * x + d) + w TV(x),  x >= 0
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from pictures import figure, save, show
from skimage.data import hubble_deep_field
from skimage.restoration import richardson_lucy

from bridge_adapter.kernels import flow

SIGMA, PEAK, SKY = 1.8, 150.0, 2.0
BLUR = flow.Op("gaussian_blur", sigma=SIGMA)


def observed(side: int) -> tuple[Any, Any]:
    """A part of the Hubble deep field in photons per pixel, and the counts of a smaller telescope with a bright sky."""
    field = hubble_deep_field()[330 : 330 + side, 560 : 560 + side].mean(axis=2) / 255.0
    truth = PEAK * np.clip(field - np.median(field), 0, None)
    mean = blurred(truth) + SKY
    return truth, np.random.default_rng(3).poisson(mean).astype(np.float64)


def blurred(image: Any) -> Any:
    """k * image, periodic."""
    return flow.degrade(image, blur_sigma=SIGMA, noise_sigma=0.0, data_range=1.0).astype(np.float64).clip(0)


def specs(counts: Any) -> dict[str, flow.FlowSpec]:
    """The likelihood of the counts, and what one would do without it."""
    slots = {"x": flow.Slot(value=np.clip(counts - SKY, 0, None)), "b": flow.Slot(value=counts, role="data")}
    positive = flow.Term("nonnegative", "x")
    counted = flow.Term("poisson", "x", op=BLUR, target="b", params={"background": SKY})
    squares = flow.Term("quadratic", "x", op=BLUR, target=counts - SKY, weight=1 / float(counts.mean()))

    def tv(weight: float) -> flow.Term:
        return flow.Term("tv", "x", weight=weight, params={"boundary": "periodic"})

    return {
        "least squares": flow.FlowSpec({"x": slots["x"]}, [squares, tv(0.06), positive], name="squares"),
        "photon counts": flow.FlowSpec(slots, [counted, tv(0.03), positive], name="poisson"),
    }


def distance(image: Any, truth: Any) -> float:
    """||x - x*|| / ||x*||."""
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def experiment(side: int = 192, iterations: int = 1500) -> dict[str, Any]:
    """Observes a part of the field and deconvolves what was counted."""
    truth, counts = observed(side)
    found: dict[str, Any] = {"truth": truth, "counts": counts, "images": {"counts": counts - SKY}, "runs": {}}
    reach = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (reach[:, None] ** 2 + reach[None, :] ** 2) / SIGMA**2)
    found["images"]["Richardson-Lucy"] = richardson_lucy(np.clip(counts - SKY, 0, None), kernel / kernel.sum(), num_iter=20, clip=False)
    for name, spec in specs(counts).items():
        found["runs"][name] = flow.run(spec, iterations=iterations, tol=1e-5)
        found["images"][name] = found["runs"][name]["state"]["x"]
    found["distance"] = {name: distance(image, truth) for name, image in found["images"].items()}
    return found


def draw_profile(axis: Axes, found: dict[str, Any]) -> None:
    """A row of pixels through the brightest object."""
    row = int(np.unravel_index(found["truth"].argmax(), found["truth"].shape)[0])
    axis.plot(found["truth"][row], color="0.6", linewidth=4, label="truth")
    for name, image in found["images"].items():
        axis.plot(image[row], linewidth=1.2, label=name)
    axis.set_title(f"row {row}, through the brightest object", fontsize=10)
    axis.set(xlabel="column", ylabel="photons per pixel")
    axis.set_box_aspect(1)
    axis.legend(fontsize=8)


def main() -> None:
    found = experiment()
    for name, value in found["distance"].items():
        print(f"{name:16} off by {100 * value:5.1f} % of the truth")
    for name, run in found["runs"].items():
        print(f"{name}: {run['iterations']} steps of {run['report'].solver} in {run['elapsed_s']:.1f} s, {run['stopped']}")
    made = figure(15, 9.4, "Poisson deconvolution of the Hubble deep field (a simulated small telescope)")
    grid = made.subplots(2, 3)
    shown = [("truth", found["truth"]), *found["images"].items()]
    for axis, (name, image) in zip(grid.ravel(), shown, strict=False):
        caption = name if name == "truth" else f"{name}, off by {100 * found['distance'][name]:.1f} %"
        # By the root of the photons: the faint ones are many, the bright ones are few.
        shown_as = show(axis, caption, np.clip(image, 0, None), cmap="inferno", vmin=None, vmax=None, norm=PowerNorm(0.5, 0, 100))
    made.colorbar(shown_as, ax=grid[0, 2], label="photons per pixel", extend="max", shrink=0.8)
    draw_profile(grid[1, 2], found)
    save(made, "poisson")


if __name__ == "__main__":
    main()
