"""A double of Snakepit's Python package: the two names that an adapter in its server meets."""

from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.zero_copy import ZeroCopyRef

__all__ = ["SessionContext", "ZeroCopyRef"]
