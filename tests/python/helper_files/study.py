"""A helper file as a project would keep it."""


def add(a: float, b: float = 1.0) -> float:
    """Adds."""
    return a + b


__snakebridge_helpers__ = {"study.add": add}
