"""The breaker against a model that knows only the rules, with a clock of its own, and permits that come back late, never, or twice."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from bridge_adapter.breaker import Breaker, Permit, Settings, State

RULES = Settings(failures=3, window=10.0, open_for=5.0, probes=2, successes=3, rate=0.5)


class BreakerMachine(RuleBasedStateMachine):
    """The model keeps whole histories instead of counters."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.breaker = Breaker(RULES, lambda: self.now)
        self.state = State.CLOSED
        self.failures: list[tuple[float, int]] = []  # when, and what had succeeded by then
        self.passed = 0
        self.opened = 0.0
        self.epoch = 0
        self.probes_out: set[int] = set()  # ids of this epoch's permits
        self.successes = 0
        self.rejected = 0
        self.of_epoch: dict[int, int] = {}
        self.kept: list[Permit] = []  # so that no id comes twice

    def _tick(self) -> None:
        if self.state is State.OPEN and self.now - self.opened >= RULES.open_for:
            self.state, self.successes = State.HALF_OPEN, 0
            self.epoch += 1
            self.probes_out = set()

    def _open(self) -> None:
        self.state, self.opened, self.failures = State.OPEN, self.now, []

    def _fail(self) -> bool:
        """A failure that counts; whether it opens."""
        self._tick()
        if self.state is State.CLOSED:
            self.failures.append((self.now, self.passed))
            latest = self.failures[-RULES.failures :]
            # Of the tries after the first of three failures more than half failed: less than two succeeded.
            if len(latest) < RULES.failures or self.now - latest[0][0] >= RULES.window or self.passed - latest[0][1] >= 2:
                return False
            self._open()
            return True
        if self.state is State.HALF_OPEN:
            self._open()
            return True
        return False

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0, 5.0, 9.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def admit(self) -> Permit | None:
        self._tick()
        permit = self.breaker.admit()
        expected = self.state is State.CLOSED or (self.state is State.HALF_OPEN and len(self.probes_out) < RULES.probes)
        assert (permit is not None) == expected
        if permit is None:
            self.rejected += 1
            return None
        self.kept.append(permit)
        self.of_epoch[id(permit)] = self.epoch if self.state is State.HALF_OPEN else 0
        if self.state is State.HALF_OPEN:
            self.probes_out.add(id(permit))
        return permit

    @rule(permit=consumes(permits), outcome=st.sampled_from(["succeeded", "failed", "release"]), twice=st.booleans())
    def come_back(self, permit: Permit | None, outcome: str, twice: bool) -> None:
        if permit is None:
            return
        self._tick()
        epoch = self.of_epoch[id(permit)]
        mine = self.state is State.HALF_OPEN and epoch == self.epoch and epoch > 0
        answer = getattr(permit, outcome)()
        if mine:
            self.probes_out.discard(id(permit))
        if outcome == "failed":
            assert answer == (self._fail() if mine or self.state is State.CLOSED else False)
        elif outcome == "succeeded" and not epoch:
            self.passed += 1
        elif outcome == "succeeded" and mine:
            self.successes += 1
            if self.successes == RULES.successes:
                self.state, self.failures = State.CLOSED, []
        if twice:
            permit.failed()  # nobody hears it

    @rule()
    def a_failure_without_a_permit(self) -> None:
        assert self.breaker.failed() == self._fail()

    @rule()
    def a_success_without_a_permit(self) -> None:
        self.breaker.succeeded()
        self.passed += 1

    @precondition(lambda self: self.state is State.CLOSED)
    @rule()
    def it_is_closed_by_hand(self) -> None:
        self.breaker.close()
        self.failures = []

    @invariant()
    def the_same_state(self) -> None:
        self._tick()
        assert self.breaker.state is self.state
        assert self.breaker.rejected == self.rejected
        assert len(self.probes_out) <= RULES.probes
        assert self.breaker.retry_after <= RULES.open_for
        assert (self.breaker.retry_after > 0) <= (self.state is not State.CLOSED)
        assert self.breaker.quiet == (self.state is State.CLOSED and not any(self.now - at < RULES.window for at, _ in self.failures))


BreakerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase


def test_failures_outside_the_window_do_not_open_it() -> None:
    now = 0.0
    breaker = Breaker(RULES, lambda: now)
    for _ in range(10):
        assert not breaker.failed()
        now += 5.0
    assert breaker.state is State.CLOSED
    assert not breaker.failed() and breaker.failed()
    assert breaker.admit() is None and breaker.rejected == 1 and breaker.retry_after == RULES.open_for


def test_what_mostly_succeeds_is_not_to_blame() -> None:
    breaker = Breaker(Settings(failures=5, rate=0.5))
    for _ in range(50):
        assert not breaker.failed()
        permit = breaker.admit()
        assert permit is not None
        permit.succeeded()
    for _ in range(1_000):
        breaker.succeeded()
    # It breaks: only what was tried since the first of the latest five failures matters.
    assert [breaker.failed() for _ in range(5)] == [False, False, False, False, True]


def test_at_a_rate_of_0_the_number_alone_decides() -> None:
    breaker = Breaker(Settings(failures=2, rate=0.0))
    assert not breaker.failed()
    for _ in range(100):
        breaker.succeeded()
    assert breaker.failed()


def test_a_breaker_of_no_failures_never_opens() -> None:
    breaker = Breaker(Settings(failures=0))
    assert not any(breaker.failed() for _ in range(100))
    assert breaker.admit() is not None
