"""Python for the BEAM. This package imports nothing heavy: it is the parent of every other one."""

__version__ = "0.1.0"
