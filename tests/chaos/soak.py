"""A long chaos run, with less haste: pool and gateway side by side under mixed load and faults, while what their processes use is sampled.

    PYTHONPATH=tests/snakepit:tests/gateway python tests/chaos/soak.py [--seed N] [--seconds S] --out DIRECTORY

The BEAM, the gateway and one worker that nobody harms live as long as the run. Memory, files, threads, segments of shared memory and the
journal must stay as they are: a line is fitted to each, without the warm-up, and may rise only so far. Report (JSON) and picture go to the
directory.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import history
import numpy as np
from checker import Violation, check
from faults import FAULTS, SLOW, inject
from gateway_driver import GatewayDriver
from process_tree import marked
from world import Beam, World, is_steady

SAMPLE_SECONDS = 5.0
FAULT_PAUSE = (5.0, 20.0)
WARM_UP = 0.3  # of the run: pages that are touched for the first time, and a journal that comes to its bounds
JOURNAL_ROWS = 3000
# How far a fitted line may rise over the whole run, beside what is 5 % of where it began.
MAY_RISE = {"rss_mb": 8.0, "fds": 4.0, "threads": 3.0, "segments": 4.0, "journal_mb": 2.0}


@dataclass
class Series:
    """One quantity of one process over time."""

    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def rise(self) -> tuple[float, float]:
        """Where the fitted line begins after the warm-up, and how far it rises until the end."""
        seconds, values = np.array(self.seconds), np.array(self.values)
        warm = seconds >= seconds[-1] * WARM_UP
        if warm.sum() < 3:
            return float(values[-1]), 0.0
        slope, start = np.polyfit(seconds[warm], values[warm], 1)
        first, last = seconds[warm][0], seconds[warm][-1]
        return float(start + slope * first), float(slope * (last - first))


class Sampler(threading.Thread):
    """Looks every few seconds at what the lasting processes of some worlds use."""

    def __init__(self, worlds: dict[str, World]) -> None:
        super().__init__(daemon=True)
        self.series: dict[str, Series] = defaultdict(Series)
        self._worlds = worlds
        self._ended = threading.Event()
        self._began = time.monotonic()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for way, world in self._worlds.items():
                for pid, command in marked(world.mark).items():
                    role = _role(pid, command)
                    if role is not None:
                        self._look(role, pid)
                self._note(f"journal of the {way}: journal_mb", sum(_size(Path(f"{world.journal}{end}")) for end in ("", "-wal")))

    def _look(self, role: str, pid: int) -> None:
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            self._note(f"{role}: rss_mb", int(status["VmRSS"].split()[0]) / 1024)
            self._note(f"{role}: threads", int(status["Threads"]))
            self._note(f"{role}: fds", len(list(Path(f"/proc/{pid}/fd").iterdir())))
        except (OSError, KeyError):
            return  # it has just ended
        if role == "BEAM":
            self._note("BEAM: segments", len(list(Path("/dev/shm").glob(f"snakebridge-*-{pid}-*/*"))))

    def _note(self, name: str, value: float) -> None:
        series = self.series[name]
        series.seconds.append(time.monotonic() - self._began)
        series.values.append(value)


def _role(pid: int, command: str) -> str | None:
    """What a lasting process is."""
    if "beam.smp" in command:
        return "BEAM"
    if "grpc_server.py" in command:
        return "gateway"
    return "worker" if "bridge_adapter.executor" in command and is_steady(pid) else None


def _size(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.exists() else 0.0


def soak(directory: Path, seed: int, seconds: float) -> dict[str, object]:
    """Runs both ways side by side; the report."""
    bounded = {"CHAOS_JOURNAL_ROWS": str(JOURNAL_ROWS)}
    drivers = {
        "pool": Beam(seed, pause_ms=60, environment={**bounded, "CHAOS_STEADY": "1"}),
        "gateway": GatewayDriver(seed, pause_ms=100, environment=bounded),
    }
    lasting = {name: fault for name, fault in FAULTS.items() if name not in SLOW}
    worlds: dict[str, World] = {}
    violations: list[Violation] = []
    calls = 0

    def live(way: str) -> None:
        with worlds[way] as world:
            inject(world, seed, time.monotonic() + seconds, lasting, FAULT_PAUSE)
            world.calm_down()

    for way, driver in drivers.items():
        worlds[way] = World(directory / way, driver)
    sampler = Sampler(worlds)
    sampler.start()
    with ThreadPoolExecutor(len(worlds)) as threads:
        done = [threads.submit(live, way) for way in worlds]
    sampler.stop()
    for future in done:
        future.result()
    for world in worlds.values():
        found = history.read(world.directory)
        calls += len(found.operations)
        violations += [*check(found), *(Violation("the_processes_behave", problem) for problem in world.problems)]
    lines = {name: series.rise() for name, series in sorted(sampler.series.items())}
    rising = [name for name, (start, rise) in lines.items() if rise > MAY_RISE[name.rpartition(" ")[2]] + 0.05 * abs(start)]
    _draw(sampler.series, directory.parent / "soak.png")
    return {
        "seed": seed,
        "seconds": seconds,
        "calls": calls,
        "calls_per_second": round(calls / seconds, 1),
        "faults": sum(len(world.faults) for world in worlds.values()),
        "violations": [str(violation) for violation in violations],
        "rising": rising,
        "fitted": {name: {"starts_at": round(start, 2), "rises_by": round(rise, 2)} for name, (start, rise) in lines.items()},
    }


def _draw(series: dict[str, Series], path: Path) -> None:
    """All series, one panel per quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(MAY_RISE), 1, figsize=(10, 14), sharex=True, layout="constrained")
    for panel, quantity in zip(panels, MAY_RISE, strict=True):
        for name, values in sorted(series.items()):
            if name.endswith(f" {quantity}"):
                panel.plot([second / 60 for second in values.seconds], values.values, label=name.rpartition(":")[0])
        panel.set_ylabel(quantity)
        panel.set_ylim(bottom=0)
        panel.legend(loc="lower right")
    panels[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIRECTORY")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"soak: seed {arguments.seed}, {arguments.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=arguments.out) as scratch:
        report = soak(Path(scratch), arguments.seed, arguments.seconds)
    text = json.dumps(report, indent=1)
    (arguments.out / "soak.json").write_text(text + "\n")
    print(text)
    return 1 if report["violations"] or report["rising"] else 0


if __name__ == "__main__":
    sys.exit(main())
