"""Numbers that break: which rows are to blame, when it is the weights, when it is enough, and losses that explode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

LIMIT, SPAN = 5, 10  # so many broken updates of so many end the run
WINDOW = 10  # updates whose mean loss is looked at for an explosion
TIMES, ABOVE = 2.0, 0.5  # and what it may be over the lowest such mean: times it, and above it in nats a token

Rows = Sequence[int]


def rows_to_blame(rows: Rows, finite: Callable[[Rows], bool], witness: int | None) -> list[int]:
    """Those of `rows`, which together gave numbers that are not finite, that give such alone: found by halves, in
    about log2 runs for each. None are to blame where all rows do and the `witness`, which is not of them, does too
    (or there is none): then it is the weights."""
    found = _broken(list(rows), finite, known=True)
    if len(found) == len(rows) and (witness is None or not finite([witness])):
        return []
    return found


def _broken(rows: list[int], finite: Callable[[Rows], bool], *, known: bool = False) -> list[int]:
    if not rows or (not known and finite(rows)):
        return []
    if len(rows) == 1:
        return rows if not known or not finite(rows) else []
    half = len(rows) // 2
    return _broken(rows[:half], finite) + _broken(rows[half:], finite)


@dataclass
class Health:
    """What the last updates were like. Part of a checkpoint."""

    broken: list[int] = field(default_factory=list)  # updates that were left out, the last ones
    applied: int = 0
    sound: int = 0  # the last update whose loss was finite: the weights before it are good
    losses: list[float] = field(default_factory=list)
    lowest: float | None = None  # mean loss of WINDOW updates, or the first one's loss
    exploded: bool = False

    def good(self, update: int, loss: float) -> str:
        """An update that was made; returns words if the loss has exploded, once until it is low again."""
        self.applied, self.sound = self.applied + 1, update
        self.losses = [*self.losses[1 - WINDOW :], loss]
        if self.lowest is None:
            self.lowest = loss  # of the base: a run may explode from its first update on
        if len(self.losses) < WINDOW:
            return ""
        mean = fmean(self.losses)
        lowest = self.lowest = min(self.lowest, mean)
        before, self.exploded = self.exploded, mean > TIMES * lowest and mean > lowest + ABOVE
        if self.exploded and not before:
            return (f"the loss explodes: {mean:.3g} over the last {WINDOW} updates, {lowest:.3g} at its lowest; "
                    "a lower --learning-rate helps, and the best weights are kept")  # fmt: skip
        return ""

    def bad(self, update: int) -> bool:
        """An update that was left out; returns whether it is enough."""
        self.broken = [u for u in (*self.broken, update) if u > update - SPAN]
        return len(self.broken) >= LIMIT

    @property
    def ill(self) -> bool:
        """Whether the last update was left out."""
        return bool(self.broken) and self.broken[-1] > self.sound

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
