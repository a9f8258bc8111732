"""Python libraries described for the generator of Elixir wrappers.

    python -P -m bridge_adapter.tools.introspect REQUEST ANSWER

Both files hold one packed term.
"""

from .describe import describe
from .request import FORMAT, InvalidRequest

__all__ = ["FORMAT", "InvalidRequest", "describe"]
