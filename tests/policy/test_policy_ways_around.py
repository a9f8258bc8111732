"""Ways around the default policy that were found and closed: texts that are not quite texts, formats, loaders, the worker's own objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lane_client import HELPERS, Client, LaneError, Worker, payload

ENV = {"PYTHONPATH": f"{HELPERS}:{Path(__file__).parent / 'python'}"}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(ENV, args=("--policy", "default")) as running:
        yield running


def held(client: Client, module: str, function: str, *args: Any, **kwargs: Any) -> Any:
    return client.tool("snakebridge.call", {**payload(module, function, args, kwargs, "s"), "result": "ref"})


def asked(client: Client, kind: str, target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    fields = payload("", "", args, kwargs, "s") | {"call_type": kind, "instance": target, "function": name, "attr": name}
    return client.tool("snakebridge.call", fields)


def test_a_name_that_is_an_object_of_a_class_of_texts_is_a_name(client: Client, tmp_path: Path) -> None:
    name, mark = held(client, "numpy", "str_", "system"), tmp_path / "mark"
    os = client.call("aliases", "module", session="s")
    with pytest.raises(LaneError, match=r"permission_denied: os\.system"):
        client.tool("snakebridge.call", payload("os", name, [f"touch {mark}"], {}, "s"))  # type: ignore[arg-type]
    with pytest.raises(LaneError, match=r"permission_denied: os\.system"):
        asked(client, "method", os, name, f"touch {mark}")
    assert not mark.exists()
    assert client.tool("snakebridge.call", payload("math", held(client, "numpy", "str_", "sqrt"), [4], {}, "s")) == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{0[a:b].__globals__}", "{0[a!b].gi_frame}", "{0:{0[a]._private}}"])
def test_formats_are_read_as_python_reads_them(client: Client, text: str) -> None:
    with pytest.raises(LaneError, match="permission_denied"):
        client.call("builtins", "str.format", text, {"a:b": 1, "a!b": 1, "a": 1})
    assert client.call("builtins", "str.format", "{0[a:b]}{{_x}}", {"a:b": 1}) == "1{_x}"


def test_loaders_load_nothing_for_a_caller(client: Client) -> None:
    found = client.call("importlib.util", "find_spec", "this", session="s")
    with pytest.raises(LaneError, match="permission_denied"):
        asked(client, "get_attr", found, "loader")


def test_what_the_worker_is_made_of_is_not_given_out(client: Client) -> None:
    context = held(client, "contextvars", "copy_context")
    values = asked(client, "method", context, "values")
    with pytest.raises(LaneError, match="bridge_adapter"):
        client.call("builtins", "list", values, session="s")


@pytest.mark.parametrize(
    ("module", "function", "args", "kwargs"),
    [
        ("sys", "breakpointhook", [], {}),
        ("mailcap", "findmatch", [{"a/b": [{"view": "x", "test": "true"}]}, "a/b"], {}),
        ("imaplib", "IMAP4_stream", ["true"], {}),
        ("pipes", "Template", [], {}),
        ("multiprocessing", "set_executable", ["/bin/true"], {}),
        ("multiprocessing.util", "spawnv_passfds", [b"/bin/true", [b"true"], []], {}),
        ("numpy.testing", "runstring", ["1", {}], {}),
        ("yaml", "UnsafeLoader", ["x"], {}),
        ("yaml.loader", "Loader", ["x"], {}),
        ("functools", "singledispatch", [], {}),
        ("dataclasses", "dataclass", [], {}),
        ("dataclasses", "make_dataclass", ["X", []], {}),
        ("tracemalloc", "Snapshot.load", ["x"], {}),
        ("unittest", "defaultTestLoader.loadTestsFromName", ["os.getpid"], {}),
        ("pkgutil", "get_importer", ["/tmp"], {}),
        ("builtins", "help", ["os"], {}),
        ("aliases", "sys.breakpointhook", [], {}),
        ("jax.numpy", "load", ["x"], {"allow_pickle": True}),
        ("numpy.lib.npyio", "NpzFile", ["x"], {"allow_pickle": True}),
        ("inspect", "signature", ["x"], {"eval_str": True}),
    ],
)
def test_more_that_runs_text_loads_code_or_starts_programs(
    client: Client, module: str, function: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(LaneError, match="permission_denied") as raised:
        client.call(module, function, *args, **kwargs)
    assert raised.value.fields["details"]["outcome"] == "not_started"


def test_methods_of_held_objects_start_and_load_nothing(client: Client, tmp_path: Path) -> None:
    loop = client.call("asyncio", "new_event_loop", session="s")
    entry = client.call("importlib.metadata", "EntryPoint", "x", "math:sqrt", "g", session="s")
    file = tmp_path / "some.npz"
    client.call("numpy", "savez", str(file), a=[1, 2])
    arrays = client.call("numpy", "load", str(file), session="s")
    for target, kind, name in ((loop, "method", "subprocess_shell"), (entry, "method", "load"), (arrays, "set_attr", "allow_pickle")):
        with pytest.raises(LaneError, match="permission_denied"):
            asked(client, kind, target, name, True)
    assert client.call("builtins", "len", asked(client, "method", arrays, "__getitem__", "a")) == 2
    asked(client, "method", loop, "close")


def test_expressions_of_pandas_reach_no_variables_of_the_worker(client: Client) -> None:
    frame = held(client, "pandas", "DataFrame", {"a": [1, 2, 3], "s": ["x", "y@z._k", "z"]})
    reached = ("@importlib.import_module('math').sqrt(4)", "__pd_eval_local_sys.maxsize", "`it's` > @sys.maxsize and `it's` > 1")
    for text in (*reached, "a > @ sys.maxsize", "a.__init__.__globals__"):
        for name in ("eval", "query"):
            with pytest.raises(LaneError, match="permission_denied"):
                asked(client, "method", frame, name, text)
            with pytest.raises(LaneError, match="permission_denied"):
                client.call("pandas", f"DataFrame.{name}", frame, expr=text, session="s")
    count = {"a > 1": 2, "a.abs() > 2": 1, "s == 'y@z._k'": 1}
    for text, rows in count.items():
        assert client.call("builtins", "len", asked(client, "method", frame, "query", text), session="s") == rows
    assert client.call("builtins", "len", asked(client, "method", frame, "query", "a > @x", local_dict={"x": 2}), session="s") == 1
