"""What the executor is doing, for the request `stats`: its calls, sessions, refs, threads and memory."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from bridge_adapter import garbage

if TYPE_CHECKING:
    from bridge_adapter.dispatch import Dispatcher


def stats(dispatcher: Dispatcher, asked: Any) -> dict[str, Any]:
    """The answer to `stats`, which may have asked for the counters of the garbage collector."""
    now = time.monotonic()
    more = {"gc": garbage.collections()} if isinstance(asked, dict) and asked.get("gc") is True else {}
    return {
        "active": [[*call.key, int((now - call.started) * 1000), call.label, call.reason] for call in dispatcher.calls.active()],
        "sessions": len(dispatcher.sessions),
        "refs": dispatcher.sessions.ref_count(),
        "threads": threading.active_count(),
        "rss_mb": _rss_mb(),
        "draining": dispatcher.draining,
        **more,
    }


def _rss_mb() -> float:
    try:
        with open("/proc/self/statm") as statm:
            return round(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    except OSError:
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
