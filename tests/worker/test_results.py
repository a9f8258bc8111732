"""How a caller says in which form it wants an answer: by reference, with identity, in which schema of `tagged`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lane_client import Client, LaneError, Worker, payload

from bridge_adapter.codec import Extension, Ref, StreamRef


def tagged(client: Client, fields: dict[str, Any], **params: Any) -> Any:
    texts = {name: json.dumps(value).encode() for name, value in fields.items()}
    return json.loads(client.request("call", {"tool": "snakebridge.call", "payload": texts, "encoding": "tagged", **params}))


def test_a_result_may_stay_in_python(client: Client) -> None:
    ref = client.tool("snakebridge.call", payload("numpy", "arange", [5], {}, "s") | {"result": "ref"})
    assert isinstance(ref, Ref)
    assert ref.type_name == "ndarray"
    assert client.method(ref, "tolist") == [0, 1, 2, 3, 4]


def test_streamed_items_may_stay_in_python(client: Client) -> None:
    id = client.open_stream(payload("sample", "identity", [[1, [2]]], {}, "s") | {"result": "ref"})
    items: list[Any] = []
    client.answer(id, items.extend)
    assert [item.type_name for item in items] == ["int", "list"]


def test_another_wish_for_the_result_is_refused(client: Client) -> None:
    with pytest.raises(LaneError, match="result must be 'value' or 'ref', not 'pickle'"):
        client.tool("snakebridge.call", payload("math", "sqrt", [4], {}, "s") | {"result": "pickle"})


def test_methods_work_on_values(client: Client) -> None:
    assert client.tool("snakebridge.call", payload("", "bit_length", [], {}, "s") | {"call_type": "method", "instance": 5}) == 3


def test_identity_is_kept_on_request(client: Client) -> None:
    fields = payload("sample", "shared_list", [], {}, "s")
    with pytest.raises(LaneError, match="cycle"):
        client.tool("snakebridge.call", fields)
    pair = client.tool("snakebridge.call", fields, identity=True)
    assert pair[0] is pair[1] is pair[0][1]
    client.packer.preserve_identity = True
    assert client.call("sample", "is_same", pair) is True
    client.packer.preserve_identity = False
    assert client.call("sample", "is_same", [[1], [1]]) is False


def test_schema_2_is_used_only_where_the_caller_asked(client: Client) -> None:
    fields = {"python_module": "builtins", "function": "range", "args": [3], "session_id": "s"}
    versions = {"protocol_version": 1, "min_supported_version": 1}
    assert tagged(client, fields | versions)["__type__"] == "ref"
    rich = {"__type__": "range", "__schema__": 2, "value": [0, 3, 1]}
    assert tagged(client, fields | versions, schema=2) == rich
    assert tagged(client, fields | versions | {"protocol_version": 2}) == rich
    assert tagged(client, fields | versions | {"args": [rich], "python_module": "sample", "function": "identity"}, schema=2) == rich


def test_the_first_call_of_a_module_gets_the_types_that_its_import_registers() -> None:
    point = Extension("test.point", {"x": 1, "y": 2})
    with Worker() as worker:
        first = worker.connect()
        moved = first.call("geometry", "moved", point, by=1)
        assert moved == Extension("test.point", {"x": 2, "y": 3})
        first.close()
    right, left = (Extension("enum", ["geometry:Side", name, value]) for name, value in (("RIGHT", 2), ("LEFT", 1)))
    with Worker() as worker:
        first = worker.connect()
        assert first.call("geometry", "other", right) == left
        first.close()
    with Worker() as worker:
        first = worker.connect()
        assert first.call("geometry", "farthest", [[point], {"a": (point,)}]) == point
        first.close()


def test_values_of_unknown_types_come_back_as_they_were(client: Client) -> None:
    assert client.call("sample", "identity", Extension("nobody.knows", [1])) == Extension("nobody.knows", [1])
    assert isinstance(client.call("sample", "gen", 3), StreamRef)
