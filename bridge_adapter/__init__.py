"""Python for the BEAM. This package imports nothing heavy: it is the parent of every other one."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers know it, without importing typing
if TYPE_CHECKING:
    from bridge_adapter.adapter import SnakeBridgeAdapter as SnakeBridgeAdapter
else:

    def __getattr__(name: str) -> object:
        """`bridge_adapter.SnakeBridgeAdapter`, for Snakepit's `--adapter`: loaded where it is asked for."""
        if name == "SnakeBridgeAdapter":
            from bridge_adapter.adapter import SnakeBridgeAdapter

            return SnakeBridgeAdapter
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
