"""`python -m bridge_adapter.user_adapter module.Class`: ends with 0 when the class can be used. The health check, in its own process."""

import os
import sys

from bridge_adapter.user_adapter.loading import CannotLoad, load


def main(name: str) -> int:
    """The exit status."""
    try:
        load(name)
    except CannotLoad as error:
        print(f"bridge_adapter: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    # Threads that the module has started do not hold up the answer.
    os._exit(main(sys.argv[1]))
