"""What the tests of the flow runtime share: they let go of what a module has compiled, which no other module needs and which is most of
their memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _forgets_what_was_compiled() -> Iterator[None]:
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
