"""The report's plots as inline SVG, made from plain strings: bars with intervals, and curves.

Bars use percentages of the width and curves an unscaled stroke, so that both stay sharp and legible from
400 px to paper. Colours come from the page's CSS variables, so that they follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from calltune.metrics import WORDS
from calltune.report_text import interval_text, percent

_BAR, _GAP = 11, 5  # pixels: height of a bar, room between two
WIDTH, HEIGHT, TOP, FOOT = 720, 220, 18, 20  # of a histogram, in the units of its drawing
_MOST_POINTS = 400  # of a curve: more can't be told apart at the width of a page


@dataclass(frozen=True)
class Bar:
    """One bar: `share` of the full width in 0..1, its interval in the same unit, and its colour class."""

    share: float
    colour: str
    interval: Sequence[float] | None = None


def bars_svg(bars: Sequence[Bar], alt: str) -> Markup:
    """Horizontal bars below each other, with whiskers where there is an interval."""
    height = len(bars) * (_BAR + _GAP) - _GAP + 2
    parts = [_bar(bar, 1 + i * (_BAR + _GAP)) for i, bar in enumerate(bars)]
    start = Markup('<svg class="bars" width="100%" height="{}" role="img" aria-label="{}">')
    return start.format(height, alt) + Markup("").join(parts) + Markup("</svg>")


def _bar(bar: Bar, top: int) -> Markup:
    width = f"{min(max(bar.share, 0.0), 1.0) * 100:.2f}%"
    text = f'<rect class="track" x="0" y="{top}" width="100%" height="{_BAR}" rx="2"/>'
    text += f'<rect class="{bar.colour}" x="0" y="{top}" width="{width}" height="{_BAR}" rx="2"/>'
    text += f'<rect class="{bar.colour}" x="0" y="{top}" width="2" height="{_BAR}"/>'
    if bar.interval:
        low, high = (f"{end * 100:.2f}%" for end in bar.interval)
        middle = top + _BAR / 2
        for cls in ("halo", "whisker"):  # the halo keeps the whisker visible on the bar and off it
            text += f'<line class="{cls}" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
            for end in (low, high):
                text += f'<line class="{cls}" x1="{end}" x2="{end}" y1="{top + 2}" y2="{top + _BAR - 2}"/>'
    return Markup(text)  # numbers and our own class names only


def category_rows(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a category for the page: name, n, figures in words and the bars."""
    old = {row["category"]: row for row in before}
    rows = []
    for row in after:
        first = old.get(row["category"])
        words = f"after {percent(row['exact_match'])}, 95 % interval {interval_text(row['interval'])}"
        bars = [Bar(row["exact_match"], "after", row["interval"])]
        if first:
            bars.insert(0, Bar(first["exact_match"], "before", first["interval"]))
            words = f"before {percent(first['exact_match'])}, {interval_text(first['interval'])}; {words}"
        rows.append({"after": row, "before": first, "svg": bars_svg(bars, f"{row['category']}: {words}")})
    return rows


def error_rows(
    before: Mapping[str, int] | None, after: Mapping[str, int], words: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row a kind of error that occurs; the longest bar is the largest count of either side."""
    old = before or {}
    most = max([*old.values(), *after.values(), 1])
    rows = []
    for kind, label in words.items():
        first, second = old.get(kind, 0), after.get(kind, 0)
        if first or second:
            bars = [Bar(second / most, "after")]
            alt = f"{label}: after {second}"
            if before is not None:
                bars.insert(0, Bar(first / most, "before"))
                alt = f"{label}: before {first}, after {second}"
            rows.append({"label": label, "before": first, "after": second, "svg": bars_svg(bars, alt)})
    return rows


def curve_points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that have a finite `key`; thinned evenly, the last point kept."""
    points = []
    for row in rows:
        step, value = row.get("step"), row.get(key)
        numbers = all(isinstance(v, (int, float)) and math.isfinite(v) for v in (step, value))
        if numbers and not isinstance(value, bool):
            points.append((float(step or 0), float(value or 0)))
    points.sort()
    stride = math.ceil(len(points) / _MOST_POINTS) or 1
    return points[:-1:stride] + points[-1:]


def chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    alt: str,
    top: float | None = None,
    marks: Sequence[tuple[int, str]] = (),
) -> dict[str, Any]:
    """Curves over steps: the SVG of the lines, and the ticks of both axes for the page to lay out.

    `series`: colour class -> points. `top`: the end of the vertical axis, when it is known (1 for shares).
    `marks`: (step, kind) of dashed lines, kinds as in calltune.metrics.
    """
    points = [point for line in series.values() for point in line]
    last = max([x for x, _ in points] + [1.0])
    y_ticks = ticks(top if top is not None else max([y for _, y in points] + [1e-9]))
    x_ticks = [tick for tick in ticks(last) if tick <= last]
    high = y_ticks[-1]
    parts = [
        Markup('<line class="grid" x1="0" x2="100" y1="{0:.3f}" y2="{0:.3f}"/>').format(100 - 100 * t / high)
        for t in y_ticks
    ]
    shown = [(step, kind) for step, kind in marks if step <= last]
    parts += [
        Markup('<line class="mark {0}" x1="{2:.3f}" x2="{2:.3f}" y1="0" y2="100"><title>{1}</title></line>').format(
            kind, f"{WORDS[kind]}: update {step}", 100 * step / last
        )
        for step, kind in shown
    ]
    for colour, line in series.items():
        places = [f"{100 * x / last:.3f} {100 - 100 * min(y, high) / high:.3f}" for x, y in line]
        if len(line) > 1:
            parts.append(Markup('<path class="line {}" d="M{}"/>').format(colour, "L".join(places)))
        if len(line) <= 40:  # few points are measurements; a zero-length stroke draws a round dot
            dots = "".join(f"M{place}h0" for place in places)
            parts.append(Markup('<path class="dots {}" d="{}"/>').format(colour, dots))
    start = Markup('<svg class="curve" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">')
    svg = start.format(alt) + Markup("").join(parts) + Markup("</svg>")
    return {
        "svg": svg,
        "y": [{"at": 100 - 100 * t / high, "text": _number(t, top)} for t in y_ticks],
        "x": [{"at": 100 * t / last, "text": _number(t, None)} for t in x_ticks],
        "marks": mark_words(shown),
    }


def mark_words(marks: Sequence[tuple[int, str]], most: int = 4) -> str:
    """The marks in words: `best 40; rows left out 12, 30`."""
    steps: dict[str, list[int]] = {}
    for step, kind in marks:
        steps.setdefault(kind, []).append(step)
    return "; ".join(
        f"{WORDS[kind]} {', '.join(map(str, found[:most]))}" + (" …" if len(found) > most else "")
        for kind, found in steps.items()
    )


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`, about `count` steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def _number(value: float, top: float | None) -> str:
    return f"{value * 100:.0f} %" if top == 1 else f"{value:,.6g}"


def lengths_drawing(lengths: Mapping[str, Any]) -> dict[str, Any] | None:
    """What templates_html/lengths.html.j2 draws of the lengths of examples; None where none were counted."""
    bars = histogram_bars(lengths.get("histogram", ()))
    if not bars:
        return None
    words = f"median {lengths['p50']}, 95 % up to {lengths['p95']}, longest {lengths['max']}"
    return {"bars": bars, "words": words, "width": WIDTH, "height": HEIGHT}


def histogram_bars(histogram: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """The bars of `[from, up to, count]` in the units of the drawing; heights in proportion to the counts."""
    highest = max((count for _, _, count in histogram), default=0)
    if not highest:
        return []
    step, room = WIDTH / len(histogram), HEIGHT - TOP - FOOT
    made = []
    for i, (low, high, count) in enumerate(histogram):
        tall = round(room * count / highest, 1)
        made.append({"x": round(i * step + 2, 1), "y": round(TOP + room - tall, 1), "width": round(step - 4, 1),
                     "height": tall, "low": low, "count": count, "label": f"{low} to {high}: {count}"})  # fmt: skip
    return made
