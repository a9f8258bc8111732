"""Programs that drive the adapter as they like: a loop for every call, loops in threads, forks. Each has one executor and leaves none.

Every program must end well with nothing on stderr: no traceback, and no complaint of asyncio's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from beam_side import BeamSide
from process_tree import MARK, left_over
from server_process import HERE, THEIR_SERVER, USER_CODE, callback, stubs

PRELUDE = """
import asyncio, json, os, threading
from contextlib import aclosing
from bridge_adapter import SnakeBridgeAdapter
from process_tree import children

adapter = SnakeBridgeAdapter()

def execute(function, *args, module="builtins", session="one", tool="snakebridge.call", **fields):
    arguments = {"protocol_version": 1, "min_supported_version": 1, "session_id": session, "python_module": module,
                 "function": function, "args": list(args), "kwargs": {}, **fields}
    return adapter.execute_tool(tool, arguments)

async def call(function, *args, **fields):
    return json.loads((await execute(function, *args, **fields)).data)["data"]

async def stream(function, *args, module):
    return aiter(await execute(function, *args, module=module, tool="snakebridge.stream", call_type="dynamic_stream", module_path=module))

def once(*args, **fields):
    return asyncio.run(call(*args, **fields))

def executor():
    return once("getpid", module="os")

def with_loop_of_its_own(*args, **fields):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(call(*args, **fields))
    finally:
        loop.close()

def together(action, count):
    answers = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: action(n)})) for n in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return [answers[n] for n in range(count)]
"""


@pytest.fixture(scope="module")
def elixir() -> Iterator[BeamSide]:
    with BeamSide() as running:
        yield running


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe through which user code speaks to the program."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def run(directory: Path, code: str, *path: Path) -> list[str]:
    """The lines that a program prints. Nothing else is left of it: no executor, no directory."""
    script, temporary, mark = directory / "program.py", directory / "tmp", f"{directory}"
    script.write_text(PRELUDE + textwrap.dedent(code))
    temporary.mkdir()
    folders = (*path, THEIR_SERVER, HERE, USER_CODE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "TMPDIR": str(temporary), MARK: mark}
    ran = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert left_over(mark, 5) == {}
    assert list(temporary.iterdir()) == []
    return ran.stdout.splitlines()


def test_a_loop_for_every_call_keeps_the_objects_and_the_executor(tmp_path: Path) -> None:
    code = """
    first = executor()
    made = once("__init__", 5, module="decimal", call_type="class", **{"class": "Context"})
    for _ in range(3):
        print(once("prec", module="decimal", call_type="get_attr", attr="prec", instance=made), executor() == first)
    """
    assert run(tmp_path, code) == ["5 True"] * 3


def test_breakers_and_spare_executors_are_the_gateways(tmp_path: Path) -> None:
    code = """
    import logging
    logging.disable()
    os.environ.update(BRIDGE_ADAPTER_BREAKER_FAILURES="2", BRIDGE_ADAPTER_SPARE="1")
    first = executor()
    for _ in range(3):
        try:
            once("_exit", 3, module="os")
        except Exception as error:
            print(type(error).__name__)
    print(executor() != first, len(children(os.getpid())) in (1, 2))
    """
    assert run(tmp_path, code) == ["WorkerCrash", "WorkerCrash", "CircuitOpen", "True True"]


def test_closed_loops_leave_one_executor(tmp_path: Path) -> None:
    code = """
    pids = {with_loop_of_its_own("getpid", module="os") for _ in range(4)}
    print(children(os.getpid()) == list(pids))
    """
    assert run(tmp_path, code) == ["True"]


def test_loops_in_threads_are_served_at_the_same_time_by_one_executor(tmp_path: Path) -> None:
    """All eight are in Python together, or none comes back; and the first calls of all race to start the executor."""
    code = """
    print(sorted(together(lambda n: once("meet", 8, module="gateway_sample", session=f"session-{n}"), 8)))
    print(together(lambda n: [once("repr", n * i, session=f"session-{n}") for i in range(20)], 8)
          == [[repr(n * i) for i in range(20)] for n in range(8)])
    print(len(children(os.getpid())))
    """
    assert run(tmp_path, code) == [str(list(range(8))), "True", "1"]


def test_the_thread_of_the_first_call_may_end(tmp_path: Path) -> None:
    code = """
    (first,) = together(lambda _: executor(), 1)
    print(executor() == first)
    """
    assert run(tmp_path, code) == ["True"]


def test_a_caller_that_is_cancelled_interrupts_its_call(tmp_path: Path, pipe: Path) -> None:
    code = f"""
    async def main():
        task = asyncio.create_task(call("hold_after_interruption", {str(pipe)!r}, module="gateway_sample"))
        told = await asyncio.to_thread(lambda: int(open({str(pipe)!r}).read()))
        task.cancel()
        print(told in children(os.getpid()), await asyncio.to_thread(lambda: open({str(pipe)!r}).read()))
        await asyncio.wait([task])
        print(task.cancelled())

    asyncio.run(main())
    """
    assert run(tmp_path, code) == ["True interrupted", "True"]


@pytest.mark.parametrize("how", ["await batches.aclose()", "del batches", "await cancelled(batches)"])
def test_a_stream_ends_in_python_when_its_reader_leaves(tmp_path: Path, pipe: Path, how: str) -> None:
    """Also when it is not closed but dropped, and when the reader is cancelled while it waits."""
    code = f"""
    async def cancelled(items):
        while True:
            reading = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            if reading.cancel():
                await asyncio.wait([reading])
                return

    async def main():
        batches = await stream("endless", {str(pipe)!r}, module="gateway_sample")
        print(json.loads((await anext(batches)).data))
        {how}
        print(await asyncio.to_thread(lambda: open({str(pipe)!r}).read()))

    asyncio.run(main())
    print(executor() in children(os.getpid()))
    """
    assert run(tmp_path, code) == ["{'data': 0}", "closed", "True"]


def test_a_stream_whose_loop_is_closed_without_a_word_ends_in_python(tmp_path: Path, pipe: Path) -> None:
    code = f"""
    loop = asyncio.new_event_loop()
    batches = loop.run_until_complete(stream("endless", {str(pipe)!r}, module="gateway_sample"))
    print(json.loads(loop.run_until_complete(anext(batches)).data))
    loop.close()
    del batches
    print(open({str(pipe)!r}).read())
    """
    assert run(tmp_path, code) == ["{'data': 0}", "closed"]


def test_streams_in_threads_are_whole_and_in_order(tmp_path: Path) -> None:
    code = """
    async def read():
        async with aclosing(await stream("many", 2000, module="gateway_sample")) as items:
            return [json.loads(item.data)["data"] async for item in items]

    print(all(items == list(range(2000)) for items in together(lambda _: asyncio.run(read()), 4)))
    """
    assert run(tmp_path, code) == ["True"]


def test_a_stream_is_not_read_ahead_of_its_reader(tmp_path: Path) -> None:
    """What an executor may send on credit, and no more, however long the reader does other things."""
    code = """
    async def main():
        async with aclosing(await stream("counted", 100_000, module="gateway_sample")) as items:
            await anext(items)
            counts = [await call("how_many", module="gateway_sample", session="other") for _ in range(200)]
            print(0 < counts[-1] <= 1024)

    asyncio.run(main())
    """
    assert run(tmp_path, code) == ["True"]


def test_a_fork_has_an_executor_of_its_own(tmp_path: Path) -> None:
    code = """
    first = executor()
    made = once("__init__", 5, module="decimal", call_type="class", **{"class": "Context"})
    child = os.fork()
    if not child:
        own = executor()
        print(own != first, children(os.getpid()) == [own], flush=True)
    else:
        print(os.waitpid(child, 0)[1], flush=True)
        print(executor() == first, once("prec", module="decimal", call_type="get_attr", attr="prec", instance=made))
    """
    assert run(tmp_path, code) == ["True True", "0", "True 5"]


def test_a_fork_that_calls_nothing_leaves_the_executor_of_its_parent_alone(tmp_path: Path) -> None:
    code = """
    first = executor()
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1], executor() == first)
    """
    assert run(tmp_path, code) == ["0 True"]


@pytest.mark.parametrize("function", ["wait_forever", "swallow_forever"])
def test_a_program_may_end_while_a_call_runs(tmp_path: Path, pipe: Path, function: str) -> None:
    code = f"""
    threading.Thread(target=lambda: once({function!r}, {str(pipe)!r}, module="gateway_sample"), daemon=True).start()
    print(int(open({str(pipe)!r}).read()) in children(os.getpid()))
    """
    assert run(tmp_path, code) == ["True"]


def test_a_program_may_end_before_its_executor_is_up(tmp_path: Path) -> None:
    code = """
    from bridge_adapter.adapter import host
    host.current(None).start()
    """
    assert run(tmp_path, code) == []


def test_functions_of_elixir_are_called_through_the_stub_of_the_context(elixir: BeamSide, tmp_path: Path) -> None:
    """No flags, no address; and a stub whose channel is closed is not used again."""
    elixir.functions["cb_negative"] = lambda number: -number
    code = f"""
    import grpc, snakepit_bridge_pb2_grpc
    from snakepit_bridge import SessionContext

    for _ in range(2):
        with grpc.insecure_channel("{elixir.address}") as channel:
            adapter.set_session_context(SessionContext(snakepit_bridge_pb2_grpc.BridgeServiceStub(channel), "s", {{}}))
            print(once("sorted", [1, 3, 2], kwargs={{"key": {callback("cb_negative")!r}}}))
    """
    assert run(tmp_path, code, stubs(tmp_path / "stubs")) == ["[3, 2, 1]"] * 2
