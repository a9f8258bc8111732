"""Snakepit's package where there is one, with `adapters.default` of ours in it."""

from bridge_adapter.compat import extend

extend(globals())
