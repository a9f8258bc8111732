"""A heartbeat as straight pieces: trend filtering finds the corners of the waves of an electrocardiogram, under noise.

    E(x) = 1/2 ||x - y||^2 + w ||D^2 x||_1

Where D^2 x is not 0, the slope changes. A duality gap proves how good the fit is: for |u_i| <= w, E >= 1/2 ||y||^2 - 1/2 ||y - D^2^T u||^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pywt
from pictures import figure, save

from bridge_adapter.kernels import flow

NOISE, RATE = 0.04, 360.0  # in millivolts; samples per second


def recording(samples: int) -> tuple[Any, Any]:
    """Some heartbeats in millivolts, and the same with the noise of moving muscles."""
    clean = pywt.data.ecg()[:samples] / 200.0
    return clean, clean + NOISE * np.random.default_rng(7).standard_normal(samples)


def spec(noisy: Any, weight: float) -> flow.FlowSpec:
    """Trend filtering of a signal."""
    slots = {"x": flow.Slot(value=noisy), "y": flow.Slot(value=noisy, role="data")}
    return flow.FlowSpec(slots, [flow.Term("quadratic", "x", target="y"), flow.Term("trend", "x", weight=weight)], name="trend")


def gap(noisy: Any, x: Any, weight: float) -> float:
    """The relative duality gap at x: u solves D^2^T u = y - x as well as can be, then is cut to |u_i| <= w."""
    second = np.diff(np.eye(len(x)), 2, axis=0)
    u = np.clip(np.linalg.lstsq(second.T, noisy - x, rcond=None)[0], -weight, weight)
    primal = 0.5 * np.sum((x - noisy) ** 2) + weight * np.abs(second @ x).sum()
    dual = 0.5 * noisy @ noisy - 0.5 * np.sum((noisy - second.T @ u) ** 2)
    return float((primal - dual) / primal)


def corners(x: Any, least: float = 2e-3) -> Any:
    """The samples at which the slope changes by more than `least` millivolts per sample."""
    return np.flatnonzero(np.abs(np.diff(x, 2)) > least) + 1


def experiment(samples: int = 640, weight: float = 0.12, iterations: int = 150_000) -> dict[str, Any]:
    """Filters a noisy recording."""
    clean, noisy = recording(samples)
    run = flow.run(spec(noisy, weight), iterations=iterations, tol=1e-7)
    x = run["state"]["x"]
    found = {"clean": clean, "noisy": noisy, "x": x, "run": run, "gap": gap(noisy, x, weight), "corners": corners(x)}
    return found | {"rms": {"noisy": rms(noisy - clean), "filtered": rms(x - clean)}}


def rms(error: Any) -> float:
    """In millivolts."""
    return float(np.sqrt(np.mean(error**2)))


def main() -> None:
    found = experiment()
    x, run = found["x"], found["run"]
    print(f"error {1000 * found['rms']['noisy']:.0f} µV before, {1000 * found['rms']['filtered']:.0f} µV after")
    print(f"{len(x)} samples, {len(found['corners'])} corners, {run['iterations']} steps of {run['report'].solver}")
    print(f"relative duality gap {found['gap']:.1e}")
    seconds = np.arange(len(x)) / RATE
    made = figure(14, 7.5, "Trend filtering of an electrocardiogram")
    above, middle, below = made.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    above.plot(seconds, found["noisy"], color="0.75", linewidth=0.8, label="noisy")
    above.plot(seconds, found["clean"], color="C0", linewidth=1.0, label="recorded")
    above.set(ylabel="mV", title=f"recorded, with noise of {1000 * NOISE:.0f} µV")
    middle.plot(seconds, found["clean"], color="0.75", linewidth=3, label="recorded")
    middle.plot(seconds, x, color="C3", linewidth=1.0, label="straight pieces")
    middle.plot(seconds[found["corners"]], x[found["corners"]], "C3o", markersize=4, label="corners")
    middle.set(ylabel="mV", title=f"{len(found['corners'])} corners; duality gap {found['gap']:.0e}")
    bends = np.diff(x, 2)
    below.vlines(seconds[1:-1], 0, bends, color="C3", linewidth=1)
    below.set(xlabel="seconds", ylabel="D²x, mV", title="changes of slope, from sample to sample", xlim=(seconds[0], seconds[-1]))
    for axis in (above, middle):
        axis.legend(fontsize=8, loc="upper right")
    save(made, "ecg_trend")


if __name__ == "__main__":
    main()
