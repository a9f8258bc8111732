"""Calls through the stand-in while executors, workers and the stand-in itself are killed: the plan, who kills, and the judgement of every
outcome. Each run of a user function leaves a line in its call's file first, so that what has run is known whatever was answered.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool_worker import CallFailed, Launcher
from process_tree import MARK, children, left_over, marked
from standin_process import StandIn, StandInDied

EXECUTOR, WORKER, STANDIN = "executor", "worker", "stand-in"
# At rest, in a call or stream, while the next one starts, and while a call runs for the second time.
PHASES = IDLE, IN_CALL, STARTING, IN_RETRY = "idle", "in call", "starting", "in retry"
KINDS = ("work", "hold_the_gil", "with_a_child", "through_elixir", "items")
CALLERS = 4
WORKERS = 2
KILL_EVERY = 7  # calls
TIMEOUT = 20.0
CHECKOUT = 20.0
SLACK = 3.0
GONE_SECONDS = 10.0
LOOK = 0.002
BACKOFF = 0.05  # the first pause of Snakepit's own crash barrier
MOST_ATTEMPTS = 100
MOST_STARTS = 3
CRASH = re.compile(r"it was killed by SIGKILL.* \(pid (\d+)\)")
ECHO = {"__type__": "callback", "__schema__": 1, "ref_id": "echo", "pid": "#PID<0.1.0>", "arity": 1}


@dataclass(frozen=True)
class Kill:
    """Who is killed when, and how many seconds after that moment."""

    victim: str
    phase: str
    delay: float


@dataclass(frozen=True)
class Plan:
    """One call of the test."""

    number: int
    kind: str
    idempotent: bool
    milliseconds: int
    session: str
    kill: Kill | None


def plans(seed: int, count: int) -> list[Plan]:
    """What is going to happen. Every kind of kill has its turn."""
    chance = random.Random(seed)
    executors, workers = itertools.product([EXECUTOR], [IDLE, *[IN_CALL] * 3, STARTING, IN_RETRY]), itertools.product([WORKER], PHASES)
    often = [*executors, *workers] * 3
    deck: list[tuple[str, str]] = []
    planned = []
    for number in range(count):
        kind, idempotent, kill, milliseconds = chance.choice(KINDS), chance.random() < 0.5, None, chance.randrange(10)
        if number % KILL_EVERY == KILL_EVERY - 1:
            if not deck:
                deck = [*often, *itertools.product([STANDIN], PHASES)]
                chance.shuffle(deck)
            victim, phase = deck.pop()
            milliseconds = chance.randrange(10, 50)
            # Now and then a call is over before it is hit.
            delay = chance.uniform(0.0, 1.1) * milliseconds / 1000
            if phase == STARTING:
                delay = chance.uniform(0.0, 0.4)
            elif phase == IN_RETRY:
                # A stream that has begun is not run again.
                kind, idempotent, delay = chance.choice([kind for kind in KINDS if kind != "items"]), True, delay / 2
            kill = Kill(victim, phase, delay)
        planned.append(Plan(number, kind, idempotent, milliseconds, f"session-{chance.randrange(8)}", kill))
    return planned


@dataclass
class Report:
    """What has happened. `problems` is empty when all is well."""

    problems: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    retried: int = 0  # calls that the worker has run again by itself, and that their caller has made once

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {phase}: {times}" for (victim, phase), times in sorted(self.kills.items()))
        outcomes = ", ".join(f"{outcome}: {times}" for outcome, times in sorted(self.outcomes.items()))
        return "\n".join([f"killed: {kills}", f"outcomes: {outcomes}", f"retried by the worker: {self.retried}", *self.problems])


class World:
    """The stand-in and everything below it, which may be another one after each kill. Use as a context manager."""

    def __init__(self, directory: Path, launcher: Launcher, report: Report) -> None:
        self._directory = directory
        self._launcher = launcher
        self._report = report
        self._changed = threading.Condition()
        self._current: StandIn | None = None
        self._marks: list[str] = []
        self.killed: set[int] = set()

    def __enter__(self) -> World:
        self._replace()
        return self

    def __exit__(self, *_: object) -> None:
        standin = self.standin()
        standin.close()
        for mark in self._marks:
            if remains := left_over(mark, GONE_SECONDS):
                self._report.problems.append(f"processes are left: {remains}")
                for pid in remains:
                    self._signal(pid, mark)

    def standin(self) -> StandIn:
        """The one that lives, once its workers do."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is not None)
            assert self._current is not None
            return self._current

    def kill_standin(self, standin: StandIn, phase: str, delay: float) -> None:
        """Kills it and starts another. `delay`: of the second kill, when the first one's successor dies while it starts."""
        with self._changed:
            if self._current is not standin:
                return
            self._current = None
        self._report.kills[STANDIN, phase] += 1
        self._end(standin)
        if phase == STARTING:
            short_lived = self._start()
            short_lived.wait_for("spawned")
            time.sleep(delay)
            self._end(short_lived)
        self._replace()

    def missing(self, standin: StandIn) -> None:
        """A caller has lost it. Starts another if nobody has killed it."""
        with self._changed:
            if self._current is not standin:
                return
            self._current = None
        self._report.problems.append("a stand-in ended that nobody had killed")
        self._end(standin)
        self._replace()

    def kill(self, standin: StandIn, pid: int, victim: str, phase: str) -> None:
        self.killed.add(pid)
        if self._signal(pid, standin.mark):
            self._report.kills[victim, phase] += 1

    def workers(self, standin: StandIn) -> list[int]:
        return [pid for pid, command in marked(standin.mark).items() if "grpc_server.py" in command and "--snakepit-run-id" in command]

    def _signal(self, pid: int, mark: str) -> bool:
        """SIGKILL for a process that is still the one that is meant."""
        with suppress(OSError):
            if f"{MARK}={mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _start(self) -> StandIn:
        standin = StandIn(self._directory, self._launcher, size=WORKERS)
        self._marks.append(standin.mark)
        return standin

    def _replace(self) -> None:
        for _ in range(MOST_STARTS):
            standin = self._start()
            try:
                standin.wait_for("initialized", WORKERS)
                break
            except (StandInDied, TimeoutError) as error:
                self._report.problems.append(f"a stand-in did not come up: {error!r}")
                self._end(standin)
        # The last one is taken as it is, so that its callers fail and do not wait for ever.
        with self._changed:
            self._current = standin
            self._changed.notify_all()

    def _end(self, standin: StandIn) -> None:
        standin.kill()
        standin.close()
        if remains := left_over(standin.mark, GONE_SECONDS):
            self._report.problems.append(f"the stand-in was killed and left {remains}")


class Caller:
    """Makes calls, sees to it that what is planned for them happens, and judges what comes of them."""

    def __init__(self, world: World, journal: Path, report: Report) -> None:
        self._world = world
        self._journal = journal
        self._report = report

    def perform(self, plan: Plan) -> None:
        """Makes one call, again and again if it is idempotent and the worker or the stand-in dies: as Snakepit promises it."""
        file = self._journal / str(plan.number)
        attempts = 0
        while True:
            standin = self._world.standin()
            attempts += 1
            done = threading.Event()
            killer = threading.Thread(target=self._kill, args=(plan, standin, file, done))
            if attempts == 1 and plan.kill is not None:
                killer.start()
                if plan.kill.phase == IDLE:
                    killer.join()
            began = time.monotonic()
            got: list[str] = []
            try:
                self._call(standin, plan, file, got)
                outcome: Exception | None = None
            except (CallFailed, StandInDied) as error:
                outcome = error
            seconds = time.monotonic() - began
            done.set()
            if killer.ident is not None:
                killer.join()
            if seconds > TIMEOUT + CHECKOUT + SLACK:
                self._problem(plan, f"took {seconds:.1f} s")
            if self._is_over(plan, standin, file, got, outcome):
                break
            if attempts == MOST_ATTEMPTS:
                self._problem(plan, f"has failed {attempts} times: {outcome}")
                break
            time.sleep(BACKOFF)
        runs = len(_runs(file))
        if runs > 1 and not plan.idempotent:
            self._problem(plan, f"ran {runs} times")
        if runs > 1 and attempts == 1:
            self._report.retried += 1

    def _call(self, standin: StandIn, plan: Plan, file: Path, got: list[str]) -> None:
        fields: dict[str, Any] = {
            "module": "chaos_code",
            "session": plan.session,
            "timeout": TIMEOUT,
            "checkout_timeout": CHECKOUT,
            "idempotent": plan.idempotent,
        }
        if plan.kind == "items":
            for item in standin.stream("items", str(file), plan.milliseconds, 5, **fields):
                got.append(item)
        else:
            more = [ECHO] if plan.kind == "through_elixir" else []
            got.append(standin.call(plan.kind, str(file), plan.milliseconds, *more, **fields).value)

    # --- judgement ---

    def _is_over(self, plan: Plan, standin: StandIn, file: Path, got: list[str], outcome: Exception | None) -> bool:
        """Whether that was the last of this call. Writes down what is wrong with it."""
        right = hashlib.sha256(str(file).encode()).hexdigest()
        wanted = [f"{right}-{number}" for number in range(5)] if plan.kind == "items" else [right]
        if got != wanted[: len(got)] or (outcome is None and got != wanted):
            self._problem(plan, f"answered {got}, not {wanted}")
        if outcome is None:
            self._report.outcomes["answered"] += 1
            if not _runs(file):
                self._problem(plan, "was answered and did not run")
            return True
        name, again = self._kind_of(plan, standin, got, outcome)
        self._report.outcomes[name] += 1
        return not (again and plan.idempotent)

    def _kind_of(self, plan: Plan, standin: StandIn, got: list[str], outcome: Exception) -> tuple[str, bool]:
        """What an error is, and whether the caller of an idempotent call makes it again."""
        if isinstance(outcome, StandInDied):
            self._world.missing(standin)
            return "stand-in died", True
        assert isinstance(outcome, CallFailed)
        if outcome.fields.get("code") == "UNAVAILABLE":
            if outcome.fields["pid"] not in self._world.killed:
                self._problem(plan, f"UNAVAILABLE from worker {outcome.fields['pid']}, which nobody has killed: {outcome}")
            return "worker died", True
        payload = outcome.payload
        if payload.get("type") == "WorkerCrash":
            told = CRASH.search(payload["message"])
            if told is None or int(told[1]) not in self._world.killed:
                self._problem(plan, f"tells of a death that nobody has caused: {payload['message']}")
            # Nothing of a stream may come twice: one that has begun is its caller's to make again.
            if plan.idempotent and not got:
                self._problem(plan, f"is idempotent, and was not run again by the worker: {payload['message']}")
            return "executor died", True
        self._problem(plan, f"failed: {outcome}")
        return "failed", False

    def _problem(self, plan: Plan, text: str) -> None:
        self._report.problems.append(f"{plan}: {text}")

    # --- the killer ---

    def _kill(self, plan: Plan, standin: StandIn, file: Path, done: threading.Event) -> None:
        kill = plan.kill
        assert kill is not None
        try:
            if kill.phase in (IDLE, STARTING):
                self._kill_at_rest(kill, standin)
            else:
                self._kill_at_work(kill, standin, file, done)
        except (TimeoutError, StandInDied, IndexError):
            return  # somebody else has killed the whole world meanwhile

    def _kill_at_rest(self, kill: Kill, standin: StandIn) -> None:
        if kill.victim == STANDIN:
            self._world.kill_standin(standin, kill.phase, kill.delay)
            return
        worker = self._world.workers(standin)[0]
        if kill.victim == WORKER:
            before = len(standin.wait_for("spawned"))
            self._world.kill(standin, worker, WORKER, IDLE)
            if kill.phase == STARTING:
                successor = standin.wait_for("spawned", before + 1, 5)[-1].pid
                time.sleep(kill.delay)
                self._world.kill(standin, successor, WORKER, STARTING)
            return
        executors = children(worker)
        for executor in executors:
            self._world.kill(standin, executor, EXECUTOR, IDLE)
        if kill.phase == STARTING:
            for successor in _first(lambda: [pid for pid in children(worker) if pid not in executors], threading.Event(), 5):
                time.sleep(kill.delay)
                self._world.kill(standin, successor, EXECUTOR, STARTING)

    def _kill_at_work(self, kill: Kill, standin: StandIn, file: Path, done: threading.Event) -> None:
        for executor, worker in _first(lambda: _runs(file), done, CHECKOUT):
            done.wait(kill.delay)
            if kill.phase == IN_CALL:
                self._kill_one(kill, standin, executor, worker)
                continue
            self._world.kill(standin, executor, EXECUTOR, IN_CALL)
            for successor, same in _first(lambda: _runs(file)[1:], done, CHECKOUT):
                self._kill_one(kill, standin, successor, same)

    def _kill_one(self, kill: Kill, standin: StandIn, executor: int, worker: int) -> None:
        if kill.victim == STANDIN:
            self._world.kill_standin(standin, kill.phase, kill.delay)
        else:
            self._world.kill(standin, executor if kill.victim == EXECUTOR else worker, kill.victim, kill.phase)


def _first(find: Callable[[], list[Any]], done: threading.Event, seconds: float) -> Iterator[Any]:
    """The first thing that is found before it is too late, if any."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := find():
            yield found[0]
            return
        if done.wait(LOOK):
            return


def _runs(file: Path) -> list[tuple[int, int]]:
    """Executor and worker of each run of a call."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), int(parent)) for pid, parent in map(str.split, lines)]


def rampage(directory: Path, launcher: Launcher, seed: int, calls: int, enough: Callable[[int, Report], bool] = lambda *_: False) -> Report:
    """All of it, or as many calls as are enough by then. Returns when each of them has its outcome and everything has ended."""
    report = Report()
    journal = directory / "journal"
    journal.mkdir()
    todo = iter(plans(seed, calls))
    taking = threading.Lock()
    with World(directory, launcher, report) as world:

        def take() -> None:
            caller = Caller(world, journal, report)
            while True:
                with taking:
                    plan = next(todo, None)
                if plan is None or enough(plan.number, report):
                    return
                try:
                    caller.perform(plan)
                except Exception as error:
                    report.problems.append(f"{plan}: the test itself failed: {error!r}")

        callers = [threading.Thread(target=take) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    return report
