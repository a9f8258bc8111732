"""How much memory the device of an out-of-memory error has, and has left, asked of the libraries that are loaded already."""

from __future__ import annotations

import sys
from typing import Any


def device(library: str, ordinal: int | None, on_host: bool) -> str:
    """The device that ran out: "cpu", or like "cuda:0" where a library of accelerators raised the error."""
    if on_host:
        return "cpu"
    if library in ("jax", "jaxlib"):
        found = _jax_device(ordinal)
        platform = getattr(found, "platform", "cpu" if ordinal is None else "gpu")
        return "cpu" if platform == "cpu" else f"{'cuda' if platform == 'gpu' else platform}:{getattr(found, 'id', ordinal or 0)}"
    return f"cuda:{ordinal or 0}" if library in ("torch", "cupy", "cupy_backends") or ordinal is not None else "cpu"


def room(library: str, device: str) -> tuple[int | None, int | None]:
    """(free, total) of a device, in MiB; None for what cannot be known cheaply."""
    if device == "cpu":
        return _host()
    ordinal = int(device.rpartition(":")[2])
    try:
        if library in ("jax", "jaxlib"):
            stats = _jax_device(ordinal).memory_stats() or {}
            total, used = stats.get("bytes_limit"), stats.get("bytes_in_use", 0)
            return (None, None) if total is None else ((total - used) >> 20, total >> 20)
        if library == "torch":
            free, total = sys.modules["torch"].cuda.mem_get_info(ordinal)
            return free >> 20, total >> 20
    except Exception:  # a device that just failed may not answer; its error is what matters
        return None, None
    return None, None


def _jax_device(ordinal: int | None) -> Any:
    """The device of an ordinal, by default the first; None where JAX does not say. JAX has run: it raised the error."""
    try:
        devices = sys.modules["jax"].local_devices()
        return next((one for one in devices if ordinal is None or one.id == ordinal), devices[0])
    except Exception:
        return None


def _host() -> tuple[int | None, int | None]:
    """Of the system, or of the control group that this process is in where that has less."""
    lines = _read("/proc/meminfo").splitlines()
    kib = {name: int(rest.split()[0]) for name, colon, rest in (line.partition(":") for line in lines) if colon}
    free, total = kib.get("MemAvailable"), kib.get("MemTotal")
    if free is None or total is None:
        return None, None
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        total = min(total, int(limit) >> 10)
        free = min(free, max(0, int(limit) - int(used)) >> 10)
    return free >> 10, total >> 10


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
