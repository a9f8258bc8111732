"""The largest step for which each solver is proven, given the Lipschitz constant beta of grad f."""

from __future__ import annotations

from ..bounds import Bound

# c of alpha = c / beta: what the proof of each class allows. Those at 2 are open intervals, so a little less is taken.
_OPEN = 2.0 * (1 - 1e-3)
FACTORS = {
    "ista": _OPEN,
    "fista": 1.0,
    "mfista": 1.0,
    "davis_yin": _OPEN,
}


def family(solver: str) -> str:
    """The solver without its variant: "mfista_bt" is an mfista that backtracks."""
    return solver.removesuffix("_bt")


def step_limit(solver: str, beta: Bound) -> float:
    """The largest alpha, infinite where f is absent or the solver has a condition of its own (primal-dual steps, ADMM), which the compiler
    meets when it chooses sigma."""
    factor = FACTORS.get(family(solver))
    if factor is None or beta.value <= 0:
        return float("inf")
    return factor / beta.value
