"""Byte-level BPE with the vocabulary of a GGUF file: text to token ids, and ids back to text as they are made.

Special tokens are written by `chat_tokens` only, or where `special=True` asks for it: what a user types never becomes a control token.
"""

from __future__ import annotations

import codecs
import heapq
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

from .gguf_file import Vocabulary

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ROLES = ("system", "user", "assistant")

# Unicode's White_Space; Python's \s has four control characters more.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# GPT-2's pattern for text without numbers: those are split off one character at a time before, so that [^\W_] are exactly the letters.
_WORDS = re.compile(f"'(?:s|t|re|ve|m|ll|d)| ?[^\\W_]+| ?(?:_|[^\\w{_SPACE}])+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+")
_LONGEST_KEPT = 64  # words are remembered up to this length


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(0x100 + index) for index, byte in enumerate(others)}


class Tokenizer:
    """Encodes and decodes with one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ids = {token: id for id, token in enumerate(vocabulary.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        self._letters = _byte_letters()
        bytes_of = {letter: byte for byte, letter in self._letters.items()}
        special = set(vocabulary.special.values())
        self._bytes = [
            token.encode() if id in special else bytes(bytes_of[letter] for letter in token) for id, token in enumerate(vocabulary.tokens)
        ]
        self._special = re.compile("(" + "|".join(map(re.escape, vocabulary.special)) + ")")
        self._kept = lru_cache(maxsize=1 << 15)(self._word)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text. special: texts like `<|im_end|>` become the control tokens that they name.

        Bytes that the vocabulary does not have are left out: a few control characters, and part of what lies beyond U+40000.
        """
        if not special:
            return [id for word in _words(text) for id in self._of_word(word)]
        ids: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            ids += [self.vocabulary.special[part]] if index % 2 else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, which may end within a character. Raises ValueError for what is no token."""
        if not 0 <= id < len(self._bytes):
            raise ValueError(f"{id} is no token; the vocabulary has the ids 0 to {len(self._bytes) - 1}")
        return self._bytes[id]

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt of a conversation in the model's own template (ChatML), up to where the assistant speaks.

        Messages are maps of role and content. Raises ValueError for other shapes, and for no messages at all.
        """
        if not messages:
            raise ValueError("a conversation needs at least one message, like {'role': 'user', 'content': 'Hello'}")
        start, end = self.vocabulary.special["<|im_start|>"], self.vocabulary.special["<|im_end|>"]
        turns = [_turn(message) for message in messages]
        if turns[0][0] != "system":
            turns.insert(0, ("system", SYSTEM))
        newline = self.encode("\n")
        ids: list[int] = []
        for role, content in turns:
            ids += [start, *self.encode(f"{role}\n{content}"), end, *newline]
        return [*ids, start, *self.encode("assistant\n")]

    def _of_word(self, word: str) -> Sequence[int]:
        return self._kept(word) if len(word) <= _LONGEST_KEPT else self._word(word)

    def _word(self, word: str) -> tuple[int, ...]:
        """Merges a word's bytes, always the leftmost pair of lowest rank; with a heap, so that one endless word is no attack."""
        parts = [self._letters[byte] for byte in word.encode("utf-8", "surrogatepass")]
        count = len(parts)
        following, before = list(range(1, count + 1)), list(range(-1, count - 1))
        heap: list[tuple[int, int, str, str]] = []

        def offer(left: int) -> None:
            right = following[left] if left >= 0 else count
            if right == count:
                return
            one, other = parts[left], parts[right]
            if (rank := self._ranks.get((one, other))) is not None:
                heapq.heappush(heap, (rank, left, one, other))

        for left in range(count):
            offer(left)
        while heap:
            _, left, one, other = heapq.heappop(heap)
            right = following[left]
            if parts[left] != one or right >= count or parts[right] != other:
                continue  # one of the two was merged meanwhile
            parts[left], parts[right] = one + other, ""
            following[left] = following[right]
            if following[left] < count:
                before[following[left]] = left
            offer(before[left])
            offer(left)
        return tuple(self._ids[part] for part in parts if part in self._ids)


class TextStream:
    """Text of tokens as they come: every piece is whole characters, what is cut off waits for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def end(self) -> str:
        """What is left: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", True)


def _words(text: str) -> Iterator[str]:
    for number, run in groupby(text, key=_is_number):
        if number:
            yield from run
        else:
            yield from _WORDS.findall("".join(run))


def _is_number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def _turn(message: Mapping[str, str]) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise ValueError(f"a message is a map of role ({', '.join(ROLES)}) and content (a text), not {str(message)[:80]}")
    return role, content
