"""A scan with few angles: filtered back projection, a ridge, and total variation, which recovers the phantom from a sixth of the views.

E(x) = 1/2 ||P x - s||^2 + w TV(x),  0 <= x <= 1,  P = line integrals at `views` angles
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pictures import error, figure, save, show
from skimage.data import shepp_logan_phantom
from skimage.transform import downscale_local_mean, iradon

from bridge_adapter.kernels import flow

VIEWS, NOISE = 24, 0.3


def scanned(image: Any, projection: flow.Op) -> Any:
    """P x with noise of NOISE pixels' worth of white."""
    seen = np.asarray(flow.operators.build(projection, image.shape, np.dtype(np.float32)).matvec(image.astype(np.float32)), np.float64)
    return seen + NOISE * np.random.default_rng(5).standard_normal(seen.shape)


def experiment(shrink: int = 4, iterations: int = 600) -> dict[str, Any]:
    """Scans the phantom at VIEWS angles and reconstructs it."""
    clean = downscale_local_mean(shepp_logan_phantom(), (shrink, shrink))
    side = clean.shape[0]
    angles = np.linspace(0, np.pi, VIEWS, endpoint=False)
    projection = flow.Op("parallel_projection", angles=angles, detectors=side)
    sinogram = scanned(clean, projection)
    slots = {"x": flow.Slot(shape=clean.shape), "s": flow.Slot(value=sinogram, role="data")}
    fit = flow.Term("quadratic", "x", op=projection, target="s")
    bounds = flow.Term("box", "x", params={"lower": 0.0, "upper": 1.0})
    priors = {
        "ridge": [flow.Term("tikhonov", "x", weight=5.0)],
        "total variation": [flow.Term("tv", "x", weight=0.5), bounds],
    }
    found: dict[str, Any] = {"clean": clean, "sinogram": sinogram, "runs": {}}
    found["images"] = {"filtered back projection": iradon(sinogram.T, theta=-np.degrees(angles), circle=True)}
    for name, terms in priors.items():
        found["runs"][name] = flow.run(flow.FlowSpec(slots, [fit, *terms], name=name, dtype="float32"), iterations=iterations, tol=1e-5)
        found["images"][name] = found["runs"][name]["state"]["x"]
    found["psnr"] = {name: flow.psnr(image, clean) for name, image in found["images"].items()}
    return found


def main() -> None:
    found = experiment()
    clean = found["clean"]
    print(f"{found['sinogram'].size} measured numbers for {clean.size} pixels")
    for name, value in found["psnr"].items():
        print(f"{name:24} {value:5.2f} dB")
    for name, run in found["runs"].items():
        print(f"{name}: {run['iterations']} steps of {run['report'].solver} in {run['elapsed_s']:.1f} s, {run['stopped']}")
    made = figure(15, 8.0, f"Tomography with {VIEWS} views of the Shepp-Logan phantom")
    grid = made.subplots(2, 4)
    show(grid[0, 0], "phantom", clean)
    bright = float(found["sinogram"].max())
    seen = f"seen by the detectors, a row for each of {VIEWS} views"
    show(grid[1, 0], seen, found["sinogram"], vmax=bright, aspect="auto", cmap="viridis")
    for column, (name, image) in enumerate(found["images"].items(), 1):
        show(grid[0, column], f"{name}, {found['psnr'][name]:.1f} dB", image)
        show(grid[1, column], "error × 4", error(image, clean))
    save(made, "tomography")


if __name__ == "__main__":
    main()
