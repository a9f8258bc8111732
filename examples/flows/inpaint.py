"""Taking writing off a photograph: what lies under it is filled in so that the whole has the least variation, or bends least.

min TV(x) or ||Laplacian x||^2   subject to x = y where nothing is written
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pictures import error, figure, images, save
from skimage.data import astronaut, page

from bridge_adapter.kernels import flow


def written(height: int, width: int) -> Any:
    """Where there is ink on a scanned page, as an array of truth."""
    paper = page()[:height, :width]
    local = np.array([[np.median(paper[r : r + 24, c : c + 24]) for c in range(0, width, 24)] for r in range(0, height, 24)])
    return paper < 0.82 * np.kron(local, np.ones((24, 24)))[:height, :width]


def experiment(height: int = 190, width: int = 320, iterations: int = 800) -> dict[str, Any]:
    """Writes on a photograph, then fills in what was covered, each colour for itself."""
    clean = np.moveaxis(astronaut()[10 : 10 + height, 90 : 90 + width], -1, 0) / 255.0
    ink = np.broadcast_to(written(height, width), clean.shape)
    covered = np.where(ink, 0.0, clean)
    start = np.where(ink, clean[~ink].mean(), clean)
    # Known pixels are held by equal bounds.
    held = flow.Term("box", "x", params={"lower": covered, "upper": np.where(ink, 1.0, clean)})
    priors = {
        "total variation": flow.Term("tv", "x", params={"axes": (1, 2)}),
        "biharmonic": flow.Term("biharmonic", "x", params={"axes": (1, 2)}),
    }
    found: dict[str, Any] = {"clean": clean, "covered": covered, "ink": ink, "runs": {}}
    found["psnr"] = {"covered": psnr(covered, clean)}
    for name, prior in priors.items():
        spec = flow.FlowSpec({"x": flow.Slot(value=start)}, [prior, held], name=name)
        found["runs"][name] = flow.run(spec, iterations=iterations, tol=1e-4)
        found["psnr"][name] = psnr(found["runs"][name]["state"]["x"], clean)
    return found


def psnr(image: Any, clean: Any) -> float:
    """Of images with their channels first."""
    return flow.psnr(np.moveaxis(image, 0, -1), np.moveaxis(clean, 0, -1))


def main() -> None:
    found = experiment()
    clean, covered, ink = found["clean"], found["covered"], found["ink"]
    print(f"{100 * ink.mean():.1f} % of the pixels are under ink; {found['psnr']['covered']:.2f} dB")
    filled = []
    for name, run in found["runs"].items():
        x = run["state"]["x"]
        kept = np.abs(x - clean)[~ink].max()
        print(
            f"{name:16} {found['psnr'][name]:.2f} dB  known pixels moved by at most {kept:.0e}  "
            f"{run['iterations']} steps of {run['report'].solver}"
        )
        filled.append((f"{name}, {found['psnr'][name]:.1f} dB", x))
    made = figure(16, 5.6, "Inpainting: the page of a book taken off a photograph")
    bottom = [("enlarged", covered[:, 30:130, 90:258])] + [("enlarged", x[:, 30:130, 90:258]) for _, x in filled]
    missed = ("error × 4 (total variation)", error(filled[0][1], clean))
    images(made, [[("written over", covered), *filled, ("the photograph", clean)], [*bottom, missed]])
    save(made, "inpaint")


if __name__ == "__main__":
    main()
