"""Progress on standard error: bars with the time left in a terminal, else a plain line now and then."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

INTERVAL = 15.0  # seconds between plain lines
AT_ONCE = 0.1  # seconds after its start: what is told then was done before
ENOUGH = 0.1  # of a step has to be done before its time left is told: replies and updates end unevenly at first


@dataclass
class _Step:
    total: int
    started: float
    done: int = 0
    already: int = 0  # done before it started
    printed: float = 0.0
    shown: dict[str, Any] = field(default_factory=dict)


class Bars:
    """The `Progress` of the command line (progress.py); a context manager, so that an error ends the bars."""

    def __init__(self, *, interval: float = INTERVAL) -> None:
        self.interval = interval
        self.steps: dict[str, _Step] = {}
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.view: Any = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def say(self, text: str) -> None:
        """One line of text, above the bars."""
        if self.view:
            self.view.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, name: str, total: int) -> None:
        """`total` 0: how much there is to do is not known."""
        now = time.monotonic()
        self.steps[name] = _Step(total, now, printed=now)
        if self.live:
            self._open()
            self.tasks[name] = self.view.add_task(name, total=total or None, shown="")
        else:
            self.say(f"{name} ..." if total <= 1 else f"{name}: {total} to do")

    def advance(self, name: str, done: int = 1, **shown: Any) -> None:
        step = self.steps.get(name)
        if step is None:
            return
        now = time.monotonic()
        if not step.done and not shown and now - step.started < AT_ONCE:
            step.already = done  # at once: no speed can be told from it
        step.done += done
        step.shown |= shown
        if self.live and step.already == step.done:
            self.view.reset(self.tasks[name], total=step.total or None, completed=step.done)
        elif self.live:
            self.view.update(self.tasks[name], advance=done, shown=_words(step.shown))
        if self.live:
            return
        if now - step.printed >= self.interval and step.done < step.total:
            step.printed = now
            new = step.done - step.already
            left = (now - step.started) / max(new, 1) * (step.total - step.done)
            told = f"{_clock(left)} left" if new >= ENOUGH * (step.total - step.already) else ""
            parts = [f"{name}: {step.done} of {step.total}", told, _words(step.shown)]
            self.say(", ".join(part for part in parts if part))

    def finish(self, name: str) -> None:
        step = self.steps.pop(name, None)
        if step is None:
            return
        if self.live:
            total = step.total or 1
            self.view.update(self.tasks.pop(name), total=total, completed=total)
            if not self.steps:
                self._close()
            return
        self.say(f"{name}: done in {_clock(time.monotonic() - step.started)}")

    def _open(self) -> None:
        if self.view is not None:
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)  # rich minds NO_COLOR
        columns = (TextColumn("{task.description:<22}", markup=False), BarColumn(24), MofNCompleteColumn(),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                   TextColumn("{task.fields[shown]}", markup=False))  # fmt: skip
        # Updates may take many seconds each: an estimate over rich's usual 30 s would see two or three.
        self.view = Progress(*columns, console=console, speed_estimate_period=600.0)
        self.view.start()

    def _close(self) -> None:
        if self.view is not None:
            self.view.stop()
            self.view, self.tasks = None, {}


def _words(shown: dict[str, Any]) -> str:
    return " ".join(f"{key} {value}" for key, value in shown.items())


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
