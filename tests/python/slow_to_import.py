"""A module whose import takes a moment: half of it is done when it waits."""

import time

half = True
time.sleep(0.6)
whole = True


def state() -> list[bool]:
    return [half, whole]
