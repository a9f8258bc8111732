"""The model as one object: load it once, keep it in a session, stream from it.

`generate` yields text as it is made, whole characters always, and returns the figures of the run; leaving it early stops the decoding
within a token.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from . import cache as caches
from .batching import Engine
from .gguf_file import Config, find, read
from .model import Batch, Params, all_logits, params_of
from .sampling import Sampling
from .tokenizer import TextStream, Tokenizer

Message = Mapping[str, str]
Piece = Generator[str, None, dict[str, Any]]


class Model:
    """A language model on the default JAX device. Methods may be called from several threads at once."""

    def __init__(self, name: str, config: Config, params: Params, tokenizer: Tokenizer, slots: int) -> None:
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self._params = params
        self._engine = Engine(config, params, slots)
        # The engine's thread knows the engine only, so a model that nobody holds ends it.
        weakref.finalize(self, self._engine.close)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights: what a decode step reads at least."""
        return sum(array.nbytes for array in jax.tree.leaves(self._params))

    def __repr__(self) -> str:
        return f"<{self.name}, {self._engine.slots} slots>"

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        special: bool = False,
    ) -> Piece:
        """Yields what follows a text, or the answer to a conversation (maps of role and content), piece by piece.

        stop: texts before which to end; they are not yielded. special: control tokens written in a text prompt are meant as such.
        Returns {"tokens", "prompt_tokens", "finish_reason", "ttft_ms", "tok_s"}; finish_reason is "end" (the model's own), "stop" or
        "length".
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        stops = _Stops((stop,) if isinstance(stop, str) else tuple(stop))
        ids = self.tokenizer.encode(prompt, special) if isinstance(prompt, str) else self.tokenizer.chat_tokens(prompt)
        room = self.config.context - len(ids)
        if not ids or room < 1:
            raise ValueError(f"a prompt must have 1 to {self.config.context - 1} tokens, not {len(ids)}")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError(f"max_tokens must be an integer >= 1, not {str(max_tokens)[:40]}")
        return self._pieces(ids, sampling, min(max_tokens, room), stops)

    def chat(self, messages: Sequence[Message], **options: Any) -> dict[str, Any]:
        """The whole answer to a conversation, as its next message: role and content, and the figures of `generate` as stats."""
        return {"role": "assistant", **self.complete(messages, **options)}

    def complete(self, prompt: str | Sequence[Message], **options: Any) -> dict[str, Any]:
        """The whole of what `generate` yields, as content, and what it returns, as stats."""
        pieces, parts = self.generate(prompt, **options), []
        while True:
            try:
                parts.append(next(pieces))
            except StopIteration as end:
                return {"content": "".join(parts), "stats": end.value}

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """The token ids of a text."""
        return self.tokenizer.encode(text, special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(ids)

    def logits(self, text: str | Sequence[int], special: bool = False) -> NDArray[np.float32]:
        """Logits (tokens, vocabulary) of what follows each token of a text, or of token ids."""
        ids = self.tokenizer.encode(text, special) if isinstance(text, str) else list(text)
        if not 1 <= len(ids) <= self.config.context:
            raise ValueError(f"logits need 1 to {self.config.context} tokens, not {len(ids)}")
        # Every position is computed, also those that only fill it up.
        length = min(128, self.config.context) if len(ids) <= 128 else caches.capacity_for(len(ids), self.config.context)
        tokens = np.zeros((1, length), np.int32)
        tokens[0, : len(ids)] = ids
        batch = Batch(tokens, np.zeros(1, np.int32), np.full(1, len(ids), np.int32))
        cache = caches.empty(self.config, 1, length)
        return np.asarray(all_logits(self.config, self._params, cache, batch)[0, : len(ids)])

    def stats(self) -> dict[str, Any]:
        """Slots, texts in them, texts that wait, decode steps so far, the seconds they took, and positions per row of the cache."""
        engine = self._engine
        return {
            "slots": engine.slots,
            "active": engine.active,
            "waiting": engine.waiting,
            "steps": engine.steps,
            "step_seconds": engine.step_seconds,
            "capacity": engine.capacity,
        }

    def _pieces(self, ids: list[int], sampling: Sampling, limit: int, stops: _Stops) -> Piece:
        engine, stream, run = self._engine, TextStream(self.tokenizer), _Run(len(ids))
        text = engine.begin(ids, sampling, limit, self.tokenizer.vocabulary.end)
        try:
            while (token := engine.take(text)) is not None:
                run.came()
                if piece := stops.push(stream.push(token)):
                    yield piece
                if stops.met:
                    return run.stats("stop")
            # What was held back because it may have become a stop text, and an unfinished character.
            if piece := stops.end(stream.end()):
                yield piece
            return run.stats("stop" if stops.met else text.finish_reason)
        finally:
            engine.halt(text)


class _Run:
    """The clock of one run."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._started = self._first = self._last = time.perf_counter()
        self._tokens = 0

    def came(self) -> None:
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1

    def stats(self, finish_reason: str | None) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "prompt_tokens": self._prompt_tokens,
            "finish_reason": finish_reason,
            "ttft_ms": round((self._first - self._started) * 1000, 1),
            # Nothing to divide by when there was one token.
            "tok_s": round((self._tokens - 1) / (self._last - self._first), 2) if self._last > self._first else None,
        }


class _Stops:
    """Passes text on until a stop text is in it, and holds back what may become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stop must be a text or a list of texts, none of them empty, not {str(stops)[:80]}")
        self._stops = stops
        self._held = ""
        self.met = False

    def push(self, piece: str) -> str:
        """What of the text so far may go on."""
        if not self._stops:
            return piece
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.met = True
            return self._held[: min(found)]
        keep = max(self._overlap(stop) for stop in self._stops)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready

    def end(self, piece: str) -> str:
        """The rest."""
        ready = self.push(piece)
        return ready if self.met else ready + self._held

    def _overlap(self, stop: str) -> int:
        """How much of the end may be the beginning of `stop`."""
        return next((size for size in range(min(len(stop) - 1, len(self._held)), 0, -1) if stop.startswith(self._held[-size:])), 0)


@lru_cache(maxsize=1)
def _loaded(path: Path) -> tuple[str, Config, Params, Tokenizer]:
    file = read(path)
    return file.name, file.config, params_of(file), Tokenizer(file.vocabulary)


def load(path: str | None = None, slots: int = 8) -> Model:
    """A model from a GGUF file, SmolLM2-135M-Instruct unless another is named. slots: how many texts it generates at a time.

    Models of one file share their weights, whatever session they are in.
    """
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 64:
        raise ValueError(f"slots must be an integer from 1 to 64, not {str(slots)[:40]}")
    return Model(*_loaded(find() if path is None else Path(path)), slots)
