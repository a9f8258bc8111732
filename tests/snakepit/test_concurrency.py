"""Callers other than the pool call whenever they like: 64 at once over 16 sessions, each session in order, nothing mixed up."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pool_worker import execute_request
from server_process import value_of
from standin import Pool
from ways_in import ADAPTER, GATEWAY, launcher

MODULE = "order_code"
SESSIONS = [f"session-{number}" for number in range(16)]
CALLERS_PER_SESSION = 4
CALLS = 8  # of each caller

WAYS = pytest.mark.parametrize("pool", [GATEWAY, ADAPTER], indirect=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def pool(request: pytest.FixtureRequest, directory: Path) -> Iterator[Pool]:
    with Pool(directory, launcher(request.param, directory)) as pool:
        yield pool


class Direct:
    """Calls straight to a worker, past the pool and its one call at a time."""

    def __init__(self, pool: Pool) -> None:
        self.worker = pool.worker()

    def request(self, session: str, function: str, *args: Any, **fields: Any) -> Any:
        return execute_request(self.worker.session_id, function, *args, session=session, **{"module": MODULE, **fields})

    def call(self, session: str, function: str, *args: Any, **fields: Any) -> Any:
        return value_of(self.worker.stub.ExecuteTool(self.request(session, function, *args, **fields), timeout=60))

    def stream(self, session: str, function: str, *args: Any) -> list[Any]:
        fields = {"tool": "snakebridge.stream", "call_type": "dynamic_stream", "module_path": MODULE}
        return list(self.worker.stream(self.request(session, function, *args, **fields), 60))


def together(*actions: Callable[[], Any]) -> list[Any]:
    """The results of actions that begin at the same time, each on a thread of its own."""
    start = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def run(place: int, action: Callable[[], Any]) -> None:
        start.wait()
        try:
            results[place] = action()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@WAYS
def test_64_callers_over_16_sessions_lose_nothing_and_keep_the_order_of_each(pool: Pool) -> None:
    direct = Direct(pool)
    logs = {session: direct.call(session, "Log", call_type="class", **{"class": "Log"}) for session in SESSIONS}

    def caller(session: str, number: int) -> list[tuple[int, list[int], list[int]]]:
        """Numbers of its own, one after the other: what the session held after each, in an object and in the module."""
        told = []
        for own in range(number * 1000, number * 1000 + CALLS):
            held = direct.call(session, "add", own, call_type="method", instance=logs[session])
            told.append((own, held, direct.call(session, "add", session, own)))
        return told

    pairs = [(session, number) for session in SESSIONS for number in range(CALLERS_PER_SESSION)]
    results = together(*(lambda pair=pair: caller(*pair) for pair in pairs))
    for session in SESSIONS:
        mine = [told for (name, _), told in zip(pairs, results, strict=True) if name == session]
        for which in (1, 2):
            snapshots = sorted((row[which] for told in mine for row in told), key=len)
            # One more each time, and nothing ever changed place: the calls of a session ran one by one.
            assert [len(snapshot) for snapshot in snapshots] == list(range(1, CALLERS_PER_SESSION * CALLS + 1))
            assert all(longer[:-1] == shorter for shorter, longer in itertools.pairwise(snapshots))
            for told in mine:
                own = [row[0] for row in told]
                assert [row[which][-1] for row in told] == own
                assert [number for number in snapshots[-1] if number // 1000 == own[0] // 1000] == own


@WAYS
def test_streams_between_calls_keep_their_items_to_themselves(pool: Pool) -> None:
    direct = Direct(pool)
    chance = random.Random(4)

    def streams(session: str) -> None:
        for count in (0, 1, 200):
            assert direct.stream(session, "numbered", session, count) == [f"{session}-{number}" for number in range(count)]

    def calls(session: str) -> None:
        for _ in range(20):
            number = chance.randrange(10**9)
            assert direct.call(session, "str", number, module="builtins") == str(number)

    together(*(lambda session=session, do=do: do(session) for session in SESSIONS for do in (streams, calls, streams, calls)))


@WAYS
def test_calls_of_different_sessions_run_at_the_same_time(pool: Pool) -> None:
    direct = Direct(pool)
    parties = len(SESSIONS)
    assert together(*(lambda session=session: direct.call(session, "meet", parties) for session in SESSIONS)) == [parties] * parties


@WAYS
def test_a_caller_that_leaves_disturbs_no_other(pool: Pool) -> None:
    direct = Direct(pool)

    def leave(session: str) -> None:
        call = direct.worker.stub.ExecuteTool.future(direct.request(session, "sleep", 600, module="time"), timeout=60)
        call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()

    def stay(session: str) -> None:
        for number in range(20):
            assert direct.call(session, "sqrt", number * number, module="math") == number

    together(*(lambda session=session, do=do: do(session) for session in SESSIONS for do in (leave, stay)))
