"""`snakebridge.reload`: runs a changed module again in a worker, between calls. `Watch` does that by itself when a file has changed."""

from __future__ import annotations

import importlib.util
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import modules
from .registry import Payload, ToolContext, invalid

WAIT_MS = 5_000
LOOK_SECONDS = 0.5
PAUSE_SECONDS = 0.25  # how long a call that has met a change holds up new ones, until those that run have ended
BUSY_SECONDS = 2.0  # when to try again where they had not
_TICK_NS = 20_000_000
_INFO, _WARNING, _ERROR = 20, 30, 40
_OWN = ("__main__", "bridge_adapter")

Objects = Iterable[tuple[str, Iterable[Any]]]


def reload(payload: Payload, context: ToolContext) -> dict[str, Any]:
    """Reloads the module named by `module`, with its submodules if `deep`. A module that is not loaded is left for its first use.

    Waits `wait_ms` for the calls of this worker that run user code, and holds up new ones; then it goes on, and answers how many were still
    running. Raises what the module raises; it is then as it was.
    """
    name, wait = payload.get("module"), payload.get("wait_ms", WAIT_MS)
    if not isinstance(name, str) or not name:
        raise invalid(f"snakebridge.reload needs the name of a module, not {str(name)[:80]!r}")
    if type(wait) not in (int, float) or wait < 0:
        raise invalid(f"wait_ms is a number of milliseconds >= 0, not {str(wait)[:40]!r}")
    if name.partition(".")[0] in _OWN:
        raise invalid(f"{name} is the worker's own code, which cannot be run again in it; restart the pool")
    if context.policy is not None:
        context.policy.module(name)
    loaded = sys.modules.get(name)
    if loaded is None:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return {"reloaded": [], "stale": [], "running": 0}
    names = modules.family(name) if payload.get("deep") is True else [name]
    if modules.source(loaded) is None:
        gone = modules.origin_of(loaded)
        if gone is not None:
            raise invalid(f"{name} was loaded from {gone}, which is no file (any more); put it back, or restart the worker")
        # A package without an __init__.py has no code of its own, but its submodules have.
        if payload.get("deep") is not True or not names:
            raise invalid(f"{name} has no Python source file that could be run again; restart the worker to load another version of it")
    with context.alone(wait / 1000) as running:
        reloaded = modules.run_again(names)
        if context.policy is not None:
            context.policy.forget()
        return {"reloaded": reloaded, "stale": modules.stale(context.live_objects(), reloaded), "running": running}


class Watch:
    """Notices changed files of modules that were loaded from some directories, and runs those modules, and what imports them, again."""

    def __init__(self, directories: Sequence[str], notice: Callable[[int, str], None], objects: Callable[[], Objects]) -> None:
        self._directories = [Path(directory).resolve() for directory in directories]
        self._notice = notice
        self._objects = objects
        self._imported: dict[str, int] = {}  # name -> when its import began, in ns of the wall clock
        self._seen: dict[str, tuple[int, int]] = {}  # name -> mtime in ns and size, as it was loaded
        self._known = 0
        self._next = 0.0
        sys.meta_path.insert(0, self)  # a finder that finds nothing, and so hears of every import

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self._imported[name] = time.time_ns()

    def due(self) -> bool:
        """True when it is time to look again, which is asked at every call."""
        return time.monotonic() >= self._next

    def later(self) -> None:
        """To be called when the worker was too busy for what has changed: its calls need not be held up at every look."""
        self._next = time.monotonic() + BUSY_SECONDS

    def changed(self) -> list[str]:
        """The modules whose files are no longer as they were loaded."""
        self._next = time.monotonic() + LOOK_SECONDS
        if len(sys.modules) != self._known:
            self._known = len(sys.modules)
            self._discover()
        # Looking may take longer than until the next look, by another call, which may add to what was seen.
        return [name for name, state in list(self._seen.items()) if _state(name) not in (state, None)]

    def run_again(self, changed: list[str]) -> None:
        """Reloads changed modules, and says what came of it. One that fails goes on as it was until its file changes again."""
        states = {name: _state(name) for name in changed}
        names = modules.dependents(changed, [name for name in self._seen if name in sys.modules])
        try:
            reloaded = modules.run_again(names)
        except Exception as error:
            what = "".join(traceback.format_exception_only(error)).strip()
            self._notice(_ERROR, f"{', '.join(sorted(changed))} changed and cannot be reloaded; the old code goes on: {what}")
        else:
            old = modules.stale(self._objects(), reloaded)
            holders = "; ".join(f"{entry['session_id']}: {entry['refs']} ({', '.join(entry['types'])})" for entry in old)
            told = f"reloaded {', '.join(reloaded)}" + (f"; sessions that hold objects of the old code: {holders}" if old else "")
            self._notice(_WARNING if old else _INFO, told)
        self._seen.update({name: state for name, state in states.items() if state is not None})

    def _discover(self) -> None:
        for name, module in list(sys.modules.items()):
            if name in self._seen or name not in self._imported or not isinstance(module, ModuleType):
                continue
            path = modules.source(module)
            state = _state(name)
            if path is None or state is None or not any(path.resolve().is_relative_to(directory) for directory in self._directories):
                continue
            # A file that changed since its import began is another one than was loaded. File systems' clocks are behind by up to a tick.
            self._seen[name] = state if state[0] + _TICK_NS < self._imported[name] else (0, 0)


def _state(name: str) -> tuple[int, int] | None:
    try:
        path = modules.source(sys.modules[name])
        stat = path.stat() if path is not None else None
    except (KeyError, OSError):
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_size)
