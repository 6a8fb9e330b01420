"""A run while it trains: its curves and what happened, read from its folder; nothing is asked of the process."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from calltune.metrics import FILE, WORDS, marks, read_metrics
from calltune.platform.lock import owner_of
from calltune.records import read_record
from calltune.report_charts import curve_points
from calltune.report_page import charts
from calltune.report_text import duration, percent

_FOLDER = Path(__file__).parent / "templates_html"
BLOCKS = "▁▂▃▄▅▆▇█"
LETTERS = {"best": "B", "resumed": "R", "quarantined": "Q", "skipped": "S", "exploded": "X", "invalid": "I"}
CURVES = {"train_loss": "training loss", "valid_loss": "validation loss", "call_exact_match": "exact calls"}


@dataclass(frozen=True)
class View:
    """A run at one moment."""

    folder: Path
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    owner: dict[str, Any]  # of the lock: pid, host, since; empty where nobody trains it

    @property
    def finished(self) -> bool:
        return bool(self.record.get("state") == "finished")

    @property
    def step(self) -> int:
        return max((int(row["step"]) for row in self.rows if "event" not in row), default=0)

    @property
    def marks(self) -> list[tuple[int, str]]:
        return marks(self.rows, self.record)

    @property
    def state(self) -> str:
        if self.finished:
            return "finished"
        if self.owner:
            return f"training (process {self.owner.get('pid')} on {self.owner.get('host')})"
        return f"stopped; go on with `calltune train --resume --out {self.folder}`"


def look(folder: Path) -> View:
    """Raises InputError where there is no run."""
    record, path = read_record(folder), folder / FILE
    return View(folder, record, read_metrics(path) if path.exists() else [], owner_of(folder))


def view_lines(view: View, width: int = 80) -> list[str]:
    """The run for a terminal: how far it is, its curves with marks under them, what happened last."""
    lines = [f"{view.folder}: {view.state}", _figures(view), ""]
    room = max(20, width - 34)
    for key, name in CURVES.items():
        if points := curve_points(view.rows, key):
            shown = (lambda value: percent(value)) if key == "call_exact_match" else (lambda value: f"{value:.3f}")
            first, last = shown(points[0][1]), shown(points[-1][1])
            lines.append(f"{name:16} {spark(points, room, view.step)} {first} → {last}")
    if view.marks:
        lines.append(f"{'':16} {mark_line(view.marks, room, view.step)}")
        kinds = dict.fromkeys(kind for _, kind in view.marks)
        lines.append(f"{'':16} " + ", ".join(f"{LETTERS[kind]} {WORDS[kind]}" for kind in kinds))
    said = [row["text"] for row in view.rows if "event" in row][-3:]
    return [line for line in [*lines, "", *said] if line is not None]


def _figures(view: View) -> str:
    last = next((row for row in reversed(view.rows) if "train_loss" in row), None)
    if last is None:
        return "no report yet"
    parts = [f"update {last['step']}", f"epoch {last['epoch']:.2f}", f"learning rate {last['learning_rate']:.1e}",
             f"{last['tokens_per_second']:.0f} tokens/s", f"{last['trained_tokens_per_second']:.0f} with loss",
             f"padding {percent(last['padding'])}", f"{last['peak_memory_gb']:.2f} GB"]  # fmt: skip
    return ", ".join(parts)


def spark(points: Sequence[tuple[float, float]], width: int, last: float) -> str:
    """A curve in one line of blocks: the mean of what falls into each place, a dot where nothing does; the highest
    value is the full block, zero the lowest."""
    cells: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        cells[place_of(step, width, last)].append(value)
    top = max(value for _, value in points) or 1.0
    heights = [sum(cell) / len(cell) / top if cell else math.nan for cell in cells]
    return "".join("·" if math.isnan(h) else BLOCKS[min(7, max(0, round(h * 7)))] for h in heights)


def mark_line(found: Sequence[tuple[int, str]], width: int, last: float) -> str:
    cells = [" "] * width
    for step, kind in found:
        cells[place_of(step, width, last)] = LETTERS[kind]
    return "".join(cells).rstrip()


def place_of(step: float, width: int, last: float) -> int:
    return min(width - 1, int(step / max(last, 1.0) * (width - 1) + 0.5))


def watch_page(view: View, every: float) -> str:
    """The run as a page that loads itself anew while it trains."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    said = [row for row in view.rows if "event" in row]
    return environment.get_template("watch.html.j2").render(
        style=Markup((_FOLDER / "report.css").read_text("utf-8")), view=view, figures=_figures(view),
        charts=charts(view.rows, view.marks), said=said[-20:], more=len(said) - len(said[-20:]),
        refresh=None if view.finished else max(1, round(every)), made=time.strftime("%Y-%m-%d %H:%M:%S"),
        took=duration(_seconds(view.rows)),
    )  # fmt: skip


def _seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(row.get("seconds", 0.0) for row in rows))
