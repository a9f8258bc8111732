"""Session locks against a model: calls come, call on from their callbacks, are cancelled and end, in any order, on threads of their own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eventually import eventually
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from bridge_adapter.calls import Call
from bridge_adapter.errors import BridgeError, CallWasCancelled, SessionDeadlock
from bridge_adapter.sessions import SessionLock

LOCKS = 3
_ids = itertools.count(1)


@dataclass(eq=False)
class Caller:
    """A call on a thread of its own: it takes a session's turn and keeps it until it is told to go. `number`: of its lock."""

    number: int
    lock: SessionLock
    parent: Caller | None = None
    call: Call = field(init=False)
    held: SessionLock | None = None
    error: BridgeError | None = None

    def __post_init__(self) -> None:
        self.call = Call((1, next(_ids)), None, self.parent.call if self.parent else None)
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: self.held or self.error or self.call.waiting_for)

    def _run(self) -> None:
        try:
            self.held = self.lock.acquire(self.call)
        except BridgeError as error:
            self.error = error
            return
        self._go.wait()
        self.held.release()

    def end(self) -> None:
        self._go.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def root(self) -> Caller:
        return self.parent.root if self.parent else self

    def ancestors(self) -> Iterator[Caller]:
        """The calls from whose callbacks it was made."""
        caller = self.parent
        while caller is not None:
            yield caller
            caller = caller.parent


class Machine(RuleBasedStateMachine):
    """The model: for each lock who has it, and who waits for it, in the order in which they came."""

    # The innermost calls: only those can call on, be cancelled or end.
    innermost = Bundle("innermost")

    def __init__(self) -> None:
        super().__init__()
        self.locks = [SessionLock() for _ in range(LOCKS)]
        self.holders: list[Caller | None] = [None] * LOCKS
        self.queues: list[list[Caller]] = [[] for _ in range(LOCKS)]
        self.inside: set[Caller] = set()  # calls that a lock's holder has let in

    def waits(self, caller: Caller) -> bool:
        return any(caller in queue for queue in self.queues)

    def closes_a_circle(self, caller: Caller, number: int) -> bool:
        """Whether the holder of a lock waits, through others, for the caller's tree of calls."""
        seen: set[Caller] = set()
        holder = self.holders[number]
        ahead = [holder.root] if holder else []
        while ahead:
            root = ahead.pop()
            if root is caller.root:
                return True
            if root not in seen:
                seen.add(root)
                ahead += [
                    other.root
                    for other, queue in zip(self.holders, self.queues, strict=True)
                    if other and any(waiting.root is root for waiting in queue)
                ]
        return False

    def arrive(self, caller: Caller) -> Caller | None:
        """What the model makes of a call that has come; the call, if it is there now."""
        holder = self.holders[caller.number]
        if holder is None:
            self.holders[caller.number] = caller
        elif holder in caller.ancestors():
            self.inside.add(caller)
        elif self.closes_a_circle(caller, caller.number):
            assert isinstance(caller.error, SessionDeadlock), caller.error
            return None
        else:
            self.queues[caller.number].append(caller)
        return caller

    @rule(target=innermost, number=st.integers(0, LOCKS - 1))
    def call(self, number: int) -> Any:
        return self.arrive(Caller(number, self.locks[number]))

    @rule(target=innermost, parent=consumes(innermost), number=st.integers(0, LOCKS - 1))
    def call_from_callback(self, parent: Caller, number: int) -> Any:
        if self.waits(parent):
            return parent
        child = self.arrive(Caller(number, self.locks[number], parent))
        return child if child is not None else parent

    @rule(target=innermost, caller=consumes(innermost))
    def end(self, caller: Caller) -> Any:
        if self.waits(caller):
            return caller
        caller.end()
        if caller in self.inside:
            self.inside.remove(caller)
        else:
            queue = self.queues[caller.number]
            self.holders[caller.number] = queue.pop(0) if queue else None
        return caller.parent if caller.parent else multiple()

    @precondition(lambda self: any(self.queues))
    @rule(target=innermost, caller=consumes(innermost))
    def cancel_one_that_waits(self, caller: Caller) -> Any:
        if not self.waits(caller):
            return caller
        caller.call.cancel("halted")
        eventually(lambda: caller.error)
        assert isinstance(caller.error, CallWasCancelled)
        self.queues[caller.number].remove(caller)
        return caller.parent if caller.parent else multiple()

    @invariant()
    def whoever_has_a_turn_is_the_first(self) -> None:
        for lock, holder, queue in zip(self.locks, self.holders, self.queues, strict=True):
            eventually(lambda holder=holder: holder is None or holder.held is not None)
            assert lock.owner is (holder.call if holder else None)
            assert lock.idle == (holder is None)
            assert lock.contended == bool(queue)
            assert all(waiting.held is None and waiting.call.waiting_for is lock for waiting in queue)
        assert all(caller.held is not None for caller in self.inside)

    def teardown(self) -> None:
        for queue in self.queues:
            for caller in queue:
                caller.call.cancel("halted")
                caller.end()
        for caller in [*self.inside, *filter(None, self.holders)]:
            caller.end()


TestSessionLock = Machine.TestCase
TestSessionLock.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
