"""`python -m bench SUITE [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import batching, calls, codec, flow, generate, payloads, reliability, snakepit, streams, wrappers
from .report import Suite, machine, show

SUITES: dict[str, Suite] = {
    "calls": calls.run,
    "streams": streams.run,
    "payloads": payloads.run,
    "codec": codec.run,
    "snakepit": snakepit.run,
    "batching": batching.run,
    "wrappers": wrappers.run,
    "flow": flow.run,
    "generate": generate.run,
    "reliability": reliability.run,
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.suite != "all":
        show(SUITES[arguments.suite](), arguments.json)
        return 0
    rows = [row for suite in SUITES.values() for row in suite()]
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps({"machine": machine(), "rows": [row.as_json() for row in rows]}, indent=1))
    show(rows, arguments.json)
    print(f"written to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
