"""Charts as inline SVG: lines and points over linear or logarithmic axes, and the time line of one answer.

Owns scales, ticks and marks. Knows no benchmarks. Invariants: every text is escaped; values that are no finite numbers,
and values up to zero on a logarithmic axis, are left out; a chart without a value says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 48
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4d7c0f", "#64748b", "#92400e")
LARGEST = 1e15  # values beyond have no place in a chart
SMALLEST = 1e-200  # stretch of an axis that can be divided by ticks
EMPTY = '<p class="empty">no values</p>'

MARK_HEIGHT = 13.0
FEW_DECADES = 2  # of a logarithmic axis: it has ticks between the powers of ten

_Box = tuple[float, float, float, float]  # left, top, right, bottom
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ChartSeries:
    """A named line. ``marks`` are texts beside its points; ``joined`` draws the line between them."""

    name: str
    points: Points
    marks: tuple[str, ...] = ()
    joined: bool = True
    dotted: bool = True


@dataclass(frozen=True)
class ChartAxis:
    """An axis: its label, whether it is logarithmic, and whether it begins at zero."""

    label: str
    log: bool = False
    from_zero: bool = True


class _Scale:
    """Maps values to pixels."""

    def __init__(self, values: Sequence[float], axis: ChartAxis, begin: float, end: float) -> None:
        self.axis, self._begin, self._end = axis, begin, end
        low, high = min(values), max(values)
        if axis.log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            high = high if high > low else low * 10
        else:
            low, high = (min(low, 0.0), max(high, 0.0)) if axis.from_zero else (low, high)
            high = high if high - low > SMALLEST else low + max(1.0, abs(low) / 1000)
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        if self.axis.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> Iterator[float]:
        if self.axis.log:
            count = round(math.log10(self.high / self.low))
            between = (1, 2, 5) if count <= FEW_DECADES else (1,)
            yield from (self.low * 10**power * factor for power in range(count) for factor in between)
            yield self.high
            return
        raw = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next((unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw), raw)
        for at in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1):
            yield at * step


def chart(series: Sequence[ChartSeries], x_axis: ChartAxis, y_axis: ChartAxis) -> str:
    """Return an SVG of all series, with a legend."""
    kept = [(each, _drawable(each, x_axis, y_axis)) for each in series]
    points = [point for _, each in kept for point, _ in each]
    if not points:
        return EMPTY
    x = _Scale([each[0] for each in points], x_axis, LEFT, WIDTH - RIGHT)
    y = _Scale([each[1] for each in points], y_axis, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x, y), *_labels(x_axis, y_axis)]
    for at, (each, drawable) in enumerate(kept):
        parts += _marks(each, drawable, x, y, COLOURS[at % len(COLOURS)])
    legend = "".join(
        f'<span><i style="background:{COLOURS[at % len(COLOURS)]}"></i>{escape(each.name)}</span>'
        for at, (each, _) in enumerate(kept)
    )
    name = f"{y_axis.label} / {x_axis.label}"
    return f'<figure>{_svg(HEIGHT, parts, name)}<figcaption class="legend">{legend}</figcaption></figure>'


def _drawable(series: ChartSeries, x_axis: ChartAxis, y_axis: ChartAxis) -> list[tuple[tuple[float, float], str]]:
    marks = [*series.marks, *([""] * len(series.points))]
    return [
        ((x, y), mark)
        for (x, y), mark in zip(series.points, marks, strict=False)
        if _fits(x, x_axis) and _fits(y, y_axis)
    ]


def _fits(value: float, axis: ChartAxis) -> bool:
    """Return whether a value has a place on an axis; NaN has none."""
    return abs(value) < LARGEST and (value > 1 / LARGEST or not axis.log)


def _grid(x: _Scale, y: _Scale) -> Iterator[str]:
    for value in y.ticks():
        at = y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
    for value in x.ticks():
        at = x(value)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'


def _labels(x_axis: ChartAxis, y_axis: ChartAxis) -> Iterator[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    centre = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="label" x="{centre}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_axis.label)}</text>'
    yield (
        f'<text class="label" x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{escape(y_axis.label)}</text>'
    )


def _marks(
    series: ChartSeries, drawable: Sequence[tuple[tuple[float, float], str]], x: _Scale, y: _Scale, colour: str
) -> Iterator[str]:
    places, taken = [(x(point[0]), y(point[1]), mark) for point, mark in drawable], list[_Box]()
    if series.joined and len(places) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in places)
        yield f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>'
    if not series.dotted:
        return
    for (px, py, mark), (point, _) in zip(places, drawable, strict=True):
        told = escape(f"{series.name}: {point[0]:.4g}, {point[1]:.4g}")
        yield f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"><title>{told}</title></circle>'
        if mark:
            box = _free_box(px, py, mark, taken)
            taken.append(box)
            left, _, right, bottom = box
            at, anchor = (left, "start") if left > px else (right, "end")
            yield f'<text class="mark" x="{at:.1f}" y="{bottom - 3:.1f}" text-anchor="{anchor}">{escape(mark)}</text>'


def _free_box(px: float, py: float, text: str, taken: Sequence[_Box]) -> _Box:
    """Return a place beside a point for a text that covers no other one; the first place where all do."""
    width = sum(11.0 if ord(each) > 0x2E80 else 6.2 for each in text)
    sides = (px + 7, px - 7 - width) if px < WIDTH / 2 else (px - 7 - width, px + 7)
    boxes = [
        (left, py + shift, left + width, py + shift + MARK_HEIGHT)
        for shift in (-16.0, 3.0, -30.0, 17.0)
        for left in sides
        if left > LEFT and left + width < WIDTH
    ]
    free = (each for each in boxes if not any(_overlap(each, other) for other in taken))
    return next(free, boxes[0] if boxes else (px + 7, py - 16, px + 7 + width, py - 3))


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def time_line(parts: Sequence[tuple[str, float, float]], pieces_s: Sequence[float]) -> str:
    """Return the time line of one answer: named stretches (seconds, from and to), and a tick for each piece of text."""
    ends = [end for _, _, end in parts] + list(pieces_s)
    if not ends or not math.isfinite(max(ends)) or max(ends) <= 0:
        return EMPTY
    x = _Scale([0.0, 1e3 * max(ends)], ChartAxis("ms"), 16, WIDTH - RIGHT)
    height, found = 110, list[str]()
    for at, (name, begin_s, end_s) in enumerate(parts):
        left, right = x(1e3 * begin_s), x(1e3 * end_s)
        told = escape(f"{name}: {1e3 * (end_s - begin_s):.1f} ms")
        colour = COLOURS[at % len(COLOURS)]
        found.append(
            f'<rect x="{left:.1f}" y="14" width="{max(right - left, 1):.1f}" height="26" fill="{colour}" '
            f'opacity="0.75"><title>{told}</title></rect>'
        )
    found += [
        f'<line class="piece" x1="{x(1e3 * at_s):.1f}" x2="{x(1e3 * at_s):.1f}" y1="44" y2="62"/>' for at_s in pieces_s
    ]
    for value in x.ticks():
        found.append(f'<text class="tick" x="{x(value):.1f}" y="80" text-anchor="middle">{value:g}</text>')
    found.append(f'<text class="label" x="{WIDTH / 2}" y="102" text-anchor="middle">ms</text>')
    legend = "".join(
        f'<span><i style="background:{COLOURS[at % len(COLOURS)]}"></i>{escape(name)} '
        f"{1e3 * (end_s - begin_s):.1f} ms</span>"
        for at, (name, begin_s, end_s) in enumerate(parts)
    )
    return f'<figure>{_svg(height, found, "ms")}<figcaption class="legend">{legend}</figcaption></figure>'


def _svg(height: int, parts: Sequence[str], name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
