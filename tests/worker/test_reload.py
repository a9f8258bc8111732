"""Changed modules of the user run again in a worker that goes on: asked for, or by itself when their files change."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from lane_client import HELPERS, Client, LaneError, Worker, payload

from bridge_adapter import lane

MODEL = """
from shapes.base import Base

class Net(Base):
    def answer(self):
        return {version}

def answer():
    return {version}
"""
BASE = "class Base:\n    base = {version}\n"
USER = "from shapes.model import answer\n\ndef ask():\n    return answer()\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of a package and a module that uses it."""
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "__init__.py").write_text("from shapes import model\n")
    write(tmp_path, 1)
    (tmp_path / "shapes_user.py").write_text(USER)
    return tmp_path


def write(project: Path, version: int) -> None:
    (project / "shapes" / "model.py").write_text(MODEL.format(version=version))
    (project / "shapes" / "base.py").write_text(BASE.format(version=version))


@pytest.fixture
def changing(project: Path) -> Iterator[Worker]:
    with Worker({"PYTHONPATH": f"{HELPERS}:{project}"}) as running:
        yield running


@pytest.fixture
def watching(project: Path) -> Iterator[Worker]:
    with Worker({"PYTHONPATH": f"{HELPERS}:{project}"}, args=("--watch", str(project))) as running:
        yield running


def reload(client: Client, module: str, **options: Any) -> Any:
    return client.tool("snakebridge.reload", {"session_id": "reload", "module": module, **options})


def test_a_changed_module_runs_again_even_within_the_same_second(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        for version in (1, 2, 3):  # files of the same size
            write(project, version)
            if version > 1:
                assert reload(client, "shapes.model") == {"reloaded": ["shapes.model"], "stale": [], "running": 0}
            assert client.call("shapes.model", "answer") == version


def test_deep_takes_submodules_along_those_first_that_others_import(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        client.call("shapes.model", "answer")
        write(project, 2)
        assert reload(client, "shapes", deep=True)["reloaded"] == ["shapes.base", "shapes.model", "shapes"]
        net = client.call("shapes.model", "Net")
        assert client.tool("snakebridge.call", payload("", "base") | {"call_type": "get_attr", "instance": net}) == 2


def test_sessions_that_hold_old_objects_are_named(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        old = client.call("shapes.model", "Net", session="one")
        client.call("shapes.model", "Net", session="one")
        client.call("builtins", "getattr", client.call("shapes.model", "Net", session="two"), "answer", session="two")
        client.call("sample", "Acc", session="three")
        write(project, 2)
        stale = reload(client, "shapes.model")["stale"]
        assert stale == [
            {"session_id": "one", "refs": 2, "types": ["Net"]},
            {"session_id": "two", "refs": 2, "types": ["Net", "Net.answer"]},
        ]
        assert client.method(old, "answer", session="one") == 1  # it is what it was
        assert client.method(client.call("shapes.model", "Net", session="four"), "answer") == 2
        # An object of a class whose base is an old one is old, too.
        assert {entry["session_id"] for entry in reload(client, "shapes.base")["stale"]} == {"one", "two", "four"}


@pytest.mark.parametrize("mistake", ["def answer(:\n", "class Net:\n    pass\nextra = 1\nraise ValueError('halfway')\n"])
def test_a_module_with_a_mistake_stays_as_it_was(changing: Worker, project: Path, mistake: str) -> None:
    with contextlib.closing(changing.connect()) as client:
        client.call("shapes.model", "answer")
        write(project, 2)
        (project / "shapes" / "model.py").write_text(mistake)
        with pytest.raises(LaneError, match=r"invalid syntax|halfway"):
            reload(client, "shapes", deep=True)
        assert client.call("shapes.model", "answer") == 1
        assert client.method(client.call("shapes.model", "Net"), "answer") == 1
        assert client.call("builtins", "hasattr", client.call("importlib", "import_module", "shapes.model"), "extra") is False


def test_what_is_not_loaded_or_has_no_source_is_told(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        with zipfile.ZipFile(project / "packed.zip", "w") as archive:
            archive.writestr("packed.py", "depth = 1")
        client.call("sys", "path.append", str(project / "packed.zip"))
        assert value(client, "packed", "depth") == 1
        with pytest.raises(LaneError, match=r"packed was loaded from .*packed.py, which is no file"):
            reload(client, "packed")
        assert reload(client, "shapes.model") == {"reloaded": [], "stale": [], "running": 0}
        with pytest.raises(LaneError, match="No module named 'no_such_module'"):
            reload(client, "no_such_module")
        with pytest.raises(LaneError, match="math has no Python source file"):
            reload(client, "math")
        with pytest.raises(LaneError, match="needs the name of a module"):
            reload(client, "")


def value(client: Client, module: str, name: str) -> Any:
    return client.tool("snakebridge.call", payload(module, name) | {"call_type": "module_attr", "attr": name})


def test_a_module_may_become_a_package_and_a_module_again(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        (project / "moving.py").write_text("depth = 1\n")
        assert value(client, "moving", "depth") == 1
        (project / "moving.py").unlink()
        with pytest.raises(LaneError, match=r"moving was loaded from .*moving.py, which is no file"):
            reload(client, "moving")

        package = project / "moving"
        package.mkdir()
        (package / "__init__.py").write_text("from .inner import depth\nraise OSError('halfway')\n")
        (package / "inner.py").write_text("depth = 2\n")
        with pytest.raises(LaneError, match="halfway"):
            reload(client, "moving")
        assert (value(client, "moving", "depth"), value(client, "moving", "__package__")) == (1, "")
        (package / "__init__.py").write_text("from .inner import depth\n")
        assert reload(client, "moving")["reloaded"] == ["moving"]
        assert (value(client, "moving", "depth"), value(client, "moving", "__package__")) == (2, "moving")

        (package / "__init__.py").rename(project / "moving.py")
        (project / "moving.py").write_text("depth = 3\n")
        assert reload(client, "moving")["reloaded"] == ["moving"]
        assert value(client, "moving", "depth") == 3


def test_deep_reloads_what_is_in_a_package_without_code_of_its_own(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as client:
        (project / "space").mkdir()
        (project / "space" / "part.py").write_text("depth = 1\n")
        assert value(client, "space.part", "depth") == 1
        (project / "space" / "part.py").write_text("depth = 2\n")
        assert reload(client, "space", deep=True)["reloaded"] == ["space.part"]
        assert value(client, "space.part", "depth") == 2
        with pytest.raises(LaneError, match="space has no Python source file"):
            reload(client, "space")


def test_it_waits_for_calls_that_run_and_holds_up_new_ones(changing: Worker, project: Path) -> None:
    with contextlib.closing(changing.connect()) as busy, contextlib.closing(changing.connect()) as client:
        client.call("shapes.model", "answer")
        write(project, 2)
        inside = lane.request(1, "call", {"tool": "snakebridge.call", "payload": payload("talker", "wait_until_told", session="busy")})
        busy.send(inside)
        client.until(lambda stats: any(call[0] == busy.conn for call in stats["active"]))
        assert reload(client, "shapes.model", wait_ms=50)["running"] == 1  # it does not wait for ever
        asked = next(client.ids)
        client.send(
            lane.request(
                asked,
                "call",
                {"tool": "snakebridge.reload", "payload": {"session_id": "reload", "module": "shapes.model", "wait_ms": 60_000}},
            )
        )
        with contextlib.closing(changing.connect()) as other:
            # A call from inside the one that runs must pass, and ends it.
            other.tool(
                "snakebridge.call", payload("builtins", "exec", ["import talker; talker.told.set()"], session="x"), parent=[busy.conn, 1]
            )
        assert busy.answer(1) is True
        assert client.answer(asked)["running"] == 0
        assert client.call("shapes.model", "answer") == 2


def until(client: Client, expected: Any, *call: str) -> None:
    """Calls until the watch has looked again."""
    eventually(lambda: client.call(*call), lambda answer: answer == expected)


def test_a_watched_module_and_what_imports_it_follow_their_files(watching: Worker, project: Path) -> None:
    with contextlib.closing(watching.connect(features=("output",))) as client:
        assert client.call("shapes_user", "ask") == 1
        held = client.call("shapes.model", "Net", session="holder")
        (project / "shapes" / "model.py").write_text(MODEL.format(version=22))
        until(client, 22, "shapes_user", "ask")
        assert client.method(held, "answer", session="holder") == 1
        [[kind, level, text, *_]] = [entry for note in client.notes for entry in note.body[3]]
        assert (kind, level) == ("log", 30)
        assert text == "reloaded shapes.model, shapes, shapes_user; sessions that hold objects of the old code: holder: 1 (Net)"


def test_a_worker_that_is_never_idle_reloads_what_is_watched_too(watching: Worker, project: Path) -> None:
    done = threading.Event()

    def keep_busy(name: str) -> None:
        with contextlib.closing(watching.connect()) as client:
            while not done.is_set():
                client.call("time", "sleep", 0.003, session=name)

    with ThreadPoolExecutor(3) as pool, contextlib.closing(watching.connect()) as client:
        busy = [pool.submit(keep_busy, f"busy {number}") for number in range(3)]
        try:
            for version in (1, 22, 333):
                (project / "shapes" / "model.py").write_text(MODEL.format(version=version))
                until(client, version, "shapes_user", "ask")
        finally:
            done.set()
        for one in busy:
            one.result()


def test_a_watched_mistake_is_told_once_and_the_old_code_goes_on(watching: Worker, project: Path) -> None:
    with contextlib.closing(watching.connect(features=("output",))) as client:
        assert client.call("shapes.model", "answer") == 1
        (project / "shapes" / "model.py").write_text("def answer(:\n")
        eventually(lambda: client.call("shapes.model", "answer") == 1 and client.notes)
        [[_, level, text, *_]] = client.notes[0].body[3]
        assert level == 40
        assert text.startswith("shapes.model changed and cannot be reloaded; the old code goes on: ")
        assert "SyntaxError" in text
        client.notes.clear()
        (project / "shapes" / "model.py").write_text(MODEL.format(version=3))
        until(client, 3, "shapes.model", "answer")
        assert [note.body[3][0][1] for note in client.notes] == [20]


def test_without_a_client_that_hears_it_the_worker_says_it(watching: Worker, project: Path) -> None:
    with contextlib.closing(watching.connect()) as client:
        assert client.call("shapes.model", "answer") == 1
        (project / "shapes" / "model.py").write_text(MODEL.format(version=44))
        until(client, 44, "shapes.model", "answer")
        eventually(lambda: any("bridge_adapter: reloaded" in line for line in watching.output))


def test_a_watched_module_that_user_code_forgets_fails_no_call(watching: Worker, project: Path) -> None:
    (project / "forgotten.py").write_text("import shapes\n")
    with contextlib.closing(watching.connect()) as client:
        client.call("importlib", "import_module", "forgotten")
        assert client.call("shapes_user", "ask") == 1
        until(
            client,
            True,
            "builtins",
            "eval",
            "any('forgotten' in finder._seen for finder in __import__('sys').meta_path if hasattr(finder, '_seen'))",
        )
        client.call("builtins", "eval", "__import__('sys').modules.pop('forgotten') and None")
        (project / "shapes" / "model.py").write_text(MODEL.format(version=22))
        until(client, 22, "shapes_user", "ask")
