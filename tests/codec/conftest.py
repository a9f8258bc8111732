"""The BEAM that the tests of the codec share; hypothesis without its deadline, which a busy machine would not keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from across import Beam
from hypothesis import settings

settings.register_profile("codec", deadline=None)
settings.load_profile("codec")


@pytest.fixture(scope="session")
def beam() -> Iterator[Beam]:
    running = Beam()
    yield running
    running.close()
