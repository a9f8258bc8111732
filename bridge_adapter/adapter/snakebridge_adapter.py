"""The class that Snakepit's server makes an instance of for every call. It translates; the work is done by the executor (`host`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_adapter.adapter import host
from bridge_adapter.adapter.arguments import asked
from bridge_adapter.adapter.raised import raised
from bridge_adapter.adapter.results import Streamed, exact
from bridge_adapter.gateway.bridge import STREAM_TOOL
from bridge_adapter.gateway.lane_client import LaneError


class SnakeBridgeAdapter:
    """SnakeBridge's tools, for the process server and the threaded one alike."""

    __thread_safe__ = True

    def __init__(self) -> None:
        self._context: Any = None

    def set_session_context(self, context: Any) -> None:
        """The session of the worker, the metadata of the request, and a stub to Elixir."""
        self._context = context

    async def execute_tool(self, tool_name: str, arguments: Mapping[str, Any], context: Any = None) -> Any:
        """The result of a tool, exact on the wire. Raises an Exception named as the error of the user's code is.

        The server does not tell which of its RPCs is asking: what a stream returns answers both.
        """
        context = context if context is not None else self._context
        call = asked(tool_name, arguments, context)
        executor = host.current(context)
        if tool_name == STREAM_TOOL:
            return Streamed.of(call, executor)
        try:
            text = await executor.execute(call)
        except LaneError as error:
            failure = raised(error, call)
        else:
            return exact(text)
        # Outside the handler: the traceback is that of the user's code, not one of ours.
        raise failure
