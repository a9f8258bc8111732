"""A module that prints on import what is no UTF-8."""

import os

os.write(1, b"on \xff import\n")


def quiet() -> str:
    return "done"
