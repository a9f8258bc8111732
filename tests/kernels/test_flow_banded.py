"""Thresholds band by band give what they give on all coefficients in one vector, and are taken where bands are large."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_adapter.kernels.flow import FlowSpec, Slot, Term, problem, run
from bridge_adapter.kernels.flow.banded import prox_by_bands
from bridge_adapter.kernels.flow.functions import HalfSquare, Separable
from bridge_adapter.kernels.flow.precision import precision
from bridge_adapter.kernels.flow.transforms import wavelet_transform

# shape, wavelet, levels, transformed axes, how many of the first bands stay together
SHAPES: list[tuple[tuple[int, ...], str, int, int, int]] = [
    ((256, 256), "haar", 2, 2, 0),  # every band is large
    ((256, 200), "haar", 3, 2, 7),
    ((135, 257), "haar", 1, 2, 0),  # odd sides
    ((131, 263), "db2", 2, 2, 4),
    ((20001,), "sym4", 3, 1, 2),
    ((3, 160, 160), "haar", 2, 2, 4),  # a batch
    ((40, 40, 40), "haar", 1, 3, 0),
]


def functions(size: int) -> dict[str, Separable]:
    """One threshold for all, and one with bounds for each coefficient."""
    each = np.random.default_rng(5).random(size)
    open_, none = jnp.inf, jnp.zeros(())
    return {
        "one": Separable(jnp.asarray(0.3), none, jnp.asarray(-open_), jnp.asarray(open_), frozenset({"threshold"})),
        "each": Separable(jnp.asarray(each), jnp.asarray(0.2), jnp.asarray(-1 - each), jnp.asarray(open_)),
    }


@pytest.mark.parametrize(
    ("case", "which", "dtype"),
    [*((case, "each", "float64") for case in SHAPES), (SHAPES[1], "one", "float64"), (SHAPES[2], "each", "float32")],
    ids=str,
)
def test_bands_for_themselves_give_what_all_in_one_vector_give(
    case: tuple[tuple[int, ...], str, int, int, int], which: str, dtype: Any
) -> None:
    shape, wavelet, levels, axes, few = case
    with precision(dtype):
        op = wavelet_transform(shape, wavelet, levels, axes)
        sizes = [band.size for band in op.bands]
        assert max((number + 1 for number, size in enumerate(sizes) if size < 4096), default=0) == few < len(sizes)
        phi = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), functions(op.codomain[-1])[which])
        v = jnp.asarray(np.random.default_rng(7).standard_normal(shape), dtype)
        tau = jnp.asarray(0.7, dtype)

        found, joined = jax.jit(lambda v, phi: (prox_by_bands(op, phi, v, tau), phi.prox(op.matvec(v), tau)))(v, phi)

        rounding = 50 * float(np.finfo(dtype).eps)
        assert found is not None and found.point.dtype == v.dtype
        np.testing.assert_allclose(found.point, jax.jit(op.rmatvec)(joined.point), rtol=rounding, atol=rounding)
        np.testing.assert_allclose(found.value, joined.value, rtol=rounding)
        assert found.gap == 0 and found.carry == ()
        assert np.any(found.point != v)


def test_a_batch_of_problems_is_taken_apart_alike() -> None:
    with precision("float64"):
        op = wavelet_transform((160, 160), "haar", 1)
        phi = functions(op.codomain[-1])["each"]
        several = jnp.asarray(np.random.default_rng(3).standard_normal((3, 160, 160)))
        tau = jnp.asarray(0.5)
        found = jax.jit(jax.vmap(lambda v: prox_by_bands(op, phi, v, tau)))(several)
        joined = jax.jit(lambda v: phi.prox(op.matvec(v), tau))
        for point, value, v in zip(found.point, found.value, several, strict=True):
            np.testing.assert_allclose(point, jax.jit(op.rmatvec)(joined(v).point), atol=1e-13)
            np.testing.assert_allclose(value, joined(v).value, rtol=1e-13)


def test_small_transforms_other_functions_and_steps_of_many_numbers_go_the_usual_way() -> None:
    large, small = wavelet_transform((256, 256), "haar", 2), wavelet_transform((64, 64), "haar", 2)
    phi = functions(large.codomain[-1])["one"]
    v, tau = jnp.ones((256, 256)), jnp.asarray(1.0)
    assert prox_by_bands(small, phi, jnp.ones((64, 64)), tau) is None
    assert prox_by_bands(large, HalfSquare(tau, tau, tau), v, tau) is None
    assert prox_by_bands(large, phi, v, jnp.ones(large.codomain)) is None
    broadcast = Separable(jnp.ones(1), jnp.zeros(()), -tau, tau)
    assert prox_by_bands(large, broadcast, v, tau) is None


def test_a_run_takes_its_thresholds_band_by_band(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(11).random((128, 128))
    sparse = Term("wavelet_l1", "x", weight=0.1, params={"wavelet": "haar", "levels": 1})
    spec = FlowSpec(slots={"x": Slot(shape=(128, 128))}, terms=[Term("quadratic", "x", target=image), sparse])
    taken: list[bool] = []

    def watched(*given: Any) -> Any:
        made = prox_by_bands(*given)
        taken.append(made is not None)
        return made

    monkeypatch.setattr(problem, "prox_by_bands", watched)
    found = run(spec)
    assert taken and all(taken)
    op = wavelet_transform((128, 128), "haar", 1)
    u = np.asarray(op.matvec(jnp.asarray(image)))
    thresholds = np.where(np.arange(u.size) < 64 * 64, 0, 0.1)
    expected = op.rmatvec(jnp.asarray(np.sign(u) * np.maximum(np.abs(u) - thresholds, 0)))
    np.testing.assert_allclose(found["state"]["x"], expected, atol=1e-6)
