"""Python -> Elixir -> Python through a live BEAM: every value comes back as it was, in both encodings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from across import EXAMPLES, Beam, found, kept
from exactness import same
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from shelf import Shelf
from strategies import CANONICAL, VALUES, by_reference, values_with

from bridge_adapter.codec import CodecError, OpaqueTerm, tagged
from bridge_adapter.codec.packed import Packer, Unpacker

BATCH = 20
# Some milliseconds a value, and ten times that on a busy machine.
pytestmark = pytest.mark.timeout(max(300, EXAMPLES // 20))


def batches(values: st.SearchStrategy[Any], share: float = 1.0) -> Any:
    """Runs a test with lists of values, `share` of EXAMPLES values in all. A failure names one value; making it smaller is not worth the
    time that a batch takes."""

    def decorate(test: Any) -> Any:
        lists = st.lists(values, min_size=BATCH, max_size=2 * BATCH)
        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.function_scoped_fixture]
        count = max(1, int(EXAMPLES * share / BATCH))
        return settings(max_examples=count, suppress_health_check=quiet, phases=[Phase.generate])(given(lists)(test))

    return decorate


def through(beam: Beam, mode: str, values: list[Any], name: Any, shelf: Shelf | None = None) -> Iterator[tuple[Any, Any]]:
    """Each value and what came back for it."""
    parts = [Packer(shelf).pack(value) for value in values]
    for value, part, answer in zip(values, parts, beam.ask(mode, parts), strict=True):
        name(part)
        assert answer[:1] == b"+", f"{answer.decode(errors='replace')} came for {value!r}"
        yield value, Unpacker(shelf).unpack(answer[1:])


def explain(came: Any, value: Any) -> str:
    return f"{came!r} came back for {value!r}"


def test_what_was_found_once_stays_mended(beam: Beam) -> None:
    for data in found():
        [answer] = beam.ask("p", [data])
        assert answer[:1] in (b"+", b"-"), f"{data.hex()}: {answer.decode()}"
        with contextlib.suppress(CodecError):
            value = Unpacker().unpack(data)
            [back] = beam.through("p", [Packer().pack(value)])
            came = Unpacker().unpack(back)
            assert same(came, value, ordered=False), explain(came, value)


def test_values_come_back_from_elixir(beam: Beam) -> None:
    with kept() as name:

        @batches(VALUES, 0.5)
        def check(values: list[Any]) -> None:
            for value, came in through(beam, "p", values, name):
                assert same(came, value, ordered=False), explain(came, value)

        check()


def test_dicts_keep_their_order_where_elixir_is_asked_to_keep_it(beam: Beam) -> None:
    with kept() as name:

        @batches(VALUES, 0.1)
        def check(values: list[Any]) -> None:
            for value, came in through(beam, "o", values, name):
                assert same(came, value), explain(came, value)

        check()


def test_both_languages_write_the_same_canonical_bytes(beam: Beam) -> None:
    with kept() as name:

        @batches(VALUES, 0.1)
        def check(values: list[Any]) -> None:
            parts = [Packer(canonical=True).pack(value) for value in values]
            for value, part, answer in zip(values, parts, beam.ask("c", parts), strict=True):
                name(part)
                assert answer == b"+" + part, f"{answer!r} came for {value!r}"

        check()


def test_schema_2_says_the_same_as_packed(beam: Beam) -> None:
    with kept() as name:

        @batches(VALUES, 0.15)
        def check(values: list[Any]) -> None:
            parts = [Packer().pack(value) for value in values]
            texts = [tagged.dumps(value, schema=2) for value in values]
            for value, part, written, read in zip(values, parts, beam.ask("w", parts), beam.ask("r", texts), strict=True):
                name(part)
                for answer in (written, read):
                    assert answer[:1] == b"+", f"{answer.decode(errors='replace')} came for {value!r}"
                came = tagged.loads(written[1:], atom_class=True)
                assert same(came, value, ordered=False), f"tagged in Elixir: {explain(came, value)}"
                came = Unpacker().unpack(read[1:])
                assert same(came, value, ordered=False), f"tagged in Python: {explain(came, value)}"

        check()


def test_objects_and_terms_that_stay_at_home_come_back_themselves(beam: Beam) -> None:
    terms = [Unpacker().unpack(part) for part in beam.through("t", [])]
    assert all(type(term) is OpaqueTerm for term in terms)
    with kept() as name:

        @batches(values_with(by_reference(), st.sampled_from(terms)), 0.1)
        def check(values: list[Any]) -> None:
            shelf = Shelf()
            for value, came in through(beam, "p", values, name, shelf):
                assert same(came, value, ordered=False), explain(came, value)

        check()


def test_a_change_of_class_is_the_documented_one(beam: Beam) -> None:
    with kept() as name:

        @batches(CANONICAL, 0.05)
        def check(pairs: list[tuple[Any, Any]]) -> None:
            for (value, expected), (_, came) in zip(pairs, through(beam, "o", [value for value, _ in pairs], name), strict=True):
                assert same(came, expected), explain(came, value)

        check()


def test_that_was_enough(beam: Beam) -> None:
    print(f"\n{beam.sent} values went to Elixir and back")
    assert beam.sent >= EXAMPLES
