"""Replaces an executor that works, because it is old, has had many calls, or uses much memory: the next one is brought up beside it, and
takes over in a moment in which nothing runs and no session holds an object. No call fails for that; some wait a quarter of a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from bridge_adapter.gateway.care import Recycling
from bridge_adapter.gateway.lane_client import LaneError, LaneLost, NotSent
from bridge_adapter.gateway.running import Running, StartFailed
from bridge_adapter.gateway.sampling import usage

if TYPE_CHECKING:
    from bridge_adapter.gateway.supervisor import Supervisor

LOOK_SECONDS = 1.0
# How long calls are held back for running ones to finish, and how long the executor may take to say what it holds.
HOLD_SECONDS = 0.25
_LONGEST_PAUSE = 30.0

log = logging.getLogger("bridge_adapter.gateway")


def due(running: Running, rules: Recycling) -> str:
    """Why an executor should be replaced; empty when it should not."""
    if rules.calls and running.lane.served >= rules.calls:
        return f"it has had {running.lane.served} calls (--recycle-calls {rules.calls})"
    age = (time.monotonic() - running.began) * 1000
    if rules.after_ms and age >= rules.after_ms:
        return f"it is {age / 1000:.0f} s old (--recycle-after-ms {rules.after_ms:g})"
    if rules.rss_mb:
        used = usage(running.process.pid)
        if used is not None and used.rss_bytes >= rules.rss_mb * 2**20:
            return f"it uses {used.rss_bytes / 2**20:.0f} MB (--recycle-rss-mb {rules.rss_mb:g})"
    return ""


async def recycle(supervisor: Supervisor) -> None:
    """Does so for as long as the gateway lives."""
    rules = supervisor.care.recycling
    look = min(LOOK_SECONDS, max(0.01, rules.after_ms / 4000)) if rules.after_ms else LOOK_SECONDS
    if rules.calls:
        look = min(look, 0.1)
    while rules.wanted:
        await asyncio.sleep(look)
        running = supervisor.running
        reason = due(running, rules) if running is not None else ""
        if running is not None and reason:
            await _replace(supervisor, running, reason)


async def _replace(supervisor: Supervisor, old: Running, reason: str) -> None:
    """Brings up the next executor and waits for the moment in which it can take over."""
    began = time.monotonic()
    try:
        new = await supervisor.spare()
    except (StartFailed, OSError) as error:
        log.error("the executor (pid %d) should be replaced, but the next one cannot be started: %s", old.process.pid, error)
        await asyncio.sleep(_LONGEST_PAUSE)
        return
    longest = supervisor.care.recycling.max_wait_ms / 1000
    pause = LOOK_SECONDS / 4
    # Should the old one die meanwhile, the new one takes its place at once, as any spare executor does.
    while supervisor.running is old and not new.ended.done():
        waited_enough = 0 < longest <= time.monotonic() - began
        if await _free_of_objects(supervisor, old) or waited_enough:
            log.info("executor %d takes the place of executor %d: %s", new.process.pid, old.process.pid, reason)
            supervisor.put(new)
            return
        supervisor.resume(old)
        await asyncio.sleep(min(pause, max(0.01, began + longest - time.monotonic())) if longest else pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _free_of_objects(supervisor: Supervisor, old: Running) -> bool:
    """True when nothing runs in the executor and no session holds anything there; new calls wait then until `put` or `resume`."""
    if await _refs(old) != 0 or not supervisor.hold(old):
        return False
    try:
        async with asyncio.timeout(HOLD_SECONDS):
            await old.idle()
            return await _refs(old) == 0
    except TimeoutError:
        return False


async def _refs(old: Running) -> int | None:
    """The objects of sessions; None where it does not say."""
    try:
        async with asyncio.timeout(HOLD_SECONDS):
            stats: dict[str, Any] = await asyncio.shield(old.lane.stats())
    except (TimeoutError, NotSent, LaneLost, LaneError):
        return None
    refs = stats.get("refs")
    return refs if isinstance(refs, int) else None
