"""Errors of shapes, dtypes and memory carry their numbers as data, and in the words that the real SnakeBridge reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_client import Client, LaneError, payload

from bridge_adapter import errors, ml_errors

ones = np.ones


def raised(code: Callable[[], Any]) -> Exception:
    try:
        code()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def read(error: BaseException) -> tuple[dict[str, Any], str]:
    """The facts of an error, and its message for SnakeBridge."""
    fields = errors.to_wire(error, {}, for_snakebridge=True)
    original = errors.to_wire(error)["message"]
    assert fields["message"].startswith(original)
    assert fields["context"]["ml"] == fields["details"]["ml"]
    return fields["details"]["ml"], fields["message"][len(original) :]


def assign(target: Any, index: Any, value: Any) -> None:
    target[index] = value


SHAPES = [
    (lambda: np.dot(ones((2, 3)), ones((4, 5))), "matmul", [2, 3], [4, 5], " [shapes cannot be multiplied (2x3 and 4x5)]"),
    (
        lambda: ones((2, 3)) + ones((4, 5)),
        "broadcast",
        [2, 3],
        [4, 5],
        " [The size of tensor a (3) must match the size of tensor b (5) at non-singleton dimension 1]",
    ),
    (
        lambda: ones((7, 3)) + ones((2, 1)),
        "broadcast",
        [7, 3],
        [2, 1],
        " [The size of tensor a (7) must match the size of tensor b (2) at non-singleton dimension 0]",
    ),
    (lambda: np.broadcast_to(ones((2, 3)), (4, 5)), "broadcast", [2, 3], [4, 5], None),
    (lambda: np.einsum("ij,jk", ones((2, 3)), ones((4, 5))), "broadcast", [2, 3], [4, 5], None),
    (lambda: np.broadcast_shapes((2,), (3,)), "broadcast", [2], [3], None),
    (lambda: assign(ones((2, 3)), ..., ones((4, 5))), "broadcast", [4, 5], [2, 3], None),
    (lambda: assign(ones((2, 3)), ([0, 1, 1], [0, 1]), 1), "broadcast", [3], [2], None),
    (lambda: assign(ones((2, 3)), [0], ones((4,))), "broadcast", [4], [1, 3], None),
    (lambda: ones((2, 3)).reshape(4, 4), "reshape", None, [4, 4], " [shape mismatch: 6 elements and 4x4]"),
    (lambda: np.concatenate([ones((2, 3)), ones((4, 5))]), "concatenate", None, None, None),
    (lambda: np.stack([ones(2), ones(3)]), "concatenate", None, None, " [shape mismatch]"),
    (lambda: ones((2, 3)).sum(axis=4), "index", None, None, " [Dimension out of range (expected to be in range of [-2, 1], but got 4)]"),
    (lambda: ones((2, 3))[np.zeros((3, 3), bool)], "index", None, None, None),
    (lambda: np.linalg.solve(ones((3, 3)), ones((4, 5))), "unknown", None, None, None),
    (lambda: jnp.ones((2, 3)) + jnp.ones((4, 5)), "broadcast", [2, 3], [4, 5], None),
    (lambda: jnp.broadcast_to(jnp.ones((2, 3)), (4, 5)), "broadcast", [2, 3], [4, 5], None),
    (lambda: jnp.concatenate([jnp.ones((2, 3)), jnp.ones((4, 5))]), "concatenate", [2, 3], [4, 5], " [shape mismatch: 2x3 and 4x5]"),
    (lambda: jnp.ones((2, 3)).reshape(4, 4), "reshape", [2, 3], [4, 4], None),
    (lambda: jax.lax.dot(jnp.ones((2, 3)), jnp.ones((4, 5))), "matmul", [2, 3], [4, 5], None),
    (lambda: jax.lax.while_loop(lambda c: True, lambda c: jnp.ones(4), jnp.ones(3)), "unknown", [3], [4], None),
    (lambda: jax.lax.dynamic_update_slice(jnp.ones((2, 3)), jnp.ones((4, 5)), (0, 0)), "unknown", [4, 5], [2, 3], None),
]


@pytest.mark.parametrize(("code", "operation", "a", "b", "suffix"), SHAPES)
def test_shapes_that_do_not_fit_are_told(code: Callable[[], Any], operation: str, a: Any, b: Any, suffix: str | None) -> None:
    facts, words = read(raised(code))
    assert (facts["kind"], facts["operation"], facts["shape_a"], facts["shape_b"]) == ("shape_mismatch", operation, a, b)
    assert facts["suggestion"]
    assert words == suffix if suffix is not None else words.startswith(" [")


@pytest.mark.parametrize(
    ("code", "sizes"),
    [
        (lambda: ones((2, 3)) @ ones((4, 5)), (3, 4)),
        (lambda: jnp.ones((2, 3)) @ jnp.ones((4, 5)), (3, 4)),
        (lambda: jnp.einsum("ij,jk", jnp.ones((2, 3)), jnp.ones((4, 5))), (4, 3)),
    ],
)
def test_a_product_tells_the_sizes_that_differ(code: Callable[[], Any], sizes: tuple[int, int]) -> None:
    facts, words = read(raised(code))
    assert facts["operation"] == "matmul"
    assert (facts["size_a"], facts["size_b"]) == sizes
    assert words == f" [shapes cannot be multiplied: The size of tensor a ({sizes[0]}) must match the size of tensor b ({sizes[1]})]"


TEXTS: list[tuple[type[Exception], str, dict[str, Any], str]] = [
    (
        RuntimeError,
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        {"operation": "matmul", "shape_a": [2, 3], "shape_b": [4, 5]},
        "",
    ),
    (
        RuntimeError,
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1",
        {"operation": "broadcast", "size_a": 3, "size_b": 4},
        "",
    ),
    (
        IndexError,
        "Dimension out of range (expected to be in range of [-2, 1], but got 4)",
        {"operation": "index", "axis": 4, "dimensions": 2},
        "",
    ),
    (
        RuntimeError,
        "shape '[4, 4]' is invalid for input of size 6",
        {"operation": "reshape", "shape_b": [4, 4], "size_a": 6},
        " [shape mismatch: 6 elements and 4x4]",
    ),
    (RuntimeError, "expected scalar type Float but found Double", {"expected": "Float", "got": "Double"}, ""),
    (
        RuntimeError,
        "expected m1 and m2 to have the same dtype, but got: float != double",
        {"expected": "float", "got": "double"},
        " [expected scalar type float but found double]",
    ),
    (
        RuntimeError,
        "Input type (torch.FloatTensor) and weight type (torch.cuda.HalfTensor) should be the same",
        {"expected": "cuda.HalfTensor", "got": "FloatTensor"},
        None,
    ),
]


@pytest.mark.parametrize(("kind", "text", "expected", "suffix"), TEXTS)
def test_messages_of_torch_are_read(kind: type[Exception], text: str, expected: dict[str, Any], suffix: str | None) -> None:
    facts, words = read(kind(text))
    assert {key: facts[key] for key in expected} == expected
    assert suffix is None or words == suffix


@pytest.mark.parametrize(
    ("code", "expected", "got"),
    [
        (lambda: np.add(ones(3), ones(3), out=np.zeros(3, np.int64)), "int64", "float64"),
        (lambda: ones(3).astype(np.int64, casting="safe"), "int64", "float64"),
        (lambda: jax.lax.add(jnp.ones(3, "float32"), jnp.ones(3, "int32")), "float32", "int32"),
        (lambda: jax.lax.scan(lambda c, x: (c.astype("int32"), x), jnp.zeros(3, "float32"), jnp.ones(3)), "float32", "int32"),
    ],
)
def test_dtypes_that_do_not_fit_are_told(code: Callable[[], Any], expected: str, got: str) -> None:
    facts, words = read(raised(code))
    assert (facts["kind"], facts["expected"], facts["got"]) == ("dtype_mismatch", expected, got)
    assert words == f" [expected scalar type {expected} but found {got}]"


@pytest.mark.parametrize(
    ("code", "requested"),
    [
        (lambda: np.empty((1 << 20, 1 << 20)), 8 << 20),
        (lambda: jnp.ones((1 << 22, 1 << 20), "float32").block_until_ready(), 16 << 20),
    ],
)
def test_memory_of_the_host_that_is_not_there_is_told(code: Callable[[], Any], requested: int) -> None:
    facts, words = read(raised(code))
    assert (facts["kind"], facts["device"], facts["requested_mb"]) == ("out_of_memory", "cpu", requested)
    assert 0 < facts["available_mb"] <= facts["total_mb"]
    assert words == (
        f" [CPU out of memory. Tried to allocate {requested} MiB (CPU; {facts['total_mb']} MiB total; {facts['available_mb']} MiB free)]"
    )


def test_a_memory_error_without_words_gets_some() -> None:
    facts, words = read(MemoryError())
    assert facts["requested_mb"] is None
    assert words.startswith("[CPU out of memory (CPU; ")


def test_memory_of_a_gpu_is_read_from_what_torch_says() -> None:
    text = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 79.15 GiB of which 812.00 MiB is free. "
        "Including non-PyTorch memory, this process has 78.00 GiB memory in use."
    )
    facts, words = read(RuntimeError(text))
    assert (facts["device"], facts["requested_mb"], facts["available_mb"], facts["total_mb"]) == ("cuda:1", 2560, 812, 81050)
    assert words == " [CUDA out of memory. Tried to allocate 2560 MiB (GPU 1; 81050 MiB total; 812 MiB free)]"


def test_a_message_that_says_all_in_snakebridges_words_stays_as_it_is() -> None:
    text = "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8192.00 MiB total capacity; 10.00 MiB free; 7.00 GiB reserved)"
    facts, words = read(RuntimeError(text))
    assert (facts["requested_mb"], facts["total_mb"], facts["available_mb"], words) == (20, 8192, 10, "")


class Custom(ValueError):
    """An exception of a user's own."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("OOM"),
        RuntimeError("the order is out of memory of the clerk"),
        RuntimeError("my quota: CUDA out of memory"),
        TypeError("type mismatch: expected a customer"),
        ValueError("the form says: expected scalar type Float but found Double"),
        ValueError("shape mismatch"),
        ValueError("dimension mismatch in the contract"),
        ValueError("incompatible shapes"),
        Custom("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        KeyError("expected scalar type Float but found Double"),
        ValueError("shapes (2,3) and (" + "1" * 4000 + ") not aligned: "),
        ZeroDivisionError("division by zero"),
        errors.InvalidRequest("Dimension out of range (expected to be in range of [-2, 1], but got 4)"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    fields = errors.to_wire(error, {"tool_name": "t"}, for_snakebridge=True)
    assert "ml" not in fields["details"]
    assert fields["context"] == {"tool_name": "t"}
    assert fields["message"] == errors.to_wire(error)["message"]


@given(st.text(), st.sampled_from([ValueError, TypeError, RuntimeError, IndexError, MemoryError]))
def test_any_message_is_kept_whole(text: str, kind: type[Exception]) -> None:
    fields = errors.to_wire(kind(text), {}, for_snakebridge=True)
    assert fields["message"].startswith(errors.to_wire(kind(text))["message"])
    json.dumps(fields)


def test_the_cause_of_an_error_is_read_too() -> None:
    try:
        try:
            np.dot(ones((2, 3)), ones((4, 5)))
        except ValueError as error:
            raise Custom("the model is broken") from error
    except Custom as error:
        fields = errors.to_wire(error)
    assert fields["details"] == {}
    assert fields["cause"]["details"]["ml"]["shape_b"] == [4, 5]


def test_facts_travel_over_the_lane_and_the_words_only_to_snakebridge(client: Client) -> None:
    with pytest.raises(LaneError) as caught:
        client.tool("snakebridge.call", payload("numpy", "dot", [[[1, 2, 3]] * 2, [[1] * 5] * 4], {}, "s"))
    fields = caught.value.fields
    assert fields["details"]["ml"]["shape_a"] == [2, 3]
    assert "cannot be multiplied" not in fields["message"]
    texts = {name: json.dumps(value).encode() for name, value in payload("numpy", "dot", [[[1, 2, 3]] * 2, [[1] * 5] * 4], {}, "s").items()}
    with pytest.raises(LaneError) as caught:
        client.request("call", {"tool": "snakebridge.call", "payload": texts, "encoding": "tagged"})
    fields = caught.value.fields
    assert fields["message"].endswith("[shapes cannot be multiplied (2x3 and 4x5)]")
    assert fields["context"]["ml"]["shape_b"] == [4, 5]


def test_no_rule_takes_long_for_a_hostile_message() -> None:
    for start in (
        "operands could not be broadcast together with shapes (",
        "scan body function carry input and carry output must have equal types",
    ):
        assert ml_errors.facts(ValueError(), start + "1,1" * 20_000) is None
