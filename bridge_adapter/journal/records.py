"""What the journal knows of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

STARTED: Final = 0
FINISHED: Final = 1
FAILED: Final = 2
LONGEST_KEY = 255


class JournalError(Exception):
    """The journal cannot be read or written; the message says why."""


class Key(NamedTuple):
    """Names one logical call. `digest` tells requests apart; it is empty where the key was made for one request and is nobody else's."""

    text: str
    digest: str


@dataclass(slots=True)
class Outcome:
    """How an answer came about: runs so far, this one included, and whether it is one that was recorded."""

    attempts: int = 1
    replayed: bool = False


class Row(NamedTuple):
    """What is known of a key. `owner`: the process that ran it last; `refs`: the refs in the answer; `answer`: of a call that FAILED its
    error; None where there is nothing to give out."""

    state: int
    digest: str
    form: str
    attempts: int
    owner: str
    answer: bytes | None
    refs: str
