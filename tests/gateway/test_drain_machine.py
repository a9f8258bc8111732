"""Draining against a model: what is let in, what is refused, and that the totals come out even whatever the order of events."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from bridge_adapter.gateway.lifecycle import Draining, Lifecycle, State


class DrainMachine(RuleBasedStateMachine):
    """Calls come and go around the moment in which draining begins."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle = Lifecycle()
        self.lifecycle.state = State.RUNNING
        self.came = self.went = self.refused = self.went_since = 0

    @rule(target=calls, nested=st.booleans())
    def come(self, nested: bool) -> AbstractContextManager[None] | None:
        call = self.lifecycle.call(nested=nested)
        self.came += 1
        if self.lifecycle.state is State.RUNNING or (nested and self.lifecycle.state is State.DRAINING):
            call.__enter__()
            return call
        self.refused += 1
        with pytest.raises(Draining) as error:
            call.__enter__()
        assert error.value.fields["category"] == "unavailable"
        assert error.value.fields["details"] == {"outcome": "not_started", "retry_after_ms": error.value.retry_after_ms}
        assert 1 <= error.value.retry_after_ms <= 5001
        return None

    @rule(call=consumes(calls), failed=st.booleans())
    def go(self, call: AbstractContextManager[None] | None, failed: bool) -> None:
        if call is not None:
            error = ValueError("of the call's own") if failed else None
            call.__exit__(type(error) if error else None, error, None)
            self.went += 1
            self.went_since += 1

    @precondition(lambda self: self.lifecycle.state is State.RUNNING)
    @rule()
    def drain(self) -> None:
        self.lifecycle.drain(5)
        self.went_since = 0

    @precondition(lambda self: self.lifecycle.state is State.DRAINING)
    @rule()
    def stop(self) -> None:
        self.lifecycle.state = State.STOPPED

    @invariant()
    def the_totals_come_out_even(self) -> None:
        lifecycle = self.lifecycle
        assert self.came == self.went + lifecycle.in_flight + lifecycle.refused
        assert lifecycle.refused == self.refused
        assert lifecycle.draining == (lifecycle.state is not State.RUNNING)
        if lifecycle.draining:
            assert lifecycle.ended == self.went_since


DrainMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestDrain = DrainMachine.TestCase


def test_the_wait_ends_with_the_last_call_or_when_it_is_forced_or_in_time() -> None:
    async def wait() -> None:
        lifecycle, forced = Lifecycle(), asyncio.Event()
        assert await lifecycle.idle(60, forced)
        with lifecycle.call():
            waiting = asyncio.ensure_future(lifecycle.idle(60, forced))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting
        with lifecycle.call():
            assert not await lifecycle.idle(0.01, forced)
            waiting = asyncio.ensure_future(lifecycle.idle(60, forced))
            await asyncio.sleep(0)
            forced.set()
            assert not await waiting

    asyncio.run(wait())
