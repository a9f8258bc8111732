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
    """Names one logical call.

    `digest` tells requests apart. It is empty where the client has made the key for one request: nobody else has it, and the client comes
    again only when the worker is gone; `attempt` says how often it has come.
    """

    text: str
    digest: str
    attempt: int = 1


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
