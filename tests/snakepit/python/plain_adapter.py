"""An adapter of a user's own, as Snakepit takes it: no base class, nothing of SnakeBridge. Its tool `ret` returns what it is asked for."""

from __future__ import annotations

from typing import Any


class PlainAdapter:
    def set_session_context(self, context: Any) -> None:
        self.context = context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        if tool_name != "ret":
            raise AttributeError(f"no tool {tool_name}")
        return eval(arguments["e"])
