"""The faults of a chaos run, and the schedule by which a seed has them happen.

Each fault is a function of the world and of chance, which returns when the fault is over or nobody has met it.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from world import World, now

Fault = Callable[[World, random.Random], None]

MEGABYTE = 1 << 20
# Where a worker dies, in the order of a call's life.
DEATHS = {
    "before the request is handled": ("request", "kill"),
    "before the journal knows of the call": ("journal-before-begin", "kill"),
    "when the journal knows of the call": ("journal-begun", "kill"),
    "while user code runs": ("running", "kill"),
    "between two items": ("item", "kill"),
    "between the end and its record": ("journal-before-finish", "kill"),
    "between the record and the answer": ("journal-finished", "kill"),
    "before the answer is sent": ("answer", "kill"),
    "in the middle of the answer": ("answer", "kill half"),
    "after the answer": ("answer", "kill after"),
    "before a lone key is recorded": ("journal-before-keep", "kill"),
    "in the middle of its greeting": ("hello", "kill half"),
}
BREAKS = {
    "the connection breaks before the request is handled": ("request", "lose"),
    "the connection breaks behind the request": ("request", "cut"),
    "the connection breaks before the answer": ("answer", "cut"),
    "the connection breaks in the middle of the answer": ("answer", "cut half"),
    "the connection breaks in the greeting": ("hello", "cut"),
}
ORDER_SECONDS = 0.6  # for which an order waits for its worker


def _ordered(point: str, order: str) -> Fault:
    def fault(world: World, _: random.Random) -> None:
        world.order(point, order)
        end = time.monotonic() + ORDER_SECONDS
        while (world.points / point).exists() and time.monotonic() < end:
            time.sleep(0.005)
        (world.points / point).unlink(missing_ok=True)

    return fault


def half_open(world: World, chance: random.Random) -> None:
    """An answer that does not come for a while, on a connection that stands."""
    _ordered("answer", f"hold {chance.uniform(0.5, 4.0):.3f}")(world, chance)


def wire(world: World, chance: random.Random) -> None:
    """Between client and worker, a connection breaks, stalls or slows down after so many bytes of a message."""
    count = chance.choice([0, 1, 3, 4, 5, 20, 100])
    order = chance.choice([f"cut {count}", f"stall {count} {chance.uniform(0.1, 4.0):.3f}", f"trickle {count}"])
    _ordered(chance.choice(["wire-up", "wire-down"]), order)(world, chance)


def clock_jump(world: World, chance: random.Random) -> None:
    """A worker's time of day is another, by less than the time for which the journal keeps an answer."""
    _ordered("running", f"clock {chance.choice([-3 * 3600, -60, 0, 60, 20 * 3600])}")(world, chance)


def kill_worker(world: World, chance: random.Random) -> None:
    """SIGKILL, as the kernel does it when memory is short."""
    if workers := world.executors():
        world.signal(chance.choice(workers), signal.SIGKILL)


def kill_every_worker(world: World, _: random.Random) -> None:
    for pid in world.executors():
        world.signal(pid, signal.SIGKILL)


def freeze_worker(world: World, chance: random.Random) -> None:
    """A worker that stands still, past the deadlines of its calls."""
    if workers := world.executors():
        pid = chance.choice(workers)
        world.signal(pid, signal.SIGSTOP)
        time.sleep(chance.choice([0.1, 0.5, 1.0, 3.5]))
        world.signal(pid, signal.SIGCONT)


def kill_client(world: World, _: random.Random) -> None:
    """Everything dies, and comes again with the same journal."""
    world.restart()


def rolling_restart(world: World, chance: random.Random) -> None:
    """The pool replaces its workers, one after the other."""
    if world.driver.have("restart"):
        time.sleep(chance.uniform(0.0, 2.0))


def drain(world: World, chance: random.Random) -> None:
    """The pool refuses new calls, lets the others end, stops, and starts again."""
    if world.driver.have("drain"):
        time.sleep(chance.uniform(0.0, 2.0))


def journal_busy(world: World, chance: random.Random) -> None:
    """Somebody else holds the journal's lock for a while: what a slow disk looks like from here."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(world.journal, timeout=1, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(chance.uniform(0.05, 1.5))
        other.execute("ROLLBACK")


def journal_full(world: World, chance: random.Random) -> None:
    """The disk of the journal is full (a tmpfs), or its files may not grow."""
    with world.window("unrecorded", after=2.0):
        if os.path.ismount(world.journal.parent):
            filler = world.journal.parent / "filler"
            _fill(filler)
            time.sleep(chance.uniform(0.2, 1.0))
            filler.unlink()
        else:
            log = Path(f"{world.journal}-wal")
            size = log.stat().st_size if log.exists() else 0
            _limit(world, resource.RLIMIT_FSIZE, lambda _: max(size, 64 * 1024), chance.uniform(0.2, 1.0))


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (MEGABYTE, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def journal_damaged(world: World, chance: random.Random) -> None:
    """Pages of the journal are overwritten: while it is in use, or while everything is dead. Whoever opens it next finds that."""
    with world.window("forgotten"):
        if chance.random() < 0.5:
            _damage(world.journal, chance)
            world.restart()
        else:
            world.restart(lambda: _damage(world.journal, chance))


def _damage(path: Path, chance: random.Random) -> None:
    for victim in (path, Path(f"{path}-wal")):
        with suppress(OSError), open(victim, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(20):
                file.seek(chance.randrange(0, max(1, size - 512)))
                file.write(chance.randbytes(512))
            if victim == path:
                file.seek(0)
                file.write(b"this is no journal, and no SQLite file either")


def no_files(world: World, chance: random.Random) -> None:
    """A worker that may open nothing more."""
    _limit(world, resource.RLIMIT_NOFILE, lambda pid: len(os.listdir(f"/proc/{pid}/fd")), chance.uniform(0.2, 1.0))


def no_memory(world: World, chance: random.Random) -> None:
    """A worker that gets no more memory."""
    with world.window("unrecorded"):  # SQLite wants some
        _limit(world, resource.RLIMIT_AS, lambda pid: _virtual(pid) + MEGABYTE // 4, chance.uniform(0.2, 1.0))


def _virtual(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _limit(world: World, what: int, limit: Callable[[int], int], seconds: float) -> None:
    """Lowers a limit of every worker for some seconds."""
    before: dict[int, tuple[int, int]] = {}
    for pid in world.executors():
        with suppress(OSError):
            before[pid] = resource.prlimit(pid, what)
            resource.prlimit(pid, what, (limit(pid), before[pid][1]))
    time.sleep(seconds)
    for pid, limits in before.items():
        with suppress(OSError):
            resource.prlimit(pid, what, limits)


FAULTS: dict[str, Fault] = {
    **{f"killed {name}": _ordered(*order) for name, order in DEATHS.items()},
    **{name: _ordered(*order) for name, order in BREAKS.items()},
    "the answer does not come": half_open,
    "on the wire": wire,
    "on the wire again": wire,
    "the clock jumps": clock_jump,
    "a worker is killed": kill_worker,
    "every worker is killed": kill_every_worker,
    "a worker is frozen": freeze_worker,
    "everything is killed": kill_client,
    "the pool restarts its workers": rolling_restart,
    "the pool drains and resumes": drain,
    "the journal is busy": journal_busy,
    "the journal's disk is full": journal_full,
    "the journal is damaged": journal_damaged,
    "no files": no_files,
    "no memory": no_memory,
}
# Kinds that need a new client, which takes its time.
SLOW = frozenset({"everything is killed", "the journal is damaged"})


PAUSE = (0.05, 0.8)  # seconds between two faults


def schedule(seed: int, faults: Mapping[str, Fault] = FAULTS, pause: tuple[float, float] = PAUSE) -> Iterator[tuple[float, str]]:
    """What happens after how long a pause: every fault once per round, the slow ones once in three rounds."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        deck = [name for name in faults if name not in SLOW or number % 3 == 1]
        chance.shuffle(deck)
        for name in deck:
            yield chance.uniform(*pause), name


def inject(world: World, seed: int, until: float, faults: Mapping[str, Fault] = FAULTS, pause: tuple[float, float] = PAUSE) -> None:
    """Does all that a schedule says until a moment of the monotonic clock."""
    chance = random.Random(seed + 1)
    for wait, name in schedule(seed, faults, pause):
        left = until - time.monotonic()
        time.sleep(max(0.0, min(wait, left)))
        if wait > left:
            return
        began = now()
        faults[name](world, chance)
        world.faults.append(name)
        with open(world.directory / "faults.log", "a") as log:
            log.write(f"{began / 1e6:.6f} {now() / 1e6:.6f} {name}\n")
