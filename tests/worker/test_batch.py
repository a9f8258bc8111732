"""`snakebridge.batch`: joined along axis 0, called once, split again; what does not fit or fails does not touch the others."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lane_client import Client, LaneError, payload

from bridge_adapter.codec import Ref

Outcomes = list[list[Any]]


@pytest.fixture
def model(client: Client) -> Ref:
    ref = client.call("models", "Doubler")
    assert isinstance(ref, Ref)
    return ref


def method(client: Client, ref: Ref, name: str, calls: list[list[Any]], **fields: Any) -> Outcomes:
    asked = payload("", name, session=ref.session) | {"call_type": "method", "instance": ref, "calls": calls} | fields
    outcomes: Outcomes = client.tool("snakebridge.batch", asked)
    return outcomes


def function(client: Client, name: str, calls: list[list[Any]], *args: Any, **fields: Any) -> Outcomes:
    outcomes: Outcomes = client.tool("snakebridge.batch", payload("models", name, args) | {"calls": calls} | fields)
    return outcomes


def sizes(client: Client, model: Ref) -> list[int]:
    """With how many rows the model was called."""
    found = client.tool("snakebridge.call", payload("", "calls", session=model.session) | {"call_type": "get_attr", "instance": model})
    assert isinstance(found, list)
    return found


def values(outcomes: Outcomes) -> list[Any]:
    assert all(ok for ok, _ in outcomes), outcomes
    return [value for _, value in outcomes]


def rows(*numbers: float) -> np.ndarray[Any, Any]:
    return np.array([[number, number + 0.5] for number in numbers])


def test_calls_are_joined_called_once_and_split_again(client: Client, model: Ref) -> None:
    inputs = [rows(1), rows(2, 3), rows(), rows(4, 5, 6)]
    inputs[2] = np.zeros((0, 2))
    answers = values(method(client, model, "predict", [[part] for part in inputs]))
    assert sizes(client, model) == [6]
    for part, answer in zip(inputs, answers, strict=True):
        assert np.array_equal(answer, part * 2)
        assert answer.shape == part.shape


def test_what_does_not_fit_together_is_called_in_groups_and_answered_in_order(client: Client, model: Ref) -> None:
    inputs: list[Any] = [
        np.zeros((1, 2)),
        np.zeros((2, 3)),
        np.zeros((1, 2), dtype="float32"),
        np.zeros((3, 2)),
        [[1, 2]],
        [[1.0, 2.0], [3.0, 4.0]],
        [[1, 2, 3]],
        ["a"],
    ]
    kinds = [answer[0] for answer in values(method(client, model, "kinds", [[part] for part in inputs]))]
    assert kinds == ["float64(2,)", "float64(3,)", "float32(2,)", "float64(2,)", "list(2,)", "list(2,)", "list(3,)", "list()"]
    values(method(client, model, "predict", [[part] for part in inputs[:4]]))
    assert sorted(sizes(client, model)) == [1, 2, 4]


def test_lists_are_joined_as_lists(client: Client, model: Ref) -> None:
    assert values(method(client, model, "texts", [[["a", "b"]], [["c"]], [[]]])) == [["A", "B"], ["C"], []]


def test_tuples_dicts_and_lists_of_arrays_are_split_inside(client: Client, model: Ref) -> None:
    for calls in ([rows(1), rows(2, 3)], [rows(1), rows(2)]):  # with two rows a list of two arrays might be one of rows
        for part, answer in zip(calls, values(method(client, model, "several", [[part] for part in calls])), strict=True):
            assert np.array_equal(answer["double"], part * 2)
            same, (more, less) = answer["parts"]
            assert np.array_equal(same, part)
            assert np.array_equal(more, part + 1)
            assert np.array_equal(less, part - 1)


def test_an_error_reaches_only_its_own_caller(client: Client, model: Ref) -> None:
    inputs = [rows(float(number)) for number in range(16)]
    inputs[5] = rows(-1.0)
    inputs[11] = rows(-2.0)
    outcomes = method(client, model, "nonnegative", [[part] for part in inputs])
    assert [ok for ok, _ in outcomes] == [number not in (5, 11) for number in range(16)]
    for index in (5, 11):
        error = outcomes[index][1]
        assert (error["category"], error["type"], error["message"]) == ("python_error", "ValueError", "a row is negative")
        assert "nonnegative" in error["traceback"]
    assert sum(sizes(client, model)) == 14


@pytest.mark.parametrize(
    "labels",
    [
        [1, 1.0, True, 0.0, -0.0],
        [[1], [1.0], [True], (1,), [[1]], [-0.0], [0.0]],
        [{"k": 1}, {"k": True}, {"k": 1.0}, {1: "k"}, {True: "k"}],
        [np.array([0.0]), np.array([-0.0]), np.array([[0.0]]), np.array([0.0], "float32"), np.array([0])],
    ],
)
def test_calls_are_joined_only_if_the_function_cannot_tell_their_other_arguments_apart(client: Client, labels: list[Any]) -> None:
    calls = [[["row"], label] for label in labels for _ in range(2)]
    assert values(function(client, "labelled", calls)) == [[repr(label)] for label in labels for _ in range(2)]


def test_an_answer_that_cannot_be_split_is_an_error_however_few_are_joined(client: Client, model: Ref) -> None:
    for calls in ([[rows(1)]], [[rows(1)], [rows(2)]]):
        for ok, error in method(client, model, "mean", calls):
            assert not ok
            assert error["category"] == "invalid_request"
            assert "answered a float; a batched function must answer an array or a list with one row for each" in error["message"]


def test_batches_are_filled_up_and_answers_cut(client: Client, model: Ref) -> None:
    calls = [[rows(1)], [rows(2, 3)], [rows(4, 5)]]
    answers = values(method(client, model, "predict", calls, pad_to="powers_of_two"))
    assert [len(answer) for answer in answers] == [1, 2, 2]
    assert np.array_equal(answers[2], rows(4, 5) * 2)
    values(method(client, model, "predict", calls, pad_to=[4, 6]))
    values(method(client, model, "predict", calls, pad_to=[2]))  # beyond the largest size nothing is added
    values(method(client, model, "predict", calls[:1], pad_to=[3]))
    assert values(method(client, model, "texts", [[["a"]], [["b", "c"]]], pad_to=[8])) == [["A"], ["B", "C"]]
    assert sizes(client, model) == [8, 6, 5, 3]


def test_functions_take_arguments_of_all_calls_and_several_that_are_joined(client: Client) -> None:
    calls: list[list[Any]] = [[rows(1), rows(10)], [rows(2, 3), rows(20, 30)]]
    answers = values(function(client, "scale", calls, 2.0, join=[0, 1], kwargs={"shift": 1.0}))
    assert np.array_equal(answers[1], rows(2, 3) * 2 + rows(20, 30) + 1)
    # What is not joined must be equal within a batch.
    answers = values(function(client, "scale", [[2.0, rows(1), 0.0], [3.0, rows(1), 0.0], [2.0, rows(5), 0.0]], join=[1]))
    assert [float(answer[0][0]) for answer in answers] == [2.0, 3.0, 10.0]


ARRAYS = st.builds(
    lambda rows, tail, dtype, start: (np.arange(rows * math.prod(tail)).reshape(rows, *tail) + start).astype(dtype),
    st.integers(0, 4),
    st.sampled_from([(), (2,), (3,), (2, 1)]),
    st.sampled_from(["float64", "float32", "int64", "complex128"]),
    st.integers(0, 100),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=st.lists(ARRAYS, max_size=12), pad_to=st.sampled_from([None, "powers_of_two", [3, 8]]))
def test_whatever_is_batched_each_caller_gets_what_it_would_have_got_alone(
    client: Client, model: Ref, inputs: list[np.ndarray[Any, Any]], pad_to: Any
) -> None:
    answers = values(method(client, model, "predict", [[part] for part in inputs], pad_to=pad_to))
    for part, answer in zip(inputs, answers, strict=True):
        alone = part * 2.0
        assert (answer.dtype, answer.shape) == (alone.dtype, alone.shape)
        assert np.array_equal(answer, alone)


def test_a_caller_that_speaks_json_batches_too(client: Client) -> None:
    fields = payload("models", "triple") | {"calls": [[[1, 2]], [[3]], [5]], "session_id": "s"}
    texts = {name: json.dumps(value).encode() for name, value in fields.items()}
    answer = json.loads(client.tool("snakebridge.batch", texts, encoding="tagged", schema=2))
    assert [ok for ok, _ in answer] == [True, True, False]
    assert "a joined argument must be a list" in answer[2][1]["message"]


def test_jax_arrays_stay_jax_arrays(client: Client) -> None:
    ones = client.tool("snakebridge.call", payload("jax.numpy", "ones", [(2, 3)]) | {"result": "ref"})
    asked = payload("jax.numpy", "tanh") | {"calls": [[ones], [ones]]}
    for answer in values(client.tool("snakebridge.batch", asked)):
        assert answer.shape == (2, 3)
        assert np.allclose(answer, np.tanh(1.0))
    kinds = client.call("models", "Doubler")
    assert values(method(client, kinds, "kinds", [[ones], [ones]]))[0] == ["float32(3,)"] * 2


def test_a_call_that_cannot_be_joined_gets_the_rule_and_the_others_their_answers(client: Client, model: Ref) -> None:
    outcomes = method(client, model, "predict", [[1.5], [rows(1)], [], [np.float64(3.0)], [np.zeros(())]])
    assert [ok for ok, _ in outcomes] == [False, True, False, False, False]
    messages = [error["message"] for ok, error in outcomes if not ok]
    assert "argument 0 is a float; a joined argument must be a list, or an array" in messages[0]
    assert "a call has 0 arguments, but argument 0 is to be joined" in messages[1]
    assert "ndarray of shape ()" in messages[3]
    [(ok, error)] = function(client, "scale", [[rows(1), rows(1, 2)]], 2.0, join=[0, 1])
    assert not ok
    assert "have [1, 2] rows; they must have the same number" in error["message"]


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"calls": 3}, "calls must be a list of argument lists"),
        ({"calls": [3]}, "calls must be a list of argument lists"),
        ({"calls": [], "join": []}, "join must be a list of positions >= 0"),
        ({"calls": [], "join": [-1]}, "join must be a list of positions >= 0"),
        ({"calls": [], "pad_to": "odd"}, "pad_to must be null, "),
        ({"calls": [], "pad_to": [0]}, "pad_to must be null, "),
    ],
)
def test_a_payload_that_is_none_is_refused(client: Client, fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(LaneError, match=rule):
        client.tool("snakebridge.batch", payload("models", "triple") | fields)


def test_a_batch_is_interrupted_as_a_whole_at_its_deadline(client: Client, model: Ref) -> None:
    fields = payload("", "hang", session=model.session) | {"call_type": "method", "instance": model, "calls": [[[1]], [[2]]]}
    with pytest.raises(LaneError) as caught:
        client.tool("snakebridge.batch", fields, timeout_ms=100)
    assert caught.value.category == "timeout"
