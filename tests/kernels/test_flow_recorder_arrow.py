"""Arrow arrays from their buffers are those that pyarrow makes, without what pyarrow would import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_adapter.kernels.flow.recorder import arrow

RECORDED = """
import sys, numpy as np
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
with Capsule.create(sys.argv[1], {"name": "short", "dtype": "float64", "slots": {}}) as capsule:
    capsule.rows({"iter": np.arange(1, 4), "E": np.array([1.0, np.nan, 2.0]), "grad_norm": 1.0, "alpha": 0.5, "gamma": [None, 1.0, 2.0]})
    capsule.checkpoint({"state": {}}, iteration=3)
    capsule.finish("converged")
print([name for name in ("pandas", "jax", "duckdb") if name in sys.modules])
"""


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans()), max_size=20))
@settings(max_examples=100, deadline=None)
def test_numbers_are_those_that_pyarrow_makes(rows: list[tuple[int, float, bool]]) -> None:
    whole, real, empty = (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows], bool),
    )
    for values in (whole, real):
        kind = pa.int64() if values is whole else pa.float64()
        made, expected = arrow.numbers(values, empty), pa.array(values, kind, mask=empty)
        made.validate(full=True)
        assert made.is_null().equals(expected.is_null())
        assert made.drop_null().to_numpy().tobytes() == expected.drop_null().to_numpy().tobytes()
    assert arrow.values(arrow.numbers(real)).tobytes() == real.tobytes()


@given(st.lists(st.none() | st.text(max_size=6), max_size=20))
@settings(max_examples=100, deadline=None)
def test_texts_are_those_that_pyarrow_makes(values: list[str | None]) -> None:
    made = arrow.texts(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


def test_recording_a_run_imports_neither_pandas_nor_jax(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    ran = subprocess.run([sys.executable, "-c", RECORDED, str(tmp_path)], capture_output=True, text=True, cwd=root, check=True)
    assert ran.stdout == "[]\n"
