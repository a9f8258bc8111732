"""A chaos run: calls through a real pool while everything around them fails, and a judgement of every answer.

    PYTHONPATH=tests/snakepit:tests/gateway python tests/chaos/run.py [--through pool|gateway] [--seed N] [--seconds S] [--keep DIRECTORY]

The seed decides which calls are made and which faults happen in which order; when a call meets a fault is up to the machine.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import history
from checker import Violation, check
from faults import inject
from gateway_driver import GatewayDriver
from world import Beam, Driver, DriverFailed, World

TMPFS_SIZE = "64m"


@dataclass
class Report:
    """What a run has done and found."""

    seed: int
    seconds: float
    answers: Counter[str]
    faults: Counter[str]
    effects: int
    violations: list[Violation]

    def __str__(self) -> str:
        answers = ", ".join(f"{name} {times}" for name, times in self.answers.most_common())
        faults = "\n".join(f"  {times:5} {name}" for name, times in sorted(self.faults.items()))
        rate = self.answers.total() / self.seconds
        return (
            f"seed {self.seed}: {self.answers.total()} calls in {self.seconds:.0f} s ({rate:.0f}/s): {answers}\n"
            f"{self.effects} steps of user code; {self.faults.total()} faults:\n{faults}\nviolations: {len(self.violations)}"
            + "".join(f"\n  {violation}" for violation in self.violations[:40])
        )


DRIVERS: dict[str, Callable[[int], Driver]] = {"pool": Beam, "gateway": GatewayDriver}


def run(directory: Path, through: str, seed: int, seconds: float, *, own_disk: bool = False) -> Report:
    """One run in an empty directory. `own_disk`: the journal lies on a small tmpfs of its own, where this user may make one."""
    began = time.monotonic()
    with ExitStack() as stack:
        place = stack.enter_context(tmpfs(directory / "disk")) if own_disk else None
        world = World(directory, DRIVERS[through](seed), journal=place / "calls.journal" if place else None)
        problems = world.problems
        try:
            with world:
                inject(world, seed, time.monotonic() + seconds)
                world.calm_down()
        except DriverFailed as failure:
            problems.append(str(failure))
    found = history.read(directory)
    violations = [*check(found), *(Violation("the_processes_behave", problem) for problem in problems)]
    answers = Counter(operation.category or "ok" if operation.done else "unheard" for operation in found.operations)
    return Report(seed, time.monotonic() - began, answers, Counter(world.faults), len(found.effects), violations)


@contextmanager
def tmpfs(place: Path) -> Iterator[Path | None]:
    """A small file system of its own, or None for a user who may mount none."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE},mode=0700", "chaos", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--through", choices=DRIVERS, default="pool", help="which way the calls go")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave everything that was written down here")
    arguments = parser.parse_args()
    again = f"CHAOS_THROUGH={arguments.through} CHAOS_SEED={arguments.seed} CHAOS_SECONDS={arguments.seconds:g} make chaos"
    print(f"chaos: through the {arguments.through}, seed {arguments.seed}, {arguments.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        report = run(arguments.keep or Path(scratch), arguments.through, arguments.seed, arguments.seconds, own_disk=True)
    print(report)
    if report.violations:
        print(f"to repeat it: {again}; with --keep DIRECTORY its history is kept")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
