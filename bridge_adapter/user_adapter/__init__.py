"""Adapters of users of Snakepit without SnakeBridge (`--adapter my_app.MyAdapter`): they run in the executor and serve every tool that is
not one of SnakeBridge's.

`loading` finds the class, `adapter` runs one call of it, `session_context` is what the call gets, `values` are plain JSON in and out.
"""

from bridge_adapter.user_adapter.adapter import UserAdapter
from bridge_adapter.user_adapter.loading import CannotLoad, load

__all__ = ["CannotLoad", "UserAdapter", "load"]
