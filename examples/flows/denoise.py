"""Removing noise from a photograph: total variation, an orthonormal wavelet, and a redundant (undecimated) wavelet as analysis prior.

E(x) = 1/2 ||x - y||^2 + w R(x),   R = TV, ||W x||_1 of the details
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pictures import error, figure, images, save
from skimage.data import camera
from skimage.restoration import denoise_tv_chambolle

from bridge_adapter.kernels import flow

NOISE = 0.1


def priors() -> dict[str, flow.Term]:
    """The regularizers, weights chosen for NOISE."""
    # A coefficient of level j holds noise of NOISE / 2^j, and is one of 2^j in each direction that say nearly the same.
    bank = flow.Op("undecimated", wavelet="haar", levels=4)
    undecimated = {"transform": bank, "form": "analysis", "lambdas": {level: 2.0**-level for level in range(1, 5)}}
    return {
        "total variation": flow.Term("tv", "x", weight=0.9 * NOISE),
        "wavelet sym8": flow.Term("wavelet_l1", "x", weight=1.5 * NOISE, params={"wavelet": "sym8", "levels": 4}),
        "undecimated haar": flow.Term("wavelet_l1", "x", weight=1.1 * NOISE, params=undecimated),
    }


def experiment(side: int = 256, iterations: int = 200) -> dict[str, Any]:
    """Adds noise to a part of a photograph and removes it with each prior."""
    clean = camera()[60 : 60 + side, 130 : 130 + side] / 255.0
    noisy = clean + NOISE * np.random.default_rng(0).standard_normal(clean.shape)
    found: dict[str, Any] = {"clean": clean, "noisy": noisy, "psnr": {"noisy": flow.psnr(noisy, clean)}, "runs": {}}
    for name, prior in priors().items():
        slots = {"x": flow.Slot(value=noisy), "y": flow.Slot(value=noisy, role="data")}
        spec = flow.FlowSpec(slots, [flow.Term("quadratic", "x", target="y"), prior], name=name)
        found["runs"][name] = flow.run(spec, iterations=iterations, tol=1e-4)
        found["psnr"][name] = flow.psnr(found["runs"][name]["state"]["x"], clean)
    return found


def energy(x: Any, noisy: Any) -> float:
    """1/2 ||x - y||^2 + w TV(x), written out: to compare minimisers of others."""
    down, right = np.diff(x, axis=0, append=x[-1:]), np.diff(x, axis=1, append=x[:, -1:])
    return float(0.5 * np.sum((x - noisy) ** 2) + 0.9 * NOISE * np.sum(np.hypot(down, right)))


def main() -> None:
    found = experiment()
    clean, noisy, psnr = found["clean"], found["noisy"], found["psnr"]
    print(f"noisy             {psnr['noisy']:5.2f} dB")
    for name, run in found["runs"].items():
        report = run["report"]
        print(f"{name:17} {psnr[name]:5.2f} dB  {run['iterations']} steps of {report.solver} in {run['elapsed_s']:.1f} s, {run['stopped']}")
    theirs = denoise_tv_chambolle(noisy, weight=0.9 * NOISE, max_num_iter=200)
    ours = found["runs"]["total variation"]["state"]["x"]
    print(f"energy of TV: ours {energy(ours, noisy):.4f}, scikit-image's denoise_tv_chambolle {energy(theirs, noisy):.4f}")
    results = [(f"{name}, {psnr[name]:.1f} dB", run["state"]["x"]) for name, run in found["runs"].items()]
    made = figure(16, 7.0, f"Noise of {NOISE:g} (white is 1): three priors, and what each takes away beside the noise")
    missed = [("error × 4", error(image, clean)) for _, image in [("", noisy), *results]]
    grid = images(made, [[("the photograph", clean), (f"noisy, {psnr['noisy']:.1f} dB", noisy), *results], [("", None), *missed]])
    draw_gains(grid[1, 0], psnr)
    save(made, "denoise")


def draw_gains(axis: Axes, psnr: Mapping[str, float]) -> None:
    """How much each prior is better than what it began with."""
    gains = {name: value - psnr["noisy"] for name, value in psnr.items() if name != "noisy"}
    axis.set_axis_on()
    bars = axis.bar([name.replace(" ", "\n") for name in gains], list(gains.values()), color="0.6")
    axis.bar_label(bars, fmt="%.1f", fontsize=9)
    axis.set_title("gain, dB", fontsize=10)
    axis.set_box_aspect(1)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
