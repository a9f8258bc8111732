"""What an operator is, how one is described (`Op`), and the registry of those that can be built from a description.

An operator is a record of arrays (a pytree): it is an argument of the compiled step, never a constant inside it. Its bounds are computed on
the host, once, from the concrete arrays.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..bounds import Bound
from ..errors import FlowInputError
from ..pytrees import node, static

Shape = tuple[int, ...]
# Of what an operator makes: 16 GiB in float64. A few bytes of description could ask for any amount of memory.
MOST_NUMBERS = 2**31
# How far <Ax, y> and <x, A^T y>, or what is linear and what an operator makes, may be apart, of their sizes.
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


@node
class Operator:
    """A linear map A from arrays of shape `domain` to arrays of shape `codomain`.

    structure: what is known of A^T A: "identity", "diag", "circulant", "stencil", "dense", "sparse" or "general".
    """

    domain: Shape = static()
    codomain: Shape = static()

    structure: ClassVar[str] = "general"

    def matvec(self, x: jax.Array) -> jax.Array:
        """A x."""
        raise NotImplementedError

    def rmatvec(self, y: jax.Array) -> jax.Array:
        """A^T y; unless an operator knows better, the transpose of `matvec` as JAX derives it."""
        example = jax.ShapeDtypeStruct(self.domain, y.dtype)  # type: ignore[no-untyped-call]
        (x,) = jax.linear_transpose(self.matvec, example)(y)
        return jnp.asarray(x)

    def norm_sq(self) -> Bound:
        """||A||^2, or a bound of it. Host side."""
        from .spectra import largest_eigenvalue

        return largest_eigenvalue(lambda x: self.rmatvec(self.matvec(x)), self.domain)

    def coisometry(self) -> float | None:
        """nu where A A^T = nu I, which gives the prox of a function of A x a closed form; else None."""
        return None

    def orthonormal(self) -> bool:
        """Whether A^T A = A A^T = I."""
        return False

    def normal_diagonal(self) -> jax.Array | None:
        """The diagonal of A^T A (shape `domain`), where that is cheap."""
        return None

    def solve_shifted(self, rhs: jax.Array, tau: jax.Array) -> jax.Array | None:
        """(I + tau A^T A)^-1 rhs, where there is a closed form."""
        return None


class Op:
    """A description of an operator: a kind and its parameters (numbers, strings, arrays, other descriptions). Built when a flow is
    compiled, once the shape of the variable is known."""

    def __init__(self, kind: str, **params: Any) -> None:
        self.kind = kind
        self.params = params

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={_told(value)}" for name, value in self.params.items())
        return f"Op({self.kind!r}{', ' if told else ''}{told})"

    def identity(self) -> Any:
        """What two descriptions of the same operator have in common, as plain data: arrays by their digest."""
        return [self.kind, {name: plain(value) for name, value in sorted(self.params.items())}]


def plain(value: Any) -> Any:
    """A value as JSON can hold it; arrays by shape, type and digest, functions by their names."""
    if callable(identity := getattr(value, "identity", None)):
        return identity()
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.ascontiguousarray(value)
        return {"array": list(array.shape), "dtype": array.dtype.name, "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if callable(value):
        return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', repr(value))}"
    json.dumps(value)  # raises TypeError for what it cannot hold
    return value


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"array{tuple(shape)}" if shape else repr(value)


Builder = Callable[..., Operator]
_BUILDERS: dict[str, Builder] = {}


def operator(kind: str) -> Callable[[Builder], Builder]:
    """Registers a builder: builder(domain, real, **params) gives an operator on arrays of shape `domain` and type `real`."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[kind] = builder
        return builder

    return register


def names() -> list[str]:
    """The kinds that can be built."""
    return sorted(_BUILDERS)


def build(described: Op | Operator, domain: Shape, real: np.dtype[Any]) -> Operator:
    """The operator of a description for a variable of shape `domain`. Raises FlowInputError."""
    if isinstance(described, Operator):
        return described
    builder = _BUILDERS.get(described.kind)
    if builder is None:
        raise FlowInputError(f"there is no operator {described.kind!r}; there are {', '.join(names())}")
    told = misfit(builder, described.params)
    if told:
        raise FlowInputError(f"the operator {described!r} cannot be built: {told}")
    made = builder(domain, real, **owned(described.params))
    size = math.prod(made.codomain)
    if size > MOST_NUMBERS:
        told = f"the operator {described.kind} makes an array of shape {made.codomain}, {size} numbers"
        raise FlowInputError(f"{told}; the most is {MOST_NUMBERS}")
    return made


def owned(value: Any) -> Any:
    """A description with copies of its NumPy arrays. JAX may take the memory of an array as it is, and a flow must not change because the
    caller's array does."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: owned(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(owned(part) for part in value)
    return value


def misfit(builder: Callable[..., Any], params: Mapping[str, Any]) -> str | None:
    """Why a builder does not take these parameters, or None if it does. Builders take theirs by name only."""
    takes = {name: part for name, part in inspect.signature(builder).parameters.items() if part.kind is part.KEYWORD_ONLY}
    known = ", ".join(takes) or "none"
    for name in params:
        if name not in takes:
            return f"it has no parameter {name!r}; its parameters are: {known}"
    for name, part in takes.items():
        if part.default is part.empty and name not in params:
            return f"it needs the parameter {name!r}; its parameters are: {known}"
    return None


def adjoint_error(made: Operator, real: np.dtype[Any], seeds: Iterable[int] = (0, 1)) -> float:
    """The largest |<Ax, y> - <x, A^T y>| / (||x|| ||y||) over a few random pairs, relative to ||A|| where that is above 1."""
    worst = 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        x, y = (rng.standard_normal(shape).astype(real) for shape in (made.domain, made.codomain))
        forward, back = applied(made, x), transposed(made, y)
        scale = _size(x) * _size(y) * max(1.0, _size(forward) / _size(x))
        worst = max(worst, abs(float(np.vdot(forward, y)) - float(np.vdot(x, back))) / scale)
    return worst


def linearity_error(made: Operator, real: np.dtype[Any], seed: int = 0) -> float:
    """||A(ax + by) - aAx - bAy|| over the sizes of what is added, for a random pair."""
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(made.domain).astype(real) for _ in range(2))
    a, b = 0.75, -1.5
    apart = [a * applied(made, x), b * applied(made, y)]
    together = applied(made, a * x + b * y)
    size = sum(_size(part) for part in apart)
    return _size(together - apart[0] - apart[1]) / (size or 1.0)


def applied(made: Operator, x: NDArray[Any]) -> NDArray[np.float64]:
    """A x as one compiled program, which operators of equal structure share: operation by operation, each would be compiled by itself."""
    return np.asarray(_matvec(made, x), np.float64)


def transposed(made: Operator, y: NDArray[Any]) -> NDArray[np.float64]:
    """A^T y, in the same way."""
    return np.asarray(_rmatvec(made, y), np.float64)


_matvec = jax.jit(lambda made, x: made.matvec(x))
_rmatvec = jax.jit(lambda made, y: made.rmatvec(y))


def _size(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(np.ravel(array)))
