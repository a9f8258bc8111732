"""What user code prints, logs and warns reaches the caller: its own and nothing else, in order, before the result."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter import lane

CALLER = 4711


@pytest.fixture
def hearing(worker: Worker) -> Iterator[Client]:
    connection = worker.connect(features=("output",))
    yield connection
    connection.close()


def said(client: Client) -> list[list[Any]]:
    """The entries that have come, in order."""
    entries: list[list[Any]] = []
    for note in client.notes:
        assert note.name == "output"
        entries += note.body[3]
    client.notes.clear()
    return entries


def text(client: Client, kind: str = "out") -> str:
    return "".join(entry[1] for entry in said(client) if entry[0] == kind)


def test_printed_text_comes_before_the_result(hearing: Client) -> None:
    assert "output" in hearing.features
    assert hearing.call("talker", "say", "hello") == "hello"
    assert text(hearing) == "hello\n"


def test_it_names_the_caller_the_call_and_its_session(hearing: Client) -> None:
    fields = payload("talker", "say", ["hello"], session="mine")
    id = next(hearing.ids)
    hearing.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": fields, "caller": CALLER}))
    assert hearing.answer(id) == "hello"
    assert hearing.notes[0].body[:3] == [CALLER, [hearing.conn, id], "mine"]


def test_a_client_that_does_not_ask_gets_none_and_the_worker_prints_it(worker: Worker, client: Client) -> None:
    assert "output" not in client.features
    client.call("talker", "say", "to the worker's own output")
    assert client.notes == []
    client.call("sys", "stdout.flush")
    eventually(lambda: "to the worker's own output\n" in worker.output)


def test_stderr_is_told_apart_and_bytes_are_text(hearing: Client) -> None:
    hearing.call("talker", "say_both", "x")
    assert said(hearing) == [["out", "x\n"], ["err", "x\n"]]
    hearing.call("talker", "say_bytes", "grüße ".encode() + b"\xff")
    assert said(hearing) == [["out", "grüße \ufffd"]]
    hearing.call("talker", "say", "lone \udc80", "")
    assert said(hearing) == [["out", "lone \\udc80"]]


def test_characters_whose_bytes_come_one_by_one_are_whole(hearing: Client) -> None:
    hearing.call("talker", "say_bytes_one_by_one", "äö€😀\n".encode())
    assert text(hearing) == "äö€😀\n"
    hearing.call("talker", "say_bytes_one_by_one", "cut €".encode()[:-1])
    assert text(hearing) == "cut \ufffd"


def test_streams_that_user_code_closes_go_on_for_others(hearing: Client) -> None:
    for _ in range(2):
        hearing.call("talker", "close_and_say", "x")
        assert text(hearing) == "xxx\n"


def test_text_of_a_class_of_its_own_is_text(hearing: Client) -> None:
    hearing.call("talker", "say_counted", "odd")
    assert text(hearing) == "-odd"


def test_what_a_call_redirects_is_its_own_output_and_nobody_elses(worker: Worker, hearing: Client) -> None:
    caught = {name: [f"{name} outer\n{name} same\n", f"{name} inner\nbytes\nthread\n"] for name in ("a", "b")}
    hearing.call("builtins", "exec", "import talker; talker.gate.clear(); talker.told.clear()")
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(contextlib.closing(worker.connect(features=("output",)))) for _ in range(2))
        ids = []
        for name, client in (("a", first), ("b", second)):
            ids.append(next(client.ids))
            fields = payload("talker", "say_redirected", name, session=name)
            client.send(lane.request(ids[-1], "call", {"tool": "snakebridge.call", "payload": fields}))
            assert hearing.call("talker", "wait_until_told") is True
            hearing.call("builtins", "exec", "import talker; talker.told.clear()")
        hearing.call("talker", "say", "meanwhile")
        assert text(hearing) == "meanwhile\n"
        hearing.call("talker", "open_gate")
        for name, client, id in (("a", first, ids[0]), ("b", second, ids[1])):
            assert client.answer(id) == caught[name]
            assert text(client) == f"{name} crossed\n" * 2
    hearing.call("talker", "say", "afterwards")
    assert text(hearing) == "afterwards\n"


def test_an_exception_that_ends_a_thread_is_told_to_the_caller(hearing: Client) -> None:
    hearing.call("talker", "fail_in_thread")
    assert "ValueError: invalid literal for int()" in text(hearing, "err")


def test_what_an_elixir_function_says_comes_in_between(hearing: Client) -> None:
    seen: list[str] = []
    function = hearing.function("f", 1, lambda word: seen.append(text(hearing) + word) or word)
    assert hearing.call("talker", "say_around", function, "x") == "x"
    assert seen == ["before x\nx"]
    assert text(hearing) == "after x\n"


def test_whole_lines_for_who_wants_them(worker: Worker) -> None:
    with contextlib.closing(worker.connect(features=("output", "lines"))) as client:
        client.call("builtins", "exec", "import time\nfor part in ('a', 'b\\nc', 'd\\n', 'e'):\n  print(part, end='')\n  time.sleep(0.05)")
        entries = said(client)
        assert all(entry[1].endswith("\n") for entry in entries[:-1])
        assert "".join(entry[1] for entry in entries) == "ab\ncd\ne"


def test_an_error_comes_after_what_was_said_before_it(hearing: Client) -> None:
    with pytest.raises(LaneError):
        hearing.call("builtins", "exec", "print('so far')\nraise ValueError('no further')")
    assert text(hearing) == "so far\n"


def test_threads_pools_and_coroutines_of_a_call_speak_for_it(hearing: Client) -> None:
    hearing.call("talker", "say_in_thread", "thread")
    hearing.call("talker", "say_in_pool", "pool")
    hearing.call("talker", "say_in_coroutine", "loop", 2)
    assert text(hearing) == "thread\npool\nloop 0\nloop 1\nloop to_thread\n"


def test_concurrent_calls_get_their_own_output_and_no_other(worker: Worker) -> None:
    functions = ["say_many", "say_in_thread", "say_in_coroutine", "say_in_pool"] * 2
    heard: dict[str, str] = {}

    def run(name: str, function: str) -> None:
        with contextlib.closing(worker.connect(features=("output",))) as client:
            for _ in range(10):
                client.call("talker", function, name, *([50] if function in ("say_many", "say_in_coroutine") else []), session=name)
            heard[name] = text(client)

    threads = [threading.Thread(target=run, args=(f"caller-{n}", function)) for n, function in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, function in enumerate(functions):
        lines = heard[f"caller-{number}"].splitlines()
        assert len(lines) == 10 * {"say_many": 50, "say_in_coroutine": 51}.get(function, 1)
        assert all(line.startswith(f"caller-{number}") for line in lines)


def test_a_thread_that_outlives_its_call_speaks_over_the_control_connection(worker: Worker, hearing: Client) -> None:
    with contextlib.closing(worker.connect("control", features=("output",))) as control:
        id = next(hearing.ids)
        fields = payload("talker", "say_when_open", ["afterwards"])
        hearing.send(lane.request(id, "call", {"tool": "snakebridge.call", "payload": fields, "caller": CALLER}))
        assert hearing.answer(id) is None
        hearing.call("talker", "open_gate")
        note = control.receive()
        assert note is not None
        assert (note.name, note.body) == ("output", [CALLER, [hearing.conn, id], "s", [["out", "afterwards\n"]]])
    assert said(hearing) == []


def test_a_thread_that_outlives_its_call_keeps_no_objects_of_its_session(worker: Worker, client: Client) -> None:
    client.call("builtins", "exec", "import talker; talker.gate.clear()", session="other")
    client.call("sample", "Acc", 77, session="short")
    client.call("talker", "say_when_open", "afterwards", session="short")
    client.tool("snakebridge.release_session", {"session_id": "short"})
    code = "__import__('gc').collect() and 0 or sum(type(o).__name__ == 'Acc' and o.value == 77 for o in __import__('gc').get_objects())"
    assert client.call("builtins", "eval", code, session="other") == 0
    client.call("talker", "open_gate", session="other")


def test_output_of_a_stream_comes_before_the_item_that_follows_it(hearing: Client) -> None:
    order: list[Any] = []
    id = hearing.open_stream(payload("talker", "items", [3]))
    while True:
        message = hearing.receive()
        assert message is not None
        if message.kind == lane.RESPONSE:
            break
        order += [entry[1] for entry in message.body[3]] if message.name == "output" else message.body[1]
    assert id
    joined = "".join(part if isinstance(part, str) else f"<{part}>" for part in order)
    assert all(joined.index(f"making {n}\n") < joined.index(f"<{n}>") for n in range(3))


def test_it_arrives_while_the_call_still_runs(hearing: Client, control: Client) -> None:
    id = next(hearing.ids)
    hearing.send(
        lane.request(
            id, "call", {"tool": "snakebridge.call", "payload": payload("talker", "speak_then_sleep", ["now", 60]), "timeout_ms": 30_000}
        )
    )
    note = hearing.receive()
    assert note is not None
    assert note.body[3] == [["out", "now\n"]]
    control.send(lane.notification("cancel", [hearing.conn, id, "cancelled"]))
    with pytest.raises(LaneError, match="cancelled"):
        hearing.answer(id)


def test_a_flood_reaches_a_client_that_reads_whole_and_in_order(hearing: Client) -> None:
    assert hearing.call("talker", "say_many", "n", 100_000) == 100_000
    assert text(hearing) == "".join(f"n {n}\n" for n in range(100_000))


def test_a_flood_to_a_client_that_does_not_read_is_cut_and_counted(worker: Worker, hearing: Client, client: Client) -> None:
    line = "x" * 999
    id = next(hearing.ids)
    hearing.send(
        lane.request(
            id, "call", {"tool": "snakebridge.call", "payload": payload("talker", "say_many_and_tell", [line, 20_000]), "caller": 1}
        )
    )
    # All is printed without anybody reading: at first it waits, then it goes on and drops.
    assert client.call("talker", "wait_until_told", session="other")
    assert hearing.answer(id) == 20_000
    entries = said(hearing)
    dropped = sum(entry[1] for entry in entries if entry[0] == "dropped")
    heard = sum(len(entry[1]) for entry in entries if entry[0] == "out")
    assert dropped > 0
    assert heard + dropped == sum(len(f"{line} {n}\n") for n in range(20_000))
    assert heard < 4 << 20


def test_records_carry_level_logger_and_place(hearing: Client) -> None:
    hearing.call("talker", "record", 30, "%d of %s", 3, "four")
    [[kind, level, message, logger, module, function, path, line]] = said(hearing)
    assert (kind, level, message, logger, module, function) == ("log", 30, "3 of four", "talker", "talker", "record")
    assert path.endswith("talker.py")
    assert line > 1


def test_records_with_exceptions_have_the_traceback_and_bad_ones_say_so(hearing: Client) -> None:
    hearing.call("talker", "record_failure")
    [entry] = said(hearing)
    assert entry[1] == 40
    assert entry[2].startswith("no number\nTraceback (most recent call last)")
    assert entry[2].endswith("ValueError: invalid literal for int() with base 10: 'x'")
    hearing.call("talker", "record", 40, "%d", "no number")
    [entry] = said(hearing)
    assert "cannot be formatted" in entry[2]


def test_records_follow_pythons_levels_and_are_said_once(hearing: Client, tmp_path: Path) -> None:
    hearing.call("talker", "quiet_record")
    assert said(hearing) == []
    hearing.call("talker", "record_with_handlers", str(tmp_path / "log"))
    assert [entry[:3] for entry in said(hearing)] == [["log", 40, "handled"]]
    assert (tmp_path / "log").read_text() == "handled\n"


def test_handlers_on_a_thread_of_their_own_do_not_say_it_again(hearing: Client) -> None:
    hearing.call("talker", "record_through_queue", "queued")
    assert [entry[:3] for entry in said(hearing)] == [["log", 40, "queued"]]


def test_odd_records_arrive_and_fail_no_call(hearing: Client) -> None:
    hearing.call("talker", "odd_records")
    entries = said(hearing)
    assert [entry[1] for entry in entries] == [40, 40, (1 << 31) - 1, 40, 40]
    assert [entry[2] for entry in entries][2:] == ["a level beyond measure", "a line beyond measure", "no name"]
    assert entries[0][2] == "a record of Unspeakable cannot be formatted: RuntimeError"
    hearing.call("talker", "say", "goes on")
    assert text(hearing) == "goes on\n"


def test_warnings_carry_category_and_place_and_can_be_caught(hearing: Client) -> None:
    hearing.call("builtins", "exec", "import talker\ntalker.warn('careful')")
    [entry] = said(hearing)
    assert entry[:3] == ["warning", "careful", "UserWarning"]
    assert hearing.call("talker", "caught_warning", "mine") == ["mine"]
    assert said(hearing) == []


def test_finalisers_and_forked_children_may_print(worker: Worker, hearing: Client) -> None:
    hearing.call("talker", "drop_loud")
    assert text(hearing) == "gone\n"
    assert hearing.call("talker", "fork_and_print") == 7
    assert said(hearing) == []
    eventually(lambda: "from the child\n" in worker.output)


@pytest.mark.parametrize("args", [(), ("--label-output",)])
def test_finalisers_may_print_at_every_moment_of_a_call(args: tuple[str, ...]) -> None:
    with Worker(args=args) as littering, contextlib.closing(littering.connect(features=("output",))) as client:
        client.call("talker", "litter", 1_000_000)
        for number in range(30):
            assert client.call("talker", "say", str(number)) == str(number)
        assert client.call("talker", "littered") < 1_000_000


def test_an_executor_with_labels_keeps_them() -> None:
    with Worker(args=("--label-output",)) as labelled, contextlib.closing(labelled.connect(features=("output",))) as client:
        assert "output" not in client.features
        client.call("talker", "say", "hello")
        assert client.notes == []


def test_a_label_ends_the_line_that_its_call_began_with_the_call() -> None:
    with Worker(args=("--label-output",)) as labelled, contextlib.closing(labelled.connect()) as client:
        for number in range(3):
            client.tool("snakebridge.call", payload("talker", "say", [f"no end {number}", ""]), trace={"correlation_id": f"c{number}"})
        expected = [f"[corr=c{number}] no end {number}\n" for number in range(3)]
        eventually(lambda: labelled.output, lambda output: output == expected)


def test_a_client_that_leaves_does_not_hold_up_what_prints(worker: Worker, client: Client) -> None:
    leaver = worker.connect(features=("output",))
    id = next(leaver.ids)
    leaver.send(
        lane.request(id, "call", {"tool": "snakebridge.call", "payload": payload("talker", "say_many", ["x", 200_000], session="v")})
    )
    leaver.close()
    assert client.call("math", "sqrt", 4, session="v") == 2.0
