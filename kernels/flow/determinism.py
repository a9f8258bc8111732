"""Runs that give the same bits again: what has to be set before JAX starts, and what is in force, for the manifest.

On one device, with one version of JAX, a flow computes the same anyway as far as its kernels do. Two things can differ between two runs:
kernels that choose by timing or sum in the order in which threads happen to finish, and, in certified runs, where a run is cut into blocks,
for decisions are made between blocks. `deterministic` takes care of the first, a fixed `block` of the second.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from .errors import FlowError

# One thread on the CPU, so that the number of cores does not matter; on a GPU neither atomics in sums nor autotuning.
FLAGS = ("--xla_cpu_multi_thread_eigen=false", "--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true")
# Steps of a block where blocks must not follow the clock.
BLOCK = 64

_asked = False


def deterministic() -> None:
    """Has XLA compute deterministically, in this process. Raises FlowError once JAX has started, which reads the flags only then."""
    global _asked
    if _started():
        raise FlowError(
            "deterministic runs need XLA's flags before JAX starts, and it has started; set "
            f'XLA_FLAGS="{" ".join(FLAGS)}" before the program, or ask before anything uses JAX'
        )
    present = os.environ.get("XLA_FLAGS", "").split()
    names = {flag.partition("=")[0] for flag in FLAGS}
    kept = [flag for flag in present if flag.partition("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*kept, *FLAGS])
    _asked = True


def in_force(block: int | None) -> dict[str, Any]:
    """For the manifest: whether XLA was asked to be deterministic, and whether blocks have a fixed size; "deterministic" is both."""
    flags = _asked
    return {"deterministic": flags and block is not None, "xla": flags, **({"block": block} if block is not None else {})}


def _started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())
