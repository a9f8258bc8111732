"""Training as a flow: a small network reads digits, by steps on minibatches, and a group norm makes it ignore the pixels that tell nothing.

E(w) = mean cross-entropy(w) + ridge/2 ||w||^2 + lambda sum_pixels ||rows of the first layer||_2
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pictures import figure, save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bridge_adapter.kernels import flow
from bridge_adapter.kernels.flow.solvers.optax_flow import minibatch, optax_flow

HIDDEN = 32
ALPHA = 0.5


def logits(state: Any, images: Any) -> Any:
    """The network: one hidden layer."""
    return jnp.tanh(images @ state["first"] + state["shift"]) @ state["second"] + state["bias"]


def cross_entropy(state: Any, batch: Any) -> Any:
    """Its mean over a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(state, batch["images"]), batch["labels"]).mean()


def spec(strength: float) -> flow.FlowSpec:
    """The weights as slots, and what they cost whatever the data; the data's part of the energy belongs to the solver."""
    rng = np.random.default_rng(0)
    slots = {
        "first": flow.Slot(value=rng.normal(size=(64, HIDDEN)) / 8),
        "shift": flow.Slot(shape=(HIDDEN,)),
        "second": flow.Slot(value=rng.normal(size=(HIDDEN, 10)) / np.sqrt(HIDDEN)),
        "bias": flow.Slot(shape=(10,)),
    }
    pixels = np.repeat(np.arange(64)[:, None], HIDDEN, axis=1)
    terms = [
        flow.Term("tikhonov", "second", weight=1e-3),
        flow.Term("group_l1", "first", weight=strength, params={"groups": pixels}),
    ]
    return flow.FlowSpec(slots, terms, name="digits")


def experiment(iterations: int = 2000, strength: float = 0.003) -> dict[str, Any]:
    """Trains on two thirds of the digits and judges on the rest."""
    data = load_digits()
    split = train_test_split(data.data / 16.0, data.target, test_size=1 / 3, random_state=0, stratify=data.target)
    learn, judge, y_learn, y_judge = split
    batches = minibatch({"images": jnp.asarray(learn), "labels": jnp.asarray(y_learn)}, 128, cross_entropy)
    # Plain steps and the prox share their length, so that each is a stochastic proximal gradient step of E; both shrink to the end.
    share = optax.schedules.cosine_decay_schedule(1.0, iterations)
    solver = optax_flow(optax.sgd(lambda step: ALPHA * share(step)), loss=batches, threshold=share, seed=1)
    compiled = flow.compile_flow(spec(strength), solver=solver, alpha=ALPHA, tol=1e-12)
    run = flow.run(compiled, iterations=iterations)
    state = run["state"]
    guessed = np.asarray(jax.jit(logits)(state, judge)).argmax(axis=1)
    norms = np.linalg.norm(state["first"], axis=1).reshape(8, 8)
    found = {"run": run, "state": state, "judge": judge, "truth": y_judge, "guessed": guessed, "norms": norms}
    return found | {"accuracy": float(np.mean(guessed == y_judge)), "pixels": int((norms > 0).sum())}


def main() -> None:
    found = experiment()
    run = found["run"]
    print(f"{run['iterations']} steps in {run['elapsed_s']:.1f} s, {run['stopped']}")
    print(f"{100 * found['accuracy']:.1f} % of {len(found['truth'])} unseen digits are read; {found['pixels']} of 64 pixels are looked at")
    made = figure(15, 8.0, "A small network trained as a flow: optax on minibatches, a group norm over pixels")
    halves: Any = made.subfigures(2, 1)
    above, below = halves
    curve, used, confusion = above.subplots(1, 3)
    energy = run["history"]["energy"]
    smooth = np.convolve(energy, np.ones(25) / 25, mode="valid")
    curve.plot(energy, color="0.8", linewidth=0.6, label="of each minibatch")
    curve.plot(np.arange(len(smooth)) + 12, smooth, label="mean of 25")
    curve.set(title="energy", xlabel="step", yscale="log")
    curve.legend(fontsize=8)
    picture = used.imshow(np.where(found["norms"] > 0, found["norms"], np.nan), cmap="viridis")
    used.set_facecolor("0.9")
    used.set(title=f"weight of each pixel; {64 - found['pixels']} are dropped", xticks=[], yticks=[])
    above.colorbar(picture, ax=used, shrink=0.8)
    table = np.zeros((10, 10), int)
    np.add.at(table, (found["truth"], found["guessed"]), 1)
    confusion.imshow(np.log1p(table), cmap="Blues")
    for (row, column), count in np.ndenumerate(table):
        if count:
            confusion.text(column, row, str(count), ha="center", va="center", fontsize=7, color="w" if row == column else "k")
    confusion.set(
        title=f"unseen digits, {100 * found['accuracy']:.1f} % right", xlabel="read as", ylabel="is", xticks=range(10), yticks=range(10)
    )
    wrong = np.flatnonzero(found["truth"] != found["guessed"])[:12]
    grid = below.subplots(2, 12)
    order = np.argsort(-np.linalg.norm(found["state"]["first"], axis=0))
    for axis, unit in zip(grid[0], order, strict=False):
        axis.imshow(found["state"]["first"][:, unit].reshape(8, 8), cmap="RdBu_r", vmin=-1, vmax=1)
    for axis, index in zip(grid[1], wrong, strict=False):
        axis.imshow(found["judge"][index].reshape(8, 8), cmap="gray_r")
        axis.set_title(f"{found['truth'][index]}, read as {found['guessed'][index]}", fontsize=8)
    for axis in grid.ravel():
        axis.set_axis_off()
    below.suptitle("the strongest hidden units (above), and digits that were misread (below)", fontsize=10)
    save(made, "digits")


if __name__ == "__main__":
    main()
