"""Errors that the gateway answers itself, for calls that it did not pass on: each says that nothing was begun, and when to try again."""

from __future__ import annotations

from bridge_adapter import errors
from bridge_adapter.gateway.lane_connection import LaneError

# How long one of those that wait for an executor, a connection or their turn is thought to take, where nothing better is known.
_A_WHILE_MS = 250


def refusal(error: errors.Refused) -> LaneError:
    """A refusal as the lane says it."""
    return LaneError(
        {
            "category": error.category,
            "type": type(error).__name__,
            "message": str(error),
            "details": {**error.details, "outcome": "not_started"},
        }
    )


def overloaded(what: str, limit: int, retry_after_ms: int | None = None) -> LaneError:
    """`what`: what all of them wait for."""
    message = (
        f"{limit} calls wait for {what} already, as many as may (--max-queue); this one was not begun. Make it again later, "
        "or raise --max-queue"
    )
    return refusal(errors.Overloaded(message, retry_after_ms or _A_WHILE_MS, limit=limit))


def in_vain(what: str, ahead: int, wait: float, left: float, retry_after_ms: int | None) -> LaneError:
    """The refusal of a call that could not begin before its deadline. `what`: what those before it wait for."""
    message = (
        f"the call could not begin before its deadline: {ahead} calls wait for {what} before it, which takes about {wait * 1000:.0f} ms, "
        f"and it has {max(0.0, left * 1000):.0f} ms; it was not begun. Give it more time, or spread the work over more sessions and workers"
    )
    return refusal(errors.Overloaded(message, retry_after_ms or _A_WHILE_MS))


def late() -> LaneError:
    """The deadline has passed while the call waited: nobody wants its answer any more."""
    message = "the deadline of this call passed before it could be begun; it was not begun. Give it more time, or make fewer calls at once"
    return LaneError({"category": "timeout", "type": "TimeoutError", "message": message, "details": {"outcome": "not_started"}})


def went_away(error: LaneError) -> bool:
    """True for the refusal of an executor that is ending: it has not begun the call, the next executor may.

    That a call is `unavailable` is not enough: user code may have raised it, half way through.
    """
    details = error.fields.get("details") or {}
    ending = details.get("state") in ("draining", "stopped") and details.get("outcome") == "not_started"
    return ending and error.fields.get("category") == "unavailable"
