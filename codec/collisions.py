"""Keys that share a hash: what makes a dict or set slow on purpose, and is refused.

Python salts the hashes of texts, bytes, dates and times, but not those of numbers and of tuples and frozensets of them: anybody can write
down a hundred thousand different integers with one hash. A dict compares such a key with all those before it: 2^16 of them in a message
of one megabyte take a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .errors import LimitExceeded

# As many keys of one hash as may come by chance: tuples of -1 and -2, whose hashes are equal, give 2^n of them.
LIMIT = 256

_LOOKS = 64


def may_hold_large_map(data: bytes | bytearray | memoryview) -> bool:
    """Whether there may be a map in packed bytes that is worth a look at its keys: of more than LIMIT entries. Cheap, not exact."""
    if isinstance(data, memoryview) or b"\xdf" in data:
        return True
    at = -1
    for _ in range(_LOOKS):
        at = data.find(b"\xde", at + 1)
        if at < 0:
            return False
        if data[at + 1 : at + 2] > b"\x00":
            return True
    return True


def check(keys: Iterable[object], what: str) -> None:
    """Raises LimitExceeded when more than LIMIT keys share a hash, and TypeError when one has none. Takes time linear in their number."""
    kinds = set(map(type, keys))
    if kinds <= _SALTED:
        return
    # The hash of a hash is the number itself, but for a handful of numbers that share one.
    hashed, count = Counter(map(hash, keys)).most_common(1)[0]
    if count > LIMIT:
        raise LimitExceeded(
            f"{count} {what} have the same hash, {hashed}, which would take Python very long; at most {LIMIT} may; "
            "send a list of pairs, or use texts"
        )


_SALTED = frozenset((str, bytes, type(None), bool))
