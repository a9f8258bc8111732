"""Sampling: top-k and top-p keep what they say, seeds repeat, and frequencies are the probabilities."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from smollm.sampling import Choice, Sampling, choose

DRAWS = 4000
LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], np.float32))

draw = jax.jit(choose)


def drawn(sampling: Sampling, logits: np.ndarray = LOGITS) -> np.ndarray:
    """How often each token is drawn, as a share."""
    choice = Choice(
        np.full(DRAWS, sampling.temperature, np.float32),
        np.full(DRAWS, sampling.top_k, np.int32),
        np.full(DRAWS, sampling.top_p, np.float32),
        np.full(DRAWS, sampling.seed, np.uint32),
    )
    tokens = draw(np.broadcast_to(logits, (DRAWS, len(logits))), choice, np.arange(DRAWS))
    return np.bincount(tokens, minlength=len(logits)) / DRAWS


def test_temperature_zero_takes_the_likeliest() -> None:
    assert drawn(Sampling())[0] == 1


def test_frequencies_are_the_probabilities() -> None:
    np.testing.assert_allclose(drawn(Sampling(temperature=1)), np.exp(LOGITS), atol=0.03)
    flat = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum()
    np.testing.assert_allclose(drawn(Sampling(temperature=2)), flat, atol=0.03)


def test_top_k_keeps_k_tokens() -> None:
    np.testing.assert_allclose(drawn(Sampling(temperature=1, top_k=2)), [4 / 7, 3 / 7, 0, 0, 0, 0], atol=0.03)
    assert drawn(Sampling(temperature=5, top_k=1))[0] == 1
    assert (drawn(Sampling(temperature=5, top_k=100)) > 0).all()


def test_top_p_keeps_the_fewest_tokens_with_that_mass() -> None:
    np.testing.assert_allclose(drawn(Sampling(temperature=1, top_p=0.75)), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0, 0], atol=0.03)
    assert drawn(Sampling(temperature=5, top_p=0.01))[0] == 1


def test_top_p_counts_what_top_k_has_left() -> None:
    # Of the two tokens that stay, the first has 4/7 of the mass.
    assert drawn(Sampling(temperature=1, top_k=2, top_p=0.5))[0] == 1


def test_a_seed_repeats_and_another_does_not() -> None:
    first = drawn(Sampling(temperature=1, seed=1))
    assert (first == drawn(Sampling(temperature=1, seed=1))).all()
    assert (first != drawn(Sampling(temperature=1, seed=2))).any()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**options)  # type: ignore[arg-type]
