"""Line charts as inline SVG: no library, no script, colours from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 34
MOST = 400  # points of a line; more are averaged
COLOURS = 8  # in the style sheet: --c0 to --c7


class Line(NamedTuple):
    """Points of one curve, in the order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(lines: Sequence[Line], x_name: str, log: bool = False) -> str:
    """One chart with a legend where there are several lines; `log` scales y by its logarithm."""
    shown = [_thinned(line, log) for line in lines]
    points = [(x, y) for line in shown for x, y in zip(line.x, line.y, strict=True)]
    if not points:
        return "<p>Nothing was recorded.</p>"
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_range, y_range = _range(xs, False), _range(ys, log)
    parts = [*_axes(x_range, y_range, x_name, log)]
    for place, line in enumerate(shown):
        path = " ".join(
            f"{'ML'[at > 0]}{_x(x, x_range):.1f},{_y(y, y_range, log):.1f}"
            for at, (x, y) in enumerate(zip(line.x, line.y, strict=True))
        )
        path += "h0.1" if len(line.x) == 1 else ""  # a point, by its round ends
        dash = ' stroke-dasharray="5 4"' if place >= COLOURS else ""
        parts.append(f'<path d="{path}" class="line" stroke="var(--c{place % COLOURS})"{dash}/>')
    legend = ""
    if len(shown) > 1:
        items = (
            f'<span><i class="{"dashed" if n >= COLOURS else ""}" '
            f'style="border-color:var(--c{n % COLOURS})"></i>{escape(line.name)}</span>'
            for n, line in enumerate(shown)
        )
        legend = f'<div class="legend">{"".join(items)}</div>'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    return f"<svg {size}>{''.join(parts)}</svg>{legend}"


def _thinned(line: Line, log: bool) -> Line:
    """Finite points (positive ones on a logarithmic scale), neighbours averaged to MOST of them."""
    kept = [
        (x, y)
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)
    ]
    size = max(1, math.ceil(len(kept) / MOST))
    groups = [kept[at : at + size] for at in range(0, len(kept), size)]
    xs = [math.fsum(x for x, _ in group) / len(group) for group in groups]
    ys = [math.fsum(y for _, y in group) / len(group) for group in groups]
    return Line(line.name, xs, ys)


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low, high if high > low else low * 2
    if high == low == 0:
        return 0.0, 1.0
    if high == low:
        return low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9
    margin = 0.04 * (high - low)
    return (low - margin if low > margin or low < 0 else 0.0), high + margin


def _x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, span: tuple[float, float], log: bool) -> float:
    low, high = (math.log(one) for one in span) if log else span
    share = ((math.log(value) if log else value) - low) / (high - low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], x_name: str, log: bool
) -> list[str]:
    parts = []
    marks = _decades(y_range) if log else ticks(*y_range)
    digits = 3 if len({number(tick) for tick in marks}) == len(marks) else 5
    for tick in marks:
        at, text = _y(tick, y_range, log), number(tick, digits)
        parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="y">{text}</text>')
    for tick in ticks(*x_range):
        at = _x(tick, x_range)
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" class="x">{number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" class="x name">{escape(x_name)}</text>')
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / about
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _decades(span: tuple[float, float]) -> list[float]:
    low, high = (math.log10(one) for one in span)
    found = [10.0**n for n in range(math.ceil(low), math.floor(high) + 1)]
    return found if len(found) > 1 else [span[0], math.sqrt(span[0] * span[1]), span[1]]


def number(value: float, digits: int = 3) -> str:
    """A tick as people read it: 1.5M, 20k, 0.003."""
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.{digits}g}{name}"
    return f"{value:.{digits}g}"
