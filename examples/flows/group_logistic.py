"""Which measurements tell a tumour: logistic regression on ten of them, each with its mean, spread and worst value, kept or dropped whole.

E(x) = 1/m sum log(1 + exp(-y_i (A x)_i)) + lambda sum_g sqrt(3) ||x_g||_2,  the constant is free
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pictures import figure, save
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from bridge_adapter.kernels import flow

GROUPS = 10
LABELS = np.append(np.arange(30) % GROUPS, GROUPS)  # of each column; the last one is the constant, a group without weight
WEIGHTS = np.append(np.full(GROUPS, np.sqrt(3.0)), 0.0)


def columns() -> tuple[Any, Any, Any, Any, list[str]]:
    """Standardised columns and a constant, labels of +1 (malignant) and -1, for learning and for judging; the names of the ten."""
    data = load_breast_cancer()
    labels = 1.0 - 2.0 * data.target
    learn, judge, y_learn, y_judge = train_test_split(data.data, labels, test_size=0.4, random_state=0, stratify=labels)
    mean, spread = learn.mean(axis=0), learn.std(axis=0)
    full = [np.column_stack([(part - mean) / spread, np.ones(len(part))]) for part in (learn, judge)]
    return full[0], full[1], y_learn, y_judge, [str(name).removeprefix("mean ") for name in data.feature_names[:GROUPS]]


def optimality(a: Any, y: Any, x: Any, strength: float) -> float:
    """How far x is from the conditions of a minimum: of each group in use the gradient balances the norm, of the others it is no longer."""
    slope = a.T @ (-y / (1 + np.exp(y * (a @ x)))) / len(y)
    worst = abs(float(slope[-1]))
    for group in range(GROUPS):
        own = group == LABELS
        size, limit = float(np.linalg.norm(x[own])), strength * WEIGHTS[group]
        off = np.linalg.norm(slope[own] + limit * x[own] / size) if size > 0 else max(float(np.linalg.norm(slope[own])) - limit, 0.0)
        worst = max(worst, float(off))
    return worst


def experiment(count: int = 24, iterations: int = 4000) -> dict[str, Any]:
    """The path from a lambda that drops everything to three thousandths of it."""
    a, judged, y, y_judged, names = columns()
    slope = a[:, :-1].T @ (y - y.mean()) / (2 * len(y))
    largest = max(np.linalg.norm(slope[LABELS[:-1] == group]) / np.sqrt(3.0) for group in range(GROUPS))
    strengths = largest * np.geomspace(1.0, 3e-3, count)
    x = np.zeros(a.shape[1])
    found: dict[str, Any] = {"names": names, "strengths": strengths, "path": [], "accuracy": [], "optimality": []}
    for strength in strengths:
        terms = [
            flow.Term("logistic", "x", op=flow.Op("dense", matrix=a), target="y", weight=1 / len(y)),
            flow.Term("group_l1", "x", weight=float(strength), params={"groups": LABELS, "weights": WEIGHTS}),
        ]
        slots = {"x": flow.Slot(value=x), "y": flow.Slot(value=y, role="data")}
        x = flow.run(flow.FlowSpec(slots, terms, name="group_logistic"), iterations=iterations, tol=1e-9)["state"]["x"]
        found["path"].append(x)
        found["accuracy"].append(float(np.mean(np.sign(judged @ x) == y_judged)))
        found["optimality"].append(optimality(a, y, x, float(strength)))
    norms = [[np.linalg.norm(x[group == LABELS]) for group in range(GROUPS)] for x in found["path"]]
    return found | {"norms": np.array(norms)}


def main() -> None:
    found = experiment()
    strengths, norms, accuracy = found["strengths"], found["norms"], np.array(found["accuracy"])
    used = (norms > 0).sum(axis=1)
    best = int(np.flatnonzero(accuracy >= accuracy.max() - 0.01)[0])
    chosen = [found["names"][group] for group in np.flatnonzero(norms[best] > 0)]
    print(f"conditions of a minimum hold to {max(found['optimality']):.1e} on the whole path")
    print(f"unseen patients: {100 * accuracy.max():.1f} % right; with {used[best]} of {GROUPS} measurements {100 * accuracy[best]:.1f} %:")
    print("  " + ", ".join(chosen))
    made = figure(14, 5.2, "Group-sparse logistic regression: which measurements of a cell tell that a tumour is malignant")
    left, right = made.subplots(1, 2, width_ratios=(3, 2))
    for group in np.argsort(-norms[-1]):
        left.semilogx(strengths, norms[:, group], label=found["names"][group])
    left.axvline(strengths[best], color="0.5", linestyle="--", linewidth=1)
    left.set(title="norm of each group of three coefficients", xlabel="λ", ylabel="‖x_g‖")
    left.invert_xaxis()
    left.legend(fontsize=8)
    right.semilogx(strengths, 100 * accuracy, "o-", markersize=4)
    for number in sorted(set(used)):
        first = int(np.flatnonzero(used == number)[0])
        right.annotate(str(number), (strengths[first], 100 * accuracy[first]), xytext=(0, 7), textcoords="offset points", ha="center")
    right.axvline(strengths[best], color="0.5", linestyle="--", linewidth=1)
    right.set(title="accuracy on unseen patients, with so many measurements", xlabel="λ", ylabel="%")
    right.invert_xaxis()
    save(made, "group_logistic")


if __name__ == "__main__":
    main()
