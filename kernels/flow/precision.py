"""Which device and which floating point type a flow uses.

A run has one dtype for all its arrays and scalars. JAX keeps float64 off unless asked; asking is scoped to the
calling thread and to the run, so that a library in the same process never sees its own default change.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax
import numpy as np

from .errors import FlowInputError

DTYPES = ("float32", "float64")


def device() -> str:
    """The device that flows run on: ``"cpu"``, or ``"gpu: <model>"`` where JAX finds one."""
    first = jax.devices()[0]
    return first.platform if first.device_kind == first.platform else f"{first.platform}: {first.device_kind}"


@contextmanager
def precision(dtype: str) -> Iterator[np.dtype[Any]]:
    """The numpy dtype of the name; inside the block JAX computes in it. Raises FlowInputError for any other name."""
    name = str(dtype)
    if name not in DTYPES:
        raise FlowInputError(f"dtype is {dtype!r}; a flow computes in one of {', '.join(DTYPES)}")
    with _enable_x64(name == "float64"):
        yield np.dtype(name)


def _enable_x64(on: bool) -> AbstractContextManager[None]:
    # The context manager moved from jax.experimental to jax itself; each JAX we support has at least one of them.
    owner: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    switch: AbstractContextManager[None] = owner.enable_x64(on)
    return switch


def real_dtype() -> np.dtype[Any]:
    """The floating point type in which JAX computes here and now: that of the innermost `precision`."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))
