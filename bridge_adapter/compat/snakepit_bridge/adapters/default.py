"""`snakepit_bridge.adapters.default.DefaultAdapter`, under which SnakeBridge was configured before it had an adapter of its own."""

from bridge_adapter.adapter import SnakeBridgeAdapter as DefaultAdapter

__all__ = ["DefaultAdapter"]
