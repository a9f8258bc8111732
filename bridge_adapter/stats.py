"""What the executor is doing, for the request `stats`: its state, calls, sessions, refs, threads and memory."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from bridge_adapter import garbage

if TYPE_CHECKING:
    from bridge_adapter.dispatch import Dispatcher
    from bridge_adapter.lifecycle import State

_LARGEST = 10


def stats(dispatcher: Dispatcher, asked: Any) -> dict[str, Any]:
    """The answer to `stats`, which may have asked for the counters of the garbage collector, and for the sessions that hold most."""
    now = time.monotonic()
    asked = asked if isinstance(asked, dict) else {}
    more: dict[str, Any] = {}
    if asked.get("gc") is True:
        more["gc"] = garbage.collections()
    if asked.get("sessions") is True:
        more["largest_sessions"] = dispatcher.sessions.by_size(_LARGEST)
    lifecycle, sessions = dispatcher.lifecycle, dispatcher.sessions
    return {
        **lifecycle.summary(),
        "active": [[*call.key, int((now - call.started) * 1000), call.label, call.reason] for call in dispatcher.calls.active()],
        "waiting": sessions.room.waiting,
        "longest_queue": sessions.longest_queue(),
        "sessions": len(sessions),
        "refs": sessions.ref_count(),
        "threads": threading.active_count(),
        "rss_mb": _rss_mb(),
        "memory": dispatcher.memory.summary(),
        "draining": _drains(lifecycle.state),
        **more,
    }


def _drains(state: State) -> bool:
    return state in ("draining", "stopped")


def _rss_mb() -> float:
    try:
        with open("/proc/self/statm") as statm:
            return round(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    except OSError:
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
