"""SnakeBridge inside Snakepit's own Python server: `--adapter bridge_adapter.SnakeBridgeAdapter`.

The server keeps gRPC, heartbeats and telemetry; tools run in the same executor as behind our gateway, so that a crash of user code costs
neither the server nor an idempotent call.
"""

from bridge_adapter.adapter import host
from bridge_adapter.adapter.snakebridge_adapter import SnakeBridgeAdapter

__all__ = ["SnakeBridgeAdapter"]

# A server imports its adapter when it starts: the executor comes up beside it, and the first call need not wait.
host.start_early()
