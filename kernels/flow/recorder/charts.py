"""Charts as inline SVG: panels over one iteration axis, with phases behind them and events above them. Colours are classes of page.css.

Long series are thinned to the least and the greatest value of each stretch, so a spike of one iteration stays visible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WIDTH, LEFT, RIGHT = 1080, 68, 22
TOP, BOTTOM = 10, 12
POINTS = 700
DOTS = 60
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Series:
    """A curve. style: its CSS class, s1 to s4. stepped: a value holds until the next one. dots: its points are shown,
    if they are few, as what lies between was not looked at."""

    name: str
    x: Array
    y: Array
    style: str = "s1"
    stepped: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Threshold:
    """A level that a curve is judged by."""

    name: str
    value: float


@dataclass(frozen=True)
class Panel:
    """A chart: curves with one y axis. log: whether it is logarithmic, which it is only where some value is above 0."""

    title: str
    series: Sequence[Series]
    log: bool = True
    thresholds: Sequence[Threshold] = ()
    height: int = 150
    hint: str = ""


@dataclass(frozen=True)
class Mark:
    """An event on the axis. style: its CSS class: "good", "bad", "change" or "plain"."""

    iteration: int
    label: str
    style: str = "plain"


@dataclass(frozen=True)
class Axis:
    """The iteration axis that all panels share, and the phases along it as (name, first iteration, iteration after the last)."""

    low: float
    high: float
    phases: Sequence[tuple[str, float, float]] = field(default_factory=tuple)

    def at(self, iteration: Any) -> Any:
        """The x coordinate of an iteration."""
        span = max(self.high - self.low, 1e-12)
        return LEFT + (WIDTH - LEFT - RIGHT) * (np.asarray(iteration, float) - self.low) / span


def number(value: float | int | None) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    value = float(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "−")
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.5g}".replace("-", "−")
    digits, exponent = f"{value:.3e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    return f"{digits}·10{_power(int(exponent))}".replace("-", "−")


def _power(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)


def thinned(x: Array, y: Array, points: int = POINTS) -> tuple[Array, Array]:
    """At most about `points` points that look the same: of each stretch the first, the least and the greatest."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if x.size <= points:
        return x, y
    chosen = {x.size - 1}
    for part in np.array_split(np.arange(x.size), points // 3):
        chosen |= {int(part[0]), int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])}
    order = np.array(sorted(chosen))
    return x[order], y[order]


def drawn(panel: Panel, axis: Axis, *, labelled: bool) -> tuple[str, list[dict[str, Any]]]:
    """The SVG of a panel, and its thinned curves for the crosshair. labelled: whether it carries the numbers of the x axis."""
    panel = replace(panel, log=panel.log and any((series.y > 0).any() for series in panel.series))
    curves = [(series, *thinned(series.x, np.where(series.y > 0, series.y, np.nan) if panel.log else series.y)) for series in panel.series]
    scale = _Scale.of([y for _, _, y in curves] + [np.array([level.value]) for level in panel.thresholds], panel)
    height = panel.height + (22 if labelled else 0)
    out = [f'<svg class="panel" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(panel.title)} over iterations">']
    out += [_bands(axis, TOP, panel.height - BOTTOM), _grid(scale), _x_axis(axis, panel.height - BOTTOM, labelled)]
    for level in panel.thresholds:
        if panel.log and level.value <= 0:
            continue
        y = scale.at(level.value)
        out.append(f'<line class="threshold" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="level" x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}">{escape(level.name)} {number(level.value)}</text>')
    told = []
    for series, x, y in curves:
        out.append(f'<path class="curve {series.style}" d="{_path(axis.at(x), scale.at(y), series.stepped)}"/>')
        if series.dots and x.size <= DOTS:
            places = zip(axis.at(x), scale.at(y), strict=True)
            out += [f'<circle class="curve {series.style}" cx="{left:.1f}" cy="{up:.1f}" r="2"/>' for left, up in places]
        told.append({"name": series.name, "style": series.style, "x": x.tolist(), "y": [float(f"{value:.6g}") for value in y]})
    out.append(f'<line class="cross" y1="{TOP}" y2="{panel.height - BOTTOM}"/></svg>')
    return "".join(out), told


def lane(axis: Axis, marks: Sequence[Mark]) -> str:
    """The lane above the panels: phases by name, and a mark for each event, with its text on hovering."""
    out = [f'<svg class="panel lane" viewBox="0 0 {WIDTH} 46" role="img" aria-label="phases and events over iterations">']
    for name, start, end in axis.phases:
        left, right = axis.at(start), axis.at(end)
        out.append(f'<rect class="strip {name.lower()}" x="{left:.1f}" y="4" width="{max(right - left, 1):.1f}" height="16" rx="3"/>')
        if right - left > 58:
            out.append(f'<text class="phase" x="{(left + right) / 2:.1f}" y="16">{escape(name)}</text>')
    out.append(f'<text class="axis end" x="{LEFT - 8}" y="16">phase</text><text class="axis end" x="{LEFT - 8}" y="38">events</text>')
    for mark in marks:
        x = axis.at(mark.iteration)
        out.append(f'<g class="mark {mark.style}"><title>{escape(mark.label)}</title><circle cx="{x:.1f}" cy="34" r="4.5"/></g>')
    return "".join(out) + '<line class="cross" y1="2" y2="44"/></svg>'


def plot(series: Sequence[Series], title: str, height: int = 220) -> str:
    """A chart of its own: curves over their index."""
    low, high = min(float(one.x.min()) for one in series), max(float(one.x.max()) for one in series)
    return drawn(Panel(title, series, log=False, height=height), Axis(low, high), labelled=True)[0]


@dataclass(frozen=True)
class _Scale:
    """The y axis of a panel."""

    low: float
    high: float
    log: bool
    top: float
    bottom: float

    @classmethod
    def of(cls, values: Sequence[Array], panel: Panel) -> _Scale:
        """An axis that holds all the values, with a margin."""
        every = np.concatenate([value[np.isfinite(value) & ((value > 0) | (not panel.log))] for value in values] or [np.zeros(0)])
        if panel.log:
            every = np.log10(every)
        low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
        margin = 0.06 * (high - low) or (0.5 if panel.log else 0.1 * abs(high) or 0.5)
        return cls(low - margin, high + margin, panel.log, TOP, panel.height - BOTTOM)

    def at(self, value: Any) -> Any:
        """The y coordinate of a value."""
        told = np.log10(value) if self.log else np.asarray(value, float)
        return self.bottom - (self.bottom - self.top) * (told - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Where the axis is labelled, and how."""
        if not self.log or self.high - self.low < 1:
            low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
            return [(value, number(value)) for value in _round_numbers(low, high, 4)]
        first, last = math.ceil(self.low), math.floor(self.high)
        step = max(1, math.ceil((last - first + 1) / 5))
        return [(10.0**power, f"10{_power(power)}") for power in range(first, last + 1) if power % step == 0]


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two limits, about `count` of them."""
    rough = max(high - low, 1e-300) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    places = max(0, 1 - math.floor(math.log10(step)))
    return [round(step * at, places) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _grid(scale: _Scale) -> str:
    out = []
    for value, text in scale.ticks():
        y = scale.at(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="axis end" x="{LEFT - 8}" y="{y + 4:.1f}">{text}</text>')
    return "".join(out)


def _x_axis(axis: Axis, y: float, labelled: bool) -> str:
    out = [f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>']
    for value in _round_numbers(axis.low, axis.high, 8):
        x = axis.at(value)
        out.append(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        if labelled:
            out.append(f'<text class="axis mid" x="{x:.1f}" y="{y + 18}">{number(value)}</text>')
    return "".join(out)


def _bands(axis: Axis, top: float, bottom: float) -> str:
    """The phases, faint, behind a panel."""
    return "".join(
        f'<rect class="band {name.lower()}" x="{axis.at(start):.1f}" y="{top}" '
        f'width="{max(axis.at(end) - axis.at(start), 0):.1f}" height="{bottom - top}"/>'
        for name, start, end in axis.phases
    )


def _path(x: Array, y: Array, stepped: bool) -> str:
    if not x.size:
        return ""
    points = [f"{left:.1f},{up:.1f}" for left, up in zip(x, y, strict=True)]
    if not stepped:
        return "M" + "L".join(points)
    return f"M{points[0]}" + "".join(f"H{left:.1f}V{up:.1f}" for left, up in zip(x[1:], y[1:], strict=True))
