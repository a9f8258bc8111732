"""The flight recorder: what a run tells while it goes on, kept in a capsule that any process can read at any time.

This module is the seam: the run loop talks to a `Recorder` and does not know whether anything is kept. `capsule.Capsule` is the recorder
that keeps it all; `query` and `report` read capsules. Importing this module loads neither pyarrow nor DuckDB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Last(NamedTuple):
    """Where a run that is over stands: all that it needs to go on from there, as `Recorder.checkpoint` takes it."""

    record: Mapping[str, Any]
    certificates: Any = None


class Recorder(Protocol):
    """What a run loop tells. Any call may raise CapsuleError: a run that cannot be recorded any more must stop."""

    def event(self, kind: str, payload: Mapping[str, Any], *, iteration: int | None = None) -> None:
        """Something happened; kinds and payloads are in `events.EVENTS`."""

    def rows(self, block: Mapping[str, Any]) -> None:
        """Steps were made: by column (`columns.COLUMNS`) an array with a value for each step, or one value for all of them."""

    def checkpoint(self, record: Mapping[str, Any], *, iteration: int, certificates: Any = None) -> None:
        """Keeps all that a run needs to go on from here: "state" (slot to array), "tuner_state", "rng_key", and what else the loop has."""

    def artifact(self, name: str, value: Any) -> None:
        """Keeps an array, bytes, a text or a mapping of plain data by name."""

    def picture(self, name: str, value: np.ndarray[Any, Any]) -> None:
        """Keeps an array for the report, while the caller goes on; `<slot>.before` and `<slot>.after` are shown side by side."""

    def update(self, **fields: Any) -> None:
        """Sets fields of the manifest."""

    def finish(self, status: str, *, last: Last | None = None, fields: Mapping[str, Any] | None = None, **outcome: Any) -> None:
        """The run has ended; status is one of `events.STATUSES`. last: for a last checkpoint. fields: of the manifest."""


class NoRecorder:
    """Keeps nothing."""

    def event(self, kind: str, payload: Mapping[str, Any], *, iteration: int | None = None) -> None: ...

    def rows(self, block: Mapping[str, Any]) -> None: ...

    def checkpoint(self, record: Mapping[str, Any], *, iteration: int, certificates: Any = None) -> None: ...

    def artifact(self, name: str, value: Any) -> None: ...

    def picture(self, name: str, value: np.ndarray[Any, Any]) -> None: ...

    def update(self, **fields: Any) -> None: ...

    def finish(self, status: str, *, last: Last | None = None, fields: Mapping[str, Any] | None = None, **outcome: Any) -> None: ...
