"""Puts the crash points of `chaos_points` into executors of a chaos run. Nothing happens in other Pythons."""

import os
import sys

if "CHAOS_POINTS" in os.environ and "bridge_adapter.executor" in sys.orig_argv:
    import time

    import chaos_points

    time.time = chaos_points.clock

    from bridge_adapter.journal import store
    from bridge_adapter.journal.store import Journal
    from bridge_adapter.lane import LaneSocket

    if rows := os.environ.get("CHAOS_JOURNAL_ROWS"):
        # So that the journal of a long run comes to its bounds.
        few = store.Bounds(rows=int(rows))
        store.Bounds = lambda: few  # type: ignore[assignment, misc]

    LaneSocket.send = chaos_points.around_sending(LaneSocket.send)  # type: ignore[method-assign]
    LaneSocket.receive = chaos_points.around_receiving(LaneSocket.receive)  # type: ignore[method-assign]
    Journal.begin = chaos_points.around(Journal.begin, "journal-before-begin", "journal-begun")  # type: ignore[method-assign]
    Journal.finish = chaos_points.around(Journal.finish, "journal-before-finish", "journal-finished")  # type: ignore[method-assign]
    Journal.keep = chaos_points.around(Journal.keep, "journal-before-keep", "journal-kept")  # type: ignore[method-assign]
