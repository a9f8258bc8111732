"""`contextlib.redirect_stdout` and `redirect_stderr` for calls that run side by side: each redirects what its own call prints.

By themselves they replace the stream of the whole process. Two that overlap would catch each other's text, and the one that ends last would
put back the buffer of the other, where everything that is printed from then on is lost.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from typing import Any

from bridge_adapter import output
from bridge_adapter.spool import Spool


@dataclass(slots=True)
class _Redirected:
    """What a context of a call has to undo, in place of the stream that was there before."""

    said: Spool
    kind: str
    target: Any


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def follow_calls() -> None:
    """From now on, a redirection in a call is that call's: also of its threads and coroutines."""
    redirect = contextlib._RedirectStream
    enter, leave = redirect.__enter__, redirect.__exit__

    def enter_for_call(self: Any) -> Any:
        stream = getattr(sys, self._stream)
        said = output.heard_by_caller()
        # Whoever has put another stream in its place goes on with that.
        if said is None or not isinstance(stream, output.Forwarded):
            return enter(self)
        target = _behind(said, self._new_target)
        said.redirected.setdefault(stream.kind, []).append(target)
        self._old_targets.append(_Redirected(said, stream.kind, target))
        return self._new_target

    def leave_for_call(self: Any, *error: Any) -> None:
        if not isinstance(self._old_targets[-1], _Redirected):
            leave(self, *error)
            return
        old = self._old_targets.pop()
        targets = old.said.redirected[old.kind]
        # The latest of its kind; contexts in threads of a call may end in any order.
        del targets[max(place for place, target in enumerate(targets) if target is old.target)]

    redirect.__enter__ = enter_for_call  # type: ignore[method-assign]
    redirect.__exit__ = leave_for_call  # type: ignore[method-assign]


def _behind(said: Spool, target: Any) -> Any:
    """Where text for that target ends up now: `redirect_stderr(sys.stdout)` means what stdout is at that moment."""
    if target is None:  # `print` says nothing where there is no stream
        return _Nowhere()
    if isinstance(target, output.Forwarded):
        return (said.redirected.get(target.kind) or [target])[-1]
    return target
