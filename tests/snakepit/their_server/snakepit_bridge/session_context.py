"""What an adapter is told of the session that a call belongs to."""

from __future__ import annotations

from typing import Any


class SessionContext:
    """The session of the worker, the metadata of the request, and a blocking stub to Elixir."""

    def __init__(self, stub: Any, session_id: str, request_metadata: dict[str, str]) -> None:
        self.stub = stub
        self.session_id = session_id
        self.request_metadata = request_metadata

    def cleanup(self) -> None:
        """Nothing is kept here."""

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()
