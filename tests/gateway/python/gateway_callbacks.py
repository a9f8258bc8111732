"""User code for the gateway's tests: what Python does with functions of Elixir."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

kept: Any = None


def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


async def apply_async(function: Any, *args: Any) -> Any:
    await asyncio.sleep(0)
    return function(*args)


async def apply_in_a_thread_of_asyncio(function: Any, *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


async def await_it(function: Any, *args: Any) -> Any:
    return await function.aio(*args)


async def await_many(function: Any, n: int) -> list[Any]:
    return list(await asyncio.gather(*(function.aio(number) for number in range(n))))


def apply_in_a_thread(function: Any, *args: Any) -> Any:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function(*args))
        except Exception as error:
            outcome.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


def apply_in_threads(function: Any, n: int) -> list[Any]:
    answers: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: function(n)})) for n in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[n] for n in sorted(answers)]


def apply_or_say(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def keep(function: Any) -> None:
    global kept
    kept = function


def apply_kept(*args: Any) -> Any:
    return kept(*args)


def is_still(function: Any) -> bool:
    return function is kept


def increment(n: int) -> int:
    return n + 1


class Thing:
    def name(self) -> str:
        return "a thing"


def apply_to_a_thing(function: Callable[[Thing], Any]) -> Any:
    thing = Thing()
    answer = function(thing)
    return "the same" if answer is thing else answer


def stream_of(function: Any, n: int) -> Iterator[Any]:
    for number in range(n):
        yield function(number)


def exact() -> list[Any]:
    return [None, 2**70, float("nan"), b"\xff", (1, "a"), {1: 2}]


def apply_to_exact(function: Any) -> Any:
    return function(*exact())
