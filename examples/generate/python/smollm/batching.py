"""Continuous batching: one thread runs the model, and texts join and leave it between any two steps.

Consumers only put messages into queues and take tokens out, so one that is interrupted anywhere leaves the engine in order. A text whose
consumer falls behind stands still; its row repeats what it has until there is room again.
"""

from __future__ import annotations

import atexit
import time
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np

from . import cache as caches
from .cache import Cache
from .gguf_file import Config
from .model import Batch, Params, advance
from .sampling import Choice, Sampling

AHEAD = 16  # tokens that may wait for their consumer
CHUNKS = (128, 32)  # how many tokens of a prompt are read at once, each a compilation
_LOOK_SECONDS = 0.05  # an interruption only strikes between two waits


class Text:
    """One text that is generated: what it begins with, how it goes on, and the tokens that came. Made by `Engine.begin`."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, limit: int, end: int) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.finish_reason: str | None = None  # "end", "length" or "halted", once it is over
        self._limit = limit
        self._end = end
        self._tokens: SimpleQueue[int | BaseException | None] = SimpleQueue()
        # Each written by one thread only: made and told by the engine's, taken and halted by the consumer's.
        self.made = self._told = self._taken = 0
        self.halted = False
        self.last = 0
        self.read = 0  # positions that are in the cache

    @property
    def full(self) -> bool:
        """True while its consumer has enough to take."""
        return self._told - self._taken >= AHEAD

    def made_token(self, token: int) -> None:
        """The model's next token: the consumer's, or the end."""
        self.last = token
        self.made += 1
        if token == self._end:
            self.finish("end")
            return
        self._told += 1
        self._tokens.put(token)
        if self.made >= self._limit:
            self.finish("length")

    def finish(self, reason: str, error: BaseException | None = None) -> None:
        """Nothing more comes."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self._tokens.put(error)

    def take(self) -> int | None:
        """The next token, None after the last. Raises what stopped the engine."""
        while True:
            try:
                token = self._tokens.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if isinstance(token, BaseException):
                raise RuntimeError(f"the model stopped: {type(token).__name__}: {token}") from token
            self._taken += 1
            return token


class Engine:
    """Runs a model for at most `slots` texts at a time; more wait for a slot.

    The thread lives until `close`. The cache lives while a text does.
    """

    def __init__(self, config: Config, params: Params, slots: int) -> None:
        self.slots = slots
        self.steps = 0  # decode steps so far
        self.step_seconds = 0.0  # spent in them
        self._config = config
        self._params = params
        self._inbox: SimpleQueue[Text | str] = SimpleQueue()
        self._waiting: deque[Text] = deque()
        self._rows: list[Text | None] = []
        self._cache: Cache | None = None
        self._thread = Thread(target=self._serve, name="language model", daemon=True)
        _engines.add(self)
        self._thread.start()

    def begin(self, prompt: Sequence[int], sampling: Sampling, limit: int, end: int) -> Text:
        """A text that continues `prompt` by at most `limit` tokens. Take its tokens, or halt it."""
        text = Text(prompt, sampling, limit, end)
        self._inbox.put(text)
        return text

    def halt(self, text: Text) -> None:
        """Ends a text before the next step; its slot is free then."""
        text.halted = True
        self._inbox.put("look")

    def take(self, text: Text) -> int | None:
        """`text.take`, and the engine goes on with a text that stood still."""
        stood = text.full
        token = text.take()
        if stood and not text.full:
            self._inbox.put("look")
        return token

    def close(self) -> None:
        """Ends every text and the thread, soon. It waits for nothing: the garbage collector calls it, in whatever thread that runs."""
        self._inbox.put("close")

    def wait(self) -> None:
        """Waits for the end of the thread, after `close`."""
        self._thread.join(_END_SECONDS)

    @property
    def active(self) -> int:
        """Texts that have a slot."""
        return sum(text is not None for text in self._rows)

    @property
    def waiting(self) -> int:
        """Texts that have none yet."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """Positions that the cache has per row; 0 when there is no cache."""
        return 0 if self._cache is None else self._cache.capacity

    # --- the engine's thread ---

    def _serve(self) -> None:
        while self._listen():
            try:
                self._turn()
            except BaseException as error:
                for text in (*self._rows, *self._waiting):
                    if text is not None:
                        text.finish("error", error)
                self._waiting.clear()
                self._forget()
        for text in (*self._rows, *self._waiting):
            if text is not None:
                text.finish("closed", RuntimeError("it was closed while it generated"))
        self._forget()

    def _forget(self) -> None:
        self._rows, self._cache = [], None

    def _listen(self) -> bool:
        """Takes what consumers said; waits when there is nothing to do. False when the engine shall end."""
        while True:
            idle = not any(self._running()) and not (self._waiting and self.active < self.slots)
            try:
                message = self._inbox.get(block=idle)
            except Empty:
                return True
            if message == "close":
                return False
            if isinstance(message, Text):
                self._waiting.append(message)
            self._leave()

    def _running(self) -> Iterator[tuple[int, Text]]:
        """The rows that a step brings forward."""
        return ((row, text) for row, text in enumerate(self._rows) if text is not None and not text.full)

    def _leave(self) -> None:
        """Frees the rows of texts that are over; with the last of them the cache."""
        for row, text in enumerate(self._rows):
            if text is not None and text.halted:
                text.finish("halted")
            if text is not None and text.finish_reason is not None:
                self._rows[row] = None
        self._waiting = deque(text for text in self._waiting if not text.halted)
        if self._rows and not self.active:
            self._forget()

    def _turn(self) -> None:
        """A step of every text that has a slot, and a text that joins if there is a slot for it."""
        self._leave()
        if self._waiting and self.active < self.slots:
            self._join(self._waiting.popleft())
        self._step()
        self._leave()

    def _step(self) -> None:
        if not any(self._running()):
            return
        self._shape()
        running, texts = list(self._running()), self._rows
        batch = Batch(
            np.array([[0 if text is None else text.last] for text in texts], np.int32),
            np.array([0 if text is None else text.read for text in texts], np.int32),
            np.ones(len(texts), np.int32),
        )
        started = time.perf_counter()
        assert self._cache is not None
        self._cache, chosen = advance(self._config, self._params, self._cache, batch, _choice(texts))
        tokens = np.asarray(chosen).tolist()
        self.step_seconds += time.perf_counter() - started
        self.steps += 1
        for row, text in running:
            text.read += 1
            text.made_token(tokens[row])

    def _shape(self) -> None:
        """Gives the cache one row for one text, else all of them, and room for the next position."""
        assert self._cache is not None
        capacity = self._room(max(text.read for text in self._rows if text is not None) + 1)
        if len(self._rows) > 1 and self.active == 1:
            row, text = next((row, text) for row, text in enumerate(self._rows) if text is not None)
            self._cache, self._rows = caches.row_of(self._config, self._cache, row), [text]
        if capacity > self._cache.capacity:
            self._cache = caches.enlarged(self._config, self._cache, len(self._rows), capacity)

    def _room(self, length: int) -> int:
        return caches.capacity_for(length, self._config.context)

    def _join(self, text: Text) -> None:
        """Reads the prompt chunk by chunk, the others stepping on in between; then the text has a row and its first token."""
        one = caches.empty(self._config, 1, self._room(len(text.prompt)))
        chosen = jnp.zeros(1, jnp.int32)
        try:
            while text.read < len(text.prompt):
                if text.read:
                    self._step()
                    self._listen_between()
                if text.halted:
                    text.finish("halted")
                    return
                one, chosen = self._read_on(text, one)
            text.made_token(int(chosen[0]))
        except BaseException as error:
            text.finish("error", error)
            raise
        if text.finish_reason is None:
            self._place(text, one)

    def _listen_between(self) -> None:
        """Takes what consumers said meanwhile without waiting; an order to close is left for later."""
        for _ in range(self._inbox.qsize()):
            message = self._inbox.get()
            if message == "close":
                self._inbox.put(message)
            elif isinstance(message, Text):
                self._waiting.append(message)
        self._leave()

    def _read_on(self, text: Text, one: Cache) -> tuple[Cache, jax.Array]:
        left, room = len(text.prompt) - text.read, one.capacity - text.read
        fitting = [size for size in CHUNKS if size <= room] or [1]
        size = next((size for size in fitting if size <= left), fitting[-1])
        tokens = np.zeros((1, size), np.int32)
        part = text.prompt[text.read : text.read + size]
        tokens[0, : len(part)] = part
        batch = Batch(tokens, np.array([text.read], np.int32), np.array([len(part)], np.int32))
        one, chosen = advance(self._config, self._params, one, batch, _choice([text]))
        text.read += len(part)
        return one, chosen

    def _place(self, text: Text, one: Cache) -> None:
        if not self._rows or self._cache is None:
            self._cache, self._rows = one, [text]
            return
        capacity = max(self._cache.capacity, one.capacity)
        if len(self._rows) < self.slots or capacity > self._cache.capacity:
            self._cache = caches.enlarged(self._config, self._cache, self.slots, capacity)
            self._rows += [None] * (self.slots - len(self._rows))
        row = self._rows.index(None)
        self._cache = caches.placed(self._config, self._cache, row, one)
        self._rows[row] = text


def _choice(texts: Sequence[Text | None]) -> Choice:
    samplings = [_NOBODY if text is None else text.sampling for text in texts]
    return Choice(
        np.array([sampling.temperature for sampling in samplings], np.float32),
        np.array([sampling.top_k for sampling in samplings], np.int32),
        np.array([sampling.top_p for sampling in samplings], np.float32),
        np.array([sampling.seed for sampling in samplings], np.uint32),
    )


_NOBODY = Sampling()


_END_SECONDS = 30.0
_engines: WeakSet[Engine] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter is taken apart: a process that exits in the middle of a step would crash."""
    for engine in list(_engines):
        engine.close()
        engine.wait()
