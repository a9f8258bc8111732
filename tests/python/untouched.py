"""A module that no test imports."""
