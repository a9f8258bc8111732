"""Reading capsules: SQL over all of them, and the page of one."""

from __future__ import annotations

import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_adapter.kernels.flow import FlowSpec, Slot, Term, run
from bridge_adapter.kernels.flow.recorder import charts, manifest, pictures, reading, report
from bridge_adapter.kernels.flow.recorder.capsule import Capsule
from bridge_adapter.kernels.flow.recorder.errors import CapsuleError
from bridge_adapter.kernels.flow.recorder.query import Runs
from bridge_adapter.kernels.flow.recorder.streams import FLUSH_AFTER

VOID = {"meta", "img", "input", "line", "rect", "circle", "path", "br"}


def recorded(base: Path, name: str, *, scale: float, phase: str = "GREEN", alpha: float = 0.5, end: str = "converged") -> Capsule:
    spec = {"name": name, "dtype": "float64", "slots": {"x": {"shape": [32, 32], "units": None, "role": "variable"}}, "terms": []}
    with Capsule.create(base, spec, {"gates": {"eta_max": 0.9, "gamma_min": 1e-6}}) as capsule:
        capsule.event("PHASE_TRANSITION", {"from": "RED", "to": phase}, iteration=3)
        at = np.arange(1, 21)
        capsule.rows({"iter": at, "E": scale / at, "grad_norm": 1.0 / at, "alpha": alpha, "eta_dd": 0.3, "gamma": 1e-3, "phase": phase})
        capsule.finish(end)
    return capsule


@pytest.fixture
def three(tmp_path: Path) -> Path:
    base = tmp_path / "it's [all] of them"
    recorded(base, "blur", scale=2.0)
    recorded(base, "blur", scale=1.0, alpha=0.25)
    recorded(base, "blur", scale=0.1, phase="AMBER")
    return base


def test_the_usual_questions_have_the_right_answers(three: Path) -> None:
    runs = Runs(three)
    summaries = runs.run_summaries("blur").records()
    assert sorted(summary["final_energy"] for summary in summaries) == pytest.approx([0.005, 0.05, 0.1])
    assert {summary["iterations"] for summary in summaries} == {20}
    assert sorted(summary["convergence_rate"] for summary in summaries) == [0.0, 1.0, 1.0]
    assert len(runs.run_summaries(limit=2).rows) == 2
    assert runs.run_summaries("x' OR 1=1 --").rows == []
    (best,) = runs.best_parameters().records()
    assert (best["alpha"], best["final_energy"]) == (0.25, pytest.approx(0.05))
    assert [row["rows"] for row in runs.convergence_patterns().records()] == [20, 40]
    assert len(runs.performance_trends("blur").rows) == 3
    assert runs.parameter_correlations("blur").records()[0]["runs"] == 3


def test_columns_of_one_name_are_all_in_the_records(tmp_path: Path) -> None:
    assert Runs(tmp_path).query("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a").records() == [{"a": 1, "a_1": 2, "a_1_1": 3, "a_2": 4}]


def test_times_in_a_zone_are_refused_with_the_cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytz", None)  # as where it is not installed
    with pytest.raises(CapsuleError, match=r"pytz.*::TIMESTAMP"):
        Runs(tmp_path).query("SELECT now()")
    assert len(Runs(tmp_path).query("SELECT now()::TIMESTAMP").rows) == 1


@pytest.mark.parametrize("sql", ["COPY (SELECT 1) TO '{}'", "SELECT 1; SELECT 2", "CREATE TABLE t (x INT)", ""])
def test_a_query_that_would_write_is_refused(tmp_path: Path, sql: str) -> None:
    target = tmp_path / "written"
    with pytest.raises(CapsuleError, match="one SELECT"):
        Runs(tmp_path).query(sql.format(target))
    assert not target.exists()


@pytest.mark.parametrize("left", [0, 2, 2000])
def test_a_damaged_file_hides_its_own_rows_only_and_is_named(three: Path, left: int) -> None:
    broken = sorted(three.iterdir())[0] / "telemetry.parquet"
    broken.write_bytes(broken.read_bytes()[:left])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert Runs(three).query("SELECT count(*) FROM telemetry").rows == [(40,)]
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert reading.telemetry(broken.parent).num_rows == 0
    assert reading.events(broken.parent)


def test_sql_sees_a_run_while_it_goes_on(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.query("SELECT count(*) FROM telemetry").rows == [(0,)]
    spec = {"name": "live", "dtype": "float64", "slots": {}}
    with Capsule.create(tmp_path, spec) as capsule:
        capsule.rows({"iter": np.arange(1, 6), "E": 1.0, "grad_norm": 1.0, "alpha": 1.0})
        capsule.checkpoint({"state": {}}, iteration=5)  # which first makes all rows durable
        assert runs.query("SELECT count(*), max(iter) FROM telemetry WHERE run_id = ?", [capsule.run_id]).rows == [(5, 5)]
        assert runs.query("SELECT status FROM runs").rows == [("running",)]
    assert runs.query("SELECT count(*), max(iter) FROM telemetry").rows == [(5, 5)]
    assert runs.query("SELECT status FROM runs").rows == [("completed",)]
    assert min(FLUSH_AFTER) > 0


def test_a_run_whose_process_died_is_told_as_interrupted(tmp_path: Path) -> None:
    capsule = recorded(tmp_path, "blur", scale=1.0)
    told = manifest.load_run_manifest(capsule.path)
    manifest.save(capsule.path, {**told, "status": "running"})
    assert Runs(tmp_path).query("SELECT status FROM runs").rows == [("interrupted",)]
    assert "interrupted" in report.page(capsule.path)


class Page(HTMLParser):
    """Checks that what is opened is closed, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    assert page.open == []
    return page


def test_the_page_of_a_run_is_one_sound_file_that_fetches_nothing(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((32, 32))
    spec: dict[str, Any] = {
        "name": "<script>alert(1)</script>",
        "dtype": "float64",
        "slots": {"x": {"shape": [32, 32], "units": "</td>", "role": "variable", "manifold": ["sphere", {"radius": 2.0}]}},
        "terms": [
            {"name": "fit", "type": "quadratic", "variable": ["x"], "op": ["gaussian_blur", {"sigma": 2.0}], "weight": 1.0, "params": {}}
        ],
    }
    with Capsule.create(tmp_path, spec, {"gates": {"eta_max": 0.9}, "beta": {"value": 1.0, "kind": "exact"}}) as capsule:
        for name, value in (
            ("x.before", image),
            ("x.after", 1 - image),
            ("signal", np.sin(np.arange(100.0))),
            ("odd", np.zeros((2, 2, 2))),
        ):
            capsule.artifact(name, value)
        capsule.artifact("plot.png", pictures.png(np.zeros((4, 4), np.uint8)))
        at = np.arange(1, 2001)
        phase = ["RED" if step < 500 else "GREEN" for step in at]
        capsule.rows({"iter": at, "E": 1.0 / at, "grad_norm": 1.0, "alpha": 1.0, "phase": phase, "eta_dd": 0.5})
        capsule.event("TUNING_FAILED", {"reason": "</script><b>"})
    path = report.save_report(capsule.path)
    text = path.read_text(encoding="utf-8")
    page = parsed(text)
    assert path == capsule.path / "artifacts/report.html"
    assert page.fetched and all(address.startswith("data:image/png;base64,") for address in page.fetched)
    assert not re.search(r"@import|url\(", text)
    assert "<script>alert" not in text and "</script><b>" not in text
    for told in ("η max", "gaussian_blur(sigma 2)", "sphere(radius 2)", "TUNING_FAILED", "GREEN", "prefers-color-scheme: dark"):
        assert told in text
    assert page.seen.count("svg") >= 5


def test_what_a_run_began_with_is_not_shown_as_its_result(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((16, 16))
    with Capsule.create(tmp_path, {"name": "young", "dtype": "float64", "slots": {}}) as capsule:
        capsule.artifact("x.before", image)
        assert re.findall(r"<span>(.*?) · 16 × 16</span>", report.page(capsule.path)) == ["x.before"]
        capsule.artifact("x.after", 1 - image)
        assert re.findall(r"(x[.a-z]*) · 16 × 16", report.page(capsule.path)) == ["x"]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_run_that_has_hardly_begun_has_a_page_too(tmp_path: Path, rows: int) -> None:
    with Capsule.create(tmp_path, {"name": "young", "dtype": "float64", "slots": {}}) as capsule:
        if rows:
            capsule.rows({"iter": np.arange(rows), "E": 0.0, "grad_norm": 0.0, "alpha": 1.0})
        parsed(report.page(capsule.path))


def test_a_failed_run_says_on_its_page_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Capsule.create(tmp_path, {"name": "f", "dtype": "float64", "slots": {}}) as capsule:
        capsule.rows({"iter": np.arange(3), "E": np.array([1.0, 2.0, np.nan]), "grad_norm": np.inf, "alpha": 1.0})
        raise RuntimeError("what went wrong")
    assert "what went wrong" in report.page(capsule.path)
    with pytest.raises(CapsuleError, match="is no capsule"):
        report.page(tmp_path)


def test_a_picture_in_colours_is_shown_wherever_its_channels_are(tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).random((3, 20, 24))
    spec = FlowSpec(
        slots={"first": Slot(value=photograph), "last": Slot(value=np.moveaxis(photograph, 0, -1))},
        terms=[Term("tikhonov", "first"), Term("tikhonov", "last")],
    )
    page = parsed(report.page(run(spec, out_dir=tmp_path)["capsule"]))
    assert len(page.fetched) == 4 and len(set(page.fetched)) < 4


@pytest.mark.parametrize("level", [0.0, -2.0])
def test_a_curve_without_a_value_above_0_is_seen_all_the_same(level: float) -> None:
    steps = np.arange(1.0, 6.0)
    panel = charts.Panel("Dominance η", [charts.Series("η", steps, np.full(5, level))], thresholds=[charts.Threshold("η max", 0.9)])
    svg, told = charts.drawn(panel, charts.Axis(1.0, 5.0), labelled=True)
    assert len(told[0]["x"]) == 5 and re.search(r'class="curve s1" d="M[\d.]+,[\d.]+L', svg)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=3000))
@settings(max_examples=30, deadline=None)
def test_thinning_keeps_the_extremes(values: list[float]) -> None:
    y = np.array(values)
    x, thin = charts.thinned(np.arange(y.size, dtype=float), y, 90)
    known = y[np.isfinite(y)]
    assert thin.size <= 93 and np.all(np.diff(x) > 0)
    if known.size:
        assert (thin.min(), thin.max(), thin[-1]) == (known.min(), known.max(), known[-1])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0"),
        (1234567, "1\u202f234\u202f567"),
        (1e-9, "1·10⁻⁹"),
        (-0.5, "−0.5"),
        (2.5e300, "2.5·10³⁰⁰"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float | None, told: str) -> None:
    assert charts.number(value) == told


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3)])
def test_a_picture_holds_the_levels_that_it_was_given(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    body = pictures.png(levels)
    start = body.index(b"IDAT") + 4
    size = int.from_bytes(body[start - 8 : start - 4], "big")
    rows = np.frombuffer(zlib.decompress(body[start : start + size]), np.uint8).reshape(shape[0], -1)
    assert (rows[:, 0] == 2).all()
    assert (np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8).reshape(shape) == levels).all()


def test_images_that_are_compared_share_black_and_white() -> None:
    assert pictures.shown_range(np.array([[0.0, 1.05]]), np.array([[-0.1, 0.9]])) == (0.0, 1.0)
    assert pictures.shown_range(np.array([[3.0, 200.0]])) == (0.0, 255.0)
    assert pictures.shown_range(np.array([[-5.0, 5.0]])) == (-5.0, 5.0)
    assert pictures.shown_range(np.array([[np.nan, 2.0]])) == (2.0, 3.0)


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent.parent / "docs/flow/recorder.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(compile(block, "recorder.md", "exec"), {})
    events, page_file = capsys.readouterr().out.splitlines()
    assert "('CHECKPOINT_CREATED', 3)" in events and (tmp_path / page_file).exists()
