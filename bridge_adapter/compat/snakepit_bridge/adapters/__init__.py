"""Snakepit's adapters where there are any, with ours beside them."""

from bridge_adapter.compat import extend

extend(globals())
